"""The review over the API: reading it, deciding, adding, and what concerns the whole study."""

import json
import threading
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from service.database.tables import Decision, Entity, LinkageLookup
from service.domain.entities import create_entity, read_record
from tests.api import open_api
from tests.deidentified import FOUND, N_SUGGESTED, accept_all, open_case, suggest
from tests.test_jobs import codes

NAMES = ("Siobhan", "Gallagher", "Shiv", "Tomasz", "Coffs", "Riverbend", "Woolgoolga")
OTHER = (("SPEAKER_00", "Was Tomasz there?"), ("SPEAKER_01", "Yes, Tomasz and hope were there."))
IN_OTHER = (
    ("s0001", "Tomasz", "PERSON", "sure", "kin", "person-1"),
    ("s0002", "Tomasz", "PERSON", "sure", "kin", "person-1"),
    ("s0002", "hope", "PERSON", "unsure", "first_name", "person-2"),
)


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def case(api):
    case = open_case(api.services)
    suggest(case)
    return case


@pytest.fixture
def token(api, case):
    return api.token("researcher", str(case.study_id))


def path(case, rest=""):
    return f"/v1/transcripts/{case.transcript_id}/review{rest}"


def read(api, case, token=None):
    answer = api.get(path(case), token=token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def find(view, text, segment=None):
    return next(
        each
        for each in view["mentions"]
        if each["text"] == text and segment in (None, each["segment"])
    )


def decision(mention, action, **more):
    return {"mention": mention["id"], "version": mention["version"], "action": action, **more}


def decide(api, case, *decisions, token=None, **more):
    body = {"decisions": list(decisions), **more}
    return api.post(path(case, "/decisions"), json=body, token=token)


def decided(api, case, *decisions, **more):
    answer = decide(api, case, *decisions, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def states(view):
    return {(each["segment"], each["text"]): each["state"] for each in view["mentions"]}


# --- reading --------------------------------------------------------------------------------------


def test_the_review_shows_every_mention_with_its_votes(api, case, token):
    answer = api.get(path(case), token=token)
    view = answer.json()

    assert answer.headers["ETag"] == f'"{view["version"]}"'
    assert [each["text"] for each in view["mentions"]] == [*(row[1] for row in FOUND), "Coffs"]
    assert (view["n_open"], view["n_accepted"], view["n_rejected"]) == (N_SUGGESTED, 0, 0)
    assert view["stages"] == {"default": "completed"}
    tomasz = find(view, "Tomasz")
    assert tomasz["votes"] == [{"stage": "default", "rule": "kin", "tier": "sure", "score": 0.9}]
    assert find(view, "Coffs")["origin"] == "alias"


def test_the_review_names_no_entity_and_reading_names_is_recorded(api, case, token):
    view = api.get(path(case), token=token)
    named = api.get(path(case, "/entities"), token=token).json()["items"]

    assert "the Collective" not in view.text  # an alias that the transcript does not hold
    assert [sorted(each["names"])[0] for each in named] == [
        "Shiv",
        "Coffs Harbour",
        "Riverbend Peer Collective",
    ]
    with api.services.sessionmaker() as session:
        query = select(LinkageLookup).where(LinkageLookup.transcript_id == case.transcript_id)
        looked_up = session.scalars(query).all()
    assert {each.entity_id for each in looked_up} == set(case.entities.values())
    assert {each.reason for each in looked_up} == {"review"}


def test_before_a_hand_off_is_completed_there_is_no_review(api):
    case = open_case(api.services)

    assert codes(api.get(path(case))) == (409, "review_not_ready")
    assert codes(api.get(path(case, "/decisions"))) == (409, "review_not_ready")
    assert codes(decide(api, case)) == (409, "review_not_ready")


def test_a_review_can_begin_without_a_de_identifier(api):
    case = open_case(api.services)
    answers = [api.post(path(case)) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [each["text"] for each in answers[1].json()["mentions"]] == [
        "Siobhan Gallagher",
        "Coffs Harbour",
        "Shiv",
        "Riverbend Peer Collective",
        "Siobhan",
        "Coffs",
    ]


@pytest.mark.parametrize("role", ["coder", "custodian", "deidentifier", "admin", "worker"])
def test_only_researchers_review(api, case, role):
    token = api.token(role, str(case.study_id))

    assert codes(api.get(path(case), token=token)) == (403, "not_allowed")
    assert codes(decide(api, case, token=token)) == (403, "not_allowed")


def test_another_studys_review_looks_like_none(api, case):
    stranger = api.token("researcher", api.study()["id"])

    assert codes(api.get(path(case), token=stranger)) == (404, "transcript_not_found")
    assert api.get("/v1/reviews", token=stranger).json()["items"] == []


def test_reviews_are_listed_with_counts(api, case, token):
    (listed,) = api.get("/v1/reviews", token=token).json()["items"]

    assert listed["transcript_id"] == str(case.transcript_id)
    assert listed["n_open"] == N_SUGGESTED
    assert listed["is_current"] is True


def test_the_list_says_which_reviews_are_out_of_date(api, case, token):
    def is_current():
        (listed,) = api.get("/v1/reviews", token=token).json()["items"]
        return listed["is_current"]

    body = {"kind": "place", "names": ["Woolgoolga"]}
    made = api.post(f"/v1/studies/{case.study_id}/entities", json=body, token=token)
    assert made.status_code == 201, made.text
    assert is_current() is False
    assert find(read(api, case), "Woolgoolga")["state"] == "suggested"
    assert is_current() is True


# --- deciding -------------------------------------------------------------------------------------


def test_a_mention_is_accepted_for_the_entity_that_it_suggests(api, case, token):
    shiv = find(read(api, case), "Shiv")
    answer = decided(api, case, decision(shiv, "accept"), token=token)

    (mention,) = answer["mentions"]
    assert (mention["state"], mention["version"]) == ("accepted", shiv["version"] + 1)
    assert mention["entity_id"] == str(case.entities["Siobhan Gallagher"])
    assert answer["n_open"] == N_SUGGESTED - 1
    assert answer["version"] == read(api, case)["version"]


def test_accepting_an_unknown_name_makes_an_entity_with_a_pseudonym(api, case):
    tomasz = find(read(api, case), "Tomasz")
    answer = decided(api, case, decision(tomasz, "accept"))
    id = answer["mentions"][0]["entity_id"]
    (entity,) = (each for each in answer["entities"] if each["id"] == id)

    assert (entity["kind"], entity["pseudonym"][:7]) == ("person", "PERSON-")
    with api.services.sessionmaker() as session:
        record = read_record(api.services, session.get_one(Entity, UUID(id)))
    assert record.surfaces == ("Tomasz",)


def test_a_second_mention_with_the_same_hint_names_the_same_entity(api, case):
    first, second = (find(read(api, case), "Tomasz", each) for each in ("s0004", "s0006"))
    one = decided(api, case, decision(first, "accept"))
    second = find(read(api, case), "Tomasz", "s0006")
    two = decided(api, case, decision(second, "accept"))

    assert two["mentions"][0]["entity_id"] == one["mentions"][0]["entity_id"]


def test_a_date_needs_no_entity(api, case):
    date = find(read(api, case), "third of March eighty-six")
    (mention,) = decided(api, case, decision(date, "accept"))["mentions"]

    assert (mention["state"], mention["entity_id"]) == ("accepted", None)


def test_a_rejected_mention_can_be_reopened(api, case):
    hope = find(read(api, case), "hope")
    (mention,) = decided(api, case, decision(hope, "reject"))["mentions"]
    assert mention["state"] == "rejected"
    (mention,) = decided(api, case, decision(mention, "reopen"))["mentions"]

    assert mention["state"] == "suggested"


def test_the_entity_of_a_mention_can_be_changed(api, case):
    tomasz = find(read(api, case), "Tomasz")
    place = str(case.entities["Coffs Harbour"])
    answer = decided(api, case, decision(tomasz, "set_entity", entity=place))
    mention = find(answer, "Tomasz", "s0004")

    assert (mention["state"], mention["entity_id"]) == ("suggested", place)


def test_one_request_decides_on_many_mentions(api, case):
    view = read(api, case)
    shiv, hope = find(view, "Shiv"), find(view, "hope")
    answer = decided(api, case, decision(shiv, "accept"), decision(hope, "reject"))

    assert states(answer) == {("s0003", "Shiv"): "accepted", ("s0006", "hope"): "rejected"}


def test_two_reviewers_never_overwrite_each_other(api, case, token):
    view = read(api, case)
    shiv, hope = find(view, "Shiv"), find(view, "hope")
    decided(api, case, decision(shiv, "reject"), token=token)
    late = decide(api, case, decision(hope, "reject"), decision(shiv, "accept"))

    assert codes(late) == (409, "mention_changed")
    assert late.json()["mentions"] == [
        {
            "id": shiv["id"],
            "version": shiv["version"] + 1,
            "state": "rejected",
            "entity_id": shiv["entity_id"],
        }
    ]
    now = read(api, case)
    assert find(now, "Shiv")["state"] == "rejected"
    assert find(now, "hope")["state"] == "suggested"  # nothing of the request was decided


def test_of_two_decisions_at_once_one_is_refused(api, case):
    shiv = find(read(api, case), "Shiv")
    answers = []

    def send(action):
        answers.append(decide(api, case, decision(shiv, action)))

    threads = [threading.Thread(target=send, args=(each,)) for each in ("accept", "reject")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer.status_code for answer in answers) == [200, 409]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"decisions": [{"mention": str(uuid4()), "version": 1, "action": "accept"}]}, 404),
        ({"additions": [{"segment": "s0001", "words": [0, 1], "label": "PERSON"}]}, 422),
        ({"decisions": [{"action": "accept_all"}]}, 422),
    ],
    ids=["a mention of nobody", "no version of the transcript", "an unknown action"],
)
def test_a_wrong_decision_is_refused(api, case, body, code):
    assert api.post(path(case, "/decisions"), json=body).status_code == code


