"""Measure words, speakers and turns against references: rendered interviews, or your own.

    scripts/evaluate              # the demo weights on rendered recordings
    scripts/evaluate --manifest interviews.txt --model large-v3-turbo
    scripts/evaluate --manifest interviews.txt --model large-v3-turbo --precision int8
    scripts/evaluate --folder recordings --model base --peers

The first renders new interviews and focus groups (with seeds unused by scripts/train_demo_models),
and silence, noise and hum. The second uses recordings transcribed by hand; see
scripts/references.py for the manifest. Both print a table, and write it to --out with plots and all
measurements of each recording. The third compares fp32 with a lower precision, and allows the
weights to be used at that precision if it costs almost nothing (models/gates.py). The fourth takes
a folder of recordings with references beside them, and prints the word errors of openai-whisper
and faster-whisper with the same weights beside ours; this needs `scripts/setup bench`.
docs/researcher/accuracy.md explains the figures.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from models.audio.decode import decode
from models.audio.errors import NoSpeech
from models.audio.ffmpeg_child import allow_weak_sandbox
from models.audio.probe import probe
from models.audio.recording import SAMPLE_RATE, DecodedRecording
from models.error_rates import sum_rates
from models.errors import SpeechError
from models.gates import Gate, required_gates
from models.metrics import Spoken, TimedText, WordCounts
from models.options import Channels, JobOptions, SpeakerCount
from models.pipeline import Pipeline
from models.precision import Precision
from models.transcript import Turn
from models.weights.catalogue import DEMO, default_pipeline, find_pipeline, find_whisper
from scripts.evaluation import (
    Measurement,
    Row,
    build_document,
    compare,
    compare_text,
    format_table,
    format_words,
    write_evaluation,
)
from scripts.make_interview import Interview, make_interview, recording_of
from scripts.references import (
    Annotation,
    BadReference,
    ManifestEntry,
    build_annotation,
    read_entry,
    read_folder,
    read_manifest,
)
from scripts.whisper_peers import PEERS, Peers
from service.commands.console import printable
from service.commands.options import default_weights_folder
from service.settings import read_settings

FIRST_SEED = 900_000_000
NO_WEIGHTS_FOLDER = Path()  # the demo weights are part of the package


@dataclass(frozen=True)
class RecordingKind:
    """A kind of rendered recording.

    Args:
        overlap: share of the answers that interrupt another turn.
        is_count_given: whether the pipeline is given the number of speakers.
    """

    name: str
    n_speakers: int
    overlap: float
    noise: float
    phone: bool = False
    is_count_given: bool = True


KINDS = (
    RecordingKind("interview", 2, 0.0, 1e-3),
    RecordingKind("interview, noise", 2, 0.0, 1e-2),
    RecordingKind("focus group", 6, 0.0, 1e-3),
    RecordingKind("focus group, 1 in 5 interrupts", 6, 0.2, 1e-3),
    RecordingKind("interview, phone band", 2, 0.0, 1e-3, phone=True),
    RecordingKind("interview, 1 in 5 interrupts", 2, 0.2, 1e-3),
    RecordingKind("focus group, 1 in 10 interrupts", 6, 0.1, 1e-3),
    RecordingKind("focus group, noise", 6, 0.0, 1e-2),
    RecordingKind("interview, number not given", 2, 0.0, 1e-3, is_count_given=False),
    RecordingKind("focus group, number not given", 6, 0.0, 1e-3, is_count_given=False),
)


def make_silence(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    return 1e-4 * rng.standard_normal(n_samples)  # -80 dBFS, like the noise of a recorder


def make_noise(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    return 1e-2 * rng.standard_normal(n_samples)


def make_hum(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum with overtones and a little noise."""
    seconds = np.arange(n_samples) / SAMPLE_RATE
    tones = sum(0.02 / k * np.sin(2 * np.pi * 50 * k * seconds) for k in (1, 2, 3, 5))
    return tones + make_silence(n_samples, rng)


WITHOUT_SPEECH = {"silence": make_silence, "noise": make_noise, "hum": make_hum}


