"""The review of a transcript's mentions, in which people decide on each of them.

A review begins when the first de-identifier completes its hand-off. It follows the transcript:
mentions whose words a correction left unchanged keep their decisions.

ServiceError
├── ReviewNotReady
└── ReviewOpen
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Self
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session as DbSession

from models.deidentification.anchoring import Anchors, Carried, Place
from models.transcript import Transcript
from service.database.queries import read_clock
from service.database.tables import Decision, Entity, Handoff, Mention, Review, StoredTranscript
from service.domain.callers import Caller
from service.domain.entities import allowed_surfaces, assign_pseudonym, fold, read_record
from service.domain.mentions import (
    Candidate,
    HintReader,
    MentionIndex,
    candidate_of,
    covers,
    place_of,
    read_label,
    read_rule,
    unite,
)
from service.domain.transcripts import find_transcript, read_transcript
from service.errors import ServiceError
from service.services import Services

ALWAYS, ALLOW_LIST, CORRECTED = "always", "allow_list", "corrected"
"""Rules that decide; a person's decisions have none."""

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

    `entity_id`: never that of an entity that was merged into another. None for dates, numbers and
    the like.
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
    """Add the occurrences of a completed hand-off to the review, which begins if it has not yet.

    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    row = session.get_one(StoredTranscript, handoff.transcript_id)
    version = handoff.transcript_version
    assert version is not None
    _begin(session, row, version)
    editor = ReviewEditor.open(session, services, caller, row.id)
    editor.add_occurrences(handoff.stage, version, occurrences)


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
        cls, session: DbSession, services: Services, caller: Caller, transcript_id: UUID
    ) -> Self:
        """
        Raises:
            TranscriptNotFound, ReviewNotReady
            Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
        """
        find_transcript(session, caller, transcript_id)
        session.flush()
        review = session.get(Review, transcript_id, with_for_update=True, populate_existing=True)
        if review is None:
            raise ReviewNotReady(
                "No de-identifier has completed the hand-off yet: `fieldscribe handoffs` shows "
                "how far it is"
            )
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

    def canonical(self, entity_id: UUID | None) -> UUID | None:
        """The entity that an entity was merged into, else itself."""
        while entity_id is not None and (into := self.entities[entity_id].merged_into) is not None:
            entity_id = into
        return entity_id

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

    def add(self, candidates: Iterable[Candidate]) -> list[Mention]:
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
                changed.append(self._unite(suggested, candidate))
            else:
                changed.append(self._new(candidate))
        if changed:
            self._touch()
            self.apply_lists(changed)
        return changed

    def _unite(self, suggested: Sequence[Mention], candidate: Candidate) -> Mention:
        whole = candidate
        for each in suggested:
            whole = unite([whole, candidate_of(each)])[0]
        mention, *absorbed = suggested
        _fill(mention, whole)
        mention.version += 1
        for each in absorbed:
            self._remove(each)
        return mention

    def _new(self, candidate: Candidate) -> Mention:
        mention = Mention(
            id=uuid4(),
            study_id=self.row.study_id,
            transcript_id=self.row.id,
            transcript_version=self.transcript.version,
            origin=candidate.origin,
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
        """Reject suggestions on the study's allow-list, and accept those that it always replaces.

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
            if self.entities[entity_id].erased_at is None:
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

    def _touch(self) -> None:
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
        carry = self._carrier(self.review.transcript_version)
        for mention in list(self.mentions):
            carried = carry(place_of(mention))
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
        self.review.transcript_version = self.transcript.version
        self._touch()
        log.info("review of %s: at version %d", self.row.id, self.transcript.version)

    def _copy(self, mention: Mention) -> Mention:
        copy = self._new(candidate_of(mention))
        copy.state = mention.state
        copy.token_id, copy.decided_at = mention.token_id, mention.decided_at
        return copy


def _fill(mention: Mention, candidate: Candidate) -> None:
    place = candidate.place
    mention.segment, mention.start, mention.stop = place.segment, place.start, place.stop
    mention.label, mention.tier, mention.score = candidate.label, candidate.tier, candidate.score
    mention.votes = list(candidate.votes)
    mention.hint, mention.entity_id = candidate.hint, candidate.entity_id


def _add_votes(mention: Mention, candidate: Candidate) -> None:
    mention.votes = [*mention.votes, *(one for one in candidate.votes if one not in mention.votes)]