def test_a_mention_of_another_transcript_is_unknown(api, case):
    other = case.add_transcript(OTHER)
    suggest(other, IN_OTHER)
    tomasz = find(read(api, other), "Tomasz")

    assert codes(decide(api, case, decision(tomasz, "accept"))) == (404, "mention_not_found")


def test_an_entity_of_another_study_is_unknown(api, case):
    stranger = open_case(api.services)
    shiv = find(read(api, case), "Shiv")
    entity = str(stranger.entities["Siobhan Gallagher"])

    answer = decide(api, case, decision(shiv, "accept", entity=entity))
    assert codes(answer) == (404, "entity_not_found")


def test_two_decisions_on_one_mention_are_refused(api, case):
    shiv = find(read(api, case), "Shiv")
    answer = decide(api, case, decision(shiv, "accept"), decision(shiv, "reject"))

    assert codes(answer) == (422, "bad_decision")


def test_every_decision_is_recorded_by_rule_and_id(api, case):
    view = read(api, case)
    decided(api, case, decision(find(view, "Shiv"), "accept"))
    answer = api.get(path(case, "/decisions"))
    (item,) = answer.json()["items"]

    assert (item["action"], item["before"], item["after"]) == ("accept", "suggested", "accepted")
    assert (item["rule"], item["mention_id"]) == (None, find(view, "Shiv")["id"])
    assert not any(name in answer.text for name in NAMES)


