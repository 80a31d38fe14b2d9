"""People's decisions on mentions.

A decision names the version of the mention that it is based on. If somebody has decided on the
mention since, the whole request is refused with the current state, and nothing is overwritten.

ServiceError
├── MentionNotFound
├── MentionChanged
├── EntityAmbiguous
└── BadDecision
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session as DbSession

from models.deidentification.anchoring import Place
from models.transcript import Segment
from service.database.tables import Entity, Job, Mention, Review, StoredTranscript
from service.domain.callers import Caller
from service.domain.corrections import TranscriptChanged
from service.domain.entities import (
    EntityKind,
    EntityNotFound,
    add_alias,
    assign_pseudonym,
    create_entity,
    find_entity,
    fold,
    read_records,
)
from service.domain.mentions import KIND_OF_LABEL, Candidate, covers, place_of
from service.domain.review import ReviewEditor, roster_version
from service.errors import ServiceError
from service.services import Services
from service.vault.errors import MISSING_ERRORS, PERMANENT_ERRORS

Action = Literal["accept", "reject", "set_entity", "reopen", "allow"]
Scope = Literal["mention", "transcript", "study"]
POSSESSIVE = re.compile(r"['’]s$", re.IGNORECASE)

log = logging.getLogger(__name__)


class MentionNotFound(ServiceError):
    """The transcript has no mention with this id."""

    code: ClassVar[str] = "mention_not_found"
    status: ClassVar[int] = 404


@dataclass(frozen=True)
class MentionState:
    """The current state of a mention, without its text."""

    id: UUID
    version: int
    state: str
    entity_id: UUID | None


class MentionChanged(ServiceError):
    """Somebody has decided on the mention since the version that the decision is based on."""

    code: ClassVar[str] = "mention_changed"
    status: ClassVar[int] = 409

    def __init__(self, message: str, mentions: Sequence[MentionState]) -> None:
        super().__init__(message)
        self.mentions = tuple(mentions)


class EntityAmbiguous(ServiceError):
    """Several entities of the study have this name."""

    code: ClassVar[str] = "entity_ambiguous"
    status: ClassVar[int] = 409


class BadDecision(ServiceError):
    """The decision is impossible, for example a span outside its segment."""

    code: ClassVar[str] = "bad_decision"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class MentionDecision:
    """
    `entity_id`, `new_entity`: whom the mention names, for `accept` and `set_entity`: an entity of
    the study, or a new one of this kind, which gets the mention's text as its name. By default the
    entity that the mention suggests; for a name that suggests none, the study's entity of this
    name, else a new one.

    `scope`: also for the suggestions in the transcript or the study that name the same entity; for
    `reject`, those with the same text.
    """

    mention_id: UUID
    version: int
    action: Action
    entity_id: UUID | None = None
    new_entity: EntityKind | None = None
    scope: Scope = "mention"


@dataclass(frozen=True)
class Addition:
    """A span that nothing has suggested: accepted at once.

    `words`: [first, last) of the segment's words; or `span`, characters [start, stop). `origin`:
    `sample` if a second reader found it.
    """

    segment: str
    label: str
    words: tuple[int, int] | None = None
    span: tuple[int, int] | None = None
    entity_id: UUID | None = None
    new_entity: EntityKind | None = None
    scope: Scope = "mention"
    origin: Literal["person", "sample"] = "person"


@dataclass
class Outcome:
    """`elsewhere`: number of mentions that were decided in the study's other transcripts."""

    editor: ReviewEditor
    changed: dict[UUID, Mention] = field(default_factory=dict)
    elsewhere: int = 0


def decide(
    session: DbSession,
    services: Services,
    caller: Caller,
    transcript_id: UUID,
    decisions: Sequence[MentionDecision] = (),
    additions: Sequence[Addition] = (),
    *,
    transcript_version: int | None = None,
) -> Outcome:
    """Make all of these decisions, or none.

    Args:
        transcript_version: to which the additions refer.

    Raises:
        TranscriptNotFound, ReviewNotReady, MentionNotFound, MentionChanged, TranscriptChanged
        EntityNotFound, EntityAmbiguous, BadDecision
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged, DiskFull
    """
    if any(each.scope == "study" or each.action == "allow" for each in decisions) or any(
        each.scope == "study" for each in additions
    ):
        _lock_study(session, caller, transcript_id)
    editor = ReviewEditor.open(session, services, caller, transcript_id)
    decider = Decider(editor)
    mentions = decider.check(decisions)
    if additions and transcript_version != editor.transcript.version:
        raise TranscriptChanged(
            f"The transcript is at version {editor.transcript.version} now: look at it first"
        )
    for mention, decision in zip(mentions, decisions, strict=True):
        decider.apply(mention, decision)
    for addition in additions:
        decider.add(addition)
    decider.finish()
    return decider.outcome


