"""Signing in with a browser: links, cookies, and requests from other sites."""

import asyncio
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, update

from service.api.limits import Bucket
from service.database.tables import Device, SignInLink, SignOn, Token
from service.domain import queue
from service.domain.callers import Caller, hash_secret, require_valid_token
from service.domain.sign_in import browser_name, delete_old_sign_ins
from service.errors import SignedOut
from service.settings import Settings
from tests.api import ADDRESS, BASE_URL, open_api

OWN = {"Sec-Fetch-Site": "same-origin"}
COOKIE = "fieldscribe-8321"
SECURE = "__Host-fieldscribe"


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        api.app.state.limits.bad_tokens = Bucket(rate=1e6, burst=10**9)
        yield api


def new_browser(api, base_url=BASE_URL, client=ADDRESS):
    """A browser, which sends cookies and says that its requests come from our own pages."""
    return TestClient(api.app, base_url=base_url, client=client, headers=OWN)


def invite(api, role="researcher", **fields):
    made = api.post("/v1/invitations", json={"role": role, **fields})
    assert made.status_code == 201, made.text
    return made.json()


def secret_of(link):
    return link.partition("#")[2]


def join(api, role="researcher", browser=None, **fields):
    """A browser that has used an invitation, and what the answer said."""
    browser = browser or new_browser(api)
    made = browser.post(
        "/v1/sign-in", json={"link": secret_of(invite(api, role, **fields)["link"])}
    )
    assert made.status_code == 201, made.text
    return browser, made.json()


def test_an_invitation_signs_in_once_and_gives_a_key(api):
    study = api.study()
    made = invite(api, studies=[study["code"]], display_name="A. Researcher")
    assert made["link"].startswith(f"{BASE_URL}/join#")
    secret = secret_of(made["link"])
    browser = new_browser(api)
    shown = browser.post("/v1/sign-in/check", json={"link": secret}).json()
    assert (shown["role"], shown["studies"]) == ("researcher", [study["code"]])

    signed_in = browser.post("/v1/sign-in", json={"link": secret})

    cookie = signed_in.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert [each["code"] for each in browser.get("/v1/studies").json()["items"]] == [study["code"]]
    me = browser.get("/v1/sign-in").json()
    assert (me["display_name"], me["key"]) == ("A. Researcher", None)
    for path in ("/v1/sign-in", "/v1/sign-in/check"):
        again = new_browser(api).post(path, json={"link": secret})
        assert (again.status_code, again.json()["code"]) == (401, "sign_in_link_unusable")
    key = signed_in.json()["key"]
    assert api.get("/v1/studies", token=key).status_code == 200
    other = new_browser(api)
    assert other.post("/v1/sign-in", json={"key": key}).json()["key"] is None
    assert other.get("/v1/studies").status_code == 200


def test_a_study_that_was_erased_is_not_listed_any_more(api):
    kept, erased = api.study()["code"], api.study()["code"]
    browser, _ = join(api, studies=[kept, erased])
    assert api.request("DELETE", f"/v1/studies/{erased}").status_code == 204

    assert browser.get("/v1/sign-in").json()["studies"] == [kept]


def test_two_browsers_cannot_both_use_a_link(api):
    secret = secret_of(invite(api)["link"])

    answers = [new_browser(api).post("/v1/sign-in", json={"link": secret}) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201, 401, 401]


def test_a_link_expires(api):
    secret = secret_of(invite(api)["link"])
    with api.services.sessionmaker.begin() as session:
        session.execute(update(SignInLink).values(expires_at=datetime.now(UTC)))

    answer = new_browser(api).post("/v1/sign-in", json={"link": secret})

    assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_link_unusable")


def test_ones_own_link_leaves_the_token_as_it_is(api):
    token = api.token("researcher", api.study()["id"])
    link = api.post("/v1/sign-in-links", token=token).json()["link"]
    browser = new_browser(api)

    assert browser.post("/v1/sign-in", json={"link": secret_of(link)}).json()["key"] is None

    assert browser.get("/v1/studies").json() == api.get("/v1/studies", token=token).json()


def test_a_token_that_is_revoked_signs_its_browsers_out(api):
    made = invite(api, studies=[api.study()["code"]])
    browser = new_browser(api)
    browser.post("/v1/sign-in", json={"link": secret_of(made["link"])})
    assert browser.get("/v1/studies").status_code == 200

    api.request("DELETE", f"/v1/tokens/{made['token']['id']}")

    answer = browser.get("/v1/studies")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