def render(kind: RecordingKind, seed: int, seconds: float) -> Interview:
    return make_interview(
        seed,
        seconds=seconds,
        n_speakers=kind.n_speakers,
        overlap=kind.overlap,
        noise=kind.noise,
        phone=kind.phone,
    )


def build_reference(interview: Interview) -> Annotation:
    return Annotation(
        utterances=tuple(Spoken(u.speaker, u.start, u.end, u.text) for u in interview.utterances),
        words=tuple(TimedText(w.text, w.start, w.end) for w in interview.words),
        turns=tuple(Turn(u.start, u.end, u.speaker) for u in interview.utterances),
    )


def measure(pipeline: Pipeline, kind: RecordingKind, seed: int, seconds: float) -> Measurement:
    interview = render(kind, seed, seconds)
    recording, reference = recording_of(interview.samples), build_reference(interview)
    count = (kind.n_speakers, kind.n_speakers) if kind.is_count_given else (None, None)
    options = JobOptions(speakers=SpeakerCount(*count))
    return measure_one(pipeline, recording, reference, options)


def measure_one(
    pipeline: Pipeline, recording: DecodedRecording, reference: Annotation, options: JobOptions
) -> Measurement:
    started = time.monotonic()
    try:
        transcript = pipeline.transcribe([recording], options)
    except NoSpeech:
        found, language = Annotation(), options.language or "en"
    else:
        found, language = build_annotation(transcript), options.language or transcript.language
    took = time.monotonic() - started
    return compare(reference, found, recording.duration, language, took)


def measure_rendered(pipeline: Pipeline, n_recordings: int, seconds: float) -> Iterator[Row]:
    seeds = random.Random(FIRST_SEED)
    for kind in KINDS:
        for _ in range(n_recordings):
            seed = seeds.getrandbits(30)
            yield Row(kind.name, str(seed), measure(pipeline, kind, seed, seconds))
    english = JobOptions(language="en")
    for name, sound in WITHOUT_SPEECH.items():
        for seed in range(n_recordings):
            samples = sound(round(seconds * SAMPLE_RATE), np.random.default_rng(seed))
            recording = recording_of(samples.astype(np.float32))
            yield Row(name, str(seed), measure_one(pipeline, recording, Annotation(), english))


