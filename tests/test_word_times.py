"""Word times against openai-whisper's own, window by window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.decoding import DecodingOptions
from whisper.model import Whisper
from whisper.timing import add_word_timestamps, dtw_cpu, find_alignment, median_filter
from whisper.tokenizer import Tokenizer, get_tokenizer

from models.audio.decode import decode
from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.weights.catalogue import find_whisper
from models.weights.whisper import load_whisper
from models.whisper_engine.mel import compute_log_mel, find_log_mel_maximum
from models.whisper_engine.model import CrossKV, InferenceModel
from models.whisper_engine.word_times import _average_attention, _smooth, align, warp
from models.windows import Window
from tests.fakes import random_whisper
from tests.plain_whisper import time_words

CPU = torch.device("cpu")
STEP = 0.02
TEXTS = (
    " It was not easy, she said. We had to leave the house at night!",
    " No.",
    "",
    ' And then "nothing" (for years) happened; nobody asked us, nobody knew?',
)
WINDOWS = (Window(10.0, 40.0), Window(50.0, 53.3), Window(60.0, 70.0), Window(71.5, 90.11))


def heads_of(whisper: Whisper) -> list[tuple[int, int]]:
    return [(layer, head) for layer, head in whisper.alignment_heads.indices().T.tolist()]


def make_samples(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(100 * SAMPLE_RATE).astype(np.float32)
    loudness = np.repeat(rng.uniform(0.001, 0.3, 1000).astype(np.float32), SAMPLE_RATE // 10)
    return noise * loudness


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return random_whisper()


@pytest.fixture(scope="module")
def model(whisper: Whisper) -> InferenceModel:
    return InferenceModel(whisper, "fp32")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return get_tokenizer(True, language="en", task="transcribe")


@pytest.fixture(scope="module")
def mels() -> torch.Tensor:
    samples = make_samples()
    maximum = find_log_mel_maximum(samples, 80, CPU)
    return torch.stack([compute_log_mel(w.cut(samples), 80, maximum, CPU) for w in WINDOWS])


@pytest.fixture(scope="module")
def cross(model: InferenceModel, mels: torch.Tensor) -> CrossKV:
    with torch.inference_mode():
        found: CrossKV = model.make_cross_kv(model.encode(mels))
    return found


def frames_of(window: Window) -> int:
    return round(window.duration * 100)


def timed_tokens(tokenizer: Tokenizer, text: str, window: Window) -> list[int]:
    """As decoded: with a timestamp at the start and end, and two in the middle."""
    words = text.split(" ")
    half = len(words) // 2
    first, second = " ".join(words[:half]), " ".join(["", *words[half:]])
    begin, length = tokenizer.timestamp_begin, int(window.duration / STEP)
    return [
        begin,
        *tokenizer.encode(first),
        begin + length // 3,
        begin + length // 2,
        *tokenizer.encode(second),
        begin + length,
    ]


def test_times_and_probabilities_of_tokens_equal_those_of_find_alignment(
    whisper, model, tokenizer, mels, cross
):
    """Alone and batched with longer texts: padding must have no effect."""
    texts = [tokenizer.encode(text) for text in TEXTS]
    n_frames = [frames_of(window) for window in WINDOWS]
    together = align(model, tokenizer, texts, n_frames, cross, heads_of(whisper))
    for i, text in enumerate(texts):
        [alone] = align(
            model,
            tokenizer,
            [text],
            [n_frames[i]],
            cross.rows(slice(i, i + 1)),
            heads_of(whisper),
        )
        expected = find_alignment(whisper, tokenizer, text, mels[i], n_frames[i])
        _, word_tokens = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
        begins = np.cumsum([0, *(len(tokens) for tokens in word_tokens[:-1])])[: len(expected)]
        for aligned in (alone, together[i]):
            assert len(aligned.times) == len(text) + 1
            assert [word.start for word in expected] == pytest.approx(
                aligned.times[begins].tolist(), abs=STEP + 1e-6
            )
            for word, begin in zip(expected, begins, strict=True):
                mean = aligned.probabilities[begin : begin + len(word.tokens)].mean()
                assert mean == pytest.approx(word.probability, rel=1e-3, abs=1e-7)


def find_words_with_whisper(
    whisper: Whisper, tokenizer: Tokenizer, tokens: list[int], mel: torch.Tensor, window: Window
) -> list[dict[str, Any]]:
    segments = []
    begin, text = 0.0, []
    for token in [*tokens, tokenizer.timestamp_begin + 1500]:
        if token < tokenizer.eot:
            text.append(token)
        else:
            time = (token - tokenizer.timestamp_begin) * STEP
            if text:
                end = min(time, window.duration)
                segments.append({"seek": 0, "start": begin, "end": end, "tokens": text})
            begin, text = time, []
    add_word_timestamps(
        segments=segments,
        model=whisper,
        tokenizer=tokenizer,
        mel=mel,
        num_frames=frames_of(window),
        last_speech_timestamp=0.0,
    )
    return [word for segment in segments for word in segment["words"]]


def test_words_equal_those_of_add_word_timestamps_but_ordered_and_of_limited_length(
    whisper, model, tokenizer, mels, cross
):
    tokens = [timed_tokens(tokenizer, text, w) for text, w in zip(TEXTS, WINDOWS, strict=True)]
    found = time_words(model, tokenizer, WINDOWS, tokens, cross, heads_of(whisper))
    for i, window in enumerate(WINDOWS):
        expected = find_words_with_whisper(whisper, tokenizer, tokens[i], mels[i], window)
        assert [word.text for word in found[i]] == [word["word"] for word in expected]
        earliest = 0.0
        for word, plain in zip(found[i], expected, strict=True):
            longest = 1.0 + 0.15 * len(word.text.strip())
            start = max(earliest, plain["start"], plain["end"] - longest)
            assert word.start - window.start == pytest.approx(start, abs=STEP + 1e-3)
            end = min(window.duration, max(plain["end"], start + STEP))
            assert word.end - window.start == pytest.approx(end, abs=STEP + 1e-3)
            earliest = word.start - window.start
        assert "".join(word.text for word in found[i]).strip() == TEXTS[i].strip()


def test_a_word_that_reaches_into_a_pause_is_cut_off_where_speech_ends(
    whisper, model, tokenizer, cross
):
    tokens = [timed_tokens(tokenizer, TEXTS[0], WINDOWS[0])]
    regions = [SpeechRegion(12.0, 15.0), SpeechRegion(15.1, 20.0), SpeechRegion(25.0, 39.0)]
    [words] = time_words(
        model,
        tokenizer,
        WINDOWS[:1],
        tokens,
        cross.rows(slice(1)),
        heads_of(whisper),
        regions,
    )
    spoken = [(12.0, 20.0), (25.0, 39.0)]

    assert words
    assert all(a.start <= b.start for a, b in zip(words, words[1:], strict=False))
    for word in words:
        overlapping = [(b, e) for b, e in spoken if word.start < e and word.end > b]
        assert all(b <= word.start and word.end <= e + STEP for b, e in overlapping)


def test_a_loop_with_more_tokens_than_time_steps_still_gets_times(whisper, model, tokenizer, cross):
    window = Window(0.0, 0.5)
    tokens = [tokenizer.encode(" yes" * 60)]
    [words] = time_words(
        model, tokenizer, [window], tokens, cross.rows(slice(1)), heads_of(whisper)
    )

    assert len(words) == 60
    assert all(a.start <= b.start for a, b in zip(words, words[1:], strict=False))
    assert all(0.0 <= word.start <= word.end <= 0.5 for word in words)


def test_attention_is_normalised_over_a_texts_own_tokens_and_audio():
    """Padding has no effect. Source of the expected values: whisper/timing.py, `find_alignment`."""
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(3, 2, 9, 200, generator=generator)
    lengths, positions = torch.tensor([4, 9, 6]), torch.tensor([50, 200, 133])
    together = _average_attention(scores, lengths, positions)
    for i, (n_tokens, n_positions) in enumerate(zip(lengths, positions, strict=True)):
        weights = scores[i, :, :n_tokens, :n_positions].softmax(dim=-1)
        std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        expected = median_filter((weights - mean) / std, 7).mean(dim=0)
        assert torch.allclose(together[i, :n_tokens, :n_positions], expected, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 12), columns=st.integers(1, 40))
def test_warping_a_batch_finds_the_paths_of_whispers_dtw(seed, rows, columns):
    rng = np.random.default_rng(seed)
    own_rows, own_columns = rng.integers(1, rows + 1, 3), rng.integers(1, columns + 1, 3)
    costs = rng.standard_normal((3, rows, columns)).astype(np.float32)
    entered = warp(
        torch.from_numpy(costs), torch.from_numpy(own_rows), torch.from_numpy(own_columns)
    )
    for i in range(3):
        own = costs[i, : own_rows[i], : own_columns[i]]
        text, time = dtw_cpu(own.astype(np.float64))
        first = np.concatenate([[True], np.diff(text) > 0])
        assert entered[i, : own_rows[i]].tolist() == time[first].tolist()


@pytest.mark.parametrize("n_own", [1, 3, 4, 5, 30, 99, 100])
def test_the_median_filter_is_whispers_with_the_ends_of_the_window_mirrored(n_own):
    weights = torch.from_numpy(np.random.default_rng(n_own).random((2, 3, 100), np.float32))
    expected = median_filter(weights[..., :n_own], 7)

    assert torch.equal(_smooth(weights, torch.tensor(n_own))[..., :n_own], expected)


@pytest.mark.slow
def test_words_of_the_demo_interview_start_where_find_alignment_puts_them():
    """Trained weights, real alignment heads, the demo interview."""
    whisper = load_whisper(find_whisper("demo", Path("no-folder")))
    tokenizer = get_tokenizer(
        whisper.is_multilingual, num_languages=whisper.num_languages, language="en"
    )
    with Path("demo/interview.flac").open("rb") as file:
        samples = decode(file).samples[0]
    windows = [Window(12.0 * i, 12.0 * i + 12.0) for i in range(4)]
    maximum = find_log_mel_maximum(samples, whisper.dims.n_mels, CPU)
    mels = torch.stack(
        [compute_log_mel(w.cut(samples), whisper.dims.n_mels, maximum, CPU) for w in windows]
    )
    with torch.inference_mode():
        model = InferenceModel(whisper, "fp32")
        cross = model.make_cross_kv(model.encode(mels))
        results = whisper.decode(mels, DecodingOptions(language="en", fp16=False))
    texts = [[t for t in result.tokens if t < tokenizer.eot] for result in results]
    assert sum(map(len, texts)) > 50
    n_frames = [frames_of(window) for window in windows]
    found = align(model, tokenizer, texts, n_frames, cross, heads_of(whisper))
    for i, text in enumerate(texts):
        expected = find_alignment(whisper, tokenizer, text, mels[i], n_frames[i])
        begins = np.cumsum([0, *(len(word.tokens) for word in expected)])[: len(expected)]
        starts = [word.start for word in expected]
        assert starts == pytest.approx(found[i].times[begins].tolist(), abs=STEP + 1e-6)
