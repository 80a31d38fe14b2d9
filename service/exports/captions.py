"""WebVTT and SubRip: the words in captions (cues) short enough to read.

Sources: W3C WebVTT, sections 4 and 6.1; the SubRip format as VLC and ffmpeg read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from models.transcript import Transcript, Word
from service.exports.text import IDENTIFIED, UNKNOWN

MAX_CUE_SECONDS = 7.0
MAX_CUE_CHARACTERS = 84  # fits two lines of 42; the player breaks the line


@dataclass(frozen=True)
class Cue:
    speaker: str
    start: float
    end: float
    text: str


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Yield every word of the transcript in exactly one cue, in order. A cue has one speaker."""
    for segment in transcript.segments:
        speaker = segment.speaker or UNKNOWN
        words: list[Word] = []
        for word in segment.words:
            if words and _is_full(words, word):
                yield _cue(speaker, words)
                words = []
            words.append(word)
        if words:
            yield _cue(speaker, words)


def _is_full(words: list[Word], word: Word) -> bool:
    """Whether a cue of these words has no room for one more."""
    characters = sum(len(w.text) for w in words) + len(word.text)
    return word.end - words[0].start > MAX_CUE_SECONDS or characters > MAX_CUE_CHARACTERS


def _cue(speaker: str, words: list[Word]) -> Cue:
    text = "".join(word.text for word in words).strip()
    end = max(word.end for word in words)
    return Cue(speaker, words[0].start, max(end, words[0].start + 0.001), text)


def vtt(transcript: Transcript) -> str:
    blocks = ["WEBVTT", f"NOTE {IDENTIFIED}", *(f"NOTE {text}" for text in transcript.warnings)]
    for cue in cues(transcript):
        text = _escape(cue.text + _unheard_speakers(cue, transcript))
        times = f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}"
        blocks.append(f"{times}\n<v {_escape(cue.speaker)}>{text}")
    return "\n\n".join(blocks) + "\n"


def _unheard_speakers(cue: Cue, transcript: Transcript) -> str:
    """` [SPEAKER_01 speaks too]` for each speaker whose words in an overlap are missing."""
    speakers = {
        speaker
        for overlap in transcript.overlaps
        if cue.start <= (overlap.start + overlap.end) / 2 < cue.end
        for speaker in overlap.unheard
    } - {cue.speaker}
    return "".join(f" [{speaker} speaks too]" for speaker in sorted(speakers))


def srt(transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.speaker}: {cue.text}"
        for number, cue in enumerate(cues(transcript), start=1)
    ]
    return "\n\n".join(blocks) + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, separator: str) -> str:
    """`01:02:03.456`"""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"
