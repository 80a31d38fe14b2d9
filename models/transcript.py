"""A speaker-attributed transcript as plain data; `transcript_json.py` has its JSON form.

All times are float seconds from the start of the first recording; intervals are [start, end).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

SCHEMA = "fieldscribe.transcript/1"
SENTENCE_ENDS = (
    *(".", "?", "!", "…"),
    *("。", "．", "｡", "？", "！"),  # Chinese, Japanese
    *("؟", "۔"),  # Arabic, Persian; Urdu
    *("।", "॥", "།"),  # Hindi, Bengali and their neighbours; Tibetan
    *("։", "።", "፧"),  # Armenian; Amharic
    *("။", "។"),  # Burmese; Khmer
)  # without the Greek question mark, which looks like a semicolon
CLOSING = "\"'”’»)]"  # may follow the end of a sentence
HYPHENS = ("-", "‐", "‑")
JOINING = (*HYPHENS, *"'’./,:@&_")  # between letters or digits: peer-led, 3.5, 2,000, and/or


@dataclass(frozen=True)
class Word:
    """`text` includes the space before it, if the language writes one: texts join with ''.

    `probability`: 0 to 1, the mean over the word's tokens; None for a word that a person wrote.
    `placed`: a person wrote the word, and its times were interpolated.
    """

    text: str
    start: float
    end: float
    probability: float | None
    placed: bool = False


@dataclass(frozen=True)
class Turn:
    """Who spoke when, without text.

    `certainty`: how much more the voice resembles this speaker than the next most similar one, a
    difference of cosine similarities; None where nothing was measured.
    """

    start: float
    end: float
    speaker: str
    certainty: float | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive words of one speaker. `speaker` is None where nobody was found to be speaking.

    `id`: names the segment within its transcript, in every version. A transcript numbers its
    segments when it is made: `s0001`, `s0002`, ...
    `checked_by`: the code of the person who compared it with the recording.
    """

    speaker: str | None
    start: float
    end: float
    words: tuple[Word, ...]
    id: str = ""
    checked_by: str | None = None

    @property
    def text(self) -> str:
        return text_of(self.words)


def text_of(words: Iterable[Word]) -> str:
    return "".join(word.text for word in words).strip()


def mean_probability(words: Iterable[Word]) -> float | None:
    """Return the mean over the words that have a probability; None if none has."""
    known = [word.probability for word in words if word.probability is not None]
    return sum(known) / len(known) if known else None


def is_continued(before: Word, after: Word) -> bool:
    """Return whether two words are written as one: Whisper splits `peer-led` into two."""
    left, right = before.text, after.text
    if not left[-1:].isalnum():
        return left.endswith(HYPHENS) and right[:1].isalnum()
    return right in HYPHENS or (right.startswith(JOINING) and right[1:2].isalnum())


def join_continued(words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """Group words, in order, so that those that are written as one are together."""
    groups: list[tuple[Word, ...]] = [(word,) for word in words[:1]]
    for before, after in pairwise(words):
        if is_continued(before, after):
            groups[-1] += (after,)
        else:
            groups.append((after,))
    return groups


@dataclass(frozen=True)
class Overlap:
    """A stretch in which several people speak at once; Whisper mostly transcribes one of them.

    `unheard`: the speakers who have no words in the transcript during the overlap.
    """

    start: float
    end: float
    speakers: tuple[str, ...]
    unheard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flag:
    """A place that a person should listen to, with the evidence. A flag removes nothing."""

    kind: str
    start: float
    end: float
    evidence: Mapping[str, float | str]


@dataclass(frozen=True)
class Source:
    """One recording of the session: its place on the timeline, and its format.

    `speaker`: whose recording it is, if each speaker has their own (`--parallel`).
    `identity`: an HMAC of the file's SHA-256, in hex, by which it is recognised. The key is the
    study's, or in batch mode that of the output folder.
    `sha256`: of the file, in hex; only in transcripts that earlier versions of batch mode wrote.
    """

    start: float
    duration: float
    container: str
    codec: str
    sample_rate: int  # Hz
    channels: int
    n_bytes: int
    sha256: str | None = None
    identity: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class MadeWith:
    """Everything needed to make the same transcript again."""

    fieldscribe: str
    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str
    device: str
    options: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class SpeakerName:
    """What people have said of a speaker. `pseudonym` is a name that was made up for the study."""

    role: str | None = None
    code: str | None = None
    pseudonym: str | None = None


@dataclass(frozen=True)
class Transcript:
    """The transcript of one session; docs/reference/transcript.md explains each field.

    `version`: 1 as the models made it; each change by a person adds 1.
    `names`: by speaker; speaker_names.py shows them in place of the labels.
    `written`: in batch mode the SHA-256 of each file that was written with the transcript, by
    extension, so that a file that a person has changed is recognised.
    """

    duration: float
    language: str
    language_probability: float | None  # None if the language was given
    speakers: tuple[str, ...]
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]  # the full turns: those of different speakers may overlap
    overlaps: tuple[Overlap, ...]
    flags: tuple[Flag, ...]
    sources: tuple[Source, ...]
    made_with: MadeWith
    warnings: tuple[str, ...] = ()
    version: int = 1
    names: Mapping[str, SpeakerName] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)
    schema: str = field(default=SCHEMA)

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", number_segments(self.segments))

    @property
    def roles(self) -> dict[str, str]:
        """The role of each speaker that has one."""
        return {speaker: name.role for speaker, name in self.names.items() if name.role}

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)


def number_segments(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Give an id to each segment that has none, by its place.

    Raises:
        ValueError: two segments have the same id.
    """
    numbered = tuple(
        segment if segment.id else replace(segment, id=f"s{number:04d}")
        for number, segment in enumerate(segments, 1)
    )
    if len({segment.id for segment in numbered}) < len(numbered):
        raise ValueError("two segments have the same id")
    return numbered


def number_speakers(segments: Iterable[Segment], turns: Iterable[Turn]) -> dict[str, str]:
    """Return a label for each speaker, `SPEAKER_00` for the first one to speak.

    Those who have words come first, in the order in which a reader meets them.
    """
    heard = [segment.speaker for segment in segments if segment.speaker is not None]
    ordered = dict.fromkeys([*heard, *speakers_in_order(turns)])
    return {speaker: f"SPEAKER_{number:02d}" for number, speaker in enumerate(ordered)}


def speakers_in_order(turns: Iterable[Turn]) -> tuple[str, ...]:
    """Return every speaker once, in the order in which they first speak."""
    ordered = sorted(turns, key=lambda turn: (turn.start, turn.end))
    return tuple(dict.fromkeys(turn.speaker for turn in ordered))
