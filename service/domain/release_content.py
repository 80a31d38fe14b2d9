"""The content of a release: a reviewed transcript with pseudonyms, and its residual-risk report.

ServiceError
└── NamesLeft
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from typing import ClassVar, Literal, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.leaks import Leak, NameSearch
from models.deidentification.redaction import Redaction, redact, strip_metadata
from models.deidentification.replacements import DatePolicy, replacement_of
from models.deidentification.risk_report import (
    Count,
    RiskReport,
    Sample,
    examine,
)
from models.speaker_names import is_code
from models.transcript import Segment, Transcript
from service.database import tables
from service.database.tables import (
    Entity,
    Handoff,
    MaskedAudio,
    Mention,
    StoredTranscript,
    Study,
    Token,
)
from service.domain import blind_samples, entities, review
from service.domain.callers import Caller
from service.domain.entities import EntityRecord
from service.domain.review import DecidedSpan
from service.domain.studies import read_policy
from service.domain.transcripts import find_interview
from service.errors import ServiceError
from service.services import Services

Context = Literal["team", "member_checking", "repository", "publication"]
"""For whom a release is made; models/deidentification/risk_report.py explains them."""
Place = tuple[str, int, int]
"""A segment, and characters [start, stop) of its text."""
PEOPLE = ("participant", "interviewer", "person")  # kinds of entities
MODELS = frozenset({"spacy", "presidio", "gliner", "token_classifier"})  # rules of detectors
MAX_NAMED = 5  # segments in a message


class NamesLeft(ServiceError):
    """Names or aliases of the study would be left in the release."""

    code: ClassVar[str] = "names_left"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class ReleaseContent:
    """`names_kept`: how often a reviewer left a name of an entity in the text, because it names
    somebody else.
    """

    transcript: Transcript
    report: RiskReport
    interview: tables.Session | None
    review_version: int
    names_kept: Mapping[UUID, int]


def prepare(
    session: DbSession,
    services: Services,
    caller: Caller,
    row: StoredTranscript,
    number: int,
    context: Context,
) -> ReleaseContent:
    """De-identify a transcript whose review is finished.

    Args:
        row: locked, so that it is not corrected meanwhile.
        number: of the release.

    Raises:
        ReviewNotReady, ReviewOpen, NamesLeft
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    decided = review.accepted_spans(session, services, caller, row.id)
    review.require_finished(decided)
    study = session.get_one(Study, row.study_id)
    named = {span.entity_id for span in decided.spans if span.entity_id is not None}
    used = {id: session.get_one(Entity, id) for id in sorted(named)}
    for entity in used.values():
        entities.assign_pseudonym(session, services, entity)
    records = entities.look_up(session, services, caller, used.values(), "release", row.id)
    every = entities.list_entities(session, study.id)
    people = _read_people(session, services, decided.transcript, every)
    dates = cast(DatePolicy, read_policy(study).dates)
    replacements = _Replacements(
        {segment.id: segment for segment in decided.transcript.segments},
        used,
        records,
        dates,
        _shifts(decided.transcript, people),
    )
    redacted = redact(decided.transcript, map(replacements.redaction, decided.spans))
    public = strip_metadata(
        redacted.transcript,
        {code: one.chosen_name for code, one in people.items() if one.chosen_name is not None},
    )
    mentions = session.scalars(select(Mention).where(Mention.transcript_id == row.id)).all()
    rejected = [(m.segment, m.start, m.stop) for m in mentions if m.state == "rejected"]
    search = search_names(session, services, caller, study.id, row.id)
    every_leak = find_leaks(search, public)
    leaks = without_places(
        every_leak, [(s, redacted.move(s, a), redacted.move(s, b)) for s, a, b in rejected]
    )
    _refuse_leaks(leaks)
    kept = [leak for leak in every_leak if leak not in leaks]
    interview = find_interview(session, row)
    report = RiskReport(
        study=study.code,
        session=session_name(session, interview.id if interview else None, row.id),
        release=number,
        transcript_version=decided.transcript.version,
        context=context,
        fieldscribe=version("fieldscribe"),
        stages=_completed_stages(session, row.id),
        counts=_count(mentions),
        replaced=dict(sorted(Counter(span.label for span in decided.spans).items())),
        entities_replaced=len(used),
        entities_of_study=sum(entity.kind != "allowed" for entity in every),
        dates=dates,
        reviewers=_count_reviewers(session, mentions),
        sample=_read_sample(session, row.id),
        remaining=examine(decided.transcript, redacted, rejected),
        has_model=any(map(_is_by_model, mentions)),
        common_names_left=sum(leak.is_doubtful for _, leak in leaks),
        audio=_describe_audio(session, row.id),
    )
    names_kept = Counter(leak.entity for _, leak in kept)
    return ReleaseContent(public, report, interview, decided.version, names_kept)


