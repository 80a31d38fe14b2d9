"""The review of a transcript, in which people decide on each mention.

A review begins when the first de-identifier completes its hand-off. It follows the transcript:
mentions whose words a correction left unchanged keep their decisions.

ServiceError
├── ReviewNotReady
└── ReviewOpen
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Self
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as DbSession

from models.deidentification.anchoring import Anchors, Carried, Place
from models.deidentification.occurrences import KnownEntity, Occurrence
from models.deidentification.roster_scan import (
    NameIndex,
    find_in,
    find_known,
    spoken_segments,
)
from models.transcript import Transcript
from service.database import tables
from service.database.queries import read_clock
from service.database.tables import (
    MENTION_STATES,
    BlindSample,
    Decision,
    Entity,
    Handoff,
    Job,
    Mention,
    Review,
    StoredTranscript,
)
from service.domain.callers import Caller
from service.domain.entities import (
    KIND_IN_CLAIMS,
    EntityRecord,
    allowed_surfaces,
    assign_pseudonym,
    fold,
    read_record,
    read_records,
)
from service.domain.mentions import (
    Candidate,
    HintReader,
    MentionIndex,
    candidate_of,
    covers,
    merge_votes,
    place_of,
    read_label,
    read_rule,
    unite,
)
from service.domain.studies import find_study
from service.domain.transcripts import find_transcript, read_transcript
from service.errors import ServiceError
from service.services import Services

ALWAYS, ALLOW_LIST, CORRECTED = "always", "allow_list", "corrected"
"""Rules that make decisions. Decisions by people have no rule."""
OWN_STAGE = "fieldscribe"  # in the votes of the service's own search for names

log = logging.getLogger(__name__)


class ReviewNotReady(ServiceError):
    """No de-identifier has completed the transcript's hand-off yet."""

    code: ClassVar[str] = "review_not_ready"
    status: ClassVar[int] = 409


class ReviewOpen(ServiceError):
    """The review is not finished: suggestions are open, or a de-identifier is at work."""

    code: ClassVar[str] = "review_open"
    status: ClassVar[int] = 409


@dataclass(frozen=True)
class DecidedSpan:
    """Accepted characters [start, stop) of a segment's text.

    `entity_id`: after a merge, the id of the target. None for dates, numbers and the like.
    """

    segment: str
    start: int
    stop: int
    label: str
    entity_id: UUID | None
    mention_id: UUID
    tier: str | None
    score: float | None


@dataclass(frozen=True)
class Decided:
    """The outcome of a review so far.

    `transcript`: the newest version, to which the spans refer; speakers as labels. `spans`: in the
    order of the text, without overlaps. `n_open`: suggestions that nobody has decided on. `stages`:
    names of the stages whose de-identifier is at work on the transcript. `version`: of the review.
    """

    transcript: Transcript
    spans: tuple[DecidedSpan, ...]
    n_open: int
    stages: tuple[str, ...]
    version: int


def accepted_spans(
    session: DbSession, services: Services, caller: Caller, transcript_id: UUID
) -> Decided:
    """The accepted mentions of a transcript. The review stays locked until the transaction ends.

    Raises:
        TranscriptNotFound, ReviewNotReady
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    return ReviewEditor.open(session, services, caller, transcript_id).decided()


def require_finished(decided: Decided) -> None:
    """
    Raises:
        ReviewOpen
    """
    if decided.n_open:
        raise ReviewOpen(f"{decided.n_open} suggestions are open: decide on each of them first")
    if decided.stages:
        raise ReviewOpen(f"The stage {decided.stages[0]} has not finished: wait for it")


def record_occurrences(
    session: DbSession,
    services: Services,
    caller: Caller,
    handoff: Handoff,
    occurrences: Sequence[Mapping[str, Any]],
) -> None:
    """Add the occurrences of a completed hand-off to the review; begin it if necessary.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    row = session.get_one(StoredTranscript, handoff.transcript_id)
    version = handoff.transcript_version
    assert version is not None
    _begin(session, row, version)
    editor = ReviewEditor.open(session, services, caller, row.id, scan=False)
    editor.add_occurrences(handoff.stage, version, occurrences)
    editor.follow_roster()


