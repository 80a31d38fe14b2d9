"""Measure the de-identifier: `scripts/evaluate deid`.

    scripts/evaluate deid          # passages and synthetic text, with and without a model
    scripts/evaluate deid --passages mine.txt --roster mine.csv --show
    scripts/evaluate deid --round-trip --whisper base.pt --diarisation FOLDER

Passages are lines of text in which each identifier is marked: [[Siobhan|PERSON]], or
[[Shavon|PERSON|roster]] if the roster has it, in any spelling; [[Victoria|?]] is not counted.
docs/developer/deidentifier.md explains the figures.
"""

import argparse
import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from models.audio.recording import SAMPLE_RATE
from models.deidentification.detect import detect
from models.deidentification.occurrences import (
    Detector,
    KnownEntity,
    Occurrence,
    SpokenSegment,
)
from models.deidentification.optional_detectors import load_detectors
from models.deidentification.sampling import wilson
from models.options import JobOptions
from models.transcript import Transcript
from scripts import deid_round_trip
from scripts.deid_evaluation import (
    PASSAGES,
    Passage,
    read_passages,
    read_roster_file,
    run_detector,
    score_passages,
)
from scripts.deid_generator import CONDITIONS, Generator
from scripts.deid_round_trip import STEP
from service.commands.options import default_weights_folder

N_SEEDS = 5
WORDS_PER_SEED = 2_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/evaluate deid", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--passages", type=Path, help="your own passages")
    parser.add_argument("--roster", type=Path, help="the roster for them")
    parser.add_argument("--model", help="a spaCy pipeline, or none; by default the installed one")
    parser.add_argument("--weights", type=Path, default=default_weights_folder())
    parser.add_argument(
        "--show", action="store_true", help="print what was missed, and what is false"
    )
    parser.add_argument(
        "--round-trip", action="store_true", help="speak the passages and transcribe them first"
    )
    parser.add_argument("--whisper", default="demo", help="a Whisper model, by name or path")
    parser.add_argument("--diarisation", default="demo", help="a pipeline, by name or path")
    parser.add_argument(
        "--vocabulary", action="store_true", help="give Whisper the names of the roster"
    )
    parser.add_argument("--words", type=int, default=3000, help="at most, of the round trip")
    options = parser.parse_args(arguments)
    models = load_detectors(options.model, options.weights)
    if not models:
        print("No named-entity model is installed (scripts/setup deid): rules alone.\n")
    systems: list[tuple[str, Sequence[Detector]]] = [("rules", [])]
    systems += [(f"rules, {models[0].name}", models)] if models else []
    roster = read_roster_file(options.roster or PASSAGES / "roster.csv")
    paths = [options.passages] if options.passages else [PASSAGES / f"{n}.txt" for n in SETS]
    if options.round_trip:
        passages = choose_passages(paths, options.words)
        measure_round_trip(passages, roster, systems, options)
        return
    print(HEADER)
    for path in paths:
        for name, detectors in systems:
            for lower in (False, True):
                passages = read_passages(path)
                if lower:
                    passages = [passage.lowered() for passage in passages]
                found = run_detector(passages, roster, detectors)
                label = f"{path.stem}, {name}{', lower case' if lower else ''}"
                report(label, passages, found, show=options.show)
    if not options.passages:
        measure_synthetic(systems, show=options.show)
        print()
        for name, detectors in systems:
            print(f"{name}: {measure_speed(detectors):.2f} s for 10,000 words")


SETS = ("development", "test", "second", "third", "fourth", "fifth", "sixth", "challenge")
HEADER = (
    "passages | identifiers | suggested | sure | precision | precision of sure"
    " | false per 1,000 words | over-redaction\n---|---|---|---|---|---|---|---"
)


def report(
    label: str,
    passages: Sequence[Passage],
    found: Sequence[Sequence[Occurrence]],
    *,
    show: bool = False,
) -> None:
    """Print a row of the table, and below it the recall of each label."""
    every = score_passages(passages, found, sure_only=False)
    sure = score_passages(passages, found, sure_only=True)
    n_gold = sum(every.gold.values())
    cells = (
        label,
        str(n_gold),
        share(sum(every.found.values()), n_gold),
        share(sum(sure.found.values()), n_gold),
        share(every.n_spans - every.n_false, every.n_spans),
        share(sure.n_spans - sure.n_false, sure.n_spans),
        rate(every.false_by_passage, every.words_by_passage),
        f"{100 * every.n_redacted_needlessly / max(1, every.n_characters):.2f} %",
    )
    print(" | ".join(cells))
    labels = ", ".join(f"{k} {every.found[k]}/{n}" for k, n in sorted(every.gold.items()))
    n_safe = len(every.entities) - len(every.leaked_entities)
    print(f"    {labels}; entities without a leak {n_safe}/{len(every.entities)}")
    if show:
        print(*(f"    missed: {line}" for line in every.missed), sep="\n")
        print(*(f"    false: {line}" for line in every.false), sep="\n")