# --- every mention of an entity -------------------------------------------------------------------


def test_every_mention_of_an_entity_in_the_transcript_is_accepted(api, case):
    view = read(api, case)
    answer = decided(
        api, case, decision(find(view, "Siobhan Gallagher"), "accept", scope="transcript")
    )

    assert states(answer) == {
        ("s0002", "Siobhan Gallagher"): "accepted",
        ("s0003", "Shiv"): "accepted",
        ("s0006", "Siobhan"): "accepted",
    }


def test_what_somebody_has_decided_is_not_decided_again_for_the_whole_transcript(api, case):
    decided(api, case, decision(find(read(api, case), "Shiv"), "reject"))
    view = read(api, case)
    decided(api, case, decision(find(view, "Siobhan"), "accept", scope="transcript"))

    assert find(read(api, case), "Shiv")["state"] == "rejected"


def test_every_mention_of_an_entity_in_the_study_is_accepted(api, case):
    other = case.add_transcript(OTHER)
    suggest(other, IN_OTHER)
    tomasz = find(read(api, case), "Tomasz")
    answer = decided(api, case, decision(tomasz, "accept", scope="study"))
    there = read(api, other)

    assert answer["elsewhere"] == 2
    assert {each["state"] for each in answer["mentions"]} == {"accepted"}
    assert states(there) == {
        ("s0001", "Tomasz"): "accepted",
        ("s0002", "Tomasz"): "accepted",
        ("s0002", "hope"): "suggested",
    }
    assert find(there, "Tomasz")["entity_id"] == answer["mentions"][0]["entity_id"]