def begin(session: DbSession, services: Services, caller: Caller, transcript_id: UUID) -> None:
    """Begin the review without waiting for a de-identifier. Safe to repeat.

    Raises:
        TranscriptNotFound, Erased
    """
    row = find_transcript(session, caller, transcript_id)
    _begin(session, row, row.version)


def forget(session: DbSession, transcript_id: UUID) -> None:
    """Delete the review of an erased transcript. The record of decisions, which has ids, stays."""
    for table in (Mention, BlindSample, Review):
        session.execute(delete(table).where(table.transcript_id == transcript_id))


def require_review(session: DbSession, caller: Caller, transcript_id: UUID) -> Review:
    """
    Raises:
        TranscriptNotFound, ReviewNotReady, Erased
    """
    find_transcript(session, caller, transcript_id)
    found = session.get(Review, transcript_id)
    if found is None:
        raise _not_ready()
    return found


def list_decisions(session: DbSession, caller: Caller, transcript_id: UUID) -> list[Decision]:
    """
    Raises:
        TranscriptNotFound, ReviewNotReady, Erased
    """
    require_review(session, caller, transcript_id)
    query = select(Decision).where(Decision.transcript_id == transcript_id)
    return list(session.scalars(query.order_by(Decision.at, Decision.id)))


def list_reviews(
    session: DbSession, caller: Caller, study: str | None = None
) -> list[dict[str, Any]]:
    """The reviews of the caller's studies, oldest first: ids, the session's code, and counts.

    Raises:
        StudyNotFound
    """
    n_open, n_accepted, n_rejected = (
        func.count(Mention.id).filter(Mention.state == state) for state in MENTION_STATES
    )
    query: Any = (
        select(Review, StoredTranscript, tables.Session.code, n_open, n_accepted, n_rejected)
        .join(StoredTranscript, StoredTranscript.id == Review.transcript_id)
        .join(Job, Job.id == StoredTranscript.job_id)
        .outerjoin(tables.Session, tables.Session.id == Job.session_id)
        .outerjoin(Mention, Mention.transcript_id == Review.transcript_id)
        .where(Job.status != "erased")
        .group_by(Review.transcript_id, StoredTranscript.id, tables.Session.code)
        .order_by(Review.created_at, Review.transcript_id)
    )
    query = caller.restrict(query, Review.study_id)
    if study is not None:
        query = query.where(Review.study_id == find_study(session, caller, study).id)
    names: dict[UUID, int] = {}
    found = []
    for row, transcript, code, *counts in session.execute(query):
        if row.study_id not in names:
            names[row.study_id] = roster_version(session, row.study_id)
        found.append(
            {
                "transcript_id": row.transcript_id,
                "study_id": row.study_id,
                "job_id": transcript.job_id,
                "session": code,
                **dict(zip(("n_open", "n_accepted", "n_rejected"), counts, strict=True)),
                "is_current": row.transcript_version == transcript.version
                and row.roster_version == names[row.study_id],
            }
        )
    return found


def _not_ready() -> ReviewNotReady:
    return ReviewNotReady(
        "No de-identifier has completed the hand-off yet: `fieldscribe handoffs` shows its "
        "progress, and `fieldscribe review --begin` begins without one"
    )


def roster_version(session: DbSession, study_id: UUID) -> int:
    """A number that increases with every change of the study's names."""
    query = select(func.count() + func.coalesce(func.sum(Entity.version), 0))
    return int(session.scalars(query.where(Entity.study_id == study_id)).one())


def _begin(session: DbSession, row: StoredTranscript, version: int) -> None:
    statement = insert(Review).values(
        transcript_id=row.id, study_id=row.study_id, transcript_version=version, version=1
    )
    session.execute(statement.on_conflict_do_nothing())


