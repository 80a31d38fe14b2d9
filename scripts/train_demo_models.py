"""Train the demo weights: a tiny Whisper and a tiny pyannote pipeline for synthetic speech.

    scripts/train_demo_models whisper        about four hours on one core
    scripts/train_demo_models segmentation   about an hour and a half
    scripts/train_demo_models embedding      about half an hour, with the PLDA

Speech is synthesised during training (scripts/synthetic_speech.py) from a seed. A stopped run
resumes from its last checkpoint in --work; Whisper and segmentation also continue from finished
weights in --out. Give new folders to start from scratch. Results go to --out in the formats of
openai-whisper and pyannote.audio. models/demo/MODEL_CARD.md describes the weights and their
evaluation.
"""

import argparse
import itertools
import lzma
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.audio.recording import SAMPLE_RATE
from scripts.espeak import Speech
from scripts.synthetic_speech import NAMES, PLACES, VOICES, make_sentence, speak

CHECKPOINT_STEPS = 100


class SpeechPool:
    """Synthesised sentences of each voice; a draw may replace an old sentence by a new one."""

    def __init__(self, rng: random.Random, *, per_voice: int = 300, fresh: float = 0.25) -> None:
        self.rng = rng
        self.fresh = fresh
        self.spoken: list[list[tuple[str, Speech]]] = [
            [self._synthesise(voice) for _ in range(per_voice)] for voice in range(len(VOICES))
        ]

    def _synthesise(self, voice: int) -> tuple[str, Speech]:
        text = make_sentence(self.rng)
        return text, speak(text, VOICES[voice], self.rng)

    def draw(self, voice: int) -> tuple[str, Speech]:
        spoken = self.spoken[voice]
        i = self.rng.randrange(len(spoken))
        if self.rng.random() < self.fresh:
            spoken[i] = self._synthesise(voice)
        return spoken[i]


def make_noise(n_samples: int, rng: random.Random) -> np.ndarray:
    """Room noise: white or low-pass filtered, from none to clearly audible."""
    level = rng.choice([0.0, 1e-4, 1e-3, 3e-3, 1e-2]) * rng.uniform(0.3, 1)
    samples = np.random.default_rng(rng.getrandbits(64)).standard_normal(n_samples)
    if rng.random() < 0.5:
        samples[1:] = (samples[1:] + samples[:-1]) / math.sqrt(2)
    return (level * samples).astype(np.float32)