def share(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{k / max(1, n):.3f} ({low:.2f}-{high:.2f})"


def rate(counts: Sequence[int], words: Sequence[int]) -> str:
    """Counts per 1,000 words, with a bootstrap interval over the passages."""
    rng = random.Random(0)
    n = len(counts)
    rates = []
    for _ in range(1000):
        picked = rng.choices(range(n), k=n)
        total = sum(words[i] for i in picked)
        rates.append(1000 * sum(counts[i] for i in picked) / max(1, total))
    rates.sort()
    mean = 1000 * sum(counts) / max(1, sum(words))
    return f"{mean:.1f} ({rates[25]:.1f}-{rates[974]:.1f})"


def measure_synthetic(
    systems: Sequence[tuple[str, Sequence[Detector]]], *, show: bool = False
) -> None:
    for conditions in CONDITIONS:
        for name, detectors in systems:
            passages, found = [], []
            for seed in range(N_SEEDS):
                generator = Generator(seed, conditions)
                made = generator.passages(WORDS_PER_SEED)
                passages += made
                found += run_detector(made, generator.roster, detectors)
            report(f"synthetic, {conditions.name}, {name}", passages, found, show=show)


def choose_passages(paths: Sequence[Path], n_words: int) -> list[Passage]:
    """The passages of several files, shuffled, up to a number of words."""
    every = [passage for path in paths for passage in read_passages(path)]
    random.Random(0).shuffle(every)
    ends = itertools.accumulate(len(passage.text.split()) for passage in every)
    return [passage for passage, end in zip(every, ends, strict=True) if end <= n_words]


def measure_round_trip(
    passages: Sequence[Passage],
    roster: Sequence[KnownEntity],
    systems: Sequence[tuple[str, Sequence[Detector]]],
    options: argparse.Namespace,
) -> None:
    """Speak and transcribe passages; print what is then found, and what of the sound is masked."""
    spoken = deid_round_trip.speak(passages)
    names = [each.name for each in roster] if options.vocabulary else []
    transcript = transcribe(spoken, options, names)
    print(ROUND_TRIP_HEADER)
    for name, detectors in systems:
        for tier in ("suggested", "sure"):
            scored = deid_round_trip.measure(
                spoken, transcript, roster, detectors, sure_only=tier == "sure"
            )
            report_round_trip(f"{name}, {tier}", scored, show=options.show)
    careful = deid_round_trip.accepted_by_a_careful_reviewer(spoken, transcript)
    report_round_trip("every identifier", deid_round_trip.score(spoken, transcript, careful))
    n_lost = sum(scored.lost.values())
    print(
        f"{len(spoken.samples) / SAMPLE_RATE / 60:.0f} min, {scored.n_words} words,"
        f" {scored.n_wrong} recognised wrongly; of {scored.n_gold} identifiers {scored.n_spelt} as"
        f" spelt, {scored.n_changed} in other words, {n_lost} not at all"
    )


def transcribe(
    spoken: deid_round_trip.Spoken, options: argparse.Namespace, vocabulary: Sequence[str] = ()
) -> Transcript:
    import torch  # takes seconds, and nothing else here needs it

    from models.pipeline import Pipeline
    from models.weights.catalogue import find_pipeline, find_whisper
    from scripts.make_interview import recording_of

    pipeline = Pipeline(
        find_whisper(options.whisper, options.weights),
        find_pipeline(options.diarisation, options.weights),
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    recording = recording_of(spoken.samples)
    job = JobOptions(language="en", vocabulary=tuple(vocabulary))
    return pipeline.transcribe([recording], job, lambda _: None)


ROUND_TRIP_HEADER = (
    "accepted | found as spelt | found in other words | false per 1,000 words | time masked"
    " | identifiers wholly masked | other speech masked\n---|---|---|---|---|---|---"
)


def report_round_trip(
    label: str, scored: deid_round_trip.RoundTripScore, *, show: bool = False
) -> None:
    cells = (
        label,
        share(sum(scored.found_spelt.values()), scored.n_spelt),
        share(sum(scored.found_changed.values()), scored.n_changed),
        f"{1000 * scored.n_false / max(1, scored.n_words):.1f}",
        f"{scored.masked_seconds / max(STEP, scored.gold_seconds):.3f}",
        share(scored.wholly, scored.n_gold),
        f"{100 * scored.masked_other_seconds / max(STEP, scored.other_seconds):.1f} %",
    )
    print(" | ".join(cells))
    if show:
        print(*(f"    missed: {line}" for line in scored.missed), sep="\n")


def measure_speed(
    detectors: Sequence[Detector],
    roster: Sequence[KnownEntity] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds for 10,000 words of new synthetic text, after the word lists were read."""
    passages = Generator(99, CONDITIONS[0]).passages(10_000)
    segments = [
        SpokenSegment(f"s{i:04d}", f"SPEAKER_0{i % 2}", passage.text)
        for i, passage in enumerate(passages)
    ]
    detect(segments[:1], roster, detectors)
    started = clock()
    detect(segments, roster, detectors)
    return clock() - started


if __name__ == "__main__":
    main()
