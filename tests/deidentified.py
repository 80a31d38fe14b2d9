"""A study with transcripts that wait for their review, made without models.

`open_case` makes a study with a roster and one interview. `suggest` does what a de-identifier does.
`accept_all` and `reject` decide without the API.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import select

from models.retiming import retime
from models.transcript import Segment, Transcript, Turn
from scripts.stand_in.jobs import make_job, make_study, make_token
from service.database.tables import Handoff, Mention, StoredTranscript
from service.domain import handoffs
from service.domain.callers import Caller
from service.domain.entities import create_entity
from service.domain.mentions import place_of
from service.domain.review import Decided, ReviewEditor, accepted_spans
from service.domain.transcripts import read_transcript
from service.services import Services
from tests.finished import conversation, finish_job

INTERVIEW = (
    ("SPEAKER_00", "Good morning. Would you tell me your name, and where you live?"),
    ("SPEAKER_01", "My name is Siobhan Gallagher, and I live in Coffs Harbour."),
    ("SPEAKER_00", "Thank you, Shiv. How did you come to the Riverbend Peer Collective?"),
    ("SPEAKER_01", "My brother Tomasz told me about it on the third of March eighty-six."),
    ("SPEAKER_01", "He called me on oh four one two double three four five six seven."),
    ("SPEAKER_00", "So Tomasz knew Siobhan would like it. I hope you did."),
    ("SPEAKER_01", "I did. I was nineteen then, and Coffs was a small town. So was Woolgoolga."),
)
FOUND = (  # segment, text, label, tier, rule, entity: a name of the roster or a hint
    ("s0002", "Siobhan Gallagher", "PERSON", "sure", "roster", "Siobhan Gallagher"),
    ("s0002", "Coffs Harbour", "PLACE", "sure", "roster", "Coffs Harbour"),
    ("s0003", "Shiv", "PERSON", "sure", "roster", "Siobhan Gallagher"),
    (
        *("s0003", "Riverbend Peer Collective", "ORGANISATION", "sure", "roster"),
        "Riverbend Peer Collective",
    ),
    ("s0004", "Tomasz", "PERSON", "sure", "kin", "person-1"),
    ("s0004", "third of March eighty-six", "DATE", "sure", "date", None),
    ("s0005", "oh four one two double three four five six seven", "PHONE", "sure", "mobile", None),
    ("s0006", "Tomasz", "PERSON", "sure", "repeated_name", "person-1"),
    ("s0006", "Siobhan", "PERSON", "sure", "roster", "Siobhan Gallagher"),
    ("s0006", "hope", "PERSON", "unsure", "first_name", "person-2"),
    ("s0007", "nineteen", "AGE", "sure", "age", None),
)
"""`hope` is a word. `Coffs` is found by the service's own search, `Woolgoolga` by nothing."""
N_SUGGESTED = len(FOUND) + 1
ROSTER = (  # kind, pseudonym, names
    ("participant", "P07", ("Siobhan Gallagher", "Shiv")),
    ("place", None, ("Coffs Harbour",)),
    ("organisation", None, ("Riverbend Peer Collective", "the Collective")),
)


@dataclass(frozen=True)
class Case:
    """A study with a transcript that has been handed off. `entities`: by main name."""

    services: Services
    study_id: UUID
    job_id: UUID
    transcript_id: UUID
    caller: Caller
    entities: dict[str, UUID]

    def decided(self) -> Decided:
        with self.services.sessionmaker.begin() as session:
            return accepted_spans(session, self.services, self.caller, self.transcript_id)

    def mentions(self) -> list[Mention]:
        """The mentions, in the order of the text."""
        with self.services.sessionmaker() as session:
            query = select(Mention).where(Mention.transcript_id == self.transcript_id)
            return sorted(session.scalars(query), key=lambda each: (each.segment, each.start))

    def add_transcript(self, said: Sequence[tuple[str, str]]) -> "Case":
        """Another transcript of the study, handed off."""
        job_id = make_job(self.services, self.study_id)
        transcript_id = finish_job(self.services, job_id, make_transcript(said))
        return replace(self, job_id=job_id, transcript_id=transcript_id)