class Training:
    """AdamW with a warm-up and cosine schedule, and checkpoints to resume from."""

    def __init__(
        self, name: str, work: Path, module: nn.Module, stages: Sequence["TrainingStage"]
    ) -> None:
        self.path = work / f"{name}.checkpoint"
        self.module = module
        self.stages = stages
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, betas=(0.9, 0.98), weight_decay=0.01)
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            module.load_state_dict(state["module"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def steps(self) -> Iterator["TrainingStage"]:
        """Yield the stage of each remaining step; checkpoints are written between steps."""
        while self.step < sum(stage.steps for stage in self.stages):
            done = self.step
            for stage in self.stages:
                if done < stage.steps:
                    break
                done -= stage.steps
            for group in self.optimiser.param_groups:
                group["lr"] = stage.learning_rate(done)
            yield stage
            self.step += 1
            if self.step % CHECKPOINT_STEPS == 0:
                self.save()
        self.save()

    def descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()


class TrainingStage:
    """Steps with one batch size, window length and learning-rate schedule."""

    def __init__(
        self,
        steps: int,
        batch_size: int,
        seconds: float,
        first: float,
        last: float,
    ) -> None:
        self.steps, self.batch_size, self.seconds = steps, batch_size, seconds
        self.first, self.last = first, last

    def learning_rate(self, step: int, warm_up: int = 100) -> float:
        if step < warm_up:
            return self.first * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.steps - warm_up)
        return self.last + (self.first - self.last) * 0.5 * (1 + math.cos(math.pi * progress))


class LossPrinter:
    """Prints the mean of the values every 50 steps."""

    def __init__(self, name: str) -> None:
        self.name, self.values, self.started = name, list[dict[str, float]](), time.monotonic()

    def add(self, step: int, **values: float) -> None:
        self.values.append(values)
        if len(self.values) < 50:
            return
        means = {key: sum(v[key] for v in self.values) / 50 for key in values}
        seconds = (time.monotonic() - self.started) / 50
        shown = "  ".join(f"{key} {value:.3f}" for key, value in means.items())
        print(f"{self.name} {step}  {shown}  {seconds:.2f} s/step", flush=True)
        self.values, self.started = [], time.monotonic()


# --- Whisper ------------------------------------------------------------------------------------


def make_slow_sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's positional embedding with channels of periods above 6 s slowed down fivefold.

    Over 30 s, the slow channels then take only values seen in 6 s windows; the fast ones complete
    a period within 6 s anyway. Source: whisper/model.py, `sinusoids`.
    """
    frequencies = 10_000 ** -(torch.arange(channels // 2) / (channels // 2 - 1))
    frequencies[frequencies < 2 * math.pi / 300] /= 5
    angles = torch.arange(length)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class MicroWhisper(nn.Module):
    """Whisper with width 128 and 3 + 2 layers, trained on only the tokens it needs.

    All other tokens share one embedding row, so the softmax is 35 times smaller and the exported
    file compresses to a fifth. With a CTC loss on the encoder, alignment emerges within minutes;
    the CTC head is dropped at export.
    """

    def __init__(self) -> None:
        super().__init__()
        from whisper.model import ModelDimensions, Whisper
        from whisper.tokenizer import get_tokenizer

        self.tokenizer = get_tokenizer(True, num_languages=99, language="en", task="transcribe")
        self.dims = ModelDimensions(80, 1500, 128, 4, 3, 51865, 448, 128, 4, 2)
        self.used = self._find_used_tokens()
        self.index = {token: i for i, token in enumerate(self.used)}
        self.n_text = sum(token < self.tokenizer.eot for token in self.used)
        self.whisper = Whisper(self.dims)
        self.whisper.encoder.positional_embedding.copy_(make_slow_sinusoids(1500, 128))
        width = self.dims.n_text_state
        decoder = self.whisper.decoder
        nn.init.normal_(decoder.positional_embedding, std=0.02)
        decoder.token_embedding.weight.requires_grad_(False)
        self.embedding = nn.Parameter(torch.randn(len(self.used), width) * 0.05)
        self.unused = nn.Parameter(torch.zeros(width))
        self.ctc = nn.Linear(width, self.n_text + 1)  # the last class is the CTC blank

    def _find_used_tokens(self) -> list[int]:
        tokenizer, rng = self.tokenizer, random.Random(0)
        used = {
            token for _ in range(30_000) for token in tokenizer.encode(" " + make_sentence(rng))
        }
        for name in [*NAMES, *PLACES]:  # a vocabulary prompt: " Sam, Brisbane"
            used |= set(tokenizer.encode(f" {name}, {name}"))
        used |= set(tokenizer.sot_sequence) | {
            tokenizer.eot,
            tokenizer.translate,
            tokenizer.no_speech,
            tokenizer.no_timestamps,
            tokenizer.sot_prev,
            tokenizer.sot_lm,
        }
        first = tokenizer.timestamp_begin
        return sorted(used | set(range(first, first + 1501)))

    def encode(self, mel: Tensor, offsets: Tensor) -> Tensor:
        """AudioEncoder.forward for windows shorter than 30 s, placed anywhere in the 30 s.

        mel: (batch, 80, n_frames); offsets: (batch,), in steps of 20 ms
        """
        encoder = self.whisper.encoder
        x = F.gelu(encoder.conv1(mel))
        x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
        x = x + encoder.positional_embedding[offsets[:, None] + torch.arange(x.shape[1])]
        for block in encoder.blocks:
            x = block(x)
        return encoder.ln_post(x)  # type: ignore[no-any-return]

    def decode(self, tokens: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention of the last layer.

        Returns:
            Logits over the used tokens, then one for all others; log-probabilities (batch, n_heads,
            n_tokens, n_frames) of the last cross-attention, whose heads give whisper's word times.
        """
        decoder = self.whisper.decoder
        x = F.embedding(tokens, self.embedding) + decoder.positional_embedding[: tokens.shape[1]]
        *blocks, last = decoder.blocks
        for block in blocks:
            x = block(x, encoded, mask=decoder.mask)
        x = x + last.attn(last.attn_ln(x), mask=decoder.mask)[0]
        attention, normed = last.cross_attn, last.cross_attn_ln(x)
        query, key = (
            part.unflatten(-1, (self.dims.n_text_head, -1)).transpose(1, 2)
            for part in (attention.query(normed), attention.key(encoded))
        )
        attention_weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).log_softmax(
            -1
        )
        x = x + attention(normed, encoded)[0]
        x = x + last.mlp(last.mlp_ln(x))
        x = decoder.ln(x)
        others = (x @ self.unused)[..., None] + math.log(self.dims.n_vocab - len(self.used))
        return torch.cat([x @ self.embedding.T, others], -1), attention_weights

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Load exported weights. They lack the CTC head, which is relearnt within minutes."""
        checkpoint = BytesIO(lzma.decompress(path.read_bytes()))
        state = torch.load(checkpoint, weights_only=True)["model_state_dict"]
        self.whisper.load_state_dict({key: value.float() for key, value in state.items()})
        weight = self.whisper.decoder.token_embedding.weight
        self.embedding.copy_(weight[self.used])
        self.unused.copy_(weight[next(i for i in range(self.dims.n_vocab) if i not in self.index)])

    def export(self, path: Path) -> None:
        """Write a checkpoint like openai-whisper's, in half precision, compressed with xz."""
        with torch.no_grad():
            weight = self.unused.expand(self.dims.n_vocab, -1).clone()
            weight[self.used] = self.embedding
            self.whisper.decoder.token_embedding.weight.copy_(weight)
        state = {key: value.half() for key, value in self.whisper.state_dict().items()}
        buffer = BytesIO()
        torch.save({"dims": asdict(self.dims), "model_state_dict": state}, buffer)
        path.write_bytes(lzma.compress(buffer.getvalue(), preset=9))


