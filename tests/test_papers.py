"""Papers about a study, and deposits for archives: what they say is recorded, or says that it is
not."""

import hashlib
import io
import zipfile
from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from models.retiming import retime
from models.transcript import Segment
from service.domain.study_facts import measure_accuracy
from service.exports.papers import PAPERS
from service.services import Services
from tests.api import Api, open_api
from tests.deidentified import Case, accept_all, make_transcript, open_case, suggest

NAMES = ("Siobhan", "Gallagher", "Coffs", "Riverbend", "Tomasz")
DESCRIPTION: dict[str, Any] = {
    "title": "Peer work: one interview & more",
    "creators": ["Doe, Jane", "Roe, Richard"],
    "abstract": "A peer worker describes her work.\nIn two lines.",
    "rights": "Registered users <only>",
    "keywords": ["peer work"],
    "funders": ["A council"],
    "contact": "The team, team@example.org",
}


@pytest.fixture(scope="module")
def api(module_settings: Any) -> Any:
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def case(api: Api) -> Case:
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    answer = api.post(
        f"/v1/transcripts/{case.transcript_id}/releases", json={"context": "repository"}
    )
    assert answer.status_code == 201, answer.text
    return case


def paper(api: Api, study: Any, name: str, format: str = "txt") -> bytes:
    answer = api.get(f"/v1/studies/{study}/papers/{name}?format={format}")
    assert answer.status_code == 200, answer.text
    content: bytes = answer.content
    return content


def deposit(api: Api, study: Any, **changes: Any) -> Any:
    return api.post(f"/v1/studies/{study}/deposit", json={**DESCRIPTION, **changes})


@pytest.mark.parametrize(
    "name, said",
    [
        ("methods", "No session is recorded."),
        ("methods", "The accuracy in this study has not been measured"),
        ("methods", "No transcript has been de-identified yet."),
        ("data_management", "Nothing has been released yet."),
        ("data_management", "No backup is recorded."),
        ("ethics", "No rule says yet how long the data is kept."),
        ("ethics", "No approval of an ethics committee is recorded."),
        ("ethics", "No participants are recorded, so consent is not checked by the program."),
        ("participants", "of the team can hear your recording"),
    ],
)
def test_a_paper_of_an_empty_study_promises_nothing(api: Api, name: str, said: str) -> None:
    assert said in paper(api, api.study()["code"], name).decode()


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("format", ["txt", "docx"])
def test_no_paper_contains_a_name_or_an_id(api: Api, case: Case, name: str, format: str) -> None:
    content = paper(api, case.study_id, name, format)
    if format == "docx":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = b"\n".join(archive.read(member) for member in archive.namelist())

    for secret in (*NAMES, str(case.job_id), str(case.transcript_id), str(case.study_id)):
        assert secret.encode() not in content


def test_the_methods_name_models_decisions_and_releases(api: Api, case: Case) -> None:
    text = paper(api, case.study_id, "methods").decode()

    assert "1 session was transcribed with the Whisper model" in text
    assert "has not been measured: no segment has been checked" in text
    assert "1 for a data repository" in text
    accepted = sum(mention.state == "accepted" for mention in case.mentions())
    assert f"{accepted} were replaced" in text


def test_the_methods_measure_the_accuracy_in_checked_segments(api: Api) -> None:
    case = open_case(api.services, roster=())
    text = "My name is Siobhan Gallagher, and I live in Coffs Harbor."  # one word of ten
    path = f"/v1/transcripts/{case.transcript_id}"
    changed = api.request(
        "PATCH", f"{path}/segments/s0002", json={"text": text}, headers={"If-Match": '"1"'}
    )
    assert changed.status_code == 200, changed.text
    etag = changed.headers["ETag"]
    checked = api.request(
        "PATCH", f"{path}/segments/s0002", json={"checked_by": "R1"}, headers={"If-Match": etag}
    )
    assert checked.status_code == 200, checked.text

    methods = paper(api, case.study_id, "methods").decode()

    assert "1 wrong, missing or invented words in 11: a word error rate of 9.1%" in methods
    assert "owner 1\t1 (14%)\t1 (14%)" in methods