def make_transcript(said: Sequence[tuple[str, str]] = INTERVIEW) -> Transcript:
    """A transcript in which each segment takes five seconds, in words with times."""
    segments = tuple(
        Segment(
            speaker,
            5.0 * i,
            5.0 * i + 4.5,
            tuple(
                replace(word, probability=0.9, placed=False)
                for word in retime((), text, 5.0 * i, 5.0 * i + 4.5)
            ),
        )
        for i, (speaker, text) in enumerate(said)
    )
    base = conversation()
    duration = 5.0 * len(said)
    return replace(
        base,
        duration=duration,
        speakers=tuple(dict.fromkeys(speaker for speaker, _ in said)),
        segments=segments,
        turns=tuple(Turn(each.start, each.end, str(each.speaker)) for each in segments),
        overlaps=(),
        sources=(replace(base.sources[0], duration=duration),),
    )


def open_case(
    services: Services,
    said: Sequence[tuple[str, str]] = INTERVIEW,
    *,
    study_id: UUID | None = None,
    roster: Sequence[tuple[Any, str | None, Sequence[str]]] = ROSTER,
) -> Case:
    """A study with a roster, and a transcript whose hand-off is open."""
    study_id = study_id or make_study(services)
    caller = Caller(make_token(services), "owner", True, frozenset())
    job_id = make_job(services, study_id)
    transcript_id = finish_job(services, job_id, make_transcript(said))
    with services.sessionmaker.begin() as session:
        made = [
            create_entity(session, services, caller, study_id, kind, names, pseudonym=pseudonym)
            for kind, pseudonym, names in roster
        ]
        entities = {row[2][0]: entity.id for row, entity in zip(roster, made, strict=True)}
    return Case(services, study_id, job_id, transcript_id, caller, entities)


def occurrences(case: Case, found: Sequence[Sequence[str | None]] = FOUND) -> list[dict[str, Any]]:
    """What a de-identifier sends for the transcript of `INTERVIEW`, or another with these texts."""
    with case.services.sessionmaker() as session:
        row = session.get_one(Handoff, _handoff_id(case))
        transcript = read_transcript(
            session, case.services, session.get_one(StoredTranscript, row.transcript_id)
        )
    texts = {segment.id: segment.text for segment in transcript.segments}
    made = []
    for segment, text, label, tier, rule, entity in found:
        assert segment is not None and text is not None
        start = texts[segment].index(text)
        if entity in case.entities:
            entity = str(case.entities[entity])
        made.append(
            {
                "segment": segment,
                "start": start,
                "end": start + len(text),
                "label": label,
                "tier": tier,
                "rule": rule,
                "score": 0.9 if tier == "sure" else 0.4,
                "entity": entity,
            }
        )
    return made


def suggest(
    case: Case,
    found: Sequence[Sequence[str | None]] | Callable[[Case], list[dict[str, Any]]] = FOUND,
) -> None:
    """Claim the hand-off and complete it."""
    sent = found(case) if callable(found) else occurrences(case, found)
    with case.services.sessionmaker.begin() as session:
        row = session.get_one(Handoff, _handoff_id(case))
        transcript = session.get_one(StoredTranscript, row.transcript_id)
        row.status, row.fence = "claimed", row.fence + 1
        row.token_id, row.transcript_version = case.caller.token_id, transcript.version
    with case.services.sessionmaker.begin() as session:
        handoffs.complete(session, case.services, case.caller, row.id, row.fence, sent)


def _handoff_id(case: Case) -> UUID:
    with case.services.sessionmaker() as session:
        query = select(Handoff.id).where(
            Handoff.transcript_id == case.transcript_id, Handoff.stage == "default"
        )
        return session.scalars(query).one()


def accept_all(case: Case, *, reject: Sequence[str] = ("hope",)) -> None:
    """Decide on every suggestion: reject these words, accept the others.

    Mentions without an entity that share a hint get a new one.
    """
    with case.services.sessionmaker.begin() as session:
        editor = ReviewEditor.open(session, case.services, case.caller, case.transcript_id)
        by_hint: dict[str, UUID] = {}
        for mention in editor.ordered():
            if mention.state != "suggested":
                continue
            surface = editor.surface(place_of(mention))
            if surface in reject:
                editor.decide(mention, "rejected", "reject")
                continue
            if mention.entity_id is None and mention.hint is not None:
                if mention.hint not in by_hint:
                    entity = create_entity(
                        session, case.services, case.caller, case.study_id, "person", [surface]
                    )
                    editor.entities[entity.id] = entity
                    by_hint[mention.hint] = entity.id
                mention.entity_id = by_hint[mention.hint]
            editor.decide(mention, "accepted", "accept")