def test_rejecting_in_the_whole_study_rejects_the_same_words_only(api, case):
    other = case.add_transcript(OTHER)
    suggest(other, IN_OTHER)
    answer = decided(api, case, decision(find(read(api, case), "hope"), "reject", scope="study"))

    assert answer["elsewhere"] == 1
    assert states(read(api, other))["s0002", "hope"] == "rejected"
    assert states(read(api, other))["s0002", "Tomasz"] == "suggested"


def test_a_word_on_the_allow_list_is_rejected_now_and_later(api, case):
    other = case.add_transcript(OTHER)
    suggest(other, IN_OTHER)
    decided(api, case, decision(find(read(api, case), "hope"), "allow"))
    later = case.add_transcript(OTHER)
    suggest(later, IN_OTHER)

    for each in (case, other, later):
        assert find(read(api, each), "hope")["state"] == "rejected"
    with api.services.sessionmaker() as session:
        query = select(Decision.rule).where(Decision.transcript_id == later.transcript_id)
        assert session.scalars(query).all() == ["allow_list"]


def test_what_the_study_always_replaces_is_accepted_by_rule(api, case):
    with api.services.sessionmaker.begin() as session:
        create_entity(
            *(session, api.services, case.caller, case.study_id),
            "organisation",
            ["Harbour House"],
            always=True,
        )
    other = case.add_transcript([("SPEAKER_01", "They sent me to Harbour House in May.")])
    suggest(other, [])
    (mention,) = read(api, other)["mentions"]

    assert (mention["text"], mention["state"]) == ("Harbour House", "accepted")
    (item,) = api.get(path(other, "/decisions")).json()["items"]
    assert item["rule"] == "always"


def test_of_two_people_with_one_name_the_reviewer_chooses(api, case):
    with api.services.sessionmaker.begin() as session:
        create_entity(
            *(session, api.services, case.caller, case.study_id), "person", ["Shiv Kapoor"]
        )
    shiv = find(read(api, case), "Shiv")
    refused = decide(api, case, decision(shiv, "accept"))
    chosen = str(case.entities["Siobhan Gallagher"])

    assert len(shiv["choices"]) == 2 and chosen in shiv["choices"]
    assert codes(refused) == (409, "entity_ambiguous")
    answer = decided(api, case, decision(shiv, "accept", entity=chosen))
    assert answer["mentions"][0]["entity_id"] == chosen


