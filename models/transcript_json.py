"""The transcript's JSON form, described field by field in docs/reference/transcript.md."""

import json
from dataclasses import asdict, replace
from typing import Any

from models.statistics import compute_statistics
from models.transcript import (
    SCHEMA,
    Flag,
    MadeWith,
    Overlap,
    Segment,
    Source,
    SpeakerName,
    Transcript,
    Turn,
    Word,
)


def to_json(transcript: Transcript) -> str:
    """Serialise a transcript, adding each segment's text and the statistics.

    Both additions are derived from the rest; `from_json` ignores them.
    """
    document = {
        "schema": transcript.schema,
        "version": transcript.version,
        **asdict(replace(transcript, segments=())),  # asdict copies each word, which takes seconds
        "names": {label: asdict(name) for label, name in transcript.names.items()},
        "segments": list(map(segment_to_json, transcript.segments)),
        "statistics": asdict(compute_statistics(transcript)),
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def from_json(text: str) -> Transcript:
    """Read a transcript that `to_json` wrote.

    Raises:
        ValueError: the schema is not this version's.
    """
    document = json.loads(text)
    if document.get("schema") != SCHEMA:
        raise ValueError(f"not a transcript of schema {SCHEMA}")
    return Transcript(
        duration=document["duration"],
        language=document["language"],
        language_probability=document["language_probability"],
        speakers=tuple(document["speakers"]),
        segments=tuple(map(segment_from_json, document["segments"])),
        turns=tuple(Turn(**turn) for turn in document["turns"]),
        overlaps=tuple(
            Overlap(o["start"], o["end"], tuple(o["speakers"]), tuple(o["unheard"]))
            for o in document["overlaps"]
        ),
        flags=tuple(Flag(**flag) for flag in document["flags"]),
        sources=tuple(Source(**source) for source in document["sources"]),
        made_with=MadeWith(**document["made_with"]),
        warnings=tuple(document["warnings"]),
        version=document.get("version", 1),
        written=document.get("written", {}),
        names={label: SpeakerName(**name) for label, name in document.get("names", {}).items()},
    )


def segment_to_json(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "speaker": segment.speaker,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "checked_by": segment.checked_by,
        "words": list(map(_word_to_json, segment.words)),
    }


def _word_to_json(word: Word) -> dict[str, Any]:
    plain = {
        "text": word.text,
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
    }
    return {**plain, "placed": True} if word.placed else plain


def segment_from_json(plain: dict[str, Any]) -> Segment:
    """Read a segment; transcripts of earlier versions have no ids and no `checked_by`."""
    return Segment(
        plain["speaker"],
        plain["start"],
        plain["end"],
        tuple(Word(**word) for word in plain["words"]),
        plain.get("id", ""),
        plain.get("checked_by"),
    )