def test_a_browser_is_signed_out_when_it_is_idle_but_not_by_what_nobody_caused(api):
    browser, me = join(api)
    idle = timedelta(minutes=api.services.settings.sign_in_idle_minutes)

    def be_idle(for_):
        with api.services.sessionmaker.begin() as session:
            device = session.get_one(Device, UUID(me["device_id"]))
            device.last_seen_at = datetime.now(UTC) - for_
        return device

    def seen():
        with api.services.sessionmaker() as session:
            return session.get_one(Device, UUID(me["device_id"])).last_seen_at

    before = be_idle(idle / 2).last_seen_at
    assert browser.get("/v1/studies", headers={"Fieldscribe-Background": "1"}).status_code == 200
    assert seen() == before
    assert browser.get("/v1/studies").status_code == 200
    assert seen() > before
    be_idle(idle)
    answer = browser.get("/v1/studies")
    assert (answer.status_code, answer.json()["code"]) == (401, "signed_out")


def test_a_sign_in_ends_whatever_happens(api):
    browser, me = join(api)
    with api.services.sessionmaker.begin() as session:
        session.get_one(Device, UUID(me["device_id"])).ends_at = datetime.now(UTC)

    assert browser.get("/v1/studies").json()["code"] == "signed_out"


def test_signing_out_ends_the_cookie_and_waiting_requests(api):
    browser, me = join(api)
    cookie = browser.cookies[COOKIE]
    with api.services.sessionmaker() as session:
        token_id = session.get_one(Device, UUID(me["device_id"])).token_id

    answer = browser.post("/v1/sign-out")

    assert answer.status_code == 204
    assert "storage" in answer.headers["Clear-Site-Data"]
    assert COOKIE not in browser.cookies
    browser.cookies.set(COOKIE, cookie)
    assert browser.get("/v1/studies").json()["code"] == "signed_out"
    caller = Caller(token_id, "researcher", False, frozenset(), UUID(me["device_id"]))
    with pytest.raises(SignedOut):
        require_valid_token(api.services, caller)


def test_people_list_and_sign_out_their_own_browsers_only(api):
    browser, me = join(api)
    other = new_browser(api)
    other.post("/v1/sign-in", json={"key": me["key"]}, headers={"User-Agent": "Firefox Windows"})
    stranger, strange = join(api)

    devices = browser.get("/v1/devices").json()["items"]
    assert sorted(device["current"] for device in devices) == [False, True]
    theirs = next(device for device in devices if not device["current"])
    assert theirs["browser"] == "Firefox on Windows"
    for id in (strange["device_id"], uuid4()):
        answer = browser.delete(f"/v1/devices/{id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "device_not_found")
    assert browser.delete(f"/v1/devices/{theirs['id']}").json()["signed_in"] is False

    assert other.get("/v1/studies").status_code == 401
    assert stranger.get("/v1/studies").status_code == 200


def test_links_and_browsers_are_deleted_a_month_after_their_end(api):
    """Hourly, with the strays of the vault. What is in use, or has just ended, stays."""
    now, idle = datetime.now(UTC), timedelta(minutes=api.services.settings.sign_in_idle_minutes)
    month = timedelta(days=30)
    _, used = join(api)
    ages = {"kept": month + idle - timedelta(minutes=2), "deleted": month + idle + timedelta(1)}
    devices = {name: UUID(join(api)[1]["device_id"]) for name in ages}
    links = {name: secret_of(invite(api)["link"]) for name in ages}
    invited = {name: uuid4() for name in (*ages, "linked")}
    with api.services.sessionmaker.begin() as session:
        for name, age in ages.items():
            session.get_one(Device, devices[name]).last_seen_at = now - age
            link = SignInLink.hash == hash_secret(links[name])
            session.execute(update(SignInLink).where(link).values(expires_at=now - age + idle))
        for name, id in invited.items():
            session.add(Token(id=id, hash=id.bytes * 2, role="coder"))
            session.flush()
            at = now - ages.get(name, month * 12) + idle
            identity = id.bytes if name == "linked" else None
            session.add(SignOn(token_id=id, expected=id.bytes, identity=identity, expires_at=at))

    assert delete_old_sign_ins(api.services) == 3

    with api.services.sessionmaker() as session:
        present = set(session.scalars(select(Device.id)))
        hashes = set(session.scalars(select(SignInLink.hash)))
        people = set(session.scalars(select(SignOn.token_id)))
    assert devices["kept"] in present and devices["deleted"] not in present
    assert UUID(used["device_id"]) in present
    assert hash_secret(links["kept"]) in hashes and hash_secret(links["deleted"]) not in hashes
    assert people == {invited["kept"], invited["linked"]}


def test_a_browser_of_a_deleted_row_is_signed_out(api):
    browser, me = join(api)
    with api.services.sessionmaker.begin() as session:
        session.execute(delete(Device).where(Device.id == UUID(me["device_id"])))

    assert browser.get("/v1/studies").json()["code"] == "signed_out"


def test_the_hourly_tidying_deletes_them(monkeypatch):
    tidied = threading.Event()
    monkeypatch.setattr(queue, "delete_old_sign_ins", lambda _: tidied.set())
    for name in ("reap", "sweep", "correct_future_times", "close_gaps", "remove_strays"):
        monkeypatch.setattr(queue, name, lambda *_: None)
    services: Any = SimpleNamespace(sessionmaker=None, settings=None)

    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(queue.maintain(services), 0.5))

    assert tidied.is_set()


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": BASE_URL},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": None, "Origin": "https://elsewhere.example"},
    {"Sec-Fetch-Site": None, "Origin": "null"},
    {"Sec-Fetch-Site": None, "Origin": None},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: str(headers))
