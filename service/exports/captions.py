"""WebVTT and SubRip: the words in cues short enough to read.

Sources: W3C WebVTT, sections 4 and 6.1; the SubRip format as VLC and ffmpeg read it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from models.transcript import Transcript, Word
from service.exports.text import IDENTIFIED, UNKNOWN

MAX_CUE_SECONDS = 7.0
MAX_CUE_CHARACTERS = 84  # two lines of 42


@dataclass(frozen=True)
class Cue:
    speaker: str
    start: float
    end: float
    text: str


def cues(transcript: Transcript) -> Iterator[Cue]:
    """Every word of the transcript is in one cue, in order; a cue has one speaker."""
    for segment in transcript.segments:
        speaker = segment.speaker or UNKNOWN
        words: list[Word] = []
        for word in segment.words:
            if words and _full(words, word):
                yield _cue(speaker, words)
                words = []
            words.append(word)
        if words:
            yield _cue(speaker, words)


def _full(words: list[Word], word: Word) -> bool:
    characters = sum(len(w.text) for w in words) + len(word.text)
    return word.end - words[0].start > MAX_CUE_SECONDS or characters > MAX_CUE_CHARACTERS


def _cue(speaker: str, words: list[Word]) -> Cue:
    text = "".join(word.text for word in words).strip()
    end = max(word.end for word in words)
    return Cue(speaker, words[0].start, max(end, words[0].start + 0.001), text)


def vtt(transcript: Transcript) -> str:
    blocks = ["WEBVTT", f"NOTE {IDENTIFIED}", *(f"NOTE {text}" for text in transcript.warnings)]
    for cue in cues(transcript):
        text = _escaped(cue.text + unheard_during(cue, transcript))
        times = f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}"
        blocks.append(f"{times}\n<v {_escaped(cue.speaker)}>{text}")
    return "\n\n".join(blocks) + "\n"


def unheard_during(cue: Cue, transcript: Transcript) -> str:
    """` [SPEAKER_01 speaks too]`: somebody of whom Whisper heard no word."""
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


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _time(seconds: float, separator: str) -> str:
    """`01:02:03.456`"""
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{separator}{rest % 1000:03d}"
