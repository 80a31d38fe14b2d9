"""Webhooks: signed, sent from an outbox until they arrive, and never to places inside."""

import json
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
import standardwebhooks
from sqlalchemy import select

from scripts.stand_in.jobs import make_job
from service.database.tables import Handoff, Job, WebhookDelivery, WebhookEndpoint
from service.domain import pinned_http, webhooks
from service.domain.pinned_http import Undeliverable, may_send_to, post
from service.domain.queue import request_cancel
from service.domain.webhooks import WebhookNotAllowed, refuse_url
from service.settings import BadSettings, Settings, read_settings
from tests.api import open_api
from tests.certificates import make_certificate
from tests.finished import finish_job


class Receiver(ThreadingHTTPServer):
    """Remembers what it gets, and answers with the next of `statuses`, then 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture(scope="module")
def api(module_settings, receiver):
    settings = module_settings.model_copy(
        update={"webhook_hosts": receiver.host, "webhook_private_networks": "127.0.0.0/8"}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhooks, "POLL_EVERY", 0.05)
        with open_api(settings) as api:
            yield api


@pytest.fixture
def study(api, receiver):
    receiver.received.clear()
    receiver.statuses.clear()
    return api.study()


def register(api, study, receiver, **fields):
    body = {"url": f"http://{receiver.host}/hook?a=b", **fields}
    made = api.post(f"/v1/studies/{study['code']}/webhooks", json=body)
    assert made.status_code == 201, made.text
    return made.json()


def deliveries(api, study, webhook):
    path = f"/v1/studies/{study['code']}/webhooks/{webhook['id']}/deliveries"
    return api.get(path).json()["items"]


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_end_of_a_job_is_sent_signed_and_holds_ids_and_codes_only(api, study, receiver):
    webhook = register(api, study, receiver)
    job_id = make_job(api.services, UUID(study["id"]))
    session = api.post("/v1/sessions", json={"study": study["code"], "code": "INT-07"}).json()
    with api.services.sessionmaker.begin() as database:
        database.get_one(Job, job_id).session_id = UUID(session["id"])

    transcript_id = finish_job(api.services, job_id)
    wait_for(lambda: receiver.received)

    headers, body = receiver.received[0]
    event = standardwebhooks.Webhook(webhook["secret"]).verify(body, headers)
    assert event["type"] == "job.succeeded"
    assert event["data"] == {
        "job_id": str(job_id),
        "study_id": study["id"],
        "study": study["code"],
        "session_id": session["id"],
        "session": "INT-07",
        "status": "succeeded",
        "transcript_id": str(transcript_id),
        "error_code": None,
    }
    wait_for(lambda: deliveries(api, study, webhook)[0]["state"] == "delivered")
    (delivery,) = deliveries(api, study, webhook)
    assert (delivery["id"], delivery["attempts"]) == (headers["webhook-id"], 1)
    assert delivery["last_status"] == 204
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(webhook["secret"]).verify(body + b" ", headers)


def test_an_event_is_part_of_the_transaction_of_its_change(api, study, receiver):
    """It was sent for a job whose end was rolled back, or lost in a crash after it."""
    webhook = register(api, study, receiver, events=["job.cancelled"])
    job_id = make_job(api.services, UUID(study["id"]))
    path = f"/v1/jobs/{job_id}/cancel"

    with api.services.sessionmaker() as session:
        request_cancel(session, session.get_one(Job, job_id))
        assert session.scalars(select(WebhookDelivery.event)).all()[-1] == "job.cancelled"
        session.rollback()
    assert deliveries(api, study, webhook) == []
    api.post(path)

    wait_for(lambda: receiver.received)
    assert json.loads(receiver.received[0][1])["data"]["status"] == "cancelled"


def test_only_the_events_that_were_asked_for_are_sent(api, study, receiver):
    asked = register(api, study, receiver, events=["job.started", "handoff.completed"])
    job_id = make_job(api.services, UUID(study["id"]))
    finish_job(api.services, job_id)
    claimed = None
    while claimed is None or claimed["study_id"] != study["id"]:
        claimed = api.post("/v1/handoffs/claim").json()
    body = {"fence": claimed["fence"], "occurrences": []}
    api.post(f"/v1/handoffs/{claimed['id']}/complete", json=body)

    wait_for(lambda: len(receiver.received) == 2)
    events = [json.loads(body)["type"] for _, body in receiver.received]
    assert sorted(events) == ["handoff.completed", "job.started"]
    assert len(deliveries(api, study, asked)) == 2
    with api.services.sessionmaker() as session:
        assert session.get_one(Handoff, UUID(claimed["id"])).status == "completed"


def test_a_refused_event_is_sent_again_later_with_the_same_id(api, study, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRIES", (timedelta(0), timedelta(hours=1)))
    receiver.statuses[:] = [500, 302, 204]
    webhook = register(api, study, receiver)
    pinged = api.post(f"/v1/studies/{study['code']}/webhooks/{webhook['id']}/ping")
    assert pinged.status_code == 202 and pinged.json()["event"] == "webhook.ping"

    wait_for(lambda: len(receiver.received) == 2)
    wait_for(lambda: deliveries(api, study, webhook)[0]["last_status"] == 302)

    (delivery,) = deliveries(api, study, webhook)
    assert (delivery["state"], delivery["attempts"]) == ("pending", 2)
    assert delivery["last_error"] == "redirected"
    due = datetime.fromisoformat(delivery["next_attempt_at"])
    assert timedelta(minutes=50) < due - datetime.now(UTC) < timedelta(minutes=70)
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len({body for _, body in receiver.received}) == 1


def test_an_event_that_never_arrives_fails_in_the_end(api, study, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRIES", (timedelta(0),))
    receiver.statuses[:] = [500, 500, 500]
    webhook = register(api, study, receiver)
    api.post(f"/v1/studies/{study['code']}/webhooks/{webhook['id']}/ping")

    wait_for(lambda: deliveries(api, study, webhook)[0]["state"] == "failed")
    assert deliveries(api, study, webhook)[0]["attempts"] == 2


def test_an_endpoint_that_is_gone_is_disabled_until_it_is_pinged(api, study, receiver):
    receiver.statuses[:] = [410]
    webhook = register(api, study, receiver)
    path = f"/v1/studies/{study['code']}/webhooks"
    api.post(f"{path}/{webhook['id']}/ping")
    wait_for(lambda: not api.get(path).json()["items"][0]["enabled"])

    api.request("POST", f"/v1/jobs/{make_job(api.services, UUID(study['id']))}/cancel")
    assert len(deliveries(api, study, webhook)) == 1
    api.post(f"{path}/{webhook['id']}/ping")
    wait_for(lambda: deliveries(api, study, webhook)[0]["state"] == "delivered")
    assert api.get(path).json()["items"][0]["enabled"]


def test_the_address_and_the_secret_are_stored_encrypted(api, study, receiver):
    webhook = register(api, study, receiver)

    settings = api.services.settings
    for path in [*settings.data.rglob("*"), *settings.keys.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert webhook["secret"].encode() not in content and b"/hook?a=b" not in content
    with api.services.sessionmaker() as session:
        row = session.get_one(WebhookEndpoint, UUID(webhook["id"]))
        assert receiver.host not in str(vars(row))
    assert "secret" not in api.get(f"/v1/studies/{study['code']}/webhooks").json()["items"][0]


def test_a_webhook_and_its_deliveries_are_deleted_with_it_or_with_its_study(api, study, receiver):
    first, second = register(api, study, receiver), register(api, study, receiver)
    path = f"/v1/studies/{study['code']}/webhooks"
    for webhook in (first, second):
        api.post(f"{path}/{webhook['id']}/ping")

    assert api.request("DELETE", f"{path}/{first['id']}").status_code == 204
    assert api.get(f"{path}/{first['id']}/deliveries").json()["code"] == "webhook_not_found"
    assert api.request("DELETE", f"/v1/studies/{study['code']}").status_code == 204
    with api.services.sessionmaker() as session:
        left = select(WebhookEndpoint).where(WebhookEndpoint.study_id == UUID(study["id"]))
        assert session.scalars(left).all() == []


def test_a_webhook_of_another_study_looks_like_none(api, study, receiver):
    webhook, other = register(api, study, receiver), api.study()["code"]
    path = f"/v1/studies/{other}/webhooks/{webhook['id']}"

    for method, rest in (("DELETE", ""), ("POST", "/ping"), ("GET", "/deliveries")):
        assert api.request(method, path + rest).json()["code"] == "webhook_not_found"
    assert api.get(f"/v1/studies/{other}/webhooks").json()["items"] == []


def test_a_study_has_only_so_many_webhooks(api, study, receiver):
    for _ in range(webhooks.MAX_ENDPOINTS):
        register(api, study, receiver)
    body = {"url": f"http://{receiver.host}/"}
    refused = api.post(f"/v1/studies/{study['code']}/webhooks", json=body)

    assert refused.json()["code"] == "webhook_not_allowed"


def test_old_deliveries_are_forgotten(api, study, receiver):
    webhook = register(api, study, receiver)
    api.post(f"/v1/studies/{study['code']}/webhooks/{webhook['id']}/ping")
    wait_for(lambda: deliveries(api, study, webhook)[0]["state"] == "delivered")
    with api.services.sessionmaker.begin() as session:
        row = session.get_one(WebhookDelivery, UUID(deliveries(api, study, webhook)[0]["id"]))
        row.created_at = datetime.now(UTC) - timedelta(days=31)

    webhooks.forget_old(api.services)

    assert deliveries(api, study, webhook) == []


# --- where webhooks may go ------------------------------------------------------------------------

LISTED = Settings(webhook_hosts="hooks.example.org, in.example.org:8080")


@pytest.mark.parametrize(
    "url",
    [
        "https://other.example.org/",
        "https://hooks.example.org.evil.example/",
        "https://hooks.example.org:8443/",
        "https://in.example.org/",
        "http://hooks.example.org/",
        "https://user:password@hooks.example.org/",
        "https://evil.example/@hooks.example.org",
        "https://hooks.example.org/#x",
        "ftp://hooks.example.org/",
        "https://hooks.example.org:99999/",
        "hooks.example.org",
    ],
)
def test_an_address_that_is_not_on_the_list_is_refused(url):
    with pytest.raises(WebhookNotAllowed):
        refuse_url(LISTED, url)


def test_addresses_on_the_list_are_allowed_and_by_default_there_are_none():
    refuse_url(LISTED, "https://Hooks.example.org/path?token=x")
    refuse_url(LISTED, "https://in.example.org:8080/")
    with pytest.raises(WebhookNotAllowed):
        refuse_url(Settings(), "https://hooks.example.org/")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # the metadata of cloud machines
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.1.2.3", False),
        ("64:ff9b::a01:203", False),  # 10.1.2.3 through NAT64
        ("2002:a01:203::1", False),  # and through 6to4
        ("nonsense", False),
    ],
)
def test_private_addresses_are_refused_however_they_are_written(address, allowed):
    assert may_send_to(address, [], secure=True) is allowed
    assert may_send_to(address, [], secure=False) is False


def test_a_private_network_can_be_allowed():
    assert may_send_to("10.1.2.3", ["10.0.0.0/8"], secure=False)
    assert may_send_to("::ffff:10.1.2.3", ["10.0.0.0/8"], secure=True)
    assert not may_send_to("10.1.2.3", ["10.9.0.0/16"], secure=True)


def test_a_network_that_is_none_stops_the_start():
    with pytest.raises(BadSettings, match="webhook_private_networks"):
        read_settings(webhook_private_networks="10.0.0.0/40")


def test_a_name_is_resolved_once_and_that_address_is_used(receiver, monkeypatch):
    """A second look-up could lead inside: DNS rebinding."""
    lookups = []

    def resolve(host, port, **_):
        lookups.append(host)
        address = "127.0.0.1" if len(lookups) == 1 else "10.1.2.3"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    receiver.received.clear()
    port = receiver.server_address[1]

    # create_connection looks its argument up too: an address stays what it is
    monkeypatch.setattr("socket.create_connection", _connect)
    assert post(f"http://hooks.example.org:{port}/", b"{}", {}, ["127.0.0.0/8"]) == 204
    assert lookups == ["hooks.example.org"]
    assert receiver.received[0][0]["Host"] == f"hooks.example.org:{port}"


def _connect(address, timeout):
    assert address[0] == "127.0.0.1"
    made = socket.socket()
    made.settimeout(timeout)
    made.connect(address)
    return made


def test_the_certificate_must_be_that_of_the_host(receiver, tmp_path, monkeypatch):
    certificate = make_certificate(tmp_path, "hooks.example.org")
    server = Receiver()
    wrap = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    wrap.load_cert_chain(certificate.path, certificate.key)
    server.socket = wrap.wrap_socket(server.socket, server_side=True)
    trusted = ssl.create_default_context(cafile=str(certificate.path))
    port, local = server.server_address[1], ["127.0.0.0/8"]
    monkeypatch.setattr(pinned_http, "resolve", lambda host, port, networks, *, secure: "127.0.0.1")

    try:
        sent = post(f"https://hooks.example.org:{port}/", b"{}", {}, local, trusted)
        with pytest.raises(Undeliverable, match="bad_certificate"):
            post(f"https://other.example.org:{port}/", b"{}", {}, local, trusted)
        with pytest.raises(Undeliverable, match="bad_certificate"):
            post(f"https://hooks.example.org:{port}/", b"{}", {}, local)
    finally:
        server.shutdown()
        server.server_close()
    assert sent == 204


def test_a_receiver_that_is_slow_or_away_does_not_hold_up_the_others(monkeypatch):
    monkeypatch.setattr(pinned_http, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Undeliverable, match="timed_out"):
            post(f"http://127.0.0.1:{port}/", b"{}", {}, ["127.0.0.0/8"])
    with pytest.raises(Undeliverable, match="unreachable"):
        post(f"http://127.0.0.1:{port}/", b"{}", {}, ["127.0.0.0/8"])
