"""Plots of an evaluation: `words.png`, `speakers.png`, `speech.png`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # needs no screen

from matplotlib import pyplot
from matplotlib.axes import Axes

WORDS = (("wer", "WER"), ("cpwer", "cpWER"), ("tcpwer", "tcpWER"))
PARTS = (
    ("der_confusion", "confusion"),
    ("der_missed_detection", "missed"),
    ("der_false_alarm", "false alarm"),
)
SPEECH = (("speech_without_words", "speech without words"), ("invented", "invented text"))
COLOURS = ("#0072b2", "#e69f00", "#009e73")  # distinguishable with colour blindness (Okabe, Ito)


def plot(document: dict[str, Any], out: Path) -> None:
    spoken = [group for group in document["groups"] if group["speakers"][0] != 0]
    title = f"Whisper {document['whisper']['name']}, pyannote {document['diarisation']['name']}"
    if any("wer" in group["figures"] for group in spoken):
        _draw_figure(out / "words.png", f"Word errors: {title}", spoken, document, _draw_words)
    if any("der" in group["figures"] for group in spoken):
        _draw_figure(
            out / "speakers.png", f"Diarisation errors: {title}", spoken, document, _draw_speakers
        )
    _draw_figure(
        out / "speech.png",
        f"Missed and invented: {title}",
        document["groups"],
        document,
        _draw_speech,
    )


def _draw_figure(
    path: Path, title: str, groups: Sequence[dict[str, Any]], document: dict[str, Any], draw: Any
) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.62 * len(groups)), layout="constrained")
    draw(axes, groups, document)
    axes.set_yticks(range(len(groups)), [_format_label(group) for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _format_label(group: dict[str, Any]) -> str:
    n, seconds = group["recordings"], round(group["seconds"])
    minutes = f"{seconds // 60}:{seconds % 60:02d} min"
    return f"{group['group']}\n{n} recording{'s' if n > 1 else ''}, {minutes}"


def _draw_words(axes: Axes, groups: Sequence[dict[str, Any]], document: dict[str, Any]) -> None:
    _draw_dots(axes, groups, document, WORDS)
    axes.set_xlabel("% of reference words; line: 95 % interval; small dots: recordings")


def _draw_dots(
    axes: Axes,
    groups: Sequence[dict[str, Any]],
    document: dict[str, Any],
    metrics: Sequence[tuple[str, str]],
) -> None:
    """A row per group with a line per metric: its recordings, interval and total."""
    step = 0.24
    for k, (metric, name) in enumerate(metrics):
        offset = (k - (len(metrics) - 1) / 2) * step
        for row, group in enumerate(groups):
            figure = group["figures"].get(metric)
            if figure is None:
                continue
            y = row + offset
            if figure["interval"]:
                ends = [100 * end for end in figure["interval"]]
                axes.plot(ends, [y, y], color=COLOURS[k], linewidth=2, alpha=0.6)
            own = _find_rates(document, group["group"], metric)
            axes.scatter(
                own, [y] * len(own), s=9, color=COLOURS[k], alpha=0.4, linewidths=0, clip_on=False
            )
            axes.scatter(
                [100 * figure["rate"]], [y], s=40, color=COLOURS[k], zorder=3, clip_on=False
            )
        axes.scatter([], [], s=40, color=COLOURS[k], label=name)


def _find_rates(document: dict[str, Any], group: str, metric: str) -> list[float]:
    return [
        100 * counts["errors"] / counts["total"]
        for recording in document["recordings"]
        if recording["group"] == group
        and (counts := recording["figures"].get(metric))
        and counts["total"]
    ]


def _draw_speakers(axes: Axes, groups: Sequence[dict[str, Any]], document: dict[str, Any]) -> None:
    left = [0.0] * len(groups)
    for (metric, name), colour in zip(PARTS, COLOURS, strict=True):
        widths = [100 * group["figures"].get(metric, {"rate": 0})["rate"] for group in groups]
        axes.barh(range(len(groups)), widths, 0.55, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, group in enumerate(groups):
        figure = group["figures"].get("der")
        if figure and figure["interval"]:
            low, high = (100 * end for end in figure["interval"])
            axes.plot([low, high], [row, row], color="black", linewidth=1.2)
    axes.set_xlabel("% of speech time; no collar, overlap scored; line: 95 % interval of the sum")


def _draw_speech(axes: Axes, groups: Sequence[dict[str, Any]], document: dict[str, Any]) -> None:
    _draw_dots(axes, groups, document, SPEECH)
    axes.set_xlabel("% of the seconds with speech, and of the seconds without")
