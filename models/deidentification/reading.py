"""Reads the de-identifier's input: a transcript's segments and the study's roster."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from models.deidentification.errors import BadEntityRoster, TranscriptUnreadable
from models.deidentification.occurrences import Kind, KnownEntity, SpokenSegment

COLUMNS = ("kind", "code", "name", "aliases")
MAX_ENTITIES = 20_000
MAX_NAME = 200  # characters
DETECTED_KINDS: dict[str, Kind] = {
    "person": "person",
    "participant": "person",
    "interviewer": "person",
    "organisation": "organisation",
    "place": "place",
    "other": "organisation",  # of the detectors' kinds, the one with the fewest variants
}
"""The kind that a detector is told, by that of the roster."""
ALLOWED = "allowed"  # on a roster: a name that identifies nobody


def parse_transcript(text: str) -> list[SpokenSegment]:
    """Read the segments of a transcript; only the text of each is required.

    Raises:
        TranscriptUnreadable
    """
    try:
        segments = json.loads(text)["segments"]
        return read_segments(segments)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise TranscriptUnreadable(
            "The transcript cannot be read: it must be JSON with a list of segments, as"
            " `fieldscribe transcript --format json` writes it."
        ) from None


def read_segments(segments: Iterable[Mapping[str, Any]]) -> list[SpokenSegment]:
    """Read segments in the JSON format, as in files and in the service's claims."""
    return [_read_segment(segment, f"s{number:04d}") for number, segment in enumerate(segments, 1)]


def _read_segment(segment: Mapping[str, Any], default_id: str) -> SpokenSegment:
    words = [str(word["text"]) for word in segment.get("words") or ()]
    text = segment.get("text")
    if text is None:
        if "words" not in segment:
            raise KeyError("text")
        text = "".join(words).strip()
    if not isinstance(text, str):
        raise TypeError
    return SpokenSegment(
        id=str(segment.get("id") or default_id),
        speaker=segment.get("speaker"),
        text=text,
        word_ends=locate_words(words, text),
    )


def locate_words(words: Sequence[str], text: str) -> tuple[int, ...]:
    """Where each word ends in the text, if the words make up the text."""
    joined = "".join(words)
    if not words or joined.strip() != text:
        return ()
    end = -(len(joined) - len(joined.lstrip()))
    ends = []
    for word in words:
        end += len(word)
        ends.append(end)
    return tuple(ends)


def parse_entity_roster(text: str) -> list[KnownEntity]:
    """Read a study's roster: columns kind, code, name and aliases, separated by commas.

    The id of an entity is the number of its line, from 1 for the first after the header. Names that
    are allowed are left out.

    Raises:
        BadEntityRoster: with the number of the line, without its content.
    """
    rows = csv.reader(text.removeprefix("\ufeff").splitlines())
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in ("kind", "name") if name not in header]
        if missing:
            raise BadEntityRoster(
                f"The roster's first line must name its columns: {','.join(COLUMNS)}."
            )
        entities = []
        for number, row in enumerate(rows, 1):
            if any(cell.strip() for cell in row):
                entity = _read_entity(dict(zip(header, row, strict=False)), number)
                if entity is not None:
                    entities.append(entity)
    except csv.Error:
        raise BadEntityRoster("The roster is not a CSV file: save it as CSV, in UTF-8.") from None
    if len(entities) > MAX_ENTITIES:
        raise BadEntityRoster(f"The roster has more than {MAX_ENTITIES} entries.")
    return entities


def _read_entity(row: Mapping[str, str], number: int) -> KnownEntity | None:
    kind = row.get("kind", "").strip().lower()
    name = row.get("name", "").strip()
    aliases = tuple(filter(None, (alias.strip() for alias in row.get("aliases", "").split(";"))))
    if kind == ALLOWED:
        return None
    if kind not in DETECTED_KINDS:
        raise BadEntityRoster(
            f"Entry {number} of the roster: the kind must be {', '.join(get_args(Kind))}."
        )
    if not name or any(len(spelling) > MAX_NAME for spelling in (name, *aliases)):
        raise BadEntityRoster(
            f"Entry {number} of the roster: a name is empty, or longer than {MAX_NAME} characters."
        )
    return KnownEntity(str(number), DETECTED_KINDS[kind], name, aliases)
