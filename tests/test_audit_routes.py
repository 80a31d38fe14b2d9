"""The audit trail over the API: every route that reads content or changes something is in it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pyrage
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from service.api import one_request
from service.api.app import create_app
from service.database.tables import AuditEntry, Job, MaskedAudio, Recording
from service.domain import audit, job_state, readings
from service.domain.callers import Caller
from service.domain.playback import make_copy
from service.settings import Settings
from tests.api import OCTETS, Api, metadata, open_api, tone
from tests.finished import begin_job, finish_job

PATHS = create_app(Settings(data=Path("/nowhere/data"), keys=Path("/nowhere/keys"))).openapi()[
    "paths"
]
OPERATIONS = {(method.upper(), path) for path, methods in PATHS.items() for method in methods}
NO_CONTENT = "ids, states, codes and counts only"
POLL = "a claim is extended, nothing is read"
WITHOUT_ENTRY = {
    ("GET", "/v1/studies"): NO_CONTENT,
    ("GET", "/v1/studies/{study}"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/webhooks"): "addresses of this service's own endpoints",
    ("GET", "/v1/studies/{study}/webhooks/{webhook_id}/deliveries"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/entities"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/look-ups"): NO_CONTENT,
    ("GET", "/v1/entities/{entity_id}"): NO_CONTENT,
    ("GET", "/v1/sessions"): NO_CONTENT,
    ("GET", "/v1/sessions/{session_id}"): NO_CONTENT,
    ("OPTIONS", "/v1/uploads"): NO_CONTENT,
    ("GET", "/v1/recordings"): NO_CONTENT,
    ("HEAD", "/v1/recordings/{recording_id}/playback"): NO_CONTENT,
    ("GET", "/v1/recordings/{recording_id}/peaks"): "loudness, ten values a second",
    ("GET", "/v1/transcripts/{transcript_id}/playback"): NO_CONTENT,
    ("GET", "/v1/transcripts/{transcript_id}/versions"): NO_CONTENT,
    ("PUT", "/v1/transcripts/{transcript_id}/presence"): "who is at work, not stored",
    ("GET", "/v1/transcripts/{transcript_id}/review/decisions"): NO_CONTENT,
    ("GET", "/v1/transcripts/{transcript_id}/review/samples"): NO_CONTENT,
    ("GET", "/v1/reviews"): NO_CONTENT,
    ("GET", "/v1/jobs"): NO_CONTENT,
    ("GET", "/v1/jobs/{job_id}"): NO_CONTENT,
    ("GET", "/v1/events"): NO_CONTENT,
    ("POST", "/v1/handoffs/{handoff_id}/heartbeat"): POLL,
    ("GET", "/v1/handoffs"): NO_CONTENT,
    ("GET", "/v1/masked-audio"): NO_CONTENT,
    ("GET", "/v1/masked-audio/{masked_audio_id}"): NO_CONTENT,
    ("GET", "/v1/releases"): NO_CONTENT,
    ("GET", "/v1/releases/{release_id}"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/participants"): NO_CONTENT,
    ("GET", "/v1/participants/{participant_id}"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/approvals"): NO_CONTENT,
    ("GET", "/v1/participants/{participant_id}/packets"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/withdrawals"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/withdrawal-preview"): NO_CONTENT,
    ("GET", "/v1/withdrawals/{withdrawal_id}"): NO_CONTENT,
    ("GET", "/v1/models"): NO_CONTENT,
    ("GET", "/v1/sign-in"): "one's own account",
    ("POST", "/v1/sign-in/check"): "the link is not used",
    ("GET", "/v1/studies/{study}/retention"): NO_CONTENT,
    ("GET", "/v1/studies/{study}/activity"): "who is at work, not stored",
    ("GET", "/v1/certificates"): NO_CONTENT,
    ("GET", "/v1/certificates/{certificate_id}"): NO_CONTENT,
    ("GET", "/v1/certificates/public-key"): NO_CONTENT,
    ("GET", "/v1/sign-on"): NO_CONTENT,
    ("POST", "/v1/sign-on"): "nobody is signed in yet: see `browser.signed_in`",
    ("GET", "/v1/devices"): "one's own browsers",
    ("GET", "/v1/tokens"): NO_CONTENT,
    ("GET", "/v1/token"): "one's own token",
    ("GET", "/v1/service"): NO_CONTENT,
    ("GET", "/healthz"): NO_CONTENT,
    ("GET", "/readyz"): NO_CONTENT,
    ("GET", "/metrics"): NO_CONTENT,
}
ELSEWHERE = {
    ("POST", "/v1/studies/{study}/withdrawals"): "test_withdrawal",
    **{
        route: "test_member_packets"
        for route in (
            ("POST", "/v1/participants/{participant_id}/packets"),
            ("POST", "/v1/packet/open"),
            ("POST", "/v1/packet/answer"),
            ("GET", "/v1/packets/{packet_id}/answer"),
            ("GET", "/v1/packets/{packet_id}/docx"),
            ("POST", "/v1/packets/{packet_id}/decisions"),
            ("DELETE", "/v1/packets/{packet_id}"),
        )
    },
    ("POST", "/v1/unseal"): "test_sealed",
    # Only `transcribe_form` differs, whose uploads, jobs and answers are those of other routes.
    ("POST", "/v1/audio/transcriptions"): "test_an_answer_of_one_request_is_recorded",
    ("POST", "/v1/audio/translations"): "test_an_answer_of_one_request_is_recorded",
    ("POST", "/asr"): "test_an_answer_of_one_request_is_recorded",
}
CANARIES = ("Eva", "Muster", "Quendolin", "Zacharias", "Birkenau", "morning", "secretfile")


@dataclass
class Walk:
    """Sends requests and sees which of them leave entries in the audit trail."""

    api: Api
    things: dict[str, str] = field(default_factory=dict)
    recorded: dict[tuple[str, str], list[AuditEntry]] = field(default_factory=dict)
    reads: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    unrecorded: dict[tuple[str, str], Any] = field(default_factory=dict)  # answers

    def entries(self, after: int = 0) -> list[AuditEntry]:
        with self.api.services.sessionmaker() as session:
            query = sa.select(AuditEntry).where(AuditEntry.position > after)
            return list(session.scalars(query.order_by(AuditEntry.position)))

    def fill(self, path: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: self.things[match[1]], path)

    def send(self, method: str, path: str, *, query: str = "", **options: Any) -> Any:
        before = max((each.position for each in self.entries()), default=0)
        answer = self.api.request(method, self.fill(path) + query, **options)
        assert answer.status_code < 300, (method, path, answer.text)
        own = [each for each in self.entries(before) if each.role is not None]
        assert own, f"{method} {path} has left no entry"
        self.recorded.setdefault((method, path), []).extend(own)
        return answer

    def read(self, method: str, path: str, **options: Any) -> Any:
        """A request that reads identified content: it is repeated with a broken trail."""
        answer = self.send(method, path, **options)
        self.reads.append((method, path, options))
        return answer

    def sent(self, method: str, path: str) -> None:
        """A request of a helper below was recorded."""
        self.recorded[method, path] = []


@pytest.fixture(scope="module")
def api(module_settings: Settings) -> Iterator[Api]:
    hosts = {"webhook_hosts": "127.0.0.1:9", "webhook_private_networks": "127.0.0.0/8"}
    with open_api(module_settings.model_copy(update=hosts)) as api:
        yield api


@pytest.fixture(scope="module")
def walk(api: Api) -> Walk:
    """One request, at least, for each route that reads or changes something."""
    walk = Walk(api)
    _upload(walk)
    _transcribe(walk)
    _correct(walk)
    _name(walk)
    _review(walk)
    _release(walk)
    _take_part(walk)
    _administer(walk)
    _read_with_broken_trail(walk)
    _erase(walk)
    return walk


def _upload(walk: Walk) -> None:
    send, things = walk.send, walk.things
    study = send("POST", "/v1/studies", json={"code": "AUDIT"}).json()
    things["study"] = study["id"]
    words = {"words": ["Birkenau", "Quendolin"]}
    send("PUT", "/v1/studies/{study}/vocabulary", json=words)
    walk.read("GET", "/v1/studies/{study}/vocabulary")
    session = send("POST", "/v1/sessions", json={"study": study["id"]}).json()
    things["session_id"] = session["id"]
    header = metadata(filename="secretfile Eva Muster.wav")
    sound = tone(2.0)
    headers = {"Upload-Length": str(len(sound)), "Upload-Metadata": header}
    place = f"?study={study['id']}&session={session['id']}"
    begun = send("POST", "/v1/uploads", query=place, headers=headers).json()
    things["recording_id"] = things["upload_id"] = begun["id"]
    walk.send("HEAD", "/v1/uploads/{upload_id}")
    headers = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    send("PATCH", "/v1/uploads/{upload_id}", content=sound, headers=headers)
    walk.api.checked(begun["id"])
    order = {"recordings": [begun["id"]]}
    send("PUT", "/v1/sessions/{session_id}/recordings", json=order)
    search = {"study": study["id"], "sha256": ["0f" * 32]}
    send("POST", "/v1/recordings/search", json=search)
    walk.api.app.state.readings = readings.Readings(walk.api.services)
    walk.read("GET", "/v1/recordings/{recording_id}")
    walk.read("GET", "/v1/recordings/{recording_id}/audio")
    with walk.api.services.sessionmaker() as database:
        recording = database.get_one(Recording, UUID(begun["id"]))
    make_copy(walk.api.services, recording)
    walk.api.app.state.readings = readings.Readings(walk.api.services)
    walk.read("GET", "/v1/recordings/{recording_id}/playback")
    other = walk.api.post(f"/v1/uploads?study={study['id']}", content=b"no audio", headers=OCTETS)
    assert walk.api.checked(other.json()["id"])["state"] == "refused"
    kept, things["recording_id"] = things["recording_id"], other.json()["id"]
    send("POST", "/v1/recordings/{recording_id}/retry")
    walk.api.checked(things["recording_id"])
    send("DELETE", "/v1/recordings/{recording_id}")
    third = walk.api.post(f"/v1/uploads?study={study['id']}", headers={"Upload-Length": "9"})
    things["upload_id"] = third.json()["id"]
    send("DELETE", "/v1/uploads/{upload_id}")
    things["recording_id"] = kept


def _transcribe(walk: Walk) -> None:
    send, things = walk.send, walk.things
    body = {"session": things["session_id"], "model": "demo"}
    job = send("POST", "/v1/jobs", json=body).json()
    things["job_id"] = job["id"]
    claim = begin_job(walk.api.services, UUID(job["id"]))
    worker = walk.api.token("worker", all_studies=True)
    send("POST", "/internal/jobs/{job_id}/keys", json={"fence": claim.fence}, token=worker)
    with walk.api.services.sessionmaker.begin() as session:
        job_state.put_back_job(session, claim)
    things["transcript_id"] = str(finish_job(walk.api.services, UUID(job["id"])))
    again = send("POST", "/v1/jobs/{job_id}/rerun", json={"from": "transcribe"}).json()
    kept, things["job_id"] = things["job_id"], again["id"]
    send("POST", "/v1/jobs/{job_id}/cancel")
    send("DELETE", "/v1/jobs/{job_id}")
    things["job_id"] = kept
    walk.read("GET", "/v1/transcripts/{transcript_id}")
    walk.read("GET", "/v1/transcripts/{transcript_id}", query="?format=docx")
    walk.read("GET", "/v1/transcripts/{transcript_id}/speakers")
    things["label"] = "SPEAKER_00"
    walk.read("GET", "/v1/transcripts/{transcript_id}/speakers/{label}/clip")
    names = {"SPEAKER_01": {"role": "participant", "code": "P07"}}
    send("PUT", "/v1/transcripts/{transcript_id}/speakers", json=names)


def _correct(walk: Walk) -> None:
    send, path = walk.send, "/v1/transcripts/{transcript_id}"

    def based_on() -> dict[str, str]:
        found = walk.api.get(walk.fill(path + "/versions")).json()["items"]
        return {"If-Match": f'"{found[-1]["version"]}"'}

    walk.things["segment_id"] = "s0002"
    walk.read("GET", path + "/segments/{segment_id}")
    text = {"text": "My name is Zacharias Quendolin."}
    send("PATCH", path + "/segments/{segment_id}", json=text, headers=based_on())
    send("PATCH", path + "/segments/{segment_id}", json=text, headers=based_on())  # no change
    edits = {"edits": [{"id": "s0001", "text": "Good morning, Eva."}]}
    send("PATCH", path + "/segments", json=edits, headers=based_on())
    walk.read("GET", path + "/changes")
    split = send("POST", path + "/segments/{segment_id}/split", json={"at": 2}, headers=based_on())
    second = split.json()["segments"][-1]["id"]
    walk.things["segment_id"] = second
    send("POST", path + "/segments/{segment_id}/merge", json={}, headers=based_on())
    new = {"after": "s0001", "text": "Eva Muster", "speaker": "SPEAKER_00"}
    walk.things["segment_id"] = send("POST", path + "/segments", json=new).json()["segments"][0][
        "id"
    ]
    send("DELETE", path + "/segments/{segment_id}", headers=based_on())
    send("POST", path + "/undo", json={})
    send("POST", path + "/undo", json={})
    send("POST", path + "/restore", json={"version": 1}, headers=based_on())
    said = ("Good morning.", "My name is Eva Muster.", "Thank you.")
    send("POST", path + "/import", json={"turns": [{"text": text} for text in said]})
    send("POST", path + "/restore", json={"version": 1}, headers=based_on())
    walk.things["segment_id"] = "s0002"


def _name(walk: Walk) -> None:
    send, things, study = walk.send, walk.things, "/v1/studies/{study}"
    key = str(pyrage.x25519.Identity.generate().to_public())
    send("PATCH", study, json={"deidentification": {"custodian_keys": [key]}})
    people = {"csv": "kind,code,name,aliases\nparticipant,P07,Eva Muster,\n"}
    send("POST", study + "/roster", json=people)
    walk.read("POST", study + "/roster/export", json={})
    walk.read("POST", study + "/entities/find", json={"name": "Eva"})
    walk.read("POST", study + "/look-ups", json={"pseudonyms": ["P07"], "reason": "audit"})
    one, two = (
        send("POST", study + "/entities", json={"kind": "person", "names": [name]}).json()["id"]
        for name in ("Zacharias Quendolin", "Quendolin Zacharias")
    )
    things["entity_id"] = one
    entity = "/v1/entities/{entity_id}"
    send("PATCH", entity, json={"always": True}, headers={"If-Match": '"1"'})
    send("POST", entity + "/aliases", json={"name": "Zac"})
    send("POST", entity + "/split", json={"names": ["Zac"]})
    send("POST", entity + "/aliases", json={"name": "Zacko"})
    send("POST", entity + "/aliases/remove", json={"name": "Zacko"})
    send("POST", entity + "/merge", json={"into": two})
    things["entity_id"] = two
    send("DELETE", entity)


def _review(walk: Walk) -> None:
    send, things, path = walk.send, walk.things, "/v1/transcripts/{transcript_id}/review"
    send("POST", path)
    walk.read("GET", path)
    walk.read("GET", path + "/entities")
    walk.read("GET", path + "/unsuggested")
    claimed = walk.read("POST", "/v1/handoffs/claim", query="?study=AUDIT").json()
    things["handoff_id"] = claimed["id"]
    failure = {"fence": claimed["fence"], "code": "out_of_memory"}
    send("POST", "/v1/handoffs/{handoff_id}/fail", json=failure)
    send("POST", "/v1/handoffs/{handoff_id}/reopen")
    claimed = send("POST", "/v1/handoffs/claim", query="?study=AUDIT").json()
    done = {"fence": claimed["fence"], "occurrences": []}
    send("POST", "/v1/handoffs/{handoff_id}/complete", json=done)
    view = walk.api.get(walk.fill(path)).json()
    decisions = [
        {"mention": each["id"], "version": each["version"], "action": "accept"}
        for each in view["mentions"]
    ]
    assert decisions
    send("POST", path + "/decisions", json={"decisions": decisions})
    sample = send("POST", path + "/samples", json={"segments": 2}).json()
    things["sample_id"] = sample["id"]
    send("GET", path + "/samples/{sample_id}")
    send("POST", path + "/samples/{sample_id}/finish", json={"marks": []})


def _release(walk: Walk) -> None:
    send, things = walk.send, walk.things
    transcript = "/v1/transcripts/{transcript_id}"
    masked = send("POST", transcript + "/masked-audio", json={}).json()["items"][0]
    things["masked_audio_id"] = masked["id"]
    for _ in range(300):
        state = walk.api.get(walk.fill("/v1/masked-audio/{masked_audio_id}?")).json()["state"]
        if state != "pending":
            break
    if state != "ready":  # the transcript is longer than the sound
        with walk.api.services.sessionmaker.begin() as session:
            row = session.get_one(MaskedAudio, UUID(masked["id"]))
            recording = session.get_one(Recording, row.recording_id)
            row.state, row.n_bytes, row.artefact_id = "ready", 4, _write_masked(walk, recording)
    walk.read("GET", "/v1/masked-audio/{masked_audio_id}/audio")
    release = send("POST", transcript + "/releases", json={"context": "repository"}).json()
    things |= {"release_id": release["id"], "format": "docx", "paper": "methods"}
    walk.read("GET", "/v1/releases/{release_id}/files/{format}")
    walk.read("GET", "/v1/releases/{release_id}/report")
    send("POST", "/v1/studies/{study}/release-check")
    locked = {"password": "twelve or more"}
    walk.read("POST", "/v1/studies/{study}/release-archive", json=locked)
    send("GET", "/v1/studies/{study}/papers/{paper}")
    about = {"title": "T", "abstract": "A", "rights": "R", "creators": ["Doe, Jane"]}
    walk.read("POST", "/v1/studies/{study}/deposit", json=about)


def _take_part(walk: Walk) -> None:
    """In a study of its own: a participant would need consents for everything else."""
    send, things = walk.send, walk.things
    before = things["study"]
    things["study"] = send("POST", "/v1/studies", json={"code": "PEOPLE"}).json()["id"]
    added = {"code": "P09", "names": ["Eva Muster"], "contacts": ["Zacharias"]}
    made = send("POST", "/v1/studies/{study}/participants", json=added).json()
    things["participant_id"] = made["id"]
    listed = {"csv": "code,name\nP10,Quendolin\n"}
    send("POST", "/v1/studies/{study}/participants/import", json=listed)
    wanted = {"codes": ["P09"], "reason": "audit"}
    send("POST", "/v1/studies/{study}/participants/look-up", json=wanted)
    send("GET", "/v1/studies/{study}/small-cells")
    headers = {"If-Match": '"1"'}
    send("PATCH", "/v1/participants/{participant_id}", json={"contacts": []}, headers=headers)
    consent = {"sheet_version": "1", "given_on": "2031-01-07", "scopes": []}
    send("POST", "/v1/participants/{participant_id}/consents", json=consent)
    approval = {"committee": "HREC", "number": "1", "valid_from": "2031-01-07"}
    approved = send("POST", "/v1/studies/{study}/approvals", json=approval).json()
    things["approval_id"] = approved["id"]
    send("DELETE", "/v1/approvals/{approval_id}")
    things["study"] = before


def _write_masked(walk: Walk, recording: Recording) -> UUID:
    from tests.finished import write

    return write(walk.api.services, UUID(walk.things["job_id"]), "masked_audio", b"RIFF")


def _administer(walk: Walk) -> None:
    send, things = walk.send, walk.things
    made = send("POST", "/v1/tokens", json={"role": "coder", "name": "analysis-1"}).json()
    things["token_id"] = made["id"]
    send("DELETE", "/v1/tokens/{token_id}")
    invited = {"role": "coder", "studies": [things["study"]], "display_name": "Eva Muster"}
    link = send("POST", "/v1/invitations", json=invited).json()["link"]
    secret = link.partition("#")[2]
    send("POST", "/v1/sign-in", json={"link": secret})
    device = walk.api.client.get("/v1/devices", headers=_same_origin()).json()["items"][0]
    things["device_id"] = device["id"]
    cookies = dict(walk.api.client.cookies)
    walk.api.client.cookies.clear()
    own = send("POST", "/v1/sign-in-links").json()["link"].partition("#")[2]
    before = max(each.position for each in walk.entries())
    for method, path in (
        ("DELETE", f"/v1/devices/{device['id']}"),
        ("POST", "/v1/sign-in"),
        ("POST", "/v1/sign-out"),
    ):
        body = {"link": own} if path == "/v1/sign-in" else None
        walk.api.client.cookies.update(cookies if method == "DELETE" else {})
        answer = walk.api.client.request(method, path, headers=_same_origin(), json=body)
        assert answer.status_code < 300, (path, answer.text)
        new = walk.entries(before)
        assert new, path
        before = new[-1].position
    walk.api.client.cookies.clear()
    walk.sent("DELETE", "/v1/devices/{device_id}")
    walk.sent("POST", "/v1/sign-out")
    hook = {"url": "https://127.0.0.1:9/secretfile", "events": ["job.failed"]}
    made = send("POST", "/v1/studies/{study}/webhooks", json=hook).json()
    things["webhook_id"] = made["id"]
    send("POST", "/v1/studies/{study}/webhooks/{webhook_id}/ping")
    send("DELETE", "/v1/studies/{study}/webhooks/{webhook_id}")
    things |= {"data_class": "consent", "basis": "completion"}
    rules = "/v1/studies/{study}/retention"
    rule = {"basis": "completion", "years": 1, "at_end": "destroy"}
    send("PUT", rules + "/rules/{data_class}", json=rule)
    send("PUT", rules + "/dates/{basis}", json={"on": "2001-01-01"})
    hold = send("POST", "/v1/studies/{study}/holds", json={"reason": "audit"}).json()
    things["hold_id"] = hold["id"]
    send("DELETE", "/v1/studies/{study}/holds/{hold_id}")
    for method, path in (("DELETE", ""), ("POST", "/confirm")):
        wanted = {"data_class": "consent"}
        made = send("POST", "/v1/studies/{study}/destructions", json=wanted).json()
        things["destruction_id"] = made["id"]
        other = walk.api.token("researcher", things["study"])
        send(method, "/v1/destructions/{destruction_id}" + path, token=other)
    send("DELETE", rules + "/rules/{data_class}")
    send("GET", "/v1/studies/{study}/audit")
    send("POST", "/v1/audit/verify", json={})
    send("GET", "/v1/audit/export")


def _same_origin() -> dict[str, str]:
    return {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}


def _erase(walk: Walk) -> None:
    """Objects of their own: the others are read again with a broken trail."""
    things = dict(walk.things)
    study = walk.api.study()["id"]
    session = walk.api.post("/v1/sessions", json={"study": study}).json()
    walk.things |= {"study": study, "session_id": session["id"]}
    walk.send("DELETE", "/v1/sessions/{session_id}")
    walk.send("DELETE", "/v1/studies/{study}")
    walk.things = things
    walk.send("DELETE", "/v1/masked-audio/{masked_audio_id}")
    walk.send("DELETE", "/v1/releases/{release_id}")


def test_every_route_that_reads_content_or_changes_something_leaves_an_entry(walk: Walk) -> None:
    known = walk.recorded.keys() | WITHOUT_ENTRY.keys() | ELSEWHERE.keys()

    assert OPERATIONS - known == set(), "add a request to `walk`, or a reason to `WITHOUT_ENTRY`"
    assert known - OPERATIONS == set(), "these routes are gone"
    assert not walk.recorded.keys() & WITHOUT_ENTRY.keys()


def test_no_text_and_no_name_is_in_the_trail(walk: Walk) -> None:
    for entry in walk.entries():
        written = json.dumps([entry.objects, entry.detail, entry.reason, entry.action])
        assert not [word for word in CANARIES if word.casefold() in written.casefold()], written


def test_the_chain_of_all_these_requests_is_whole(walk: Walk) -> None:
    with walk.api.services.sessionmaker() as session:
        assert audit.verify(session).findings == ()


def _read_with_broken_trail(walk: Walk) -> None:
    def fail(session: Any, entries: Any) -> None:
        raise OperationalError("INSERT", {}, Exception("the disk is full"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_append", fail)
        patch.setattr(walk.api.app.state, "readings", readings.Readings(walk.api.services))
        for method, path, options in walk.reads:
            address = walk.fill(path) + options.pop("query", "")
            walk.unrecorded[method, path] = walk.api.request(method, address, **options)


def test_a_reading_that_cannot_be_recorded_is_refused(walk: Walk) -> None:
    claim = walk.unrecorded.pop(("POST", "/v1/handoffs/claim"))
    assert claim.status_code == 204  # nothing is left to claim
    for place, answer in walk.unrecorded.items():
        assert answer.status_code == 503, (place, answer.text)
        assert answer.json()["code"] == "database_unreachable", place
        assert "Eva" not in answer.text, place


def test_an_answer_of_one_request_is_recorded(walk: Walk) -> None:
    """The routes that other programs expect: upload, job and transcript in one request."""
    services = walk.api.services
    with services.sessionmaker() as session:
        job = session.scalars(sa.select(Job).where(Job.status == "succeeded").limit(1)).one()
        token = Caller(job.token_id, "owner", True, frozenset())
    before = walk.entries()[-1].position
    one_request.read_finished(services, token, job.id)
    (entry,) = walk.entries(before)
    assert entry.action == "transcript.exported"
    assert entry.objects == {"job": str(job.id), "transcript": str(job.transcript_id)}


def test_somebody_who_tries_to_get_in_is_recorded_without_what_they_sent(walk: Walk) -> None:
    before = walk.entries()[-1].position
    walk.api.get("/v1/token", token="fieldscribe_Quendolin")
    walk.api.client.get("/v1/token")  # without any token
    walk.api.client.post("/v1/sign-in", json={"key": "fieldscribe_Quendolin"})
    new = walk.entries(before)
    assert [(each.action, each.detail) for each in new] == [
        ("sign_in.refused", {"code": "token_unknown"})
    ] * 2
    assert {each.token_id for each in new} == {None}
