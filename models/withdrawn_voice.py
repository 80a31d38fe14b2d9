"""Takes one person out of a transcript of several people, and says where the person is heard.

The others' words, times, turns and corrections stay as they are.
"""

from collections.abc import Collection
from dataclasses import replace

from models.retiming import retime
from models.transcript import Segment, Transcript

WITHDREW = "[participant withdrew]"
"""What stands in place of the person's words."""


def heard_at(transcript: Transcript, labels: Collection[str]) -> list[tuple[float, float]]:
    """The intervals of the person's turns and segments, in order; they may overlap.

    Others who speak in them are heard there too.

    Args:
        labels: all labels of the person.
    """
    turns = [(turn.start, turn.end) for turn in transcript.turns if turn.speaker in labels]
    segments = [
        (
            min([each.start, *(word.start for word in each.words)]),
            max([each.end, *(word.end for word in each.words)]),
        )
        for each in transcript.segments
        if each.speaker in labels
    ]
    return sorted([*turns, *segments])


def without_voice(transcript: Transcript, labels: Collection[str]) -> Transcript:
    """The transcript without the person's words. Segments keep their ids, speakers their labels.

    Flags that touch the person's speech are left out: their evidence may quote it.
    """
    hidden = heard_at(transcript, labels)
    return replace(
        transcript,
        segments=tuple(
            _silenced(each) if each.speaker in labels else each for each in transcript.segments
        ),
        flags=tuple(
            flag
            for flag in transcript.flags
            if not any(flag.start < end and start < flag.end for start, end in hidden)
        ),
    )


def _silenced(segment: Segment) -> Segment:
    words = retime((), WITHDREW, segment.start, segment.end)
    return replace(segment, words=words, checked_by=None)


def says_something(transcript: Transcript, labels: Collection[str]) -> bool:
    """Whether the transcript still has words of the person."""
    return any(
        segment.text not in ("", WITHDREW)
        for segment in transcript.segments
        if segment.speaker in labels
    )
