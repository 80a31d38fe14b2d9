"""Measure the demo weights on interviews and focus groups rendered afresh.

    scripts/evaluate --recordings 4 --json build/evaluation.json

Word error rate (whisper's normaliser), word times off by more than 0.3 s, diarisation error rate
(no collar, overlap scored), and speakers found, per kind of recording, summed. The seeds are none
that scripts/train_demo_models uses.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.diarisation import SpeakerCount
from models.metrics import NORMALISER, Rate, TimedText, diarisation_errors, time_errors, word_errors
from models.pipeline import Pipeline, TranscribeOptions
from models.transcript import Transcript, Turn
from models.weights import find_pipeline, find_whisper
from scripts.make_interview import Interview, make_interview, recording_of

FIRST_SEED = 900_000_000
NO_WEIGHTS_FOLDER = Path()  # the demo weights are part of the package


@dataclass(frozen=True)
class Kind:
    name: str
    n_speakers: int
    overlap: float
    noise: float


KINDS = (
    Kind("interview", 2, 0.0, 1e-3),
    Kind("interview, noise", 2, 0.0, 1e-2),
    Kind("focus group", 6, 0.0, 1e-3),
    Kind("focus group, overlap", 6, 0.2, 1e-3),
)


@dataclass(frozen=True)
class Measured:
    words: Rate
    times: Rate
    turns: Rate
    speakers_found: int

    @classmethod
    def of(cls, interview: Interview, transcript: Transcript) -> "Measured":
        expected = [TimedText(w.text, w.start, w.end) for w in interview.words]
        found = [TimedText(w.text, w.start, w.end) for w in transcript.words]
        return cls(
            words=word_errors(" ".join(w.text for w in expected), "".join(w.text for w in found)),
            times=time_errors(expected, found),
            turns=diarisation_errors(
                [Turn(u.start, u.end, u.speaker) for u in interview.utterances], transcript.turns
            ),
            speakers_found=len(transcript.speakers),
        )


def measure(pipeline: Pipeline, kind: Kind, seed: int, seconds: float) -> Measured:
    interview = make_interview(
        seed, seconds=seconds, n_speakers=kind.n_speakers, overlap=kind.overlap, noise=kind.noise
    )
    speakers = SpeakerCount(kind.n_speakers, kind.n_speakers)
    options = TranscribeOptions(speakers=speakers)
    return Measured.of(interview, pipeline.transcribe([recording_of(interview.samples)], options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recordings", type=int, default=2, help="of each kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each recording")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipeline = Pipeline(
        find_whisper("demo", NO_WEIGHTS_FOLDER),
        find_pipeline("demo", NO_WEIGHTS_FOLDER),
        torch.device("cpu"),
    )
    seeds = random.Random(FIRST_SEED)
    rows: list[dict[str, Any]] = []
    print(f"{'':24}{'WER':>8}{'times':>8}{'DER':>8}  speakers found  RTFx")
    for kind in KINDS:
        started = time.monotonic()
        measured = [
            measure(pipeline, kind, seeds.getrandbits(30), options.seconds)
            for _ in range(options.recordings)
        ]
        words, times, turns = (
            sum((getattr(m, name) for m in measured), Rate(0, 0))
            for name in ("words", "times", "turns")
        )
        found = [m.speakers_found for m in measured]
        rtfx = options.recordings * options.seconds / (time.monotonic() - started)
        print(
            f"{kind.name:24}{words.rate:8.1%}{times.rate:8.1%}{turns.rate:8.1%}  "
            f"{found} of {kind.n_speakers}  {rtfx:.1f}",
            flush=True,
        )
        rows.append(
            {
                "kind": kind.name,
                "word_error_rate": words.rate,
                "reference_words": words.total,
                "words_off_by_more_than_300_ms": times.rate,
                "diarisation_error_rate": turns.rate,
                "speakers": kind.n_speakers,
                "speakers_found": found,
            }
        )
    if options.json:
        figures = {"normaliser": NORMALISER, "collar": 0.0, "overlap": "scored", "rows": rows}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
