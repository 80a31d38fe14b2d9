"""The review of a transcript's mentions."""

import itertools
import json
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select

from models.corrections import KEEP
from service.database.tables import Decision, Entity, Handoff
from service.domain.corrections import Editor
from service.domain.review import ReviewNotReady, ReviewOpen, require_finished
from tests.api import open_api
from tests.deidentified import FOUND, INTERVIEW, N_SUGGESTED, accept_all, open_case, suggest


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def services(api):
    return api.services


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


# --- several stages -------------------------------------------------------------------------------

EVA = {"label": "PERSON", "rule": "ward", "entity": "person-1", "tier": "sure", "score": 0.7}


def at(segment, text):
    """An occurrence of a text of the interview."""
    said = INTERVIEW[int(segment[1:]) - 1][1]
    return {
        **EVA,
        "segment": segment,
        "start": said.index(text),
        "end": said.index(text) + len(text),
    }


def complete(api, case, stage, *occurrences, token=None):
    """Claim the case's transcript for a stage and complete it."""
    token = token or api.token("deidentifier", str(case.study_id))
    claimed = api.post(f"/v1/handoffs/claim?stage={stage}", token=token)
    assert claimed.status_code == 200, claimed.text
    assert claimed.json()["transcript_id"] == str(case.transcript_id)
    path = f"/v1/handoffs/{claimed.json()['id']}/complete"
    body = {"fence": claimed.json()["fence"], "occurrences": list(occurrences)}
    answer = api.post(path, json=body, token=token)
    assert answer.status_code == 200, answer.text
    return claimed.json()


def test_each_stage_has_a_hand_off_of_its_own(api, services):
    case = open_case(services)
    token = api.token("deidentifier", str(case.study_id))
    first = complete(api, case, "default", token=token)
    second = complete(api, case, "hospital-names", token=token)

    assert (first["stage"], second["stage"]) == ("default", "hospital-names")
    assert first["id"] != second["id"]
    for stage in ("default", "hospital-names"):
        assert api.post(f"/v1/handoffs/claim?stage={stage}", token=token).status_code == 204
    listed = api.get("/v1/handoffs", token=token).json()["items"]
    assert {each["stage"]: each["status"] for each in listed} == {
        "default": "completed",
        "hospital-names": "completed",
    }


def test_two_clients_of_a_stage_get_one_hand_off(api, services):
    case = open_case(services)
    token = api.token("deidentifier", str(case.study_id))
    answers = []

    def claim():
        answers.append(api.post("/v1/handoffs/claim?stage=second", token=token))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer.status_code for answer in answers) == [200, 204, 204, 204]


@pytest.mark.parametrize("stage", ["Eva Muster", "Eva", "a" * 60, ""])
def test_the_name_of_a_stage_is_a_code(api, services, stage):
    token = api.token("deidentifier", all_studies=True)
    answer = api.post("/v1/handoffs/claim", params={"stage": stage}, token=token)

    assert answer.status_code == 422
    assert "Eva" not in answer.text


def test_stages_are_united_and_each_vote_is_kept(api, case):
    """One finds `Tomasz told`, which overlaps a suggestion, and `Woolgoolga`, which none has."""
    town = {**at("s0007", "Woolgoolga"), "label": "GPE", "entity": "x-9"}
    complete(api, case, "second", at("s0004", "Tomasz told"), town)
    found = {text: each for each, text in zip(case.mentions(), spelt(case), strict=True)}

    assert {vote["stage"] for vote in found["Tomasz told"].votes} == {"default", "second"}
    assert (found["Woolgoolga"].label, found["Woolgoolga"].hint) == ("PLACE", "x-9")
    assert found["Tomasz told"].hint == "person-1"
    assert found["Woolgoolga"].state == "suggested"


def test_a_later_stage_changes_no_decision(api, case):
    accept_all(case)
    before = case.decided()
    seen = (at("s0004", "Tomasz"), at("s0006", "hope"), at("s0003", "you, Shiv"))
    complete(api, case, "second", *seen)
    after = case.decided()

    assert after.spans == before.spans
    assert after.n_open == 1  # `you, Shiv` goes beyond what somebody has decided
    found = {text: each for each, text in zip(case.mentions(), spelt(case), strict=True)}
    assert [one["stage"] for one in found["hope"].votes] == ["default", "second"]


