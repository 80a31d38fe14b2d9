"""Render a synthetic interview or focus group with its reference words and turns.

    scripts/make_interview interview --seed 7 --seconds 60 --out build/interviews
    scripts/make_interview focus-group --seed 7 --speakers 6 --overlap 0.2 --out build/interviews

Writes NAME.wav, NAME.stm (utterances), NAME.ctm (words) and NAME.rttm (turns). The same arguments
give the same recording. The voices are those of the demo weights; the sentences are new.
"""

import argparse
import random
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.audio.recording import SAMPLE_RATE, DecodedRecording, RecordingInfo
from scripts.espeak import Speech
from scripts.synthetic_speech import BACK_CHANNELS, VOICES, Voice, make_answer, make_question, speak

TELEPHONE_RATE = 8_000  # Hz


@dataclass(frozen=True)
class ReferenceWord:
    """Seconds from the start of the recording."""

    text: str
    start: float
    end: float
    speaker: str


@dataclass(frozen=True)
class Utterance:
    speaker: str
    start: float
    end: float
    words: tuple[ReferenceWord, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class Interview:
    samples: np.ndarray  # float32, (n_samples,), 16 kHz
    utterances: tuple[Utterance, ...]  # by start

    @property
    def words(self) -> tuple[ReferenceWord, ...]:
        return tuple(word for utterance in self.utterances for word in utterance.words)

    def stm(self, name: str) -> str:
        """Source: NIST SCTK, doc/infmts.htm, `STM`."""
        return "".join(
            f"{name} 1 {u.speaker} {u.start:.3f} {u.end:.3f} {u.text}\n" for u in self.utterances
        )

    def ctm(self, name: str) -> str:
        """Source: NIST SCTK, doc/infmts.htm, `CTM`."""
        return "".join(
            f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text}\n"
            for word in sorted(self.words, key=lambda word: word.start)
        )

    def rttm(self, name: str) -> str:
        """Source: NIST RT-09 evaluation plan, appendix A."""
        return "".join(
            f"SPEAKER {name} 1 {u.start:.3f} {u.end - u.start:.3f} "
            f"<NA> <NA> {u.speaker} <NA> <NA>\n"
            for u in self.utterances
        )


def make_interview(
    seed: int,
    *,
    seconds: float = 60.0,
    n_speakers: int = 2,
    overlap: float = 0.0,
    noise: float = 1e-3,
    phone: bool = False,
) -> Interview:
    """Render an interview: one person asks, the others answer in a few sentences each.

    The text and its order depend only on the seed; the audio also depends on what espeak-ng has
    spoken before in this process.

    Args:
        n_speakers: 2 for an interview, more for a focus group; at most the eight known voices.
        overlap: share of the changes of speaker within the answers at which the next speaker starts
            up to 0.7 s early.
        noise: standard deviation of white noise; speech peaks at 0.3 to 0.7.
        phone: limit the audio to what a telephone transmits.
    """
    utterances, placed, n_samples = _render_conversation(
        random.Random(seed), seconds, n_speakers, overlap
    )
    samples = noise * np.random.default_rng(seed).standard_normal(n_samples)
    for _, start, spoken in placed:
        samples[start : start + len(spoken)] += spoken
    if phone:
        samples = simulate_telephone(samples)
    return Interview(np.clip(samples, -1, 1).astype(np.float32), utterances)


