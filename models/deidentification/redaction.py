"""Replaces spans of a transcript, and removes metadata that could identify a recording.

Words keep their times, so that captions and codings still fit the audio.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise

from models.retiming import UNSPACED
from models.speaker_names import show_names
from models.transcript import (
    Flag,
    Segment,
    Source,
    SpeakerName,
    Transcript,
    Word,
    mean_probability,
)


@dataclass(frozen=True)
class Redaction:
    """Characters [start, stop) of a segment's text, and the text that replaces them."""

    segment: str
    start: int
    stop: int
    replacement: str


@dataclass(frozen=True)
class Replaced:
    """The positions of a redaction in the old and in the new text of its segment."""

    segment: str
    start: int
    stop: int
    new_start: int
    new_stop: int


@dataclass(frozen=True)
class Redacted:
    """A redacted transcript. `replaced` is in the order of the text."""

    transcript: Transcript
    replaced: tuple[Replaced, ...]

    def move(self, segment: str, offset: int) -> int:
        """Return the new position of an old character; in a redaction, the redaction's start."""
        moved = offset
        for each in self.replaced:
            if each.segment == segment and each.start < offset:
                if offset < each.stop:
                    return each.new_start
                moved = offset + each.new_stop - each.stop
        return moved


def redact(transcript: Transcript, redactions: Iterable[Redaction]) -> Redacted:
    """Replace spans. The words that a span touches become one word with their joint interval.

    A span that begins or ends within a written word replaces all of it: the rest, as in `P07llen`
    for Suellen, could give the name away.

    Raises:
        ValueError: a span lies outside its segment's text, is empty, or overlaps another one.
    """
    ordered = sorted(redactions, key=lambda each: (each.segment, each.start))
    by_segment = {id: list(group) for id, group in groupby(ordered, key=lambda each: each.segment)}
    unknown = by_segment.keys() - {segment.id for segment in transcript.segments}
    if unknown:
        raise ValueError(f"there are no segments {sorted(unknown)}")
    segments, replaced = [], list[Replaced]()
    for segment in transcript.segments:
        wanted = by_segment.get(segment.id)
        if wanted:
            _check(segment, wanted)
            wanted = _widen(segment.text, wanted)
            replaced += _place(wanted)
            segment = replace(segment, words=tuple(_replace_words(segment, wanted)))
        segments.append(segment)
    return Redacted(replace(transcript, segments=tuple(segments)), tuple(replaced))


def word_ranges(segment: Segment) -> list[tuple[int, int]]:
    """Return each word's [start, stop) in the segment's text, including the space before it."""
    text = "".join(word.text for word in segment.words)
    ends = accumulate(
        (len(word.text) for word in segment.words), initial=len(text.lstrip()) - len(text)
    )
    return list(pairwise(ends))


def _check(segment: Segment, redactions: Sequence[Redaction]) -> None:
    """
    Raises:
        ValueError
    """
    length = len(segment.text)
    if any(not 0 <= each.start < each.stop <= length for each in redactions):
        raise ValueError(f"a span lies outside the text of {segment.id}")
    if any(after.start < before.stop for before, after in pairwise(redactions)):
        raise ValueError(f"two spans of {segment.id} overlap")


def _widen(text: str, redactions: Sequence[Redaction]) -> list[Redaction]:
    """Widen spans to whole written words, but not into each other."""
    widened: list[Redaction] = []
    ends = [each.start for each in redactions[1:]] + [len(text)]
    for each, upper in zip(redactions, ends, strict=True):
        lower = widened[-1].stop if widened else 0
        start, stop = each.start, each.stop
        while start > lower and _is_within_word(text, start):
            start -= 1
        while stop < upper and _is_within_word(text, stop):
            stop += 1
        widened.append(replace(each, start=start, stop=stop))
    return widened


def _is_within_word(text: str, i: int) -> bool:
    """Whether the characters before and after a position belong to one written word."""
    return all(
        (character.isalnum() or unicodedata.category(character).startswith("M"))
        and not UNSPACED.match(character)
        for character in text[i - 1 : i + 1]
    )


def _place(redactions: Sequence[Redaction]) -> Iterable[Replaced]:
    moved = 0
    for each in redactions:
        start = each.start + moved
        stop = start + len(each.replacement)
        moved = stop - each.stop
        yield Replaced(each.segment, each.start, each.stop, start, stop)


def _replace_words(segment: Segment, redactions: Sequence[Redaction]) -> Iterable[Word]:
    """Yield the words of a segment."""
    pending = list(redactions)
    group: list[Word] = []
    begin = 0  # of the group, in the segment's text
    for word, (start, stop) in zip(segment.words, word_ranges(segment), strict=True):
        if not group:
            begin = start
        group.append(word)
        inside = [each for each in pending if each.start < stop]
        if inside and stop < inside[-1].stop:
            continue  # the span continues in the next word
        pending = pending[len(inside) :]
        yield _join(group, inside, begin)
        group = []


def _join(words: Sequence[Word], redactions: Sequence[Redaction], begin: int) -> Word:
    text = "".join(word.text for word in words)
    for each in reversed(redactions):
        text = text[: each.start - begin] + each.replacement + text[each.stop - begin :]
    if len(words) == 1:
        return replace(words[0], text=text)
    return Word(
        text,
        min(word.start for word in words),
        max(word.end for word in words),
        mean_probability(words),
        placed=any(word.placed for word in words),
    )


def strip_metadata(
    transcript: Transcript, chosen_names: Mapping[str, str] | None = None
) -> Transcript:
    """Remove everything but the words that could identify the recording or a person.

    Args:
        chosen_names: by code, of people whom the text shows under a chosen name. Other speakers
            are shown by their codes, or by their own pseudonym if they have no code.
    """
    chosen = chosen_names or {}
    names = {label: _public_name(name, chosen) for label, name in transcript.names.items()}
    shown = show_names(replace(transcript, names=names))
    made = shown.made_with
    return replace(
        shown,
        segments=tuple(replace(segment, checked_by=None) for segment in shown.segments),
        flags=tuple(map(_without_text, shown.flags)),
        sources=tuple(
            Source(source.start, source.duration, "", "", 0, 0, 0) for source in shown.sources
        ),
        made_with=replace(made, device="", options={}, versions={}),
        warnings=(),
        written={},
    )


def _public_name(name: SpeakerName, chosen_names: Mapping[str, str]) -> SpeakerName:
    return name if name.code is None else replace(name, pseudonym=chosen_names.get(name.code))


def _without_text(flag: Flag) -> Flag:
    evidence = {name: value for name, value in flag.evidence.items() if not isinstance(value, str)}
    return replace(flag, evidence=evidence)
