"""Tiers, one for each speaker: ELAN's annotation format (EAF) and Praat's TextGrid.

Sources: EAF 3.0, https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf; Praat's
manual, "TextGrid file formats".
"""

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from models.transcript import Transcript
from service.exports.options import ExportOptions, Label
from service.exports.paragraphs import Paragraph, paragraphs
from service.exports.text import confidentiality


def tiers(transcript: Transcript, options: ExportOptions) -> dict[str, list[Paragraph]]:
    """The paragraphs of each speaker in order of time."""
    found: dict[str, list[Paragraph]] = {}
    for each in sorted(paragraphs(transcript, options), key=lambda each: each.start):
        found.setdefault(each.speaker, []).append(each)
    return found


def _intervals(tier: list[Paragraph], units: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and text in whole units of a second; intervals of a tier never overlap."""
    reached = 0
    for each in tier:
        start = max(reached, round(each.start * units))
        reached = max(start + 1, round(each.end * units))
        yield start, reached, each.text


def eaf(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """An ELAN document without a media file: link the recording in ELAN."""
    slots, bodies, number = [], [], 0
    for speaker, tier in tiers(transcript, options).items():
        annotations = []
        for start, end, text in _intervals(tier, 1000):
            number += 1
            for slot, value in ((2 * number - 1, start), (2 * number, end)):
                slots.append(f'<TIME_SLOT TIME_SLOT_ID="ts{slot}" TIME_VALUE="{value}"/>')
            annotations.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" '
                f'TIME_SLOT_REF1="ts{2 * number - 1}" TIME_SLOT_REF2="ts{2 * number}">'
                f"<ANNOTATION_VALUE>{escape(text)}</ANNOTATION_VALUE>"
                "</ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        name = quoteattr(speaker)
        bodies.append(
            f'<TIER LINGUISTIC_TYPE_REF="default-lt" PARTICIPANT={name} TIER_ID={name}>'
            f"{''.join(annotations)}</TIER>"
        )
    properties = {
        "status": label.status,
        "title": label.title,
        "note": confidentiality(label),
        "lastUsedAnnotationId": str(number),
    }
    shown = "".join(
        f'<PROPERTY NAME="{name}">{escape(value)}</PROPERTY>' for name, value in properties.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ANNOTATION_DOCUMENT AUTHOR="Fieldscribe" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" '
        'VERSION="3.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">'
        f'<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">{shown}</HEADER>'
        f"<TIME_ORDER>{''.join(slots)}</TIME_ORDER>{''.join(bodies)}"
        '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" '
        'TIME_ALIGNABLE="true"/></ANNOTATION_DOCUMENT>\n'
    )


def textgrid(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """A long TextGrid; its first tier says whether the transcript is identified."""
    milliseconds = [
        (speaker, list(_intervals(tier, 1000)))
        for speaker, tier in tiers(transcript, options).items()
    ]
    ends = [tier[-1][1] for _, tier in milliseconds]
    total = max([round(transcript.duration * 1000), 1, *ends])
    shown = [(label.status, [(0, total, confidentiality(label))]), *milliseconds]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {_seconds(total)}", "tiers? <exists>", f"size = {len(shown)}"]
    lines.append("item []:")
    for number, (speaker, tier) in enumerate(shown, start=1):
        filled = list(_with_gaps(tier, total))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"']
        lines += [f"        name = {_quoted(speaker)}", "        xmin = 0"]
        lines += [f"        xmax = {_seconds(total)}", f"        intervals: size = {len(filled)}"]
        for i, (start, end, text) in enumerate(filled, start=1):
            lines += [f"        intervals [{i}]:", f"            xmin = {_seconds(start)}"]
            lines += [f"            xmax = {_seconds(end)}", f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _with_gaps(tier: list[tuple[int, int, str]], total: int) -> Iterator[tuple[int, int, str]]:
    """The intervals, with empty ones between them: a Praat tier has no gaps."""
    reached = 0
    for start, end, text in tier:
        if start > reached:
            yield reached, start, ""
        yield start, end, text
        reached = end
    if reached < total:
        yield reached, total, ""


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