def test_words_of_neighbours_do_not_count_as_errors() -> None:
    by_models = make_transcript()
    first = by_models.segments[0]
    checked = replace(first, checked_by="P1")
    now = replace(by_models, segments=(checked, *by_models.segments[1:]))

    measured = measure_accuracy([(by_models, now)])

    assert measured is not None
    assert (measured.n_errors, measured.n_words) == (0, len(first.text.split()))
    assert measured.low is None


def test_an_invented_a_lost_and_a_wrong_word_are_three_errors() -> None:
    by_models = make_transcript([("SPEAKER_00", "One too three four extra")])
    right = Segment(
        "SPEAKER_00",
        0.0,
        4.5,
        retime((), "zero one two three four", 0.0, 4.5),
        id=by_models.segments[0].id,
        checked_by="P1",
    )

    measured = measure_accuracy([(by_models, replace(by_models, segments=(right,)))])

    assert measured is not None
    assert (measured.n_errors, measured.n_words) == (3, 5)


def test_the_papers_say_how_long_data_is_kept(api: Api) -> None:
    code = api.study()["code"]
    rule = {"basis": "publication", "years": 7, "at_end": "destroy"}
    made = api.request("PUT", f"/v1/studies/{code}/retention/rules/identified", json=rule)
    assert made.status_code < 300, made.text

    for name in ("ethics", "data_management", "participants"):
        text = paper(api, code, name).decode()
        assert (
            "Recordings and identified transcripts are kept for 7 years after publication, then "
            "destroyed." in text
        )


def read_bag(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0]
        assert all(name.startswith(f"{root}/") for name in names)
        return {name.removeprefix(f"{root}/"): archive.read(name) for name in names}


@pytest.fixture(scope="module")
def bag(api: Api, case: Case) -> dict[str, bytes]:
    answer = deposit(api, case.study_id)
    assert answer.status_code == 200, answer.text
    return read_bag(answer.content)


def test_every_file_of_a_deposit_is_in_a_manifest_with_its_checksum(
    bag: dict[str, bytes],
) -> None:
    def listed(manifest: str) -> dict[str, str]:
        lines = bag[manifest].decode().splitlines()
        return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}

    payload, tags = listed("manifest-sha256.txt"), listed("tagmanifest-sha256.txt")
    assert set(payload) == {name for name in bag if name.startswith("data/")}
    assert set(tags) == {"bagit.txt", "bag-info.txt", "manifest-sha256.txt"}
    for path, digest in {**payload, **tags}.items():
        assert hashlib.sha256(bag[path]).hexdigest() == digest
    n_bytes = sum(len(bag[path]) for path in payload)
    assert f"Payload-Oxum: {n_bytes}.{len(payload)}" in bag["bag-info.txt"].decode()


def test_a_deposit_holds_the_release_its_report_and_metadata(bag: dict[str, bytes]) -> None:
    names = sorted(name.removeprefix("data/") for name in bag if name.startswith("data/"))

    assert [name for name in names if name.startswith("transcripts/")] != []
    assert any(name.endswith(".report.docx") for name in names)
    for path in ("metadata/ddi-codebook.xml", "metadata/dublin-core.xml"):
        root = etree.fromstring(bag[f"data/{path}"])
        text = " ".join(root.itertext())
        assert DESCRIPTION["title"] in text
        assert DESCRIPTION["rights"] in text
        assert all(creator in text for creator in DESCRIPTION["creators"])
        files = root.findall("{ddi:codebook:2_5}otherMat")
        assert all(each.get("level") == "study" for each in files)  # the schema demands it
    for content in bag.values():
        assert not any(name.encode() in content for name in NAMES)


def test_only_releases_for_outsiders_are_deposited(api: Api, services: Services) -> None:
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    api.post(f"/v1/transcripts/{case.transcript_id}/releases", json={"context": "team"})

    assert deposit(api, case.study_id).json()["code"] == "nothing_to_deposit"


def test_an_outdated_release_is_not_deposited(api: Api) -> None:
    case = open_case(api.services)
    suggest(case)
    accept_all(case)
    path = f"/v1/transcripts/{case.transcript_id}"
    api.post(f"{path}/releases", json={"context": "repository"})
    changed = api.request(
        "PATCH", f"{path}/segments/s0001", json={"text": "Good day."}, headers={"If-Match": '"1"'}
    )
    assert changed.status_code == 200, changed.text

    refused = deposit(api, case.study_id)

    assert refused.status_code == 409
    assert refused.json()["code"] == "deposit_outdated"