@dataclass(frozen=True)
class FailedRecording:
    """A recording that could not be measured."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def measure_manifest(
    pipeline: Pipeline, entries: Sequence[ManifestEntry], peers: Peers | None = None
) -> Iterator[Row | FailedRecording]:
    """Measure each recording; a failed one does not stop the others."""
    for entry in entries:
        options = parse_options(entry)
        reference = read_entry(entry)
        try:
            with entry.audio.open("rb") as file:
                recording = decode(file, split_channels=options.channels != Channels.MIX)
            measured = measure_one(pipeline, recording, reference, options)
        except (SpeechError, OSError) as error:
            yield FailedRecording(entry.audio.name, str(error))
        else:
            others = measure_peers(peers, entry, reference, options.language) if peers else {}
            yield Row(entry.group, entry.audio.stem, measured, others)


def measure_peers(
    peers: Peers, entry: ManifestEntry, reference: Annotation, language: str | None
) -> dict[str, WordCounts]:
    counts = {}
    for peer in PEERS:
        found = peers.transcribe(peer, entry.audio, language)
        if (compared := compare_text(reference, found.text, language or "en")) is not None:
            counts[peer] = compared
    return counts


def check_entry(entry: ManifestEntry) -> None:
    """Find mistakes now, not after hours of transcription.

    Raises:
        BadReference
    """
    read_entry(entry)
    try:
        parse_options(entry)
        with entry.audio.open("rb") as file:
            probe(file)
    except (SpeechError, OSError) as error:
        raise BadReference(f"{entry.audio.name}: {error}") from None


def parse_options(entry: ManifestEntry) -> JobOptions:
    """The options that an entry of the manifest gives.

    Raises:
        OptionError
    """
    language, speakers = entry.options.get("language"), entry.options.get("speakers")
    return JobOptions(
        language=language,
        speakers=SpeakerCount() if speakers is None else SpeakerCount.parse(speakers),
        channels=Channels(entry.options.get("channels", "auto")),
    )


def write_results(
    measured: Iterator[Row | FailedRecording], pipeline: Pipeline, out: Path
) -> tuple[list[Row], list[FailedRecording]]:
    """Print each recording as it is measured, then a table, and write the files."""
    rows: list[Row] = []
    failed: list[FailedRecording] = []
    for found in measured:
        print(printable(str(found)), file=sys.stderr, flush=True)
        if isinstance(found, FailedRecording):
            failed.append(found)
        else:
            rows.append(found)
    if rows:
        document = build_document(rows, pipeline)
        write_evaluation(out, document)
        print(format_table(document["groups"]), format_words(document["recordings"]), sep="\n\n")
        print(f"\nPercent. {out}: evaluation.json, evaluation.md, *.png", file=sys.stderr)
    return rows, failed


def fill_gate(gate: Gate, fp32: Sequence[Row], lower: Sequence[Row]) -> Gate:
    """The gate with the results of the same recordings at both precisions."""
    of_each = [
        sum_rates(
            [row.measured.rates[gate.metric] for row in rows if gate.metric in row.measured.rates]
        )
        for rows in (fp32, lower)
    ]
    return replace(gate, fp32=of_each[0], lower=of_each[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--manifest", type=Path, help="your own recordings and references")
    parser.add_argument("--folder", type=Path, help="recordings with references beside them")
    parser.add_argument(
        "--peers", action="store_true", help="openai-whisper and faster-whisper beside ours"
    )
    parser.add_argument(
        "--peer-cache", type=Path, default=Path("build/peers"), help="keeps what the peers wrote"
    )
    parser.add_argument("--model", default="demo", help="a Whisper model, by name or path")
    parser.add_argument("--diarisation", help="a pyannote pipeline, by name or path")
    weights = os.environ.get("FIELDSCRIBE_WEIGHTS") or default_weights_folder()
    parser.add_argument("--weights", type=Path, default=Path(weights))
    parser.add_argument(
        "--recordings", type=int, default=3, help="rendered recordings of each kind"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rendered recording")
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision",
        choices=("bf16", "int8"),
        help="compare it with fp32, and allow its use if it costs almost nothing",
    )
    options = parser.parse_args()
    if options.precision and options.model != DEMO and not (options.manifest or options.folder):
        parser.error("results on rendered voices do not apply to people: add --manifest")
    torch.set_num_threads(options.threads)
    allow_weak_sandbox(read_settings().allow_weak_sandbox)
    try:
        entries = read_manifest(options.manifest) if options.manifest else []
        entries += read_folder(options.folder) if options.folder else []
        for entry in entries:
            check_entry(entry)
        whisper = find_whisper(options.model, options.weights)
        pipeline_name = options.diarisation or default_pipeline(options.model)
        diarisation = find_pipeline(pipeline_name, options.weights)
        peers = Peers(whisper, options.peer_cache, options.threads) if options.peers else None
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        gates = required_gates(options.precision, device, whisper, diarisation)

        def measure_at(precision: Precision | None, out: Path) -> list[Row]:
            pipeline = Pipeline(whisper, diarisation, device, precision)
            found: Iterator[Row | FailedRecording] = (
                measure_manifest(pipeline, entries, peers)
                if entries
                else measure_rendered(pipeline, options.recordings, options.seconds)
            )
            rows, failed = write_results(found, pipeline, out)
            if failed:
                sys.exit("\n".join(["Not measured:", *(printable(str(each)) for each in failed)]))
            return rows

        if options.precision is None:
            measure_at(None, options.out)
            return
        fp32, lower = (measure_at(p, options.out / p) for p in ("fp32", options.precision))
        for gate in gates:
            gate = fill_gate(gate, fp32, lower)
            gate.save(options.weights)
            print(gate)
    except (BadReference, SpeechError) as error:
        sys.exit(printable(str(error)))


if __name__ == "__main__":
    main()
