"""WebVTT and SubRip: the words in captions (cues) short enough to read.

Sources: W3C WebVTT, sections 4 and 6.1; the SubRip format as VLC and ffmpeg read it. Netflix, Timed
Text Style Guide: General Requirements (5/6 s to 7 s, two lines of 42, two frames between cues, gaps
of up to eleven frames closed to two). Reading speed: BBC Subtitle Guidelines, 160 to 180 words a
minute, which is about 17 characters a second, as in Netflix's guides.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, zip_longest

from models.transcript import Segment, Transcript, Word, join_continued
from service.exports.options import ExportOptions, Label
from service.exports.overlap_index import OverlapIndex
from service.exports.paragraphs import UNKNOWN, timestamp
from service.exports.text import confidentiality
from service.exports.wording import one_line

MAX_CUE_SECONDS = 7.0
MIN_CUE_SECONDS = 5 / 6
MIN_GAP_SECONDS = 2 / 24  # between cues: two frames
CLOSED_GAP_SECONDS = 11 / 24  # shorter gaps flicker
MAX_READING_SPEED = 17  # columns a second
MAX_LINES = 2  # of a cue
MAX_LINE_WIDTH = 42  # characters; those of Chinese, Japanese and Korean are two wide
MAX_NAME_WIDTH = 24  # of a speaker, before the text
CLOSES = frozenset("，。、．！？：；）」』】》〉”’…,.!?:;)]}%")  # never begins a line


@dataclass(frozen=True)
class Cue:
    """`shown_until`: after `end` if the text takes longer to read and the next cue leaves time."""

    speaker: str
    start: float
    end: float
    text: str
    shown_until: float


@dataclass(frozen=True)
class _Piece:
    """Text that stays in one cue: a word, words that are written as one, or part of a long word."""

    text: str
    start: float
    end: float


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Yield every word of the transcript once, in cues ordered by start. A cue has one speaker.

    WebVTT requires this order (section 4.1). Speech during another person's cue comes after that
    cue. Only a word that is too wide for a cue is split.
    """
    made = [cue for segment in transcript.segments for cue in _segment_cues(segment)]
    made.sort(key=lambda cue: cue.start)
    for cue, following in zip_longest(made, made[1:]):
        yield replace(cue, shown_until=_shown_until(cue, following))


def _shown_until(cue: Cue, following: Cue | None) -> float:
    readable = max(MIN_CUE_SECONDS, width_of(cue.text) / MAX_READING_SPEED)
    wanted = max(cue.end, min(cue.start + readable, cue.start + MAX_CUE_SECONDS))
    if following is None:
        return round(wanted, 3)
    if following.start < cue.end - 0.001:  # somebody interrupts: both are shown
        return cue.end
    latest = following.start - MIN_GAP_SECONDS
    if following.start - wanted < CLOSED_GAP_SECONDS:
        wanted = min(latest, cue.start + MAX_CUE_SECONDS)
    return round(max(cue.start + 0.001, min(wanted, latest)), 3)


def _segment_cues(segment: Segment) -> Iterator[Cue]:
    speaker = segment.speaker or UNKNOWN
    pieces: list[_Piece] = []
    for piece in _pieces(segment.words, speaker):
        if pieces and not _fits([*pieces, piece], speaker):
            yield _cue(speaker, pieces)
            pieces = []
        pieces.append(piece)
    if pieces:
        yield _cue(speaker, pieces)


def _pieces(words: Sequence[Word], speaker: str) -> Iterator[_Piece]:
    for group in join_continued(words):
        text = "".join(word.text for word in group)
        start, end = min(word.start for word in group), max(word.end for word in group)
        if _fits_lines(text, speaker):
            yield _Piece(text, start, end)
            continue
        # One line each; `name: ` may take up to two thirds of the first.
        parts = list(_split_by_width(one_line(text), MAX_LINE_WIDTH))
        if text[:1].isspace():
            parts[0] = f" {parts[0]}"
        shares = list(accumulate((len(part) / sum(map(len, parts)) for part in parts), initial=0.0))
        for part, before, after in zip(parts, shares, shares[1:], strict=False):
            length = end - start
            yield _Piece(part, start + before * length, start + after * length)


def _fits(pieces: Sequence[_Piece], speaker: str) -> bool:
    seconds = max(piece.end for piece in pieces) - min(piece.start for piece in pieces)
    text = "".join(piece.text for piece in pieces)
    return seconds <= MAX_CUE_SECONDS and _fits_lines(text, speaker)


def _fits_lines(text: str, speaker: str) -> bool:
    width = width_of(f"{_short(speaker)}: {one_line(text)}")
    if width <= MAX_LINE_WIDTH or width > MAX_LINES * MAX_LINE_WIDTH + MAX_LINES:
        return width <= MAX_LINE_WIDTH  # without breaking the lines, which takes longer
    return len(_lines(text, speaker)) <= MAX_LINES


