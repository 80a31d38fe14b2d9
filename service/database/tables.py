"""The tables. They hold ids, states, counts and times; speech and names are in the vault only."""

from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROLES = (
    "researcher",
    "coder",
    "listener",
    "custodian",
    "deidentifier",
    "admin",
    "owner",
    "worker",
)
SESSION_KINDS = ("interview", "focus_group")
RECORDING_STATES = ("receiving", "checking", "ready", "refused", "erased")
JOB_STATUSES = (
    "queued",
    "running",
    "cancelling",
    "waiting",
    "succeeded",
    "failed",
    "cancelled",
    "erased",
)
FINAL = ("succeeded", "failed", "cancelled", "erased")
STAGES = ("ingest", "segment", "transcribe", "align", "diarise", "attribute", "check", "handoff")
STAGE_STATES = ("pending", "running", "succeeded", "failed", "skipped")
DELIVERY_STATES = ("pending", "delivered", "failed")
HANDOFF_STATUSES = ("open", "claimed", "completed", "failed")
ENTITY_KINDS = (
    "participant",
    "interviewer",
    "person",
    "organisation",
    "place",
    "other",
    "allowed",
)
MENTION_STATES = ("suggested", "accepted", "rejected")
MENTION_ORIGINS = ("detector", "person", "alias", "sample", "withdrawal")
WITHDRAWAL_STATES = ("removing", "finished")
WITHDRAWAL_SCOPES = ("data", "identified", "participation")
MASKED_AUDIO_STATES = ("pending", "ready", "failed")
CONSENT_SCOPES = (
    "recording",
    "transcription",
    "quotation",
    "sharing",
    "future_use",
    "recontact",
)
RETENTION_CLASSES = ("identified", "deidentified", "linkage", "consent")
RETENTION_BASES = ("publication", "completion", "last_contact")
PACKET_KINDS = ("transcript", "summary")
PACKET_WORDINGS = ("codes", "own_words")
CORRECTION_KINDS = (
    "text",
    "speaker",
    "check",
    "split",
    "merge",
    "insert",
    "delete",
    "speakers",
    "import",
    "undo",
    "restore",
)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        str: Text,
    }


def new_id() -> Mapped[UUID]:
    return mapped_column(primary_key=True, default=uuid4)


def now_at() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def reference(column: str, *, index: bool = False, primary_key: bool = False) -> Any:
    return mapped_column(ForeignKey(column), index=index, primary_key=primary_key)


class Study(Table):
    __tablename__ = "study"

    id: Mapped[UUID] = new_id()
    code: Mapped[str] = mapped_column(unique=True)
    language: Mapped[str | None]
    model: Mapped[str | None]
    vocabulary_artefact_id: Mapped[UUID | None]
    # Roles that read content and that an owner lets admins give out for the study.
    admins_may_create: Mapped[list[Any]] = mapped_column(
        default=list, server_default=text("'[]'::jsonb")
    )
    # How the study de-identifies, where it differs from the defaults.
    deidentification: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default=text("'{}'::jsonb")
    )
    # Rules of consent that only warn in this study: see `domain.consent`.
    consent_warnings: Mapped[list[Any]] = mapped_column(
        default=list, server_default=text("'[]'::jsonb")
    )
    # Names of the participants' attributes, such as role and sector. Their values are in the vault.
    attributes: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    created_at: Mapped[datetime] = now_at()
    erased_at: Mapped[datetime | None]

    @property
    def has_vocabulary(self) -> bool:
        return self.vocabulary_artefact_id is not None


class Token(Table):
    __tablename__ = "token"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[UUID] = new_id()
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # SHA-256 of the secret
    name: Mapped[str | None]  # of a machine or a purpose
    display_name: Mapped[str | None]  # of a person's account
    role: Mapped[str]
    all_studies: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = now_at()
    last_used_at: Mapped[datetime | None]  # to the minute
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class TokenStudy(Table):
    __tablename__ = "token_study"

    token_id: Mapped[UUID] = reference("token.id", primary_key=True)
    study_id: Mapped[UUID] = reference("study.id", primary_key=True)