def test_a_name_that_somebody_else_gets_later_becomes_ambiguous(api, case):
    """`hope` becomes a name of another person, for whom `Shiv` is then accepted too."""
    view = read(api, case)
    shiv, hope = find(view, "Shiv"), find(view, "hope")
    decided(api, case, decision(hope, "accept", new_entity="person"))
    other = find(read(api, case), "hope")["entity_id"]
    decided(api, case, decision(shiv, "accept", entity=other))
    again = case.add_transcript([("SPEAKER_00", "Then Shiv came.")])
    suggest(again, [])
    (mention,) = read(api, again)["mentions"]

    assert sorted(mention["choices"]) == sorted([other, str(case.entities["Siobhan Gallagher"])])
    assert codes(decide(api, again, decision(mention, "accept"))) == (409, "entity_ambiguous")


def test_a_mention_of_an_erased_person_keeps_the_pseudonym(api, case):
    entity = str(case.entities["Siobhan Gallagher"])
    shiv = find(read(api, case), "Shiv")
    erased = api.request("DELETE", f"/v1/entities/{entity}")
    assert erased.status_code in (200, 204), erased.text
    shiv = find(read(api, case), "Shiv")
    answer = decided(api, case, decision(shiv, "accept"))
    (named,) = (each for each in answer["entities"] if each["id"] == entity)

    assert (named["pseudonym"], named["erased"]) == ("P07", True)
    listed = api.get(path(case, "/entities")).json()["items"]
    assert [each["names"] for each in listed if each["id"] == entity] == [[]]


def test_a_new_name_is_suggested_in_the_studys_other_transcripts(api, case):
    other = case.add_transcript([("SPEAKER_01", "We moved to Woolgoolga when I was small.")])
    suggest(other, [])
    assert read(api, other)["mentions"] == []
    view = read(api, case)
    addition = {"segment": "s0007", "words": [14, 15], "label": "PLACE", "new_entity": "place"}
    decided(api, case, additions=[addition], transcript_version=view["transcript_version"])
    (mention,) = read(api, other)["mentions"]

    assert (mention["text"], mention["state"], mention["origin"]) == (
        "Woolgoolga",
        "suggested",
        "alias",
    )


# --- adding ---------------------------------------------------------------------------------------


def add(api, case, **addition):
    view = read(api, case)
    return decide(api, case, additions=[addition], transcript_version=view["transcript_version"])


def test_a_span_is_added_by_its_words_without_the_punctuation(api, case):
    answer = add(api, case, segment="s0007", words=[14, 15], label="PLACE", new_entity="place")

    (mention,) = answer.json()["mentions"]
    assert (mention["text"], mention["state"], mention["origin"]) == (
        "Woolgoolga",
        "accepted",
        "person",
    )


def test_a_possessive_ending_stays_outside(api, case):
    other = case.add_transcript([("SPEAKER_01", "It was Tomasz's house.")])
    suggest(other, [])
    answer = add(api, other, segment="s0001", words=[2, 3], label="PERSON")

    assert answer.json()["mentions"][0]["text"] == "Tomasz"


def test_a_span_that_is_suggested_already_is_accepted(api, case):
    start = FOUND[4][1]
    answer = add(api, case, segment="s0004", span=[11, 17], label="PERSON")
    view = read(api, case)

    assert answer.json()["mentions"][0]["text"] == start == "Tomasz"
    assert len([each for each in view["mentions"] if each["segment"] == "s0004"]) == 2


def test_a_wider_span_names_the_entity_of_the_accepted_one_within_it(api, case):
    accept_all(case)
    answer = add(api, case, segment="s0004", words=[1, 3], label="PERSON")
    (mention,) = answer.json()["mentions"]

    assert mention["text"] == "brother Tomasz"
    assert mention["entity_id"] == find(read(api, case), "Tomasz", "s0006")["entity_id"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"segment": "s0099", "words": [0, 1]},
        {"segment": "s0001", "words": [0, 99]},
        {"segment": "s0001", "words": [2, 2]},
        {"segment": "s0001", "span": [0, 999]},
        {"segment": "s0001", "span": [5, 5]},
        {"segment": "s0001", "span": [4, 5]},
    ],
    ids=str,
)
def test_a_span_outside_the_text_is_refused(api, case, wrong):
    answer = add(api, case, label="PLACE", **wrong)

    assert codes(answer) == (422, "bad_decision")


