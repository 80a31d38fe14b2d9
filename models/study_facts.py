"""What is recorded about a study, as plain data: counts, versions and dates, for its papers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime


@dataclass(frozen=True)
class ModelUse:
    """Models and versions, and how many sessions were transcribed with them."""

    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str
    fieldscribe: str
    versions: tuple[tuple[str, str], ...]
    n: int


@dataclass(frozen=True)
class Share:
    """How many segments one person changed, and how many they checked. No name: a role and a
    number."""

    role: str
    number: int
    n_changed: int
    n_checked: int


@dataclass(frozen=True)
class Accuracy:
    """Word errors of the models in the segments that people have checked with the recording.

    `low`, `high`: 95 % interval over transcripts; None for fewer than three.
    """

    n_errors: int
    n_words: int
    n_segments: int
    n_transcripts: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Recall:
    """The joint result of the second readers' blind samples. `low`, `high`: Wilson, 95 %."""

    n_segments: int
    n_found: int
    n_missed: int
    low: float
    high: float


@dataclass(frozen=True)
class ApprovalFact:
    committee: str
    site: str | None
    number: str
    valid_from: date
    valid_until: date | None


@dataclass(frozen=True)
class RetentionFact:
    """How long a class of data is kept, and what happens then: `review` or `destroy`."""

    data_class: str
    years: int
    basis: str
    at_end: str
    due_on: date | None
    destroyed: bool


@dataclass(frozen=True)
class StudyFacts:
    """Everything that the papers say about a study.

    `sessions`, `releases`, `mentions`, `readers`, `consents`: numbers by kind, context, state, role
    and scope. `seconds`: of audio. `languages`: sessions by code.
    """

    study: str
    at: datetime
    fieldscribe: str
    sessions: Mapping[str, int]
    n_recordings: int
    seconds: float
    n_transcribed: int
    models: tuple[ModelUse, ...]
    languages: Mapping[str, int]
    n_segments: int
    n_changed: int
    n_checked: int
    shares: tuple[Share, ...]
    accuracy: Accuracy | None
    dates: str
    names: str
    stages: tuple[str, ...]
    mentions: Mapping[str, int]
    reviewers: Mapping[str, int]
    recall: Recall | None
    releases: Mapping[str, int]
    formats: tuple[str, ...]
    readers: Mapping[str, int]
    n_participants: int
    n_withdrawn: int
    consents: Mapping[str, int]
    sheets: tuple[str, ...]
    approvals: tuple[ApprovalFact, ...]
    consent_warnings: tuple[str, ...]
    n_audit_entries: int
    backup_at: datetime | None
    has_custodian_key: bool
    in_bucket: bool  # the encrypted files are in S3-compatible storage
    retention: Sequence[RetentionFact] = field(default_factory=tuple)
    on_hold: bool = False