class SignInLink(Table):
    """A link that signs a browser in once."""

    __tablename__ = "sign_in_link"

    id: Mapped[UUID] = new_id()
    token_id: Mapped[UUID] = reference("token.id")
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # SHA-256 of the secret
    gives_key: Mapped[bool] = mapped_column(default=False)  # an invitation: see `sign_in`
    created_at: Mapped[datetime] = now_at()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Device(Table):
    """A browser that is signed in with a token. It can do what the token allows."""

    __tablename__ = "device"

    id: Mapped[UUID] = new_id()
    token_id: Mapped[UUID] = reference("token.id", index=True)
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # SHA-256 of the cookie
    browser: Mapped[str]  # such as "Firefox on Windows"
    created_at: Mapped[datetime] = now_at()
    last_seen_at: Mapped[datetime] = now_at()  # to the minute
    ends_at: Mapped[datetime]
    signed_out_at: Mapped[datetime | None]


class SignOn(Table):
    """The person at the single sign-on provider who opens a token's account. Keyed hashes only."""

    __tablename__ = "sign_on"

    token_id: Mapped[UUID] = reference("token.id", primary_key=True)
    # Of the e-mail address or identifier that was invited.
    expected: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    # Of the identifier that has signed in.
    identity: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = now_at()
    expires_at: Mapped[datetime]  # of the invitation
    linked_at: Mapped[datetime | None]


class Session(Table):
    """An interview or a focus group."""

    __tablename__ = "session"
    __table_args__ = (
        UniqueConstraint("study_id", "code", name="uq_session_code"),
        one_of("kind", SESSION_KINDS),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    code: Mapped[str]
    kind: Mapped[str] = mapped_column(default="interview")
    speakers_min: Mapped[int | None]
    speakers_max: Mapped[int | None]
    roster: Mapped[list[Any]] = mapped_column(default=list)  # [{"code": ..., "role": ...}]
    created_at: Mapped[datetime] = now_at()
    erased_at: Mapped[datetime | None]


class Recording(Table):
    """A recording. Its upload and the artefact of its audio have the same id."""

    __tablename__ = "recording"
    __table_args__ = (one_of("state", RECORDING_STATES),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("session.id"), index=True)
    position: Mapped[int | None]  # in its session, from 0
    is_copy: Mapped[bool] = mapped_column(default=False, server_default=false())  # asked for
    token_id: Mapped[UUID] = reference("token.id")
    state: Mapped[str] = mapped_column(default="receiving")
    n_bytes: Mapped[int] = mapped_column(BigInteger)  # as the client announced
    metadata_artefact_id: Mapped[UUID | None]
    digest: Mapped[bytes | None]  # keyed per study, so that content cannot be guessed from it
    container: Mapped[str | None]
    codec: Mapped[str | None]
    sample_rate: Mapped[int | None]
    channels: Mapped[int | None]
    duration: Mapped[float | None]
    peak_dbfs: Mapped[float | None]
    mean_dbfs: Mapped[float | None]
    playback_artefact_id: Mapped[UUID | None]  # a copy for browsers
    peaks_artefact_id: Mapped[UUID | None]  # of its waveform
    playback_error: Mapped[str | None]  # a code, if no copy can be made
    refusal_code: Mapped[str | None]  # or why it cannot be checked at present
    refusal_detail: Mapped[str | None]  # an error's message: numbers and what to do
    created_at: Mapped[datetime] = now_at()
    expires_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]


class Job(Table):
    """
    Each claim raises `fence`, and writes under an older one are refused. `crashes` counts the
    attempts since the last finished stage, except those that ended in an orderly way.
    """

    __tablename__ = "job"
    __table_args__ = (
        one_of("status", JOB_STATUSES),
        Index("ix_job_study_created", "study_id", "created_at", "id"),
        Index(
            "ix_job_unfinished",
            "status",
            postgresql_where=text("status IN ('queued', 'running', 'cancelling', 'waiting')"),
        ),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id")
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("session.id"), index=True)
    token_id: Mapped[UUID] = reference("token.id")
    status: Mapped[str] = mapped_column(default="queued")
    version: Mapped[int] = mapped_column(default=1)  # the ETag
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    vocabulary_artefact_id: Mapped[UUID | None]
    whisper_model: Mapped[str]
    whisper_sha256: Mapped[str]
    diarisation_pipeline: Mapped[str]
    diarisation_sha256: Mapped[str]
    queue_job_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    rerun_from: Mapped[str | None]  # a stage
    stage: Mapped[str | None]
    fraction: Mapped[float] = mapped_column(default=0.0)  # of the whole job
    audio_seconds: Mapped[float | None]
    heartbeat_at: Mapped[datetime | None]
    warnings: Mapped[list[Any]] = mapped_column(default=list)
    transcript_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = now_at()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]