@dataclass(frozen=True)
class TrainingToken:
    """A token, its samples in the window, and whether it contributes to the loss."""

    token: int
    span: tuple[int, int] | None = None
    is_target: bool = True


def time_tokens(tokenizer: Any, speech: Speech, position: int) -> list[TrainingToken]:
    """The tokens of a sentence that starts at `position`.

    A word's tokens share its time in proportion to their letters. Punctuation gets the 0.1 s after
    its word, where the word ends.
    """
    found = []
    for word in speech.words:
        tokens = tokenizer.encode(" " + word.text)
        letters = [len(tokenizer.decode([token]).strip(" .,?")) for token in tokens]
        start, end = (position + round(time * SAMPLE_RATE) for time in (word.start, word.end))
        n_spoken = 0
        for token, n in zip(tokens, letters, strict=True):
            first, n_spoken = start + (end - start) * n_spoken // max(sum(letters), 1), n_spoken + n
            last = start + (end - start) * n_spoken // max(sum(letters), 1)
            found.append(TrainingToken(token, (first, last if n else last + SAMPLE_RATE // 10)))
    return found


def make_whisper_window(
    model: MicroWhisper, pool: SpeechPool, seconds: float, offset: int
) -> tuple[np.ndarray, list[TrainingToken]]:
    """Samples of a window and its tokens.

    Args:
        offset: of its timestamps, in steps of 20 ms.
    """
    rng, tokenizer = pool.rng, model.tokenizer
    n_samples = int(seconds * SAMPLE_RATE)
    samples = make_noise(n_samples, rng)
    if rng.random() < 0.04:
        return samples, [
            TrainingToken(tokenizer.sot, is_target=False),
            TrainingToken(tokenizer.no_speech),
        ]
    with_timestamps = rng.random() < 0.7
    voices = rng.sample(range(len(VOICES)), rng.choice([1, 2, 2, 3, 6]))
    position = int(rng.uniform(0, 1.0) * SAMPLE_RATE) if rng.random() < 0.7 else 0
    spoken: list[TrainingToken] = []
    end = 0
    while True:
        _, speech = pool.draw(rng.choice(voices))
        if position + len(speech.samples) + 1600 > n_samples:
            if spoken:
                break
            position //= 2
            continue
        end = position + len(speech.samples)
        samples[position:end] += speech.samples * rng.uniform(0.3, 1.0)
        words = time_tokens(tokenizer, speech, position)
        if with_timestamps:
            first, last = (
                TrainingToken(
                    min(tokenizer.timestamp_begin + offset + round(i / SAMPLE_RATE / 0.02), latest),
                    (i - 800, i + 800),
                )
                for i, latest in ((position, 1 << 30), (end, tokenizer.timestamp_begin + 1500))
            )
            words = [first, *words, last]
        spoken += words
        pause = rng.uniform(0.05, 0.4) if rng.random() < 0.3 else rng.uniform(0.3, 1.5)
        position = end + int(pause * SAMPLE_RATE)
        if rng.random() < 0.04:
            break
    if rng.random() < 0.5:  # as real windows are: cut in a pause, with silence after it
        samples[end + int(rng.uniform(0.1, 0.5) * SAMPLE_RATE) :] = 0
    head: list[int] = []
    if rng.random() < 0.1:
        words_given = rng.sample([*NAMES, *PLACES], rng.randint(1, 6))
        head = [tokenizer.sot_prev, *tokenizer.encode(" " + ", ".join(words_given))]
    head += [tokenizer.sot]
    start = list(tokenizer.sot_sequence[1:])
    if not with_timestamps:
        start.append(tokenizer.no_timestamps)
    tokens = [TrainingToken(token, is_target=False) for token in head] + [
        TrainingToken(token) for token in start
    ]
    return samples, [*tokens, *spoken, TrainingToken(tokenizer.eot)][:440]


def make_whisper_batch(
    model: MicroWhisper, pool: SpeechPool, stage: TrainingStage
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """mel (batch, 80, n_frames), offsets (batch,), inputs and targets (batch, n_tokens), spans.

    A short window is placed anywhere in Whisper's 30 s, so that all positions and timestamps are
    trained from the first stage on. Targets of -100 are ignored. The spans, (batch, n_tokens, 2),
    are the frames of 20 ms in which each target is spoken, or empty.
    """
    from whisper.audio import log_mel_spectrogram

    last = round((30.0 - stage.seconds) / 0.02)
    offsets = [pool.rng.randint(0, last) for _ in range(stage.batch_size)]
    windows = [make_whisper_window(model, pool, stage.seconds, offset) for offset in offsets]
    mel = torch.stack([log_mel_spectrogram(torch.from_numpy(samples)) for samples, _ in windows])
    length = max(len(tokens) for _, tokens in windows) - 1
    inputs = torch.zeros(len(windows), length, dtype=torch.long)
    targets = torch.full((len(windows), length), -100)
    spans = torch.zeros(len(windows), length, 2)
    for i, (_, tokens) in enumerate(windows):
        ids = torch.tensor([model.index[given.token] for given in tokens])
        inputs[i, : len(ids) - 1] = ids[:-1]
        for k, token in enumerate(tokens[1:]):
            if token.is_target:
                targets[i, k] = ids[k + 1]
            if token.span:
                spans[i, k] = torch.tensor(token.span) / (0.02 * SAMPLE_RATE)
    return mel, torch.tensor(offsets), inputs, targets, spans


def attention_loss(attention_weights: Tensor, spans: Tensor) -> Tensor:
    """Cross-entropy of the last cross-attention against uniform attention to a token's frames.

    With this loss the decoder learns to read on within minutes; without it, it skips and repeats
    sentences for hours. It also makes the word times correct, which whisper reads from these heads.
    """
    frames = torch.arange(attention_weights.shape[-1]) + 0.5
    start, end = spans[..., :1], spans[..., 1:]
    is_spoken = ((frames > start - 1) & (frames < end + 1)).float()  # (batch, n_tokens, n_frames)
    is_spoken = is_spoken * (end > start)
    n_spoken = is_spoken.sum(-1)
    per_token = -(attention_weights.mean(1) * is_spoken).sum(-1) / n_spoken.clamp(1)
    return per_token.sum() / (n_spoken > 0).sum().clamp(1)


def ctc_loss(model: MicroWhisper, encoded: Tensor, targets: Tensor) -> Tensor:
    """CTC loss of the text tokens among the targets, per token."""
    texts = [row[(row >= 0) & (row < model.n_text)] for row in targets]
    return F.ctc_loss(
        model.ctc(encoded).log_softmax(-1).transpose(0, 1),
        torch.cat(texts),
        torch.full((len(texts),), encoded.shape[1]),
        torch.tensor([len(text) for text in texts]),
        blank=model.n_text,
        zero_infinity=True,
    )


def train_whisper(out: Path, work: Path, seed: int) -> None:
    """Train from scratch, or from weights in --out without the first stage."""
    model = MicroWhisper()
    stages = [
        TrainingStage(2900, 16, 6.0, 8e-4, 1.5e-4),
        TrainingStage(500, 10, 15.0, 6e-4, 4e-4),
        TrainingStage(2500, 6, 30.0, 5e-4, 1e-5),
    ]
    if (out / "whisper.pt.xz").exists():
        model.load(out / "whisper.pt.xz")
        stages = stages[1:]
    training = Training("whisper", work, model, stages)
    pool = SpeechPool(random.Random(seed + training.step))
    printer = LossPrinter("whisper")
    for stage in training.steps():
        mel, offsets, inputs, targets, spans = make_whisper_batch(model, pool, stage)
        encoded = model.encode(mel, offsets)
        logits, attention_weights = model.decode(inputs, encoded)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        ctc = ctc_loss(model, encoded, targets)
        attention = attention_loss(attention_weights, spans)
        training.descend(cross_entropy + 0.3 * ctc + 0.2 * attention)
        printer.add(
            training.step, ce=cross_entropy.item(), ctc=ctc.item(), attention=attention.item()
        )
        if training.step % CHECKPOINT_STEPS == 0:
            model.export(out / "whisper.pt.xz")
    model.export(out / "whisper.pt.xz")


# --- pyannote: segmentation -----------------------------------------------------------------------

CHUNK_SECONDS = 10.0
MAX_SPEAKERS = 3  # within a chunk


def build_segmentation() -> Any:
    from models.pyannote_guard import import_pyannote_audio

    import_pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(
        sincnet={"stride": 10},
        lstm={
            "hidden_size": 64,
            "num_layers": 2,
            "bidirectional": True,
            "monolithic": True,
            "dropout": 0.0,
        },
        linear={"hidden_size": 64, "num_layers": 2},
    )
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=CHUNK_SECONDS,
        classes=[f"speaker{i + 1}" for i in range(MAX_SPEAKERS)],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()  # type: ignore[no-untyped-call]
    return model


class SegmentationTrainer(nn.Module):
    """PyanNet with an additional head that identifies the voices.

    Telling speakers apart is harder to learn than identifying eight known voices. The second task
    teaches the features that the first needs; its head is dropped at export.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = build_segmentation()
        self.model.sincnet.conv1d[0].requires_grad_(False)  # the filter bank stays as designed
        self.voices = nn.Linear(128, len(VOICES))

    def forward(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (batch, n_frames, n_powerset) and voice logits (.., n_voices)."""
        features = self.model.sincnet(waveforms).transpose(1, 2)
        features, _ = self.model.lstm(features)
        voices = self.voices(features)
        for linear in self.model.linear:
            features = F.leaky_relu(linear(features))
        return self.model.activation(self.model.classifier(features)), voices


def make_conversation_chunk(pool: SpeechPool, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Ten seconds of a conversation: samples, and who speaks in each frame (n_frames, n_voices)."""
    rng = pool.rng
    n_samples = int(CHUNK_SECONDS * SAMPLE_RATE)
    samples = make_noise(n_samples, rng)
    active = np.zeros((n_samples // 160, len(VOICES)), dtype=np.float32)
    if rng.random() < 0.1:  # no speech: room noise, hiss, hum
        hertz, level = rng.choice([0.0, 50.0, 60.0, 120.0, 440.0]), rng.choice([0.0, 0.01, 0.1])
        hum = level * np.sin(2 * np.pi * hertz / SAMPLE_RATE * np.arange(n_samples))
        return (rng.uniform(0, 8) * samples + hum).astype(np.float32), np.zeros(
            (n_frames, len(VOICES)), dtype=np.float32
        )
    voices = rng.sample(range(len(VOICES)), rng.choice([1, 2, 2, 3, 3, 3]))
    levels = {voice: rng.uniform(0.3, 1.0) for voice in voices}
    position = -rng.randint(0, 40_000)
    voice = rng.choice(voices)
    while position < n_samples:
        _, speech = pool.draw(voice)
        first, last = max(position, 0), min(n_samples, position + len(speech.samples))
        if last > first:
            part = speech.samples[first - position : last - position]
            samples[first:last] += part * levels[voice]
            for word in speech.words:
                a, b = (round(position / 160 + 100 * t) for t in (word.start, word.end))
                active[max(a, 0) : max(b, 0), voice] = 1
        turn = rng.random() < 0.6
        if turn:
            voice = rng.choice(voices)
        overlap = turn and rng.random() < 0.2
        pause = -rng.uniform(0.2, 1.0) if overlap else rng.uniform(0.05, 1.2)
        position += len(speech.samples) + int(pause * SAMPLE_RATE)
    frames = ((np.arange(n_frames) + 0.5) * len(active) / n_frames).astype(int)
    return samples, active[frames]


def choose_speakers(active: Tensor) -> Tensor:
    """(batch, n_frames, n_voices) to (batch, n_frames, MAX_SPEAKERS): who speaks most."""
    loudest = active.sum(1).topk(MAX_SPEAKERS, dim=-1).indices  # (batch, MAX_SPEAKERS)
    chosen = active.gather(2, loudest[:, None].expand(-1, active.shape[1], -1))
    chosen[chosen.sum(-1) > 2] = torch.tensor([1.0, 1.0, 0.0])
    return chosen


def train_segmentation(out: Path, work: Path, seed: int) -> None:
    """Train from scratch, or from weights in --out with the last stage only."""
    from models.weights.catalogue import find_pipeline
    from models.weights.pyannote import load_pipeline

    trainer = SegmentationTrainer()
    from pyannote.audio.utils.permutation import permutate
    from pyannote.audio.utils.powerset import Powerset

    powerset = Powerset(MAX_SPEAKERS, 2)
    stages = [
        TrainingStage(1000, 12, CHUNK_SECONDS, 3e-3, 1e-4),
        TrainingStage(800, 12, CHUNK_SECONDS, 2e-3, 5e-5),
        TrainingStage(900, 12, CHUNK_SECONDS, 1e-3, 1e-5),
    ]
    if (out / "pyannote" / "segmentation").exists():
        weights = find_pipeline(str(out / "pyannote"), Path())
        earlier = load_pipeline(weights, torch.device("cpu")).segmentation
        trainer.model.load_state_dict(earlier.state_dict())
        stages = stages[-1:]
    training = Training("segmentation", work, trainer, stages)
    pool = SpeechPool(random.Random(seed + training.step))
    printer = LossPrinter("segmentation")
    n_frames = trainer.model.num_frames(int(CHUNK_SECONDS * SAMPLE_RATE))
    for stage in training.steps():
        chunks = [make_conversation_chunk(pool, n_frames) for _ in range(stage.batch_size)]
        waveforms = torch.from_numpy(np.stack([samples for samples, _ in chunks]))[:, None]
        active = torch.from_numpy(np.stack([frames for _, frames in chunks]))
        scores, voices = trainer(waveforms)
        hypothesis = powerset.to_multilabel(scores)
        reference, _ = permutate(hypothesis.detach(), choose_speakers(active))
        classes = powerset.to_powerset(reference.float()).argmax(-1)
        identity = F.binary_cross_entropy_with_logits(voices, active)
        loss = F.nll_loss(scores.flatten(0, 1), classes.flatten())
        training.descend(loss + 2 * identity)
        error = (hypothesis - reference).abs().sum() / reference.sum()
        printer.add(
            training.step,
            loss=loss.item(),
            identity=identity.item(),
            frame_error=error.item(),
        )
        if training.step % CHECKPOINT_STEPS == 0:
            export_pyannote(trainer.model, out / "pyannote" / "segmentation")
    export_pyannote(trainer.model, out / "pyannote" / "segmentation")


def export_pyannote(model: Any, folder: Path) -> None:
    """Write a checkpoint in pyannote.audio's layout (Model.on_save_checkpoint)."""
    import pyannote.audio
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    state: dict[str, Any] = {
        "state_dict": {key: value.detach().cpu() for key, value in model.state_dict().items()},
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.6.0",
        "pyannote.audio": {
            "versions": {"torch": "2.0.0", "pyannote.audio": pyannote.audio.__version__},
            "architecture": {
                "module": type(model).__module__,
                "class": type(model).__name__,
            },
        },
    }
    # Stock pyannote.audio requires the key of every model, though it uses it only for segmentation.
    state["pyannote.audio"]["specifications"] = (
        model.specifications
        if isinstance(model, PyanNet)
        else Specifications(
            problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=CHUNK_SECONDS
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")


# --- pyannote: embedding and PLDA ---------------------------------------------------------------

EMBEDDING_CHANNELS = 8
EMBEDDING_SIZE = 256


def build_embedding() -> Any:
    from models.pyannote_guard import import_pyannote_audio

    import_pyannote_audio()
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet

    model = WeSpeakerResNet34()
    model.resnet = ResNet(  # type: ignore[no-untyped-call]
        BasicBlock,
        [3, 4, 6, 3],
        m_channels=EMBEDDING_CHANNELS,
        feat_dim=80,
        embed_dim=EMBEDDING_SIZE,
        two_emb_layer=False,
    )
    return model


class EmbeddingTrainer(nn.Module):
    """The embedding model with a cosine classifier over the voices, with an additive margin."""

    def __init__(self, n_voices: int) -> None:
        super().__init__()
        self.model = build_embedding()
        self.voices = nn.Parameter(torch.randn(n_voices, EMBEDDING_SIZE) * 0.05)

    def forward(self, waveforms: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
        embeddings = self.model.resnet.seg_1(self._pool(waveforms, weights))
        cosine = F.normalize(embeddings) @ F.normalize(self.voices).T
        margin = 0.2 * F.one_hot(labels, len(self.voices))
        return 20 * (cosine - margin)

    def _pool(self, waveforms: Tensor, weights: Tensor) -> Tensor:
        """pyannote's StatsPool with the variance clamped: its root has no gradient at 0."""
        frames = self.model.forward_frames(waveforms).flatten(1, 2)  # (batch, features, n_frames)
        weights = F.interpolate(weights[:, None], size=frames.shape[-1], mode="nearest")
        total = weights.sum(-1)
        mean = (frames * weights).sum(-1) / total
        variance = ((frames - mean[..., None]).square() * weights).sum(-1) / (total - 1).clamp(1)
        return torch.cat([mean, variance.clamp(1e-6).sqrt()], -1)


def make_embedding_chunk(pool: SpeechPool, seconds: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Samples, pooling weights at 100 per second, and the voice that the weights select.

    Other voices may speak elsewhere in the chunk; as in the pipeline, the weights exclude them.
    """
    rng = pool.rng
    n_samples = int(seconds * SAMPLE_RATE)
    samples = make_noise(n_samples, rng)
    weights = np.zeros(int(seconds * 100), dtype=np.float32)
    voice = rng.randrange(len(VOICES))
    position = -rng.randint(0, 20_000)
    while position < n_samples:
        speaker = voice if not weights.any() or rng.random() < 0.6 else rng.randrange(len(VOICES))
        _, speech = pool.draw(speaker)
        first, last = max(position, 0), min(n_samples, position + len(speech.samples))
        if last > first:
            part = speech.samples[first - position : last - position]
            samples[first:last] += part * rng.uniform(0.3, 1.0)
            if speaker == voice:
                weights[first // 160 : last // 160] = 1
        position += len(speech.samples) + int(rng.uniform(0, 0.6) * SAMPLE_RATE)
    if weights.sum() < 30:
        return make_embedding_chunk(pool, seconds)
    return samples, weights, voice


def train_embedding(out: Path, work: Path, seed: int) -> None:
    trainer = EmbeddingTrainer(len(VOICES))
    training = Training("embedding", work, trainer, [TrainingStage(300, 20, 2.5, 2e-3, 1e-4)])
    pool = SpeechPool(random.Random(seed + training.step))
    printer = LossPrinter("embedding")
    for stage in training.steps():
        chunks = [make_embedding_chunk(pool, stage.seconds) for _ in range(stage.batch_size)]
        waveforms = torch.from_numpy(np.stack([chunk[0] for chunk in chunks]))[:, None]
        weights = torch.from_numpy(np.stack([chunk[1] for chunk in chunks]))
        labels = torch.tensor([chunk[2] for chunk in chunks])
        scores = trainer(waveforms, weights, labels)
        loss = F.cross_entropy(scores, labels)
        training.descend(loss)
        accuracy = (scores.argmax(-1) == labels).float().mean()
        printer.add(training.step, loss=loss.item(), accuracy=accuracy.item())
    export_pyannote(trainer.model, out / "pyannote" / "embedding")
    export_plda(trainer.model.eval(), pool, out / "pyannote" / "plda")


@torch.inference_mode()
def export_plda(model: Any, pool: SpeechPool, folder: Path) -> None:
    """Write the within- and between-voice statistics of new embeddings, in VBx's format.

    Source: pyannote/audio/utils/vbx.py, `vbx_setup` (after BUTSpeechFIT/VBx).
    """
    embeddings, labels = [], []
    for _ in range(60):
        chunks = [make_embedding_chunk(pool, 5.0) for _ in range(16)]
        waveforms = torch.from_numpy(np.stack([chunk[0] for chunk in chunks]))[:, None]
        weights = torch.from_numpy(np.stack([chunk[1] for chunk in chunks]))
        embeddings.append(model(waveforms, weights=weights).numpy())
        labels += [chunk[2] for chunk in chunks]
    x, y = np.concatenate(embeddings).astype(np.float64), np.array(labels)

    def normalise(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    def compute_covariances(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = np.stack([rows[y == voice].mean(0) for voice in range(len(VOICES))])
        within = np.cov((rows - means[y]).T) + 1e-4 * np.eye(rows.shape[1])
        between = np.cov(means.T) + 1e-6 * np.eye(rows.shape[1])
        return within, between

    from scipy.linalg import eigh

    mean1 = x.mean(0)
    centred = np.sqrt(EMBEDDING_SIZE) * normalise(x - mean1)
    within, between = compute_covariances(centred)
    lda = eigh(between, within)[1][:, ::-1][:, :128]  # (EMBEDDING_SIZE, 128)
    mean2 = (centred @ lda).mean(0)
    projected = np.sqrt(128) * normalise(centred @ lda - mean2)
    within, between = compute_covariances(projected)
    variances, directions = eigh(between, within)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "xvec_transform.npz", mean1=mean1, mean2=mean2, lda=lda)
    np.savez(
        folder / "plda.npz",
        mu=projected.mean(0),
        tr=directions.T[::-1],
        psi=variances[::-1],
    )


TRAININGS = {
    "whisper": train_whisper,
    "segmentation": train_segmentation,
    "embedding": train_embedding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=[*TRAININGS, "all"])
    parser.add_argument("--out", type=Path, default=Path("models/demo"))
    parser.add_argument("--work", type=Path, default=Path("build/train_demo_models"))
    parser.add_argument("--seed", type=int, default=20_261_123)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    for what in itertools.chain(TRAININGS if options.what == "all" else [options.what]):
        torch.manual_seed(options.seed)
        TRAININGS[what](options.out, options.work, options.seed)


if __name__ == "__main__":
    main()