def session_name(session: DbSession, session_id: UUID | None, transcript_id: UUID) -> str:
    """The code of the session, else a name made from the transcript's id."""
    interview = None if session_id is None else session.get(tables.Session, session_id)
    return f"T-{transcript_id.hex[:8]}" if interview is None else interview.code


# --- replacing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Replacements:
    """`segments`: by id. `shifts`: days to add to the dates of each speaker, by label."""

    segments: Mapping[str, Segment]
    entities: Mapping[UUID, Entity]
    records: Mapping[UUID, EntityRecord]
    dates: DatePolicy
    shifts: Mapping[str | None, int | None]

    def redaction(self, span: DecidedSpan) -> Redaction:
        if span.entity_id is not None:
            entity = self.entities[span.entity_id]
            text = entities.replacement(entity, self.records.get(span.entity_id))
        else:
            segment = self.segments[span.segment]
            said = segment.text[span.start : span.stop]
            shift = self.shifts.get(segment.speaker)
            text = replacement_of(span.label, said, dates=self.dates, shift_days=shift)
        return Redaction(span.segment, span.start, span.stop, text)


def _read_people(
    session: DbSession, services: Services, transcript: Transcript, every: Iterable[Entity]
) -> dict[str, EntityRecord]:
    """The records of the transcript's speakers who are entities of the study, by code.

    Those who are never mentioned get a chosen name here, where the study wants them.
    """
    codes = {name.code for name in transcript.names.values()}
    people = [one for one in every if one.pseudonym in codes and one.kind in PEOPLE]
    for one in people:
        entities.assign_pseudonym(session, services, one)
    records = entities.read_records(services, people)
    return {str(one.pseudonym): records[one.id] for one in people if one.id in records}


def _shifts(
    transcript: Transcript, people: Mapping[str, EntityRecord]
) -> dict[str | None, int | None]:
    """By how many days the dates of each speaker are shifted: those of a participant by theirs.

    What others say is about the participant, if there is only one. Without a participant, only the
    year of a date is kept.
    """
    own: dict[str | None, int | None] = {}
    for label, name in transcript.names.items():
        record = people.get(name.code or "")
        if record is not None and record.date_shift_days is not None:
            own[label] = record.date_shift_days
    distinct = set(own.values())
    shared = distinct.pop() if len(distinct) == 1 else None
    everybody: list[str | None] = [None, *transcript.speakers]
    return {**dict.fromkeys(everybody, shared), **own}


# --- checking -------------------------------------------------------------------------------------


def search_names(
    session: DbSession,
    services: Services,
    caller: Caller,
    study_id: UUID,
    transcript_id: UUID | None = None,
) -> NameSearch[UUID]:
    """A search for the names and aliases of the study's entities, which is recorded as a look-up.

    Names that are allowed, and codes, are left out.
    """
    found = [one for one in entities.list_entities(session, study_id) if one.kind != "allowed"]
    allowed = entities.allowed_surfaces(session, services, study_id)
    records = entities.read_records(services, found)
    entities.record_reading(session, caller, study_id, "release", transcript_id)
    return NameSearch(
        {
            id: [
                surface
                for surface in record.surfaces
                if not is_code(surface) and entities.fold(surface) not in allowed
            ]
            for id, record in records.items()
        }
    )


Found = tuple[str | None, Leak[UUID]]
"""A name in a segment; None: in the name of a speaker."""