@dataclass
class ReviewEditor:
    """The review of one transcript, locked and brought up to date with it."""

    session: DbSession
    services: Services
    caller: Caller
    row: StoredTranscript
    review: Review
    transcript: Transcript
    mentions: list[Mention]
    entities: dict[UUID, Entity]  # all of the study
    now: datetime

    @classmethod
    def open(
        cls,
        session: DbSession,
        services: Services,
        caller: Caller,
        transcript_id: UUID,
        *,
        scan: bool = True,
    ) -> Self:
        """
        Args:
            scan: search the transcript for names that the study has gained since the last search.

        Raises:
            TranscriptNotFound, ReviewNotReady
            Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
        """
        find_transcript(session, caller, transcript_id)
        session.flush()
        review = session.get(Review, transcript_id, with_for_update=True, populate_existing=True)
        if review is None:
            raise _not_ready()
        row = session.get_one(StoredTranscript, transcript_id, populate_existing=True)
        mentions = select(Mention).where(Mention.transcript_id == transcript_id)
        entities = select(Entity).where(Entity.study_id == row.study_id)
        editor = cls(
            session,
            services,
            caller,
            row,
            review,
            read_transcript(session, services, row),
            list(session.scalars(mentions.execution_options(populate_existing=True))),
            {entity.id: entity for entity in session.scalars(entities)},
            read_clock(session),
        )
        editor._follow_transcript()
        if scan:
            editor.follow_roster()
        return editor

    # --- reading ----------------------------------------------------------------------------------

    def decided(self) -> Decided:
        accepted = [each for each in self.ordered() if each.state == "accepted"]
        return Decided(
            self.transcript,
            tuple(self._without_overlaps(accepted)),
            sum(each.state == "suggested" for each in self.mentions),
            self.busy_stages(),
            self.review.version,
        )

    def ordered(self) -> list[Mention]:
        """The mentions in the order of the text."""
        order = {segment.id: i for i, segment in enumerate(self.transcript.segments)}
        return sorted(self.mentions, key=lambda each: (order[each.segment], each.start, -each.stop))

    def _without_overlaps(self, mentions: Iterable[Mention]) -> Iterable[DecidedSpan]:
        """Where accepted mentions overlap, the longest says what the whole span is."""
        group: list[Mention] = []
        stop = 0
        for mention in mentions:
            if group and group[0].segment == mention.segment and mention.start < stop:
                group.append(mention)
                stop = max(stop, mention.stop)
                continue
            if group:
                yield self._span(group, stop)
            group, stop = [mention], mention.stop
        if group:
            yield self._span(group, stop)

    def _span(self, group: Sequence[Mention], stop: int) -> DecidedSpan:
        main = max(group, key=lambda each: (each.entity_id is not None, each.stop - each.start))
        return DecidedSpan(
            main.segment,
            group[0].start,
            stop,
            main.label,
            self.canonical(main.entity_id),
            main.id,
            main.tier,
            main.score,
        )

    def counts(self) -> Counter[str]:
        """The number of mentions in each state."""
        return Counter(each.state for each in self.mentions)

    def entities_named(self) -> list[Entity]:
        """The entities that mentions name or may name, without rejected mentions."""
        ids = {
            self.canonical(id)
            for each in self.mentions
            if each.state != "rejected"
            for id in (each.entity_id, *map(UUID, each.choices))
        }
        return [each for id, each in self.entities.items() if id in ids]

    def canonical(self, entity_id: UUID | None) -> UUID | None:
        """The entity, or the one that it was merged into."""
        while entity_id is not None and (into := self.entities[entity_id].merged_into) is not None:
            entity_id = into
        return entity_id

    def stages(self) -> dict[str, str]:
        """The status of each stage's hand-off."""
        query = select(Handoff.stage, Handoff.status).where(Handoff.transcript_id == self.row.id)
        rows = self.session.execute(query.order_by(Handoff.created_at, Handoff.id))
        return {stage: status for stage, status in rows}

    def busy_stages(self) -> tuple[str, ...]:
        query = select(Handoff.stage).where(
            Handoff.transcript_id == self.row.id,
            Handoff.status == "claimed",
            Handoff.lease_until > self.now,
        )
        return tuple(self.session.scalars(query.order_by(Handoff.stage)))

    def surface(self, place: Place) -> str:
        return self._texts[place.segment][place.start : place.stop]

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {segment.id: segment.text for segment in self.transcript.segments}

    # --- suggestions ------------------------------------------------------------------------------

    def add_occurrences(
        self, stage: str, version: int, occurrences: Sequence[Mapping[str, Any]]
    ) -> None:
        """
        Args:
            version: of the transcript, to which the occurrences refer.
        """
        carry = self._carrier(version)
        index = MentionIndex(self.mentions)
        known = {id: target for id in self.entities if (target := self.canonical(id))}
        hints = HintReader(known, {each.hint for each in self.mentions if each.hint})
        candidates = []
        for each in occurrences:
            label = read_label(each["label"])
            tier, score = each.get("tier"), each.get("score")
            rule = read_rule(each.get("rule"))
            vote = {"stage": stage, "rule": rule, "tier": tier, "score": score}
            for place in carry(Place(each["segment"], each["start"], each["end"])).places:
                same = next((one.hint for one in index.overlapping(place) if one.hint), None)
                entity_id, hint = hints.read(each.get("entity"), label, same)
                candidates.append(Candidate(place, label, tier, score, (vote,), hint, entity_id))
        self.add(candidates)

    def _carrier(self, version: int) -> Any:
        if version == self.transcript.version:
            return lambda place: Carried((place,), False)
        then = read_transcript(self.session, self.services, self.row, version)
        return Anchors(then, self.transcript).carry

    def add(self, candidates: Iterable[Candidate], *, apply_lists: bool = True) -> list[Mention]:
        """Add candidates to the mentions. Decisions stay as they are.

        A candidate within a decided mention only adds its votes. One that overlaps a suggestion
        is united with it.
        """
        index = MentionIndex(self.mentions)
        changed: list[Mention] = []
        for candidate in unite(candidates):
            overlapped = index.overlapping(candidate.place)
            decided = [each for each in overlapped if each.state != "suggested"]
            suggested = [each for each in overlapped if each.state == "suggested"]
            if covering := [each for each in decided if covers(each, candidate.place)]:
                for mention in covering:
                    _add_votes(mention, candidate)
                continue
            if suggested:
                if (grown := self._unite(suggested, candidate)) is not None:
                    changed.append(grown)
            else:
                changed.append(self.create(candidate))
        if changed:
            self.touch()
            if apply_lists:
                self.apply_lists(changed)
        return changed

    def _unite(self, suggested: Sequence[Mention], candidate: Candidate) -> Mention | None:
        """
        Returns:
            The suggestion that was extended; None if the candidate only adds a vote.
        """
        known = next((each.entity_id for each in suggested if each.entity_id is not None), None)
        whole = replace(candidate, entity_id=known or candidate.entity_id)
        for each in suggested:
            whole = unite([whole, candidate_of(each)])[0]
        whole = replace(whole, entity_id=known or whole.entity_id)
        mention, *absorbed = suggested
        if replace(whole, votes=()) == replace(candidate_of(mention), votes=()):
            _add_votes(mention, candidate)
            return None
        _fill(mention, whole)
        mention.version += 1
        for each in absorbed:
            self._remove(each)
        return mention

    def create(self, candidate: Candidate) -> Mention:
        mention = Mention(
            id=uuid4(),
            study_id=self.row.study_id,
            transcript_id=self.row.id,
            transcript_version=self.transcript.version,
            origin=candidate.origin,
            choices=[],
            state="suggested",
            version=1,
        )
        _fill(mention, candidate)
        self.session.add(mention)
        self.mentions.append(mention)
        return mention

    def _remove(self, mention: Mention) -> None:
        self.mentions.remove(mention)
        if mention in self.session.new:
            self.session.expunge(mention)
        else:
            self.session.delete(mention)

    def apply_lists(self, mentions: Iterable[Mention]) -> None:
        """Reject suggestions on the study's allow-list; accept names that it always replaces.

        A span that merely resembles such a name stays open.
        """
        open_ = [each for each in mentions if each.state == "suggested"]
        if not open_:
            return
        self.session.flush()
        allowed = allowed_surfaces(self.session, self.services, self.row.study_id)
        always: dict[UUID, frozenset[str]] = {}
        for mention in open_:
            surface = fold(self.surface(place_of(mention)))
            entity = self.entities.get(self.canonical(mention.entity_id) or UUID(int=0))
            if surface in allowed:
                self.decide(mention, "rejected", "reject", ALLOW_LIST)
            elif mention.choices:
                continue  # a person must choose the entity
            elif entity is not None and entity.always and entity.erased_at is None:
                if entity.id not in always:
                    record = read_record(self.services, entity)
                    always[entity.id] = frozenset(map(fold, record.surfaces))
                if mention.tier == "sure" or surface in always[entity.id]:
                    self.decide(mention, "accepted", "accept", ALWAYS)

    # --- decisions --------------------------------------------------------------------------------

    def decide(self, mention: Mention, state: str, action: str, rule: str | None = None) -> None:
        before = mention.state
        mention.state = state
        mention.version += 1
        mention.token_id = self.caller.token_id
        mention.decided_at = self.now
        if state == "accepted" and (entity_id := self.canonical(mention.entity_id)) is not None:
            mention.entity_id = entity_id
            assign_pseudonym(self.session, self.services, self.entities[entity_id])
        self.record(mention, action, before, rule)

    def record(self, mention: Mention, action: str, before: str, rule: str | None) -> None:
        self.session.add(
            Decision(
                study_id=self.row.study_id,
                transcript_id=self.row.id,
                mention_id=mention.id,
                entity_id=mention.entity_id,
                action=action,
                rule=rule,
                before=before,
                after=mention.state,
                token_id=self.caller.token_id,
            )
        )

    def touch(self) -> None:
        self.review.version += 1
        self.session.flush()

    # --- following the transcript -----------------------------------------------------------------

    def _follow_transcript(self) -> None:
        """Carry the mentions over to the newest version of the transcript.

        Decisions on unchanged words stay. What an accepted mention was changed to is suggested.
        Mentions of deleted words are dropped.
        """
        if self.review.transcript_version == self.transcript.version:
            return
        then = read_transcript(
            self.session, self.services, self.row, self.review.transcript_version
        )
        anchors = Anchors(then, self.transcript)
        for mention in list(self.mentions):
            carried = anchors.carry(place_of(mention))
            if not carried.places or (carried.is_changed and mention.state == "rejected"):
                self._remove(mention)
                continue
            first, *more = carried.places
            moved = [mention, *(self._copy(mention) for _ in more)]
            for each, place in zip(moved, (first, *more), strict=True):
                if place != place_of(each):
                    each.segment, each.start, each.stop = place.segment, place.start, place.stop
                each.transcript_version = self.transcript.version
                if carried.is_changed and each.state == "accepted":
                    self.decide(each, "suggested", "reopen", CORRECTED)
        self._unite_suggestions()
        self.review.transcript_version = self.transcript.version
        self.review.roster_version = 0  # the new words may contain names
        self.touch()
        self._read_new_words(anchors.new_places())
        log.info("review of %s: at version %d", self.row.id, self.transcript.version)

    def _unite_suggestions(self) -> None:
        """Unite suggestions that a correction has brought together."""
        index = MentionIndex(self.mentions)
        clashing = [
            each
            for each in self.mentions
            if each.state == "suggested" and len(index.overlapping(place_of(each))) > 1
        ]
        for each in clashing:
            self._remove(each)
        self.add(map(candidate_of, clashing))

    def _read_new_words(self, new: Sequence[Place]) -> None:
        """Suggest what the rules find in words that a person has written."""
        if self.transcript.language != "en" or not new:
            return
        ids = {place.segment for place in new}
        self.add(
            candidate
            for candidate in map(_by_rule, find_in(spoken_segments(self.transcript), ids))
            if any(_overlap(candidate.place, place) for place in new)
        )

    # --- following the roster ---------------------------------------------------------------------

    def follow_roster(self) -> None:
        """Search the transcript for the study's names, if they have changed since the last time."""
        current = roster_version(self.session, self.row.study_id)
        if self.review.roster_version == current:
            return
        for mention in self.mentions:
            if mention.choices:
                mention.choices = []
        self.search(self.roster)
        self.apply_lists(self.mentions)
        # Accepting what the study always replaces may give an entity its pseudonym.
        self.review.roster_version = roster_version(self.session, self.row.study_id)
        self.session.flush()

    @cached_property
    def roster(self) -> dict[UUID, EntityRecord]:
        """The names of the study's people, places and things."""
        named = [
            entity
            for entity in self.entities.values()
            if entity.kind in KIND_IN_CLAIMS and entity.merged_into is None
        ]
        return read_records(self.services, named)

    def search(self, records: Mapping[UUID, EntityRecord]) -> list[Mention]:
        """Suggest the spans in which the transcript names these entities."""
        known = [
            KnownEntity(
                str(id),
                KIND_IN_CLAIMS[self.entities[id].kind],
                record.surfaces[0],
                record.surfaces[1:],
            )
            for id, record in records.items()
            if record.names
        ]
        found = find_known(spoken_segments(self.transcript), known)
        candidates = [
            replace(_by_rule(each), entity_id=UUID(each.entity), hint=None, origin="alias")
            for each in found
            if each.entity is not None and (each.tier == "sure" or each.rule == "roster")
        ]
        changed = self.add(candidates, apply_lists=False)
        self._mark_ambiguous(self._index(records))
        self.apply_lists(changed)
        return changed

    def _mark_ambiguous(self, index: NameIndex) -> None:
        """Note for each suggestion which entities have its name, if several have.

        Not where a person has said which one it is.
        """
        for mention in self.mentions:
            if mention.state != "suggested" or mention.token_id is not None:
                continue
            named = index.find(fold(self.surface(place_of(mention))))
            suggested = [] if mention.entity_id is None else [str(mention.entity_id)]
            ids = {str(self.canonical(UUID(id))) for id in (*named, *suggested, *mention.choices)}
            choices = sorted(ids) if named and len(ids) > 1 else mention.choices
            if choices != mention.choices:
                mention.choices = choices

    def named(self, surface: str) -> frozenset[str]:
        """Ids of the entities that have this name."""
        return self._names.find(fold(surface))

    @cached_property
    def _names(self) -> NameIndex:
        return self._index(self.roster)

    def _index(self, records: Mapping[UUID, EntityRecord]) -> NameIndex:
        return NameIndex.of(
            (
                str(id),
                KIND_IN_CLAIMS[self.entities[id].kind] == "person",
                map(fold, record.surfaces),
            )
            for id, record in records.items()
        )

    def forget_roster(self) -> None:
        """Read the names again when they are next needed, because they have changed."""
        for name in ("roster", "_names"):
            self.__dict__.pop(name, None)

    def _copy(self, mention: Mention) -> Mention:
        copy = self.create(candidate_of(mention))
        copy.state = mention.state
        copy.token_id, copy.decided_at = mention.token_id, mention.decided_at
        copy.choices = list(mention.choices)
        return copy


def _fill(mention: Mention, candidate: Candidate) -> None:
    place = candidate.place
    mention.segment, mention.start, mention.stop = place.segment, place.start, place.stop
    mention.label, mention.tier, mention.score = candidate.label, candidate.tier, candidate.score
    mention.votes = list(candidate.votes)
    mention.hint, mention.entity_id = candidate.hint, candidate.entity_id


def _by_rule(occurrence: Occurrence) -> Candidate:
    """A candidate of the service's own rules."""
    place = Place(occurrence.segment_id, occurrence.start, occurrence.end)
    tier, score = occurrence.tier, occurrence.score
    vote = {
        "stage": OWN_STAGE,
        "rule": read_rule(occurrence.rule),
        "tier": tier,
        "score": score,
    }
    return Candidate(place, occurrence.label, tier, score, (vote,))


def _overlap(a: Place, b: Place) -> bool:
    return a.segment == b.segment and a.start < b.stop and b.start < a.stop


def _add_votes(mention: Mention, candidate: Candidate) -> None:
    votes = list(merge_votes(mention.votes, candidate.votes))
    if votes != mention.votes:
        mention.votes = votes
