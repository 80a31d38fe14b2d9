"""Measure the peak memory of the whole pipeline on a session of any length, with the demo weights.

    scripts/measure_memory --minutes 240
    scripts/measure_memory --minutes 240 --real-embeddings     an hour or more on two cores

Prints one JSON document. The session is a rendered minute, repeated. Speaker embeddings are random
unless asked for: their model takes by far the longest, but processes a few chunks at a time
whatever the length; only what uses the embeddings grows.
"""

import argparse
import json
import time

import numpy as np
import torch

import models.diarisation.diarisation
from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import Segmentation
from models.options import JobOptions, SpeakerCount
from models.pipeline import Pipeline, StageProgress
from models.weights.catalogue import find_pipeline, find_whisper
from scripts.evaluate import NO_WEIGHTS_FOLDER
from scripts.make_interview import make_interview, recording_of
from scripts.reports import read_peak_bytes


def draw_embeddings(pipeline: Pipeline) -> None:
    """Replace the embedding model by random vectors of the same size."""
    size, rng = pipeline.diarisation.embedding.dimension, np.random.default_rng(0)

    def draw(
        _models: object, _samples: object, segmentation: Segmentation, *_: object, **__: object
    ) -> np.ndarray:
        n_chunks, _frames, n_local = segmentation.activity.shape
        return rng.standard_normal((n_chunks, n_local, size), dtype=np.float32)

    models.diarisation.diarisation.embed = draw  # type: ignore[attr-defined, assignment]  # where it is imported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--real-embeddings", action="store_true")
    options = parser.parse_args()
    pipeline = Pipeline(
        find_whisper("demo", NO_WEIGHTS_FOLDER),
        find_pipeline("demo", NO_WEIGHTS_FOLDER),
        torch.device("cpu"),
    )
    if not options.real_embeddings:
        draw_embeddings(pipeline)
    minute = make_interview(7, seconds=57.0).samples[: 60 * SAMPLE_RATE]
    samples = np.resize(minute, round(options.minutes * 60 * SAMPLE_RATE))
    loaded, started = read_peak_bytes(), time.monotonic()
    peaks: dict[str, int] = {}

    def note(progress: StageProgress) -> None:
        peaks[progress.stage] = read_peak_bytes()

    transcript = pipeline.transcribe(
        [recording_of(samples)], JobOptions(speakers=SpeakerCount(2, 2)), note
    )
    report = {
        "minutes": options.minutes,
        "real_embeddings": options.real_embeddings,
        "samples_bytes": samples.nbytes,
        "peak_bytes_after_loading": loaded,
        "peak_bytes_by_stage": peaks,
        "peak_bytes": read_peak_bytes(),
        "segments": len(transcript.segments),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