def make_split_interview(
    seed: int,
    *,
    seconds: float = 60.0,
    overlap: float = 0.0,
    noise: float = 1e-3,
    bleed: float = -15.0,
    phone: bool = False,
) -> tuple[Interview, np.ndarray]:
    """Render two people on a channel each, as with two microphones or a phone recorder.

    Args:
        bleed: level of each voice in the other's channel in dB, 8 ms late.
        phone: limit the audio to what a telephone transmits; the demo weights were not trained on
            it.

    Returns:
        The interview with the channels mixed, and the channels, float32, (2, n_samples).
    """
    utterances, placed, n_samples = _render_conversation(random.Random(seed), seconds, 2, overlap)
    voices = np.zeros((2, n_samples))
    names = list(dict.fromkeys(name for name, _, _ in placed))
    for name, start, spoken in placed:
        voices[names.index(name), start : start + len(spoken)] += spoken
    echo = 10 ** (bleed / 20) * np.roll(voices[::-1], SAMPLE_RATE // 125, axis=1)
    noises = noise * np.random.default_rng(seed).standard_normal(voices.shape)
    channels = voices + echo + noises
    if phone:
        channels = np.stack([simulate_telephone(channel) for channel in channels])
    channels = np.clip(channels, -1, 1).astype(np.float32)
    return Interview(channels.mean(axis=0), utterances), channels


def simulate_telephone(samples: np.ndarray) -> np.ndarray:
    """Band-pass to 300-3,400 Hz at 8 kHz and compand by mu-law: G.711 with an old handset."""
    from scipy.signal import butter, resample_poly, sosfilt

    narrow = resample_poly(samples, 1, SAMPLE_RATE // TELEPHONE_RATE)
    narrow = sosfilt(butter(4, (300, 3400), "bandpass", fs=TELEPHONE_RATE, output="sos"), narrow)
    peak = max(1.0, float(np.abs(narrow).max()))
    companded = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / peak) / np.log(256)
    steps = np.round(companded * 127) / 127
    expanded = peak * np.sign(steps) * (256 ** np.abs(steps) - 1) / 255
    wide = resample_poly(expanded, SAMPLE_RATE // TELEPHONE_RATE, 1)
    return np.asarray(wide[: len(samples)])


def _render_conversation(
    rng: random.Random, seconds: float, n_speakers: int, overlap: float
) -> tuple[tuple[Utterance, ...], list[tuple[str, int, np.ndarray]], int]:
    """Utterances by start; speaker, first sample and audio of each; the total of samples."""
    voices = rng.sample(VOICES, n_speakers)
    levels = {voice: rng.uniform(0.5, 1.0) for voice in voices}
    asking, answering = voices[0], voices[1:]
    placed: list[tuple[str, int, np.ndarray]] = []
    utterances = []
    position = SAMPLE_RATE // 2
    turn = 0
    while position < seconds * SAMPLE_RATE:
        for i, (voice, text) in enumerate(_choose_turns(rng, asking, answering, turn)):
            interrupts = i > 0 and rng.random() < overlap
            if interrupts and voice.name != placed[-1][0]:
                position -= int(rng.uniform(0.5, 1.0) * SAMPLE_RATE)
            speech = speak(text, voice, rng)
            placed.append((voice.name, position, speech.samples * levels[voice]))
            utterances.append(_make_utterance(voice.name, speech, position / SAMPLE_RATE))
            position += len(speech.samples) + int(rng.uniform(0.3, 0.9) * SAMPLE_RATE)
        turn += 1
    utterances.sort(key=lambda utterance: utterance.start)
    return tuple(utterances), placed, position + SAMPLE_RATE


def _choose_turns(
    rng: random.Random, asking: Voice, answering: list[Voice], turn: int
) -> list[tuple[Voice, str]]:
    """A question and its answers: by everybody the first time, then by up to three people."""
    who = answering if len(answering) == 1 else rng.sample(answering, min(len(answering), 3))
    if turn == 0 and len(answering) > 1:
        who = answering  # everybody speaks at least once
    turns = [(asking, make_question(rng))]
    for voice in who:
        if rng.random() < 0.15:
            turns.append((voice, rng.choice(BACK_CHANNELS)))
        turns += [(voice, make_answer(rng)) for _ in range(rng.randint(1, 3))]
    return turns


def _make_utterance(speaker: str, speech: Speech, start: float) -> Utterance:
    words = tuple(
        ReferenceWord(word.text, start + word.start, start + word.end, speaker)
        for word in speech.words
    )
    return Utterance(speaker, start, start + len(speech.samples) / SAMPLE_RATE, words)


def recording_of(samples: np.ndarray) -> DecodedRecording:
    """Samples, float32, (n_samples,) or (n_channels, n_samples), as if decoded from a file."""
    channels = np.atleast_2d(samples)
    info = RecordingInfo(
        container="wav",
        codec="pcm_s16le",
        sample_rate=SAMPLE_RATE,
        channels=len(channels),
        duration=channels.shape[1] / SAMPLE_RATE,
        n_bytes=2 * channels.size + 44,
    )
    return DecodedRecording(channels, info)


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write 16-bit PCM, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["interview", "focus-group"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--speakers", type=int, help="2, or 6 for a focus group")
    parser.add_argument("--overlap", type=float, default=0.0)
    parser.add_argument("--noise", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("build/interviews"))
    options = parser.parse_args()
    interview = make_interview(
        options.seed,
        seconds=options.seconds,
        n_speakers=options.speakers or (2 if options.kind == "interview" else 6),
        overlap=options.overlap,
        noise=options.noise,
    )
    name = f"{options.kind}-{options.seed}"
    options.out.mkdir(parents=True, exist_ok=True)
    write_wav(options.out / f"{name}.wav", interview.samples)
    for ending in ("stm", "ctm", "rttm"):
        text = getattr(interview, ending)(name)
        (options.out / f"{name}.{ending}").write_text(text, encoding="utf-8")
    print(f"{options.out / name}.wav: {len(interview.utterances)} utterances")


if __name__ == "__main__":
    main()