def find_leaks(search: NameSearch[UUID], transcript: Transcript) -> list[Found]:
    """Find the names of the study in a transcript and in the names of its speakers."""
    found: list[Found] = []
    for one in transcript.segments:
        found += [(one.id, leak) for leak in search.find(one.text)]
    for one, following in pairwise(transcript.segments):
        end = len(unicodedata.normalize("NFC", one.text))
        for leak in search.find(f"{one.text} {following.text}"):
            if leak.start < end < leak.stop:  # spread over two segments
                found.append((one.id, replace(leak, stop=end)))
    for name in transcript.speakers:
        found += [(None, leak) for leak in search.find(name)]
    return found


def without_places(leaks: Iterable[Found], places: Iterable[Place]) -> list[Found]:
    """The leaks, without those that lie in a place of which a person has decided that it names
    nobody in the study. A decision about a part of a name does not settle the whole."""
    spans: dict[str | None, list[tuple[int, int]]] = {}
    for segment, start, stop in places:
        spans.setdefault(segment, []).append((start, stop))
    return [
        (segment, leak)
        for segment, leak in leaks
        if not any(a <= leak.start and leak.stop <= b for a, b in spans.get(segment, ()))
    ]


def _refuse_leaks(leaks: Iterable[Found]) -> None:
    """
    Raises:
        NamesLeft
    """
    certain = [segment for segment, leak in leaks if not leak.is_doubtful]
    if not certain:
        return
    places = list(dict.fromkeys("a speaker's name" if s is None else s for s in certain))
    more = f" and {len(places) - MAX_NAMED} more" if len(places) > MAX_NAMED else ""
    raise NamesLeft(
        f"Names of the study are still in {', '.join(places[:MAX_NAMED])}{more}: add them to the "
        "review there, or reject them if they name somebody else"
    )


# --- the report -----------------------------------------------------------------------------------


def _completed_stages(session: DbSession, transcript_id: UUID) -> tuple[str, ...]:
    query = select(Handoff.stage).where(
        Handoff.transcript_id == transcript_id, Handoff.status == "completed"
    )
    return tuple(session.scalars(query.distinct().order_by(Handoff.stage)))


def _count(mentions: Iterable[Mention]) -> tuple[Count, ...]:
    counted = Counter((one.label, one.state, _found_by(one)) for one in mentions)
    return tuple(Count(*key, n) for key, n in sorted(counted.items()))


def _found_by(mention: Mention) -> str:
    """The rule of the surest detector, or how a person came to add it."""
    if mention.origin != "detector" or not mention.votes:
        return mention.origin
    vote = max(mention.votes, key=lambda each: each.get("score") or 0)
    return vote.get("rule") or "detector"


def _is_by_model(mention: Mention) -> bool:
    """Whether the vote of a model is among those on the mention: `spacy`, `first_name+spacy`."""
    rules = [part for vote in mention.votes for part in (vote.get("rule") or "").split("+")]
    return not MODELS.isdisjoint(rules)


def _count_reviewers(session: DbSession, mentions: Iterable[Mention]) -> dict[str, int]:
    """People who decided, by role; decisions of rules are by nobody."""
    tokens = {one.token_id for one in mentions if one.token_id is not None}
    roles = session.scalars(select(Token.role).where(Token.id.in_(tokens)))
    return dict(sorted(Counter(roles).items()))


def _read_sample(session: DbSession, transcript_id: UUID) -> Sample | None:
    """The joint result of all samples that second readers have finished."""
    estimate = blind_samples.estimate_recall(session, transcript_id)
    if estimate is None:
        return None
    return Sample(
        estimate.n_segments,
        estimate.n_found,
        estimate.n_missed,
        estimate.recall,
        estimate.low,
        estimate.high,
        estimate.is_independent,
    )


def _describe_audio(session: DbSession, transcript_id: UUID) -> str:
    query = select(MaskedAudio.id).where(
        MaskedAudio.transcript_id == transcript_id,
        MaskedAudio.state == "ready",
        MaskedAudio.erased_at.is_(None),
    )
    return "none" if session.scalar(query.limit(1)) is None else "masked"