def test_overlapping_accepted_mentions_are_one_span(api, case):
    accept_all(case)
    complete(api, case, "second", at("s0003", "you, Shiv"))
    accept_all(case)
    spans = [each for each in case.decided().spans if each.segment == "s0003"]

    assert [(each.start, each.stop) for each in spans][0] == (6, 15)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(spans))


def test_a_review_is_not_finished_while_a_stage_holds_a_claim(api, case):
    accept_all(case)
    token = api.token("deidentifier", str(case.study_id))
    claimed = api.post("/v1/handoffs/claim?stage=second", token=token).json()
    with pytest.raises(ReviewOpen):
        require_finished(case.decided())
    with case.services.sessionmaker.begin() as session:
        row = session.get_one(Handoff, UUID(claimed["id"]))
        row.lease_until = datetime.now(UTC) - timedelta(seconds=1)

    require_finished(case.decided())  # the de-identifier was killed


def test_occurrences_of_an_earlier_version_move_with_their_words(api, services):
    case = open_case(services)
    token = api.token("deidentifier", str(case.study_id))
    claimed = api.post("/v1/handoffs/claim", token=token).json()
    correct(case, "s0004", "Well, my brother Tomasz told me.")
    body = {"fence": 1, "occurrences": [{**EVA, "segment": "s0004", "start": 11, "end": 17}]}
    answer = api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body, token=token)
    assert answer.status_code == 200, answer.text

    assert case.decided().transcript.version == 2
    (tomasz,) = (each for each in case.mentions() if each.segment == "s0004")
    assert (tomasz.start, tomasz.stop) == (17, 23)


# --- much, and wrong ------------------------------------------------------------------------------


def test_a_million_occurrences_are_refused_and_nothing_is_stored(api, services):
    case = open_case(services)
    token = api.token("deidentifier", str(case.study_id))
    claimed = api.post("/v1/handoffs/claim", token=token).json()
    one = b'{"segment":"s0001","start":0,"end":4,"label":"PERSON"}'
    body = b'{"fence":1,"occurrences":[' + b",".join([one] * 1_000_000) + b"]}"
    answer = api.post(
        f"/v1/handoffs/{claimed['id']}/complete",
        content=body,
        headers={"Content-Type": "application/json"},
        token=token,
    )

    assert answer.status_code == 413
    with pytest.raises(ReviewNotReady):
        case.decided()


def test_as_many_occurrences_as_the_api_takes_are_united(api, services):
    case = open_case(services)
    token = api.token("deidentifier", str(case.study_id))
    spans = [
        {
            **{"segment": "s0001", "start": i % 50, "end": i % 50 + 1 + i % 9, "label": "PERSON"},
            "rule": f"rule_{i}",
        }
        for i in range(50_000)
    ]
    complete(api, case, "default", *spans, token=token)
    decided = [each for each in case.mentions() if each.segment == "s0001"]

    assert [(each.start, each.stop) for each in decided] == [(0, 58)]
    assert len(decided[0].votes) == 50


def test_occurrences_of_another_transcript_are_refused(api, services):
    case = open_case(services)
    other = case.add_transcript([("SPEAKER_00", "Hm.")])
    token = api.token("deidentifier", str(case.study_id))
    first = api.post("/v1/handoffs/claim", token=token).json()
    assert first["transcript_id"] == str(case.transcript_id)
    second = api.post("/v1/handoffs/claim", token=token).json()
    body = {"fence": 1, "occurrences": [{**EVA, "segment": "s0004", "start": 11, "end": 17}]}
    answer = api.post(f"/v1/handoffs/{second['id']}/complete", json=body, token=token)

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_occurrence")
    with pytest.raises(ReviewNotReady):
        other.decided()


def spelt(case):
    return texts(case, case.mentions())
