"""The paragraphs of a transcript, and the times that formats write."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from models.transcript import Segment, Transcript
from service.exports.options import ExportOptions, Timestamps
from service.exports.wording import one_line

UNKNOWN = "unknown"  # diarisation found no speaker there


@dataclass(frozen=True)
class Paragraph:
    """A segment, or all segments of a turn, as one line of text.

    `segment`: the id of the first. `begins_turn`: somebody else spoke before.
    """

    speaker: str
    start: float
    end: float
    text: str
    segment: str
    begins_turn: bool


def paragraphs(
    transcript: Transcript,
    options: ExportOptions,
    *,
    by_turn: bool = False,
    stamp: Callable[[float], str] | None = None,
) -> Iterator[Paragraph]:
    """Yield a paragraph per segment, or per turn. Segments without words are left out.

    Args:
        stamp: formats a time within a paragraph, if the options ask for one each minute.
    """
    turn: list[tuple[str, Segment, str]] = []
    previous: str | None = None
    within = stamp if options.timestamps == Timestamps.MINUTE else None
    for number, segment in enumerate(transcript.segments, start=1):
        text = one_line(_text(segment, within))
        if not text:
            continue
        speaker = one_line(segment.speaker or UNKNOWN) or UNKNOWN
        id = segment.id or f"s{number:04d}"
        if not by_turn:
            yield Paragraph(speaker, segment.start, segment.end, text, id, speaker != previous)
        elif turn and speaker != previous:
            yield _join(turn, previous or UNKNOWN)
            turn = []
        previous = speaker
        if by_turn:
            turn.append((id, segment, text))
    if turn:
        yield _join(turn, previous or UNKNOWN)


def _join(turn: list[tuple[str, Segment, str]], speaker: str) -> Paragraph:
    start = min(segment.start for _, segment, _ in turn)
    end = max(segment.end for _, segment, _ in turn)
    text = turn[0][2]
    for _, _, more in turn[1:]:
        text += more if _is_wide(text[-1]) and _is_wide(more[0]) else f" {more}"
    return Paragraph(speaker, start, end, text, turn[0][0], True)


def _is_wide(character: str) -> bool:
    """Whether the character is Chinese, Japanese or Korean, written without spaces."""
    return unicodedata.east_asian_width(character) in ("W", "F")


def _text(segment: Segment, stamp: Callable[[float], str] | None) -> str:
    if stamp is None:
        return segment.text
    pieces, minute = [], int(segment.start // 60)
    for word in segment.words:
        if word.start // 60 > minute:
            minute = int(word.start // 60)
            pieces.append(f" {stamp(word.start)} {word.text.lstrip()}")
        else:
            pieces.append(word.text)
    return "".join(pieces)


def timestamp(seconds: float, digits: int = 0, separator: str = ".") -> str:
    """`01:02:03`, or with tenths or milliseconds: `01:02:03.4`. Rounded down, so never 60 s."""
    units = 10**digits
    whole = int(round(seconds * 1000)) * units // 1000
    rest, fraction = divmod(whole, units)
    text = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{text}{separator}{fraction:0{digits}d}" if digits else text