def _lock_study(session: DbSession, caller: Caller, transcript_id: UUID) -> None:
    """Lock all reviews of the study, always in the same order, so that requests cannot deadlock."""
    row = session.get(StoredTranscript, transcript_id)
    if row is not None and caller.may_see(row.study_id):
        query = select(Review.transcript_id).where(Review.study_id == row.study_id)
        session.execute(query.order_by(Review.transcript_id).with_for_update()).all()


class Decider:
    """Applies one request's decisions to an open review."""

    def __init__(self, editor: ReviewEditor) -> None:
        self.editor = editor
        self.session, self.services, self.caller = editor.session, editor.services, editor.caller
        self.outcome = Outcome(editor)
        self._touched: list[ReviewEditor] = []
        self._renamed: set[UUID] = set()  # entities that were given a name
        self._roster = roster_version(self.session, editor.row.study_id)
        self._others: list[ReviewEditor] | None = None

    def check(self, decisions: Sequence[MentionDecision]) -> list[Mention]:
        """
        Returns:
            The mention of each decision.

        Raises:
            MentionNotFound, MentionChanged, BadDecision
        """
        by_id = {each.id: each for each in self.editor.mentions}
        if len({each.mention_id for each in decisions}) < len(decisions):
            raise BadDecision("A request holds at most one decision on each mention")
        mentions, changed = [], []
        for decision in decisions:
            mention = by_id.get(decision.mention_id)
            if mention is None:
                raise MentionNotFound("The transcript has no such mention: read the review again")
            if mention.version != decision.version:
                changed.append(
                    MentionState(mention.id, mention.version, mention.state, mention.entity_id)
                )
            mentions.append(mention)
        if changed:
            raise MentionChanged(
                f"{len(changed)} mentions have changed since: nothing was decided; compare, then "
                "send your decisions again",
                changed,
            )
        return mentions

    def apply(self, mention: Mention, decision: MentionDecision) -> None:
        if decision.action == "reject":
            self._reject(mention, decision.scope)
        elif decision.action == "allow":
            self._allow(mention)
        elif decision.action == "reopen":
            if mention.state != "suggested":
                self._decide(self.editor, mention, "suggested", "reopen")
        else:
            entity = self._entity_of(mention, decision.entity_id, decision.new_entity)
            if decision.action == "set_entity":
                self._set_entity(mention, entity, decision.scope)
            else:
                self._accept(mention, entity, decision.scope)

    # --- accepting --------------------------------------------------------------------------------

    def _accept(self, mention: Mention, entity: Entity | None, scope: Scope) -> None:
        same = self._same(mention, entity, scope)
        if entity is not None:  # before its names: the study is locked before its entities
            assign_pseudonym(self.session, self.services, entity)
        for editor, each in ((self.editor, mention), *same):
            self._name(editor, each, entity)
            self._decide(editor, each, "accepted", "accept")

    def _set_entity(self, mention: Mention, entity: Entity | None, scope: Scope) -> None:
        if entity is None:
            raise BadDecision("Say which entity the mention names")
        for editor, each in ((self.editor, mention), *self._same(mention, entity, scope)):
            self._name(editor, each, entity)
            self._decide(editor, each, each.state, "set_entity")

    def _same(
        self, mention: Mention, entity: Entity | None, scope: Scope
    ) -> list[tuple[ReviewEditor, Mention]]:
        """Other suggestions of the same entity or text, in this transcript or in the study."""
        if scope == "mention":
            return []
        surface = self._surface(self.editor, mention)
        target = None if entity is None else entity.id

        def is_same(editor: ReviewEditor, each: Mention) -> bool:
            if each is mention or each.state != "suggested":
                return False
            own = editor.canonical(each.entity_id)
            if own is not None or target is None:
                return own == target and (
                    target is not None
                    or (each.label == mention.label and self._surface(editor, each) == surface)
                )
            same_hint = editor is self.editor and each.hint is not None and each.hint == hint
            return same_hint or self._surface(editor, each) == surface

        hint = mention.hint
        return [
            (editor, each)
            for editor in self._editors(scope)
            for each in editor.ordered()
            if is_same(editor, each)
        ]

    def _entity_of(
        self, mention: Mention, entity_id: UUID | None, new: EntityKind | None
    ) -> Entity | None:
        """
        Raises:
            EntityNotFound, EntityAmbiguous, Erased
        """
        editor = self.editor
        surface = editor.surface(place_of(mention))
        if entity_id is not None:
            return self._find(entity_id)
        if new is not None:
            return self._create(new, surface)
        if len(mention.choices) > 1 and mention.state == "suggested":
            raise EntityAmbiguous("Several entities have this name: say which one is meant")
        if (suggested := editor.canonical(mention.entity_id)) is not None:
            return editor.entities[suggested]  # may be erased: its pseudonym stays
        if mention.label not in KIND_OF_LABEL:
            return None
        for each in editor.mentions:
            if each.hint == mention.hint is not None and each.state == "accepted":
                if each.entity_id is not None:
                    return self._find(each.entity_id)
        named = editor.named(surface)
        if len(named) > 1:
            raise EntityAmbiguous("Several entities have this name: say which one is meant")
        if named:
            return self._find(UUID(next(iter(named))))
        kind = KIND_OF_LABEL[mention.label]
        return self._create(kind, surface)  # type: ignore[arg-type]

    def _find(self, entity_id: UUID) -> Entity:
        entity = find_entity(self.session, self.caller, entity_id)
        if entity.study_id != self.editor.row.study_id or entity.kind == "allowed":
            raise EntityNotFound("There is no such entity, or it is not yours")
        return entity

    def _create(self, kind: EntityKind, surface: str) -> Entity:
        study_id = self.editor.row.study_id
        entity = create_entity(self.session, self.services, self.caller, study_id, kind, [surface])
        self._know(entity)
        return entity

    def _know(self, entity: Entity) -> None:
        self.editor.entities[entity.id] = entity
        for other in self._others or ():
            other.entities[entity.id] = entity
        self.editor.forget_roster()
        self._renamed.add(entity.id)

    def _name(self, editor: ReviewEditor, mention: Mention, entity: Entity | None) -> None:
        """Set the mention's entity, and add the mention's text to the entity's names."""
        mention.entity_id = None if entity is None else entity.id
        mention.choices = []
        if entity is not None and entity.erased_at is None:
            surface = editor.surface(place_of(mention))
            if add_alias(self.session, self.services, self.caller, entity, surface, "reviewer"):
                self._know(entity)

    # --- rejecting --------------------------------------------------------------------------------

    def _reject(self, mention: Mention, scope: Scope) -> None:
        surface = self._surface(self.editor, mention)
        for editor, each in list(self._open(scope)):
            if each is not mention and self._surface(editor, each) == surface:
                self._decide(editor, each, "rejected", "reject")
        self._decide(self.editor, mention, "rejected", "reject")

    def _allow(self, mention: Mention) -> None:
        """Put the mention's text on the study's allow-list."""
        surface = self.editor.surface(place_of(mention))
        study_id = self.editor.row.study_id
        entity = create_entity(
            self.session, self.services, self.caller, study_id, "allowed", [surface]
        )
        self.editor.entities[entity.id] = entity
        for editor, each in list(self._open("study")):
            if each is not mention and self._surface(editor, each) == fold(surface):
                self._decide(editor, each, "rejected", "allow")
        self._decide(self.editor, mention, "rejected", "allow")

    # --- adding -----------------------------------------------------------------------------------

    def add(self, addition: Addition) -> Mention:
        """
        Returns:
            The mention, which may have been there before.

        Raises:
            BadDecision, EntityNotFound, EntityAmbiguous, Erased, DiskFull
        """
        place = self.place(addition)
        editor = self.editor
        overlapping = [
            each
            for each in editor.mentions
            if each.segment == place.segment and each.start < place.stop and place.start < each.stop
        ]
        for each in overlapping:
            if each.state == "accepted" and covers(each, place):
                return each
        mention = next((each for each in overlapping if place_of(each) == place), None)
        if mention is None:
            vote = {"stage": "person", "rule": None, "tier": None, "score": None}
            mention = editor.create(
                Candidate(place, addition.label, None, None, (vote,), origin=addition.origin)
            )
        else:
            mention.label = addition.label
        known = addition.entity_id
        if known is None and addition.new_entity is None and addition.label in KIND_OF_LABEL:
            # `Doctor Gallagher` around an accepted `Gallagher` names the same person.
            named = [each for each in overlapping if each.entity_id and each.state != "rejected"]
            named.sort(key=lambda each: each.state)
            known = editor.canonical(named[0].entity_id) if named else None
        entity = self._entity_of(mention, known, addition.new_entity)
        self._accept(mention, entity, addition.scope)
        return mention

    def place(self, addition: Addition) -> Place:
        """
        Raises:
            BadDecision
        """
        segments = {segment.id: segment for segment in self.editor.transcript.segments}
        segment = segments.get(addition.segment)
        if segment is None:
            raise BadDecision("The transcript has no such segment")
        if addition.words is not None:
            span = word_span(segment, *addition.words)
        else:
            assert addition.span is not None
            span = addition.span
            start, stop = span
            if not 0 <= start < stop <= len(segment.text) or not segment.text[start:stop].strip():
                raise BadDecision("The span lies outside the segment's text, or holds no text")
        return Place(segment.id, *span)

    # --- all of them ------------------------------------------------------------------------------

    def _decide(self, editor: ReviewEditor, mention: Mention, state: str, action: str) -> None:
        editor.decide(mention, state, action)
        if editor not in self._touched:
            self._touched.append(editor)
        if editor is self.editor:
            self.outcome.changed[mention.id] = mention
        else:
            self.outcome.elsewhere += 1

    def _surface(self, editor: ReviewEditor, mention: Mention) -> str:
        return fold(editor.surface(place_of(mention)))

    def _open(self, scope: Scope) -> Iterator[tuple[ReviewEditor, Mention]]:
        if scope != "mention":
            for editor in self._editors(scope):
                for each in editor.ordered():
                    if each.state == "suggested":
                        yield editor, each

    def _editors(self, scope: Scope) -> Iterable[ReviewEditor]:
        if scope != "study":
            return [self.editor]
        if self._others is None:
            self._others = [*self._open_others()]
        return [self.editor, *self._others]

    def _open_others(self) -> Iterator[ReviewEditor]:
        """The reviews of the study's other transcripts that have suggestions."""
        own = self.editor.row
        query = (
            select(Review.transcript_id)
            .join(StoredTranscript, StoredTranscript.id == Review.transcript_id)
            .join(Job, Job.id == StoredTranscript.job_id)
            .where(Review.study_id == own.study_id, Review.transcript_id != own.id)
            .where(Job.status != "erased")
            .where(
                select(Mention.id)
                .where(Mention.transcript_id == Review.transcript_id)
                .where(Mention.state == "suggested")
                .exists()
            )
            .order_by(Review.transcript_id)
        )
        for id in self.session.scalars(query).all():
            try:
                yield ReviewEditor.open(self.session, self.services, self.caller, id)
            except (*PERMANENT_ERRORS, *MISSING_ERRORS) as error:
                log.error("transcript %s: cannot be reviewed: %s", id, error.code)

    def finish(self) -> None:
        """Search the transcript for the new names of entities."""
        editor = self.editor
        self.session.flush()
        if self._renamed:
            named = read_records(self.services, [editor.entities[id] for id in self._renamed])
            for mention in editor.search(named):
                self.outcome.changed[mention.id] = mention
        if editor.review.roster_version == self._roster:
            # No other request has changed a name meanwhile, so no name is left to search for.
            editor.review.roster_version = roster_version(self.session, editor.row.study_id)
        for each in self._touched:
            each.touch()


def word_span(segment: Segment, first: int, last: int) -> tuple[int, int]:
    """Characters of words [first, last), without punctuation around them or a possessive ending.

    Raises:
        BadDecision
    """
    if not 0 <= first < last <= len(segment.words):
        raise BadDecision(f"The segment has {len(segment.words)} words")
    texts = [word.text for word in segment.words]
    joined = "".join(texts)
    lead = len(joined) - len(joined.lstrip())
    start = sum(map(len, texts[:first])) - lead
    stop = sum(map(len, texts[:last])) - lead
    inside = [i for i in range(max(start, 0), stop) if joined[lead + i : lead + i + 1].isalnum()]
    if not inside:
        raise BadDecision("The words hold no letter or digit")
    start, stop = inside[0], inside[-1] + 1
    if match := POSSESSIVE.search(segment.text[start:stop]):
        stop = start + match.start()
    return start, stop
