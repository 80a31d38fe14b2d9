"""The review of a transcript's mentions."""

import json

import pytest
from sqlalchemy import select

from models.corrections import KEEP
from service.database.tables import Decision, Entity
from service.domain.corrections import Editor
from service.domain.review import ReviewNotReady, ReviewOpen, require_finished
from tests.api import open_api
from tests.deidentified import FOUND, N_SUGGESTED, accept_all, open_case, suggest


@pytest.fixture(scope="module")
def services(module_settings):
    with open_api(module_settings) as api:
        yield api.services


@pytest.fixture
def case(services):
    case = open_case(services)
    suggest(case)
    return case


def texts(case, spans):
    of = {segment.id: segment.text for segment in case.decided().transcript.segments}
    return [of[one.segment][one.start : one.stop] for one in spans]


def correct(case, segment, text):
    with case.services.sessionmaker.begin() as session:
        editor = Editor.open(session, case.services, case.caller, case.transcript_id)
        editor.edit(segment, editor.row.version, text=text, speaker=KEEP, checked_by=KEEP)


def test_a_review_begins_when_a_hand_off_is_completed(services):
    case = open_case(services)
    with pytest.raises(ReviewNotReady):
        case.decided()
    suggest(case)

    assert case.decided().n_open == N_SUGGESTED
    assert case.decided().spans == ()


def test_accepted_spans_are_in_order_with_their_entities(case):
    accept_all(case)
    decided = case.decided()

    assert texts(case, decided.spans) == [*(row[1] for row in FOUND if row[1] != "hope"), "Coffs"]
    assert (decided.n_open, decided.transcript.version) == (0, 1)
    by_text = dict(zip(texts(case, decided.spans), decided.spans, strict=True))
    assert by_text["Siobhan"].entity_id == case.entities["Siobhan Gallagher"]
    assert by_text["nineteen"].entity_id is None
    require_finished(decided)


def test_a_review_with_open_suggestions_is_not_finished(case):
    with pytest.raises(ReviewOpen):
        require_finished(case.decided())


def test_an_accepted_entity_gets_a_pseudonym(case):
    accept_all(case)
    with case.services.sessionmaker() as session:
        rows = session.scalars(select(Entity).where(Entity.study_id == case.study_id)).all()

    assert all(row.pseudonym for row in rows)
    assert session.get(Entity, case.entities["Siobhan Gallagher"]).pseudonym == "P07"


def test_every_decision_is_recorded_without_text(case):
    accept_all(case)
    with case.services.sessionmaker() as session:
        query = select(Decision).where(Decision.transcript_id == case.transcript_id)
        rows = session.scalars(query).all()

    assert len(rows) == N_SUGGESTED
    assert {(row.before, row.after) for row in rows} == {
        ("suggested", "accepted"),
        ("suggested", "rejected"),
    }
    for name in ("Siobhan", "Gallagher", "Tomasz", "Coffs"):
        assert name not in json.dumps([{k: str(v) for k, v in vars(row).items()} for row in rows])