def test_a_span_of_an_earlier_version_is_refused(api, case):
    addition = {"segment": "s0007", "words": [14, 15], "label": "PLACE"}
    answer = decide(api, case, additions=[addition], transcript_version=9)

    assert codes(answer) == (409, "transcript_changed")


# --- corrections ----------------------------------------------------------------------------------


def correct(api, case, segment, text):
    url = f"/v1/transcripts/{case.transcript_id}"
    version = api.get(f"{url}/versions").json()["items"][-1]["version"]
    answer = api.request(
        "PATCH",
        f"{url}/segments/{segment}",
        json={"text": text},
        headers={"If-Match": f'"{version}"'},
    )
    assert answer.status_code == 200, answer.text


def test_a_corrected_transcript_keeps_decisions_on_unchanged_words(api, case):
    accept_all(case)
    before = read(api, case)
    correct(api, case, "s0004", "Well, my brother Tomasz told me, on the third of May eighty-six.")
    after = read(api, case)

    assert after["transcript_version"] == 2
    unchanged = [each for each in after["mentions"] if each["segment"] != "s0004"]
    assert unchanged == [each for each in before["mentions"] if each["segment"] != "s0004"]
    there = {text: state for (segment, text), state in states(after).items() if segment == "s0004"}
    assert there["Tomasz"] == "accepted"
    assert {state for text, state in there.items() if "May" in text} == {"suggested"}
    assert (after["n_open"], find(after, "Tomasz", "s0004")["start"]) == (1, 17)


def test_a_name_that_a_correction_adds_is_suggested(api, case):
    accept_all(case)
    correct(api, case, "s0001", "Good morning, Shiv. Doctor Papadimitriou sends regards.")
    view = read(api, case)

    assert states(view)["s0001", "Shiv"] == "suggested"
    assert any("Papadimitriou" in each["text"] for each in view["mentions"])
    assert view["n_open"] == 2


def test_a_mention_whose_words_are_deleted_is_dropped(api, case):
    accept_all(case)
    correct(api, case, "s0006", "Good.")
    view = read(api, case)

    assert view["n_open"] == 0
    assert not any(each["segment"] == "s0006" for each in view["mentions"])


def test_a_decision_of_a_corrected_span_is_opened_by_rule(api, case):
    accept_all(case)
    correct(
        api, case, "s0003", "Thank you, Shivani. How did you come to the Riverbend Peer Circle?"
    )
    read(api, case)
    items = api.get(path(case, "/decisions")).json()["items"]

    assert [item["rule"] for item in items if item["action"] == "reopen"] == ["corrected"] * 2


def test_undoing_a_correction_brings_nothing_back_unseen(api, case):
    accept_all(case)
    correct(api, case, "s0003", "Thank you.")
    assert read(api, case)["n_open"] == 0
    undone = api.post(f"/v1/transcripts/{case.transcript_id}/undo", json={})
    assert undone.status_code == 200, undone.text

    assert {
        text: state
        for (segment, text), state in states(read(api, case)).items()
        if segment == "s0003"
    } == {
        "Shiv": "suggested",
        "Riverbend Peer Collective": "suggested",
    }


def test_nothing_that_was_said_is_in_the_rows(api, case):
    accept_all(case)
    rows = []
    with api.services.engine.connect() as connection:
        for table in ("mention", "review", "decision", "entity", "blind_sample"):
            found = connection.exec_driver_sql(f"SELECT t::text FROM {table} t").scalars()
            rows += list(found)

    assert len(rows) > 20
    assert not any(name in json.dumps(rows) for name in NAMES)