class JobRecording(Table):
    __tablename__ = "job_recording"

    job_id: Mapped[UUID] = reference("job.id", primary_key=True)
    recording_id: Mapped[UUID] = reference("recording.id", primary_key=True, index=True)
    position: Mapped[int]


class JobStage(Table):
    __tablename__ = "job_stage"
    __table_args__ = (one_of("state", STAGE_STATES), one_of("name", STAGES))

    job_id: Mapped[UUID] = reference("job.id", primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="pending")
    fraction: Mapped[float] = mapped_column(default=0.0)
    audio_seconds_done: Mapped[float | None]
    seconds: Mapped[float | None]
    artefact_id: Mapped[UUID | None]
    device: Mapped[str | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobError(Table):
    __tablename__ = "job_error"

    id: Mapped[UUID] = new_id()
    job_id: Mapped[UUID] = reference("job.id", index=True)
    code: Mapped[str]
    stage: Mapped[str | None]
    attempt: Mapped[int]
    retryable: Mapped[bool]
    at: Mapped[datetime] = now_at()


class Idempotency(Table):
    """`key` and `fingerprint` are keyed hashes: the request cannot be guessed from them."""

    __tablename__ = "idempotency"

    token_id: Mapped[UUID] = reference("token.id", primary_key=True)
    study_id: Mapped[UUID] = reference("study.id", primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    job_id: Mapped[UUID] = reference("job.id")
    created_at: Mapped[datetime] = now_at()


class StoredTranscript(Table):
    __tablename__ = "transcript"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("job.id"), unique=True)
    artefact_id: Mapped[UUID]
    version: Mapped[int] = mapped_column(default=1)
    speakers: Mapped[dict[str, Any]] = mapped_column(default=dict)  # label: {"role", "code"}
    # The oldest version that can be read, which is what the models wrote, and its speakers.
    first_version: Mapped[int] = mapped_column(default=1)
    first_speakers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    # The transcript that this one stands in place of, since a participant has withdrawn.
    replaces: Mapped[UUID | None] = mapped_column(ForeignKey("transcript.id"), index=True)
    created_at: Mapped[datetime] = now_at()


class Correction(Table):
    """An entry of a transcript's journal: the change that made a version from the one before."""

    __tablename__ = "correction"
    __table_args__ = (
        UniqueConstraint("transcript_id", "version", name="uq_correction_version"),
        one_of("kind", CORRECTION_KINDS),
    )

    id: Mapped[UUID] = new_id()
    transcript_id: Mapped[UUID] = reference("transcript.id")
    version: Mapped[int]
    kind: Mapped[str]
    segments: Mapped[list[Any]] = mapped_column(default=list)  # ids of those that changed
    undoes: Mapped[int | None]  # a version
    token_id: Mapped[UUID] = reference("token.id")
    packet_id: Mapped[UUID | None] = mapped_column(  # of the participant who proposed it
        ForeignKey("member_packet.id"), index=True
    )
    artefact_id: Mapped[UUID]
    snapshot_artefact_id: Mapped[UUID | None]  # the whole transcript, so that reading stays fast
    created_at: Mapped[datetime] = now_at()


class Handoff(Table):
    __tablename__ = "handoff"
    __table_args__ = (
        one_of("status", HANDOFF_STATUSES),
        Index("ix_handoff_stage", "transcript_id", "stage"),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id", index=True)
    # Several de-identifiers may work on a transcript: each stage has a hand-off of its own.
    stage: Mapped[str] = mapped_column(default="default", server_default=text("'default'"))
    status: Mapped[str] = mapped_column(default="open")
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_until: Mapped[datetime | None]
    token_id: Mapped[UUID | None] = mapped_column(ForeignKey("token.id"))
    transcript_version: Mapped[int | None]  # the one that was claimed
    occurrences_artefact_id: Mapped[UUID | None]
    failure_code: Mapped[str | None]
    created_at: Mapped[datetime] = now_at()
    finished_at: Mapped[datetime | None]


class Entity(Table):
    """A person, organisation or place of a study. Its names are in the vault's linkage class.

    `allowed`: its names identify nobody, so their mentions are rejected when they are found.
    `always`: on the study's list of names that are replaced in every transcript.
    """

    __tablename__ = "entity"
    __table_args__ = (
        UniqueConstraint("study_id", "pseudonym", name="uq_entity_pseudonym"),
        one_of("kind", ENTITY_KINDS),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    kind: Mapped[str]
    # P07, PERSON-3, PLACE-1 or a chosen name. It is never used again, not even after an erasure.
    pseudonym: Mapped[str | None]
    always: Mapped[bool] = mapped_column(default=False)
    record_artefact_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(default=1)  # the ETag
    merged_into: Mapped[UUID | None] = mapped_column(ForeignKey("entity.id"), index=True)
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    erased_at: Mapped[datetime | None]


class Review(Table):
    """The review of a transcript's mentions."""

    __tablename__ = "review"

    transcript_id: Mapped[UUID] = reference("transcript.id", primary_key=True)
    study_id: Mapped[UUID] = reference("study.id", index=True)
    transcript_version: Mapped[int]  # to which the mentions refer
    version: Mapped[int] = mapped_column(default=1)  # each decision adds 1
    # The study's names that the transcript was last searched for: see `roster_version`.
    roster_version: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    created_at: Mapped[datetime] = now_at()


class Mention(Table):
    """An identifying span of a transcript, proposed or decided: characters [start, stop).

    The characters are those of the segment's text in `transcript_version`.
    """

    __tablename__ = "mention"
    __table_args__ = (
        Index("ix_mention_transcript", "transcript_id", "segment", "start"),
        one_of("state", MENTION_STATES),
        one_of("origin", MENTION_ORIGINS),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id")
    transcript_version: Mapped[int]
    segment: Mapped[str]
    start: Mapped[int]
    stop: Mapped[int]
    label: Mapped[str]
    tier: Mapped[str | None]
    score: Mapped[float | None]
    # Each detector's vote: {"stage", "rule", "tier", "score"}.
    votes: Mapped[list[Any]] = mapped_column(default=list)
    hint: Mapped[str | None]  # which mentions a detector takes for the same entity: person-1
    entity_id: Mapped[UUID | None] = mapped_column(ForeignKey("entity.id"), index=True)
    # Ids of the entities that have this name, if several have.
    choices: Mapped[list[Any]] = mapped_column(default=list, server_default=text("'[]'::jsonb"))
    origin: Mapped[str]
    state: Mapped[str] = mapped_column(default="suggested")
    version: Mapped[int] = mapped_column(default=1)  # each decision adds 1
    token_id: Mapped[UUID | None] = mapped_column(ForeignKey("token.id"))  # who decided
    decided_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = now_at()


class Decision(Table):
    """An entry of the record of decisions. It never contains text."""

    __tablename__ = "decision"
    __table_args__ = (Index("ix_decision_transcript", "transcript_id", "at"),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    transcript_id: Mapped[UUID | None] = mapped_column(ForeignKey("transcript.id"))
    mention_id: Mapped[UUID | None]
    entity_id: Mapped[UUID | None]
    action: Mapped[str]
    rule: Mapped[str | None]  # that found the mention, or by which it was decided
    before: Mapped[str | None]  # a state
    after: Mapped[str | None]
    token_id: Mapped[UUID] = reference("token.id")
    at: Mapped[datetime] = now_at()


class BlindSample(Table):
    """Segments that a second person reads without seeing the mentions, to estimate the recall."""

    __tablename__ = "blind_sample"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id", index=True)
    transcript_version: Mapped[int]
    segments: Mapped[list[Any]]  # ids
    token_id: Mapped[UUID] = reference("token.id")  # of the reader
    n_found: Mapped[int | None]  # identifiers that had been accepted
    n_missed: Mapped[int | None]  # identifiers that the reader added
    created_at: Mapped[datetime] = now_at()
    finished_at: Mapped[datetime | None]


class LinkageLookup(Table):
    """Somebody read who is behind a pseudonym, and why."""

    __tablename__ = "linkage_lookup"
    __table_args__ = (Index("ix_linkage_lookup_entity", "entity_id", "at"),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    entity_id: Mapped[UUID | None] = mapped_column(ForeignKey("entity.id"))  # None: all of them
    transcript_id: Mapped[UUID | None] = mapped_column(ForeignKey("transcript.id"), index=True)
    reason: Mapped[str]  # one of a fixed list, so that it contains no name
    token_id: Mapped[UUID] = reference("token.id")
    at: Mapped[datetime] = now_at()


class Release(Table):
    """A frozen, de-identified version of a transcript. Its key is that of its id."""

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("transcript_id", "number", name="uq_release_number"),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("session.id"), index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id")
    transcript_version: Mapped[int]
    number: Mapped[int]  # 1 for the first release of the transcript
    review_version: Mapped[int]
    context: Mapped[str]  # for whom it was made: one of a fixed list
    # How often a reviewer left a name in the text, because it names somebody else, by entity.
    names_kept: Mapped[dict[str, Any]] = mapped_column(default=dict)
    report_artefact_id: Mapped[UUID | None]
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    revoked_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]


class ReleaseFile(Table):
    """One format of a release, rendered when the release was made."""

    __tablename__ = "release_file"

    release_id: Mapped[UUID] = reference("release.id", primary_key=True)
    format: Mapped[str] = mapped_column(primary_key=True)
    artefact_id: Mapped[UUID]
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]


class MaskedAudio(Table):
    """One recording of a transcript without its accepted mentions. It still carries the voices."""

    __tablename__ = "masked_audio"
    __table_args__ = (one_of("state", MASKED_AUDIO_STATES),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("session.id"), index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id", index=True)
    recording_id: Mapped[UUID] = reference("recording.id", index=True)
    transcript_version: Mapped[int]
    review_version: Mapped[int]
    style: Mapped[str]  # tone or silence
    untranscribed: Mapped[bool]  # whether speech without words is masked too
    # Stretches of speech without words that are not masked: nobody can have reviewed them.
    n_unreviewed: Mapped[int]
    state: Mapped[str] = mapped_column(default="pending")
    failure_code: Mapped[str | None]  # or why it cannot be made at present
    artefact_id: Mapped[UUID | None]
    n_bytes: Mapped[int | None] = mapped_column(BigInteger)
    spans: Mapped[list[Any]] = mapped_column(default=list)  # [start, end) in seconds, and why
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    finished_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]


class Participant(Table):
    """Somebody who takes part in a study. The code is that of the entity with the names.

    Sessions name their participants by code in `Session.roster`, and a transcript's speakers carry
    the codes: nothing else says who took part in what, and with which voice. Contacts and
    attributes are in the vault's linkage class, under the entity's key.
    """

    __tablename__ = "participant"
    __table_args__ = (UniqueConstraint("study_id", "code", name="uq_participant_code"),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    code: Mapped[str]  # P07; never used again, not even after an erasure
    entity_id: Mapped[UUID] = mapped_column(ForeignKey("entity.id"), unique=True)
    record_artefact_id: Mapped[UUID | None]  # contacts and attributes
    version: Mapped[int] = mapped_column(default=1)  # the ETag
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    withdrawn_at: Mapped[datetime | None]  # takes part no longer, whatever was removed
    erased_at: Mapped[datetime | None]


class Consent(Table):
    """What a participant has consented to. The newest row counts; none is ever changed."""

    __tablename__ = "consent"
    __table_args__ = (Index("ix_consent_participant", "participant_id", "created_at"),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    participant_id: Mapped[UUID] = reference("participant.id")
    sheet_version: Mapped[str]  # of the information sheet
    given_on: Mapped[date]
    scopes: Mapped[list[Any]]  # of CONSENT_SCOPES
    token_id: Mapped[UUID] = reference("token.id")  # who recorded it
    created_at: Mapped[datetime] = now_at()


class MemberPacket(Table):
    """A text that a participant gets to check, and their answer. Its key is that of the job."""

    __tablename__ = "member_packet"
    __table_args__ = (one_of("kind", PACKET_KINDS), one_of("wording", PACKET_WORDINGS))

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    participant_id: Mapped[UUID] = reference("participant.id", index=True)
    transcript_id: Mapped[UUID] = reference("transcript.id", index=True)
    transcript_version: Mapped[int]
    kind: Mapped[str]
    wording: Mapped[str]
    artefact_id: Mapped[UUID | None]
    answer_artefact_id: Mapped[UUID | None]
    # What became of the proposed changes, by segment: {"state": "accepted", "version": 7}.
    decided: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default=text("'{}'::jsonb")
    )
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)  # SHA-256 of the link's secret
    expires_at: Mapped[datetime]
    token_id: Mapped[UUID] = reference("token.id")  # who made it
    created_at: Mapped[datetime] = now_at()
    opened_at: Mapped[datetime | None]  # for the first time
    answered_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]


class Approval(Table):
    """A committee's approval of a study, for one site or for all."""

    __tablename__ = "approval"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    committee: Mapped[str]
    site: Mapped[str | None]
    number: Mapped[str]  # the committee's reference
    valid_from: Mapped[date]
    valid_until: Mapped[date | None]
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    removed_at: Mapped[datetime | None]  # entered by mistake


class RetentionRule(Table):
    """How long a study keeps one class of data: see `domain.retention`."""

    __tablename__ = "retention_rule"
    __table_args__ = (
        one_of("data_class", RETENTION_CLASSES),
        one_of("basis", RETENTION_BASES),
        one_of("at_end", ("review", "destroy")),
    )

    study_id: Mapped[UUID] = reference("study.id", primary_key=True)
    data_class: Mapped[str] = mapped_column(primary_key=True)
    basis: Mapped[str]
    years: Mapped[int]
    at_end: Mapped[str]
    token_id: Mapped[UUID] = reference("token.id")


class RetentionDate(Table):
    """When a study was published or completed, or last contacted somebody."""

    __tablename__ = "retention_date"
    __table_args__ = (one_of("basis", RETENTION_BASES),)

    study_id: Mapped[UUID] = reference("study.id", primary_key=True)
    basis: Mapped[str] = mapped_column(primary_key=True)
    on_date: Mapped[date]
    token_id: Mapped[UUID] = reference("token.id")


class LegalHold(Table):
    """Blocks destruction in a study until it is lifted."""

    __tablename__ = "legal_hold"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    reason: Mapped[str]  # one of a fixed list
    token_id: Mapped[UUID] = reference("token.id")
    created_at: Mapped[datetime] = now_at()
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[UUID | None] = mapped_column(ForeignKey("token.id"), index=True)


class Destruction(Table):
    """The destruction of a class: one person asks for it, another confirms it."""

    __tablename__ = "destruction"
    __table_args__ = (one_of("data_class", RETENTION_CLASSES),)

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    data_class: Mapped[str]
    ids: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of what is destroyed, by kind
    token_id: Mapped[UUID] = reference("token.id")  # who asked
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    cancelled_at: Mapped[datetime | None]
    confirmed_by: Mapped[UUID | None] = mapped_column(ForeignKey("token.id"), index=True)
    confirmed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    certificate_id: Mapped[UUID | None] = mapped_column(ForeignKey("certificate.id"), index=True)


class AuditEntry(Table):
    """An entry of the audit trail: see `domain.audit`. A trigger refuses changes and deletions."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        Index("ix_audit_entry_study", "study_id", "position"),
        Index(
            "ix_audit_entry_objects",
            "objects",
            postgresql_using="gin",
            postgresql_ops={"objects": "jsonb_path_ops"},
        ),
    )

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    # Without foreign keys: the check of one would wait for a transaction that erases the study,
    # which in turn waits for the lock of the trail.
    study_id: Mapped[UUID | None]
    token_id: Mapped[UUID | None] = mapped_column(index=True)
    role: Mapped[str | None]
    action: Mapped[str]
    objects: Mapped[dict[str, Any]]  # ids and codes by kind
    reason: Mapped[str | None]  # one of a fixed list
    detail: Mapped[dict[str, Any]]  # numbers, codes and checksums
    previous: Mapped[bytes] = mapped_column(LargeBinary)  # hash of the entry before
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class Certificate(Table):
    """A signed statement of what was removed: see `domain.certificates`. It holds no names."""

    __tablename__ = "certificate"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    kind: Mapped[str]
    subject: Mapped[str]  # a code
    document: Mapped[str]  # JSON, exactly as it was signed
    signature: Mapped[str]  # base64
    public_key: Mapped[str]  # base64
    created_at: Mapped[datetime] = now_at()


class Withdrawal(Table):
    """A participant's withdrawal: see `domain.withdrawal`. `steps`: those that are done."""

    __tablename__ = "withdrawal"
    __table_args__ = (
        one_of("state", WITHDRAWAL_STATES),
        one_of("scope", WITHDRAWAL_SCOPES),
    )

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    participant_id: Mapped[UUID | None] = mapped_column(ForeignKey("participant.id"), index=True)
    code: Mapped[str]
    scope: Mapped[str]
    reason: Mapped[str | None]  # one of a fixed list
    token_id: Mapped[UUID] = reference("token.id")
    role: Mapped[str]  # of whoever asked
    state: Mapped[str] = mapped_column(default="removing")
    steps: Mapped[list[Any]] = mapped_column(default=list)
    results: Mapped[dict[str, Any]] = mapped_column(default=dict)  # ids and counts
    failure_code: Mapped[str | None]  # why the next step cannot be done at present
    certificate_id: Mapped[UUID | None] = mapped_column(ForeignKey("certificate.id"), index=True)
    requested_at: Mapped[datetime] = now_at()
    finished_at: Mapped[datetime | None]


class WebhookEndpoint(Table):
    """Where events of a study are sent. The address and the secret are in the vault."""

    __tablename__ = "webhook_endpoint"

    id: Mapped[UUID] = new_id()
    study_id: Mapped[UUID] = reference("study.id", index=True)
    token_id: Mapped[UUID] = reference("token.id")
    endpoint_artefact_id: Mapped[UUID]
    events: Mapped[list[Any]]
    enabled: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = now_at()


class WebhookDelivery(Table):
    """An event for one endpoint: first in the outbox, then in the log of deliveries."""

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        one_of("state", DELIVERY_STATES),
        Index(
            "ix_webhook_delivery_pending",
            "next_attempt_at",
            postgresql_where=text("state = 'pending'"),
        ),
        Index("ix_webhook_delivery_endpoint", "endpoint_id", "created_at", "id"),
    )

    id: Mapped[UUID] = new_id()
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_endpoint.id", ondelete="CASCADE"))
    event: Mapped[str]
    data: Mapped[dict[str, Any]]  # ids and codes
    state: Mapped[str] = mapped_column(default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime] = now_at()
    last_status: Mapped[int | None]  # of HTTP
    last_error: Mapped[str | None]  # a code
    created_at: Mapped[datetime] = now_at()
    delivered_at: Mapped[datetime | None]


class StageTiming(Table):
    """How long a stage took, to estimate how long later jobs will take."""

    __tablename__ = "stage_timing"
    __table_args__ = (Index("ix_stage_timing_model", "model", "device", "stage", "at"),)

    id: Mapped[UUID] = new_id()
    stage: Mapped[str]
    model: Mapped[str]
    device: Mapped[str]
    seconds: Mapped[float]
    audio_seconds: Mapped[float]
    trial: Mapped[bool] = mapped_column(default=False)  # a trial of the models on noise, not a job
    at: Mapped[datetime] = now_at()


class Worker(Table):
    """A running worker and its device. Rows with an old heartbeat are of workers that were killed.

    `retired_because` is set while the worker takes no jobs because its device keeps failing.
    """

    __tablename__ = "worker"

    id: Mapped[UUID] = new_id()
    host: Mapped[str]
    device: Mapped[str]  # such as cuda:1
    job_id: Mapped[UUID | None]  # without a foreign key: deleting a job must not wait for a worker
    retired_because: Mapped[str | None]
    started_at: Mapped[datetime] = now_at()
    heartbeat_at: Mapped[datetime] = now_at()
