"""WebVTT and SubRip: the words in captions (cues) short enough to read.

Sources: W3C WebVTT, sections 4 and 6.1; the SubRip format as VLC and ffmpeg read it.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from models.transcript import Segment, Transcript, Word, join_continued
from service.exports.overlap_index import OverlapIndex
from service.exports.text import IDENTIFIED, UNKNOWN

MAX_CUE_SECONDS = 7.0
MAX_LINES = 2  # of a cue
MAX_LINE_WIDTH = 42  # characters; those of Chinese, Japanese and Korean are two wide
MAX_NAME_WIDTH = 24  # of a speaker, before the text
CLOSES = frozenset("，。、．！？：；）」』】》〉”’…,.!?:;)]}%")  # never begins a line


@dataclass(frozen=True)
class Cue:
    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class _Piece:
    """Text that stays in one cue: a word, words that are written as one, or part of a long word."""

    text: str
    start: float
    end: float


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Yield every word of the transcript once, in cues by start. A cue has one speaker.

    WebVTT requires this order (section 4.1). Somebody who speaks during another person's cue comes
    after it. Only a word that is too wide for a cue is split.
    """
    made = [cue for segment in transcript.segments for cue in _segment_cues(segment)]
    yield from sorted(made, key=lambda cue: cue.start)


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
        if len(_lines(text, speaker)) <= MAX_LINES:
            yield _Piece(text, start, end)
            continue
        # One line each; `name: ` may take up to two thirds of the first.
        parts = list(_split_by_width(_one_line(text), MAX_LINE_WIDTH))
        if text[:1].isspace():
            parts[0] = f" {parts[0]}"
        shares = list(accumulate((len(part) / sum(map(len, parts)) for part in parts), initial=0.0))
        for part, before, after in zip(parts, shares, shares[1:], strict=False):
            length = end - start
            yield _Piece(part, start + before * length, start + after * length)


def _fits(pieces: Sequence[_Piece], speaker: str) -> bool:
    seconds = max(piece.end for piece in pieces) - min(piece.start for piece in pieces)
    lines = _lines("".join(piece.text for piece in pieces), speaker)
    return seconds <= MAX_CUE_SECONDS and len(lines) <= MAX_LINES


def _cue(speaker: str, pieces: Sequence[_Piece]) -> Cue:
    """Times are in milliseconds, as the formats write them, and a cue takes at least one."""
    text = _one_line("".join(piece.text for piece in pieces))
    start = round(min(piece.start for piece in pieces), 3)
    end = round(max(piece.end for piece in pieces), 3)
    return Cue(speaker, start, max(end, start + 0.001), text)


# --- lines ----------------------------------------------------------------------------------------


def _lines(text: str, speaker: str) -> list[str]:
    """The lines of a cue that begins with its speaker."""
    return wrap(f"{_short(speaker)}: {_one_line(text)}")


def _one_line(text: str) -> str:
    """The text without line breaks: an empty line would end the cue."""
    return " ".join(text.split())


def _short(speaker: str) -> str:
    first, *more = _split_by_width(_one_line(speaker), MAX_NAME_WIDTH - 1) or [""]
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


def vtt(transcript: Transcript) -> str:
    """The speaker is in the cue's voice tag, which players do not show as text."""
    blocks = ["WEBVTT", f"NOTE {IDENTIFIED}", *(f"NOTE {text}" for text in transcript.warnings)]
    overlaps = OverlapIndex(transcript.overlaps)
    for cue in cues(transcript):
        times = f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}"
        lines, note = wrap(cue.text), _unheard_speakers(cue, overlaps)
        with_note = wrap(f"{cue.text}{note}")
        noted = len(with_note) <= MAX_LINES
        shown = _escape("\n".join(with_note if noted else lines))
        blocks.append(f"{times}\n<v {_escape(_one_line(cue.speaker))}>{shown}")
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


def srt(transcript: Transcript) -> str:
    blocks = []
    for number, cue in enumerate(cues(transcript), start=1):
        times = f"{_time(cue.start, ',')} --> {_time(cue.end, ',')}"
        # ffmpeg takes any line with this arrow between two times for the start of a cue.
        shown = "\n".join(_lines(cue.text.replace("-->", "→"), cue.speaker))
        blocks.append(f"{number}\n{times}\n{shown}")
    return "\n\n".join(blocks) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, separator: str) -> str:
    """`01:02:03.456`"""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"
