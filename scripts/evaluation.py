"""The measurements of `scripts/evaluate` for each recording and group, as table and JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from models.error_rates import ErrorRate, bootstrap_interval, sum_rates
from models.metrics import (
    TCP_COLLAR,
    WordCounts,
    count_errors,
    count_word_errors,
    cp_word_errors,
    diarisation_parts,
    invented_seconds,
    normaliser_name,
    seconds_without_words,
    speaker_errors,
    tcp_word_errors,
    time_errors,
    turn_speaker_errors,
)
from models.pipeline import Pipeline
from scripts.references import Annotation
from scripts.reports import write_report

FORGIVING_COLLAR = 0.5  # s, a quarter on each side, as many papers use

OURS = "fieldscribe"

COLUMNS = (
    ("wer", "WER"),
    ("cpwer", "cpWER"),
    ("tcpwer", "tcpWER"),
    ("wrong_speaker", "wrong speaker"),
    ("no_speaker", "no speaker"),
    ("times_off", "times off"),
    ("der", "DER"),
    ("der_forgiving", "DER, forgiving"),
    ("speech_without_words", "speech without words"),
    ("invented", "invented"),
)


@dataclass(frozen=True)
class Measurement:
    """The figures of one recording by name, as far as its reference allows them."""

    rates: dict[str, ErrorRate]
    speakers: int | None  # None: the reference does not say
    speakers_found: int
    language: str
    seconds: float
    took: float  # s
    counts: WordCounts | None = None  # None: the reference has no words

    @property
    def words(self) -> ErrorRate:
        return self.rates["wer"]

    @property
    def times(self) -> ErrorRate:
        return self.rates["times_off"]

    @property
    def turns(self) -> ErrorRate:
        return self.rates["der"]


def compare(
    reference: Annotation, found: Annotation, duration: float, language: str, took: float
) -> Measurement:
    """Measure a hypothesis against its reference.

    Args:
        reference: empty for a recording without speech.
        found: our hypothesis.
        duration: seconds of the recording.
        took: seconds of transcription.
    """
    silent = reference == Annotation()
    rates: dict[str, ErrorRate] = {}
    text, counts = _join_text(reference), None
    if text or silent:
        counts = count_word_errors(text, _join_text(found), language)
    if text and counts:
        rates["wer"] = ErrorRate(counts.errors, counts.total)
    if reference.words:
        rates["times_off"] = time_errors(reference.words, found.words, language)
    if reference.utterances and find_spec("meeteval"):  # scripts/evaluate installs it
        rates["cpwer"] = cp_word_errors(reference.utterances, found.utterances, language)
        rates["tcpwer"] = tcp_word_errors(reference.utterances, found.utterances, language)
    if reference.utterances:
        wrong, nobody = speaker_errors(reference.utterances, found.utterances, language)
        rates["wrong_speaker"], rates["no_speaker"] = wrong, nobody
    elif reference.turns:
        wrong, nobody = turn_speaker_errors(reference.turns, found.words)
        rates["wrong_speaker"], rates["no_speaker"] = wrong, nobody
    if reference.turns:
        parts = diarisation_parts(reference.turns, found.turns)
        rates |= {f"der_{name.replace(' ', '_')}": part for name, part in parts.items()}
        rates["der"] = rates.pop("der_error")
        rates["der_forgiving"] = diarisation_parts(
            reference.turns, found.turns, collar=FORGIVING_COLLAR, skip_overlap=True
        )["error"]
        rates["speaker_count"] = count_errors(reference.turns, found.turns)
        rates["speech_without_words"] = seconds_without_words(reference.turns, found.words)
    if reference.turns or silent:
        rates["invented"] = invented_seconds(reference.turns, found.words, duration)
    speakers = 0 if silent else reference.n_speakers or None
    return Measurement(rates, speakers, found.n_speakers, language, duration, took, counts)


def _join_text(annotation: Annotation) -> str:
    parts = annotation.utterances or annotation.words
    return annotation.text or " ".join(part.text for part in parts)


def compare_text(reference: Annotation, text: str, language: str) -> WordCounts | None:
    """The word errors of a text; None if the reference has no words for its speech."""
    expected = _join_text(reference)
    if not expected and reference != Annotation():
        return None
    return count_word_errors(expected, text, language)


@dataclass(frozen=True)
class Row:
    """One recording."""

    group: str
    name: str
    measured: Measurement
    peers: dict[str, WordCounts] = field(default_factory=dict)  # the same recording by others

    def __str__(self) -> str:
        shown = (("wer", "WER"), ("cpwer", "cpWER"), ("der", "DER"), ("invented", "invented"))
        rates = self.measured.rates
        figures = [f"{title} {rates[name].rate:.1%}" for name, title in shown if name in rates]
        return f"{self.group}, {self.name}: {', '.join(figures)}"


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A dictionary per group, in order, then one over all recordings with speech."""
    ordered = sorted(rows, key=lambda row: [r.group for r in rows].index(row.group))
    groups = [(name, list(group)) for name, group in groupby(ordered, key=lambda row: row.group)]
    spoken = [row for row in rows if row.measured.speakers != 0]
    if len(groups) > 1 and spoken:
        groups.append(("all with speech", spoken))
    return [_summarise_group(name, [row.measured for row in group]) for name, group in groups]


