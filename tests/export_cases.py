"""Transcripts that exports find hard: long, in other scripts, with odd speakers."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from models.overlaps import find_overlaps
from models.transcript import Overlap, Segment, Transcript, Turn, Word
from tests.fakes import segment, transcript, words

ROOT = Path(__file__).parent.parent
LONG_NAME = "Interviewer from the second hospital who came in after lunch"  # 60 characters


def spaceless(text: str, start: float = 0.0) -> tuple[Word, ...]:
    """A word for each character, as in Chinese."""
    return tuple(
        Word(character, start + 0.25 * i, start + 0.25 * (i + 1), 0.9)
        for i, character in enumerate(text)
    )


def segment_of(speaker: str, own: tuple[Word, ...]) -> Segment:
    return Segment(speaker, own[0].start, own[-1].end, own)


def interview() -> Transcript:
    return transcript(
        [
            segment("I1", "Where do you work?", 0.4),
            segment("P07", "At the hospital: ward 3. I was, um, I was a nurse.", 4.2),
            segment("P07", "Then I had to stop.", 10.0),
            segment("I1", "Mhm.", 11.2),
            segment("P07", 'And I-- and then <nothing> & "more".', 75.5),
        ],
        duration=90.0,
        overlaps=(Overlap(11.2, 11.6, ("I1", "P07")),),
        warnings=("Recording 2: the sound stops early.",),
    )


def one_speaker(text: str, language: str) -> Transcript:
    return transcript([segment("P07", text)], language=language)


@cache
def group_of_eight_hours() -> Transcript:
    """Eight hours, six speakers, 72,000 words, an overlap every half a minute."""
    said = " ".join(["We talked about it for a while and then I went home."] * 2)
    segments = [
        Segment(f"P{i % 6:02d}", 8.0 * i, 8.0 * i + 7.2, words(said, 8.0 * i)) for i in range(3600)
    ]
    overlaps = tuple(
        Overlap(8.0 * i + 1, 8.0 * i + 1.5, (f"P{i % 6:02d}", f"P{(i + 1) % 6:02d}"))
        for i in range(0, 3600, 4)
    )
    return transcript(segments, duration=28_800.0, overlaps=overlaps)


def demo(name: str) -> Transcript:
    """The reference transcript of a demo recording: its turns, overlaps included, and words."""
    words_of = [line.split() for line in (ROOT / "demo" / f"{name}.ctm").read_text().splitlines()]
    segments = []
    for line in (ROOT / "demo" / f"{name}.stm").read_text().splitlines():
        _, _, speaker, start, end, text = line.split(maxsplit=5)
        inside = [
            (float(at), float(length))
            for _, _, at, length, *_ in words_of
            if float(start) - 0.01 <= float(at) < float(end)
        ]
        said = text.split()
        times = inside if len(inside) == len(said) else [(float(start), 0.1)] * len(said)
        own = tuple(
            Word(f" {word}", at, at + length, 0.9)
            for word, (at, length) in zip(said, times, strict=True)
        )
        segments.append(Segment(speaker, float(start), float(end), own))
    return transcript(segments, overlaps=find_overlaps(turns_of(segments), segments))


def turns_of(segments: list[Segment]) -> list[Turn]:
    return [Turn(one.start, one.end, one.speaker) for one in segments if one.speaker]


CASES: dict[str, Callable[[], Transcript]] = {
    "interview": interview,
    "demo interview": lambda: demo("interview"),
    "demo group": lambda: demo("focus-group"),
    "8-hour group": group_of_eight_hours,
    "right to left": lambda: one_speaker("ذهبت إلى المستشفى، ثم إلى البيت. أين كنت؟", "ar"),
    "chinese": lambda: transcript(
        [segment_of("P07", spaceless("我们在医院工作了九年，每天都帮助别人。" * 8))], language="zh"
    ),
    "emoji": lambda: one_speaker("I was 😀 so happy 👩‍👩‍👧 that day.", "en"),
    "60-minute turn": lambda: transcript(
        [segment_of("P07", words("I went on and on about it. " * 1500, 0.0, 0.25))],
        duration=3600.0,
    ),
    "empty turns": lambda: transcript(
        [
            Segment("I1", 0.0, 0.0, ()),
            segment("P07", "Yes.", 1.0),
            Segment("P07", 2.0, 3.0, (Word(" ", 2.0, 3.0, 0.1),)),
            segment(None, "No.", 4.0),
        ],
        turns=(Turn(0.0, 0.0, "I1"), Turn(1.0, 1.3, "P07")),
    ),
    "no words": lambda: transcript([]),
    "long name": lambda: transcript([segment(LONG_NAME, "Hello: it is me.")]),
    "odd characters": lambda: transcript(
        [segment("P:07\n<b>", "a\x00b \x0b tab\there \ud83d ]]> -->")]
    ),
}