def test_a_change_with_a_cookie_must_come_from_our_own_pages(api, headers):
    browser, _ = join(api, "owner")
    browser.headers.pop("Sec-Fetch-Site")
    sent = {name: value for name, value in headers.items() if value is not None}
    body = {"code": f"CSRF-{uuid4().hex[:6].upper()}"}

    answer = browser.post("/v1/studies", json=body, headers=sent)

    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site_request")
    with_token = {**sent, "Authorization": api.headers["Authorization"]}
    assert browser.post("/v1/studies", json=body, headers=with_token).status_code == 201
    body["code"] += "X"
    own = {"Origin": BASE_URL}
    assert browser.post("/v1/studies", json=body, headers=own).status_code == 201


def test_another_sites_page_cannot_read_with_a_cookie_or_sign_a_browser_in(api):
    browser, _ = join(api)
    for site in ("cross-site", "same-site"):
        answer = browser.get("/v1/studies", headers={"Sec-Fetch-Site": site})
        assert answer.json()["code"] == "cross_site_request"
        link = {"link": secret_of(invite(api)["link"])}
        refused = new_browser(api).post("/v1/sign-in", json=link, headers={"Sec-Fetch-Site": site})
        assert refused.json()["code"] == "cross_site_request"
    assert browser.get("/v1/studies", headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_over_tls_the_cookie_is_bound_to_the_host(api):
    browser = new_browser(api, "https://transcripts.example.org", ("192.0.2.7", 1))

    _, me = join(api, browser=browser)

    assert list(browser.cookies) == [SECURE]
    assert me["role"] == "researcher"
    assert browser.get("/v1/studies").status_code == 200


@pytest.mark.parametrize(
    ("base_url", "address"),
    [
        ("http://transcripts.example.org", "192.0.2.7"),
        ("http://127.0.0.1:8321", "192.0.2.7"),
        ("http://rebound.example:8321", "127.0.0.1"),
    ],
)
def test_without_tls_only_this_machine_may_sign_in(api, base_url, address):
    browser = new_browser(api, base_url, (address, 1))
    secret = secret_of(invite(api)["link"])

    answer = browser.post("/v1/sign-in", json={"link": secret})

    assert (answer.status_code, answer.json()["code"]) == (403, "insecure_connection")
    assert new_browser(api).post("/v1/sign-in", json={"link": secret}).status_code == 201


@contextmanager
def changed(api, **values):
    """The service with other settings."""
    services, before = api.services, api.services.settings
    object.__setattr__(services, "settings", before.model_copy(update=values))
    yield
    object.__setattr__(services, "settings", before)


def test_behind_a_proxy_without_tls_nobody_signs_in(api):
    secret = secret_of(invite(api)["link"])
    with changed(api, behind_proxy=True):
        assert new_browser(api).post("/v1/sign-in", json={"link": secret}).status_code == 403

    with changed(api, behind_proxy=True, public_url="https://transcripts.example.org"):
        answer = new_browser(api).post("/v1/sign-in", json={"link": secret})

    assert answer.status_code == 201
    assert answer.headers["set-cookie"].startswith(f"{SECURE}=")


def test_the_public_address_begins_links(api):
    with changed(api, public_url="https://transcripts.example.org"):
        link = api.post("/v1/sign-in-links").json()["link"]

    assert link.startswith("https://transcripts.example.org/join#")


@pytest.mark.parametrize("role", ["worker", "deidentifier"])
def test_programs_do_not_sign_in(api, role):
    answer = new_browser(api).post("/v1/sign-in", json={"key": api.token(role)})

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert api.post("/v1/invitations", json={"role": role}).status_code == 422


@pytest.mark.parametrize(
    ("kind", "code"), [("expired", "token_expired"), ("revoked", "token_revoked")]
)
def test_an_invalid_token_does_not_sign_in(api, kind, code):
    key = api.token("researcher", **{kind: True})

    answer = new_browser(api).post("/v1/sign-in", json={"key": key})

    assert (answer.status_code, answer.json()["code"]) == (401, code)


def test_guesses_are_rate_limited(api, monkeypatch):
    monkeypatch.setattr(api.app.state.limits, "bad_tokens", Bucket(rate=0.001, burst=4))
    bodies = [{"link": "guess"}, {"key": "guess"}]

    answers = [new_browser(api).post("/v1/sign-in", json=body) for body in bodies * 2]
    answers.append(new_browser(api).post("/v1/sign-in/check", json={"link": "guess"}))

    assert [answer.status_code for answer in answers] == [401] * 4 + [429]


def test_an_admin_invites_no_one_who_reads_content(api):
    browser, _ = join(api, "admin")
    study = api.study()["code"]

    refused = browser.post("/v1/invitations", json={"role": "researcher", "studies": [study]})

    assert (refused.status_code, refused.json()["code"]) == (403, "not_allowed")
    assert browser.post("/v1/invitations", json={"role": "coder"}).status_code == 201
    assert browser.post("/v1/invitations", json={"role": "owner"}).status_code == 403


def test_only_hashes_of_links_and_cookies_are_stored(api):
    made = invite(api)
    browser, _ = join(api)
    with api.services.sessionmaker() as session:
        hashes = [
            *session.scalars(select(SignInLink.hash)),
            *session.scalars(select(Device.hash)),
            *session.scalars(select(Token.hash)),
        ]
    for secret in (secret_of(made["link"]), browser.cookies[COOKIE]):
        assert all(secret.encode() not in stored and len(stored) == 32 for stored in hashes)


@pytest.mark.parametrize(
    "name", ["", "x" * 61, "a\x00b", "\u202ereversed\x07"], ids=["empty", "long", "nul", "bell"]
)
def test_an_unusable_display_name_is_refused(api, name):
    answer = api.post("/v1/invitations", json={"role": "coder", "display_name": name})

    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("(Windows NT 10.0; Win64; rv:140.0) Gecko/2 Firefox/140.0", "Firefox on Windows"),
        ("(Macintosh; Intel Mac OS X 10_15_7) Version/17 Safari/605", "Safari on Mac"),
        ("(X11; Linux x86_64) Chrome/140 Safari/537 Edg/140", "Edge on Linux"),
        ("(iPhone; CPU iPhone OS 17_0 like Mac OS X) Safari/604", "Safari on iPhone"),
        ("curl/8", "A browser"),
    ],
    ids=["firefox", "safari", "edge", "iphone", "curl"],
)
def test_a_browser_is_named_after_its_header(agent, name):
    assert browser_name(agent) == name


def test_sign_in_settings_have_bounds():
    with pytest.raises(ValueError, match="sign_in_idle_minutes"):
        Settings(sign_in_idle_minutes=0)
    with pytest.raises(ValueError, match="public_url"):
        Settings(public_url="https://example.org/path")


def test_a_coders_cookie_reaches_nothing_identified(api):
    """Every route that a researcher may use and a coder may not, asked with a coder's cookie."""
    from tests.test_access import GUARDED, fill

    browser, _ = join(api, "coder", all_studies=True)
    for method, path, operation in GUARDED:
        if "coder" in operation["x-roles"]:
            continue
        answer = browser.request(method, fill(path, {"study": "NONE"}))
        assert answer.status_code == 403, (method, path)
