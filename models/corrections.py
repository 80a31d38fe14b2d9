"""People's changes to a transcript: texts, speakers, splits, merges, insertions, deletions.

A `Change` holds the segments before and after it, so that it can be applied to one version of a
transcript and undone from the next.

CorrectionError
├── NoSuchSegment
├── BadCorrection
└── ChangedSince
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum

from models.retiming import UNSPACED, retime
from models.transcript import Segment, SpeakerName, Transcript, Word
from models.transcript_json import segment_from_json, segment_to_json


class CorrectionError(Exception):
    """A correction that cannot be made. Messages quote nothing that was said."""


class NoSuchSegment(CorrectionError):
    pass


class BadCorrection(CorrectionError):
    pass


class ChangedSince(CorrectionError):
    """The transcript no longer has the segments that a change replaces."""


@dataclass(frozen=True)
class Replacement:
    """Consecutive segments that replace others.

    `anchor`: the id of the segment before them; None at the start of the transcript.
    """

    anchor: str | None
    before: tuple[Segment, ...]
    after: tuple[Segment, ...]

    @property
    def inverse(self) -> "Replacement":
        return Replacement(self.anchor, self.after, self.before)


class Keep(Enum):
    """Means that a field keeps its value; None is a value of its own."""

    KEEP = "keep"


KEEP = Keep.KEEP
Choice = str | None | Keep
Names = Mapping[str, SpeakerName]


@dataclass(frozen=True)
class Change:
    """One entry of a transcript's journal: segments, and those that replace them.

    `speakers` and `names`: before and after; None if the change left them as they were.
    """

    kind: str
    replacements: tuple[Replacement, ...] = ()
    speakers: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    names: tuple[Names, Names] | None = None

    @property
    def is_empty(self) -> bool:
        replaced = any(one.before != one.after for one in self.replacements)
        renamed = self.names is not None and self.names[0] != self.names[1]
        return not (replaced or renamed)

    @property
    def segment_ids(self) -> list[str]:
        """The ids of all segments that the change edited, added or removed, in order."""
        before = {segment.id: segment for one in self.replacements for segment in one.before}
        after = {segment.id: segment for one in self.replacements for segment in one.after}
        return [id for id in {**before, **after} if before.get(id) != after.get(id)]

    def invert(self, kind: str) -> "Change":
        return Change(
            kind,
            tuple(one.inverse for one in reversed(self.replacements)),
            self.speakers and (self.speakers[1], self.speakers[0]),
            self.names and (self.names[1], self.names[0]),
        )


def apply(transcript: Transcript, change: Change) -> Transcript:
    """Return the next version of a transcript.

    Raises:
        ChangedSince
    """
    segments = list(transcript.segments)
    for one in change.replacements:
        start = _find_start(segments, one)
        segments[start : start + len(one.before)] = one.after
    if len({segment.id for segment in segments}) < len(segments):
        raise ChangedSince("A later change has added a segment with the same id")
    made = replace(transcript, segments=tuple(segments), version=transcript.version + 1)
    if change.speakers is not None:
        made = replace(made, speakers=change.speakers[1])
    if change.names is not None:
        if dict(transcript.names) != dict(change.names[0]):
            raise ChangedSince("The speakers' names have been changed since")
        made = replace(made, names=change.names[1])
    return made


def _find_start(segments: Sequence[Segment], one: Replacement) -> int:
    ids = [segment.id for segment in segments]
    first = one.before[0].id if one.before else one.anchor
    if first is not None and first not in ids:
        raise ChangedSince("A segment was changed since")
    start = 0 if first is None else ids.index(first) + (not one.before)
    if tuple(segments[start : start + len(one.before)]) != one.before:
        raise ChangedSince("A segment was changed since")
    return start


def find_segment(transcript: Transcript, segment_id: str) -> int:
    """Return the index of a segment.

    Raises:
        NoSuchSegment
    """
    for i, segment in enumerate(transcript.segments):
        if segment.id == segment_id:
            return i
    raise NoSuchSegment("The transcript has no such segment")


def make_change(
    kind: str, transcript: Transcript, start: int, n: int, after: Sequence[Segment]
) -> Change:
    """Return the change that replaces `n` segments from `start` on."""
    anchor = transcript.segments[start - 1].id if start else None
    one = Replacement(anchor, transcript.segments[start : start + n], tuple(after))
    return Change(kind, (one,), _added_speakers(transcript, after))


def _added_speakers(
    transcript: Transcript, segments: Iterable[Segment]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    known = transcript.speakers
    added = {segment.speaker for segment in segments if segment.speaker} - set(known)
    return (known, (*known, *sorted(added))) if added else None


def edit(
    transcript: Transcript,
    segment_id: str,
    *,
    text: str | None = None,
    speaker: Choice = KEEP,
    checked_by: Choice = KEEP,
) -> Change:
    """Change a segment's text, speaker, or who has checked it.

    A new text or speaker has not been checked, unless the same change says so.

    Raises:
        NoSuchSegment
    """
    i = find_segment(transcript, segment_id)
    old = new = transcript.segments[i]
    if text is not None:
        new = replace(new, words=retime(new.words, text, new.start, new.end))
    if speaker is not KEEP:
        new = replace(new, speaker=speaker)
    if new != old:
        new = replace(new, checked_by=None)
    if checked_by is not KEEP:
        new = replace(new, checked_by=checked_by)
    kind = (
        "text" if new.words != old.words else "speaker" if new.speaker != old.speaker else "check"
    )
    return make_change(kind, transcript, i, 1, [new])


def edit_many(transcript: Transcript, changes: Sequence[Change]) -> Change:
    """Return several changes of single segments, made by `edit`, as one change.

    Its kind is that of what it changes most of all: texts, then speakers, then checks.
    """
    replacements = [one for change in changes for one in change.replacements]
    kinds = {change.kind for change in changes}
    kind = next((kind for kind in ("text", "speaker") if kind in kinds), "check")
    after = [segment for one in replacements for segment in one.after]
    return Change(kind, tuple(replacements), _added_speakers(transcript, after))


def split(
    transcript: Transcript,
    segment_id: str,
    at: int,
    new_id: str,
    speaker: Choice = KEEP,
) -> Change:
    """Split a segment in two; the first part keeps the id.

    Args:
        at: where the second part begins in the text, in code points.
        speaker: of the second part.

    Raises:
        NoSuchSegment
        BadCorrection: there is no boundary between two words.
    """
    i = find_segment(transcript, segment_id)
    whole = transcript.segments[i]
    n = _words_before(whole.words, at)
    if n is None:
        raise BadCorrection("A segment can be split only between two of its words")
    head, tail = whole.words[:n], whole.words[n:]
    boundary = min(max(tail[0].start, whole.start), whole.end)
    first = replace(
        whole, words=head, end=max(boundary, max(word.end for word in head)), checked_by=None
    )
    second = Segment(
        whole.speaker if speaker is KEEP else speaker, boundary, whole.end, tail, new_id
    )
    return make_change("split", transcript, i, 1, [first, second])


def _words_before(words: Sequence[Word], at: int) -> int | None:
    """Return how many words end before a place in the text; None if it is not between two."""
    raw = "".join(word.text for word in words)
    start = at + len(raw) - len(raw.lstrip())
    n, done = 0, 0
    for word in words:
        core_end = done + len(word.text.rstrip())
        if core_end > start:
            break
        n, done = n + 1, done + len(word.text)
    if not 0 < n < len(words):
        return None
    following = words[n].text
    lead = len(following) - len(following.lstrip())
    return n if done <= start <= done + lead or raw[done:start].isspace() else None


def merge(transcript: Transcript, segment_id: str, speaker: Choice = KEEP) -> Change:
    """Join a segment to the one before it, which keeps its id.

    Args:
        speaker: of the result; needed if the two have different ones.

    Raises:
        NoSuchSegment
        BadCorrection: it is the first segment, or the speakers differ.
    """
    i = find_segment(transcript, segment_id)
    if i == 0:
        raise BadCorrection("The first segment cannot be joined to one before it")
    first, second = transcript.segments[i - 1 : i + 1]
    if speaker is KEEP and first.speaker != second.speaker:
        raise BadCorrection("The two segments have different speakers: say which one is right")
    tail = second.words
    if first.words and tail and _needs_space(first.words[-1], tail[0]):
        tail = (replace(tail[0], text=f" {tail[0].text}"), *tail[1:])
    joined = replace(
        first,
        speaker=first.speaker if speaker is KEEP else speaker,
        start=min(first.start, second.start),
        end=max(first.end, second.end),
        words=(*first.words, *tail),
        checked_by=None,
    )
    return make_change("merge", transcript, i - 1, 2, [joined])


def _needs_space(before: Word, after: Word) -> bool:
    if before.text[-1:].isspace() or after.text[:1].isspace():
        return False
    return not (UNSPACED.match(before.text[-1:]) and UNSPACED.match(after.text[:1]))


def insert(
    transcript: Transcript,
    after_id: str | None,
    text: str,
    speaker: str | None,
    new_id: str,
    times: tuple[float, float] | None = None,
) -> Change:
    """Add a segment that the models missed.

    Args:
        after_id: the segment before it; None: it is the first.
        times: start and end in seconds; None: the gap between its neighbours.

    Raises:
        NoSuchSegment
        BadCorrection: the times are not between those of its neighbours.
    """
    i = 0 if after_id is None else find_segment(transcript, after_id) + 1
    earliest = transcript.segments[i - 1].start if i else 0.0
    rest = transcript.segments[i:]
    latest = rest[0].start if rest else max(transcript.duration, earliest)
    if times is None:
        start = min(transcript.segments[i - 1].end, latest) if i else 0.0
        end = max(latest, start)
    else:
        start, end = times
    if not (earliest <= start <= latest and start <= end <= max(transcript.duration, end)):
        raise BadCorrection(
            "A segment must begin after the one before it and before the one after it"
        )
    if times is not None and end > transcript.duration:
        raise BadCorrection("The segment ends after the recording")
    made = Segment(speaker, start, end, retime((), text, start, end), new_id)
    return make_change("insert", transcript, i, 0, [made])


def delete(transcript: Transcript, segment_id: str) -> Change:
    """
    Raises:
        NoSuchSegment
    """
    return make_change("delete", transcript, find_segment(transcript, segment_id), 1, [])


def restore(transcript: Transcript, earlier: Transcript) -> Change:
    """Return the change that restores an earlier version of a transcript."""
    old, new = transcript.segments, earlier.segments
    shorter, head, tail = min(len(old), len(new)), 0, 0
    while head < shorter and old[head] == new[head]:
        head += 1
    while tail < shorter - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    anchor = old[head - 1].id if head else None
    one = Replacement(anchor, old[head : len(old) - tail], new[head : len(new) - tail])
    return Change(
        "restore",
        (one,) if one.before or one.after else (),
        _if_changed(transcript.speakers, earlier.speakers),
        None
        if dict(transcript.names) == dict(earlier.names)
        else (transcript.names, earlier.names),
    )


def _if_changed(
    before: tuple[str, ...], after: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    return None if before == after else (before, after)


def name_speakers(transcript: Transcript, names: Names) -> Change:
    return Change("speakers", names=(transcript.names, names))


# --- as JSON --------------------------------------------------------------------------------------


def change_to_json(change: Change) -> str:
    names = change.names and [
        {label: asdict(name) for label, name in each.items()} for each in change.names
    ]
    document = {
        "kind": change.kind,
        "replacements": [
            {
                "anchor": one.anchor,
                "before": list(map(segment_to_json, one.before)),
                "after": list(map(segment_to_json, one.after)),
            }
            for one in change.replacements
        ],
        "speakers": change.speakers,
        "names": names,
    }
    return json.dumps(document, ensure_ascii=False)


def change_from_json(text: str) -> Change:
    document = json.loads(text)
    speakers, names = document["speakers"], document["names"]
    return Change(
        document["kind"],
        tuple(
            Replacement(
                one["anchor"],
                tuple(map(segment_from_json, one["before"])),
                tuple(map(segment_from_json, one["after"])),
            )
            for one in document["replacements"]
        ),
        speakers and (tuple(speakers[0]), tuple(speakers[1])),
        names and (_names_from_json(names[0]), _names_from_json(names[1])),
    )


def _names_from_json(names: dict[str, dict[str, str | None]]) -> Names:
    return {label: SpeakerName(**name) for label, name in names.items()}