def _summarise_group(name: str, measured: Sequence[Measurement]) -> dict[str, Any]:
    figures = {}
    for metric in dict.fromkeys(metric for m in measured for metric in m.rates):
        rates = [m.rates[metric] for m in measured if metric in m.rates]
        total = sum_rates(rates)
        figures[metric] = {
            "rate": total.rate,
            "errors": total.errors,
            "total": total.total,
            "interval": bootstrap_interval(rates),
            "recordings": len(rates),
        }
    seconds = sum(m.seconds for m in measured)
    return {
        "group": name,
        "recordings": len(measured),
        "seconds": seconds,
        "rtfx": seconds / max(sum(m.took for m in measured), 1e-9),
        "speakers": [m.speakers for m in measured],
        "speakers_found": [m.speakers_found for m in measured],
        "figures": figures,
    }


def format_table(groups: Sequence[dict[str, Any]]) -> str:
    """Markdown, in percent, with the 95 % interval if there are enough recordings."""
    heads = ["recordings", *(title for _, title in COLUMNS), "speakers off", "RTFx"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for group in groups:
        figures = group["figures"]
        counts = figures.get("speaker_count")
        cells = [
            f"{group['group']} ({group['recordings']}, {group['seconds'] / 60:.1f} min in all)",
            *(_format_cell(figures.get(metric)) for metric, _ in COLUMNS),
            "" if counts is None else f"{counts['errors']:.0f} of {counts['total']:.0f}",
            f"{group['rtfx']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_words(recordings: Sequence[dict[str, Any]]) -> str:
    """Markdown: the word errors of each recording by kind, ours beside the peers'."""
    columns = [
        {OURS: WordCounts(**one["words"])}
        | {peer: WordCounts(**counts) for peer, counts in one["peers"].items()}
        for one in recordings
        if one["words"]
    ]
    names = [one["name"] for one in recordings if one["words"]]
    titles = list(dict.fromkeys(title for column in columns for title in column))
    spoken = [i for i, column in enumerate(columns) if column[OURS].total]
    silent = [i for i in range(len(columns)) if i not in spoken]
    lines = [
        "Word errors (substitutions + deletions + insertions):",
        "",
        f"| {' | '.join(['recording', 'words', *titles])} |",
        f"|{'---|' * (2 + len(titles))}",
    ]
    for group, title in ((spoken, "all with speech"), (silent, "all without speech")):
        of_each = [(names[i], [i]) for i in group]
        for name, some in of_each + [(title, group)] * (len(group) > 1):
            sums = [sum_counts(columns[i].get(title) for i in some) for title in titles]
            total = str(sums[0].total) if sums[0] else ""
            lines.append(f"| {' | '.join([name, total, *map(_format_counts, sums)])} |")
    return "\n".join(lines)


def sum_counts(counts: Iterable[WordCounts | None]) -> WordCounts | None:
    """The sum, or None if one of them is missing."""
    total: WordCounts | None = WordCounts(0, 0, 0, 0)
    for one in counts:
        total = total + one if total is not None and one is not None else None
    return total


def _format_counts(counts: WordCounts | None) -> str:
    if counts is None:
        return ""
    parts = f"{counts.substitutions} + {counts.deletions} + {counts.insertions}"
    rate = f", {counts.errors / counts.total:.1%}" if counts.total else ""
    return f"{counts.errors}{rate} ({parts})"


def _format_cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    text = f"{100 * figure['rate']:.1f}"
    if figure["interval"]:
        low, high = figure["interval"]
        text += f" ({100 * low:.1f}-{100 * high:.1f})"
    return text


def build_document(rows: Sequence[Row], pipeline: Pipeline) -> dict[str, Any]:
    """All measurements, with the conditions under which they were taken."""
    whisper, diarisation = pipeline.whisper_weights, pipeline.diarisation_weights
    languages = sorted({row.measured.language for row in rows})
    return {
        "whisper": {"name": whisper.name, "sha256": whisper.sha256},
        "diarisation": {"name": diarisation.name, "sha256": diarisation.sha256},
        "device": str(pipeline.device),
        "precision": pipeline.precision,
        "threads": torch.get_num_threads(),
        "normalisers": {language: normaliser_name(language) for language in languages},
        "der": {"collar": 0.0, "overlap": "scored"},
        "der_forgiving": {"collar": FORGIVING_COLLAR, "overlap": "left out"},
        "tcpwer": {"collar": TCP_COLLAR},
        "interval": "95 %, bootstrap over recordings",
        "groups": summarise(rows),
        "recordings": [_as_dict(row) for row in rows],
    }


def _as_dict(row: Row) -> dict[str, Any]:
    measured = row.measured
    return {
        "group": row.group,
        "name": row.name,
        "seconds": measured.seconds,
        "took": round(measured.took, 2),
        "language": measured.language,
        "speakers": measured.speakers,
        "speakers_found": measured.speakers_found,
        "figures": {
            metric: {"errors": rate.errors, "total": rate.total}
            for metric, rate in measured.rates.items()
        },
        "words": None if measured.counts is None else asdict(measured.counts),
        "peers": {peer: asdict(counts) for peer, counts in row.peers.items()},
    }


def write_evaluation(out: Path, document: dict[str, Any]) -> None:
    """Write `evaluation.json`, the tables as `evaluation.md`, and plots."""
    from scripts.evaluation_plots import plot

    write_report(out / "evaluation.json", document)
    tables = [format_table(document["groups"]), format_words(document["recordings"])]
    (out / "evaluation.md").write_text("\n\n".join(tables) + "\n")
    plot(document, out)