def _cue(speaker: str, pieces: Sequence[_Piece]) -> Cue:
    """Times are in milliseconds, as the formats write them, and a cue takes at least one."""
    text = one_line("".join(piece.text for piece in pieces))
    start = round(min(piece.start for piece in pieces), 3)
    end = round(max(piece.end for piece in pieces), 3)
    end = max(end, start + 0.001)
    return Cue(speaker, start, end, text, end)


# --- lines ----------------------------------------------------------------------------------------


def _lines(text: str, speaker: str) -> list[str]:
    """The lines of a cue that begins with its speaker."""
    return wrap(f"{_short(speaker)}: {one_line(text)}")


@lru_cache(maxsize=1000)
def _short(speaker: str) -> str:
    first, *more = _split_by_width(one_line(speaker), MAX_NAME_WIDTH - 1) or [""]
    return f"{first}…" if more else first


def wrap(text: str, width: int = MAX_LINE_WIDTH) -> list[str]:
    """Break a text into as few lines as possible.

    A line breaks at a space or beside a wide character, and within a word that is longer than a
    line.
    """
    lines = [""]
    for chunk in _chunks(text):
        if width_of(lines[-1] + chunk) <= width:
            lines[-1] += chunk
        else:
            first, *more = _split_by_width(chunk.lstrip(), width)
            lines += [first, *more]
    return [line for line in lines if line]


def _chunks(text: str) -> list[str]:
    """Split a text where lines may break. A space belongs to the chunk after it."""
    if text.isascii():
        return re.findall("[^ ]+| [^ ]*", text)
    chunks: list[str] = []
    for before, character in zip(" " + text, text, strict=False):
        may_break = character == " " or (
            before != " " and (_is_wide(before) or _is_wide(character)) and character not in CLOSES
        )
        if may_break or not chunks:
            chunks.append(character)
        else:
            chunks[-1] += character
    return chunks


def _split_by_width(text: str, width: int) -> list[str]:
    parts: list[str] = []
    for character in text:
        if parts and width_of(parts[-1] + character) <= width:
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def width_of(text: str) -> int:
    """How many columns a text takes: marks above and below letters take none."""
    if text.isascii():
        return len(text)
    return sum(
        2 if _is_wide(c) else 0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1
        for c in text
    )


def _is_wide(character: str) -> bool:
    return character >= "\u1100" and unicodedata.east_asian_width(character) in ("W", "F")


# --- formats --------------------------------------------------------------------------------------


def vtt(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """The speaker is in the cue's voice tag, which players do not show as text."""
    notes = [confidentiality(label), label.title, *transcript.warnings]
    blocks = ["WEBVTT", *(f"NOTE {one_line(text).replace('-->', '→')}" for text in notes)]
    overlaps = OverlapIndex(transcript.overlaps)
    for cue in cues(transcript):
        times = f"{timestamp(cue.start, 3)} --> {timestamp(cue.shown_until, 3)}"
        lines, note = wrap(cue.text), _unheard_speakers(cue, overlaps)
        with_note = wrap(f"{cue.text}{note}")
        noted = len(with_note) <= MAX_LINES
        shown = _escape("\n".join(with_note if noted else lines))
        blocks.append(f"{times}\n<v {_escape(one_line(cue.speaker))}>{shown}")
        rest = [] if noted else wrap(note.strip())
        for i in range(0, len(rest), MAX_LINES):
            blocks.append(f"{times}\n{_escape(chr(10).join(rest[i : i + MAX_LINES]))}")
    return "\n\n".join(blocks) + "\n"


def _unheard_speakers(cue: Cue, overlaps: OverlapIndex) -> str:
    """` [SPEAKER_01 speaks too]` for each speaker whose words in an overlap are missing."""
    speakers = {
        speaker for overlap in overlaps.centred(cue.start, cue.end) for speaker in overlap.unheard
    } - {cue.speaker}
    return "".join(f" [{speaker} speaks too]" for speaker in sorted(speakers))


def srt(transcript: Transcript, label: Label, options: ExportOptions) -> str:
    """SubRip has no header, so only the file's name says that it is identified."""
    blocks = []
    for number, cue in enumerate(cues(transcript), start=1):
        times = f"{timestamp(cue.start, 3, ',')} --> {timestamp(cue.shown_until, 3, ',')}"
        # ffmpeg treats any line with this arrow between two times as the start of a cue, and
        # players treat <i> as markup; SubRip has no way to escape either.
        text = cue.text.replace("-->", "→").replace("<", "‹").replace(">", "›")
        shown = "\n".join(_lines(text, cue.speaker))
        blocks.append(f"{number}\n{times}\n{shown}")
    return "\n\n".join(blocks) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
