"""Single sign-on: invitations, the first sign-in, and providers and browsers that deceive."""

import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import httpx2
import pytest
from fastapi.testclient import TestClient
from joserfc.jwk import RSAKey
from sqlalchemy import select, update

from service.api import openid
from service.api.limits import Bucket
from service.api.openid import Attempt
from service.api.process import prepare
from service.database.tables import SignOn
from service.domain.sign_on import read_sign_on_key
from service.errors import SignOnRefused
from service.settings import BadSettings, Settings, is_safe_url
from tests.api import ADDRESS, BASE_URL, open_api
from tests.openid_provider import CLIENT, SECRET, OpenIdProvider

OWN = {"Sec-Fetch-Site": "same-origin"}
BACK = {"Sec-Fetch-Site": "cross-site", "Accept": "text/html"}  # from the provider's page
LOCAL: dict[str, Any] = {"sign_on_issuer": "http://127.0.0.1:9", "sign_on_client_id": CLIENT}


@pytest.fixture(scope="module")
def provider():
    with OpenIdProvider().running() as running:
        yield running


@pytest.fixture(scope="module")
def api(module_settings, provider, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret") / "client"
    secret.write_text(f"{SECRET}\n")
    settings = module_settings.model_copy(
        update={
            "sign_on_issuer": provider.issuer,
            "sign_on_client_id": CLIENT,
            "sign_on_secret_file": secret,
            "sign_on_label": "Example University",
        }
    )
    with open_api(settings) as api:
        for name in ("bad_tokens", "sign_ons"):
            setattr(api.app.state.limits, name, Bucket(rate=1e6, burst=10**9))
        yield api


@pytest.fixture(autouse=True)
def well_behaved(provider, api):
    provider.reset()
    api.app.state.provider = None  # a failure of the test before


def invite(api, status=201, role="researcher", **fields):
    made = api.post("/v1/invitations", json={"role": role, **fields})
    assert made.status_code == status, made.text
    return made.json()


def invite_by_email(api, email, **fields):
    return invite(api, sign_on={"email": email}, **fields)


def start(api, next_path="/", browser=None):
    """A browser on its way to the provider, and the address that it goes to."""
    browser = browser or TestClient(api.app, base_url=BASE_URL, client=ADDRESS)
    answer = browser.post("/v1/sign-on", json={"next": next_path}, headers=OWN)
    assert answer.status_code == 201, answer.text
    return browser, answer.json()["location"]


def come_back(browser, address):
    return browser.get(address, headers=BACK, follow_redirects=False)


def sign_in(api, provider, subject, **claims):
    browser, location = start(api)
    return browser, come_back(browser, provider.authorise(location, subject, **claims))


def verified(email):
    return {"email": email, "email_verified": True}


def refused(answer, code, status):
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    ), answer.text
    assert f"<code>{code}</code>" in answer.text
    assert answer.headers["Content-Security-Policy"]
    assert "fieldscribe-8321" not in answer.cookies
    return True


def test_an_invited_person_signs_in_and_is_recognised_by_subject_from_then_on(api, provider):
    study = api.study()["code"]
    made = invite_by_email(
        api, "A.Researcher@Uni.example", studies=[study], display_name="A. Researcher"
    )
    assert made["link"] == f"{BASE_URL}/sign-in"
    until = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=13) < until < timedelta(days=15)

    browser, answer = sign_in(api, provider, "s-1", **verified("a.researcher@uni.example"))

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    me = browser.get("/v1/sign-in", headers=OWN).json()
    assert (me["role"], me["studies"], me["display_name"]) == (
        "researcher",
        [study],
        "A. Researcher",
    )
    assert me["device_id"] is not None
    again, answer = sign_in(api, provider, "s-1", **verified("another@uni.example"))
    assert answer.status_code == 303
    assert again.get("/v1/sign-in", headers=OWN).json()["studies"] == [study]
    _, other = sign_in(api, provider, "s-2", **verified("a.researcher@uni.example"))
    assert refused(other, "sign_on_not_invited", 403)


def test_the_cookies_do_not_reach_other_sites(api, provider):
    invite(api, sign_on={"subject": "cookies"})
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)
    sent = browser.post("/v1/sign-on", json={}, headers=OWN)
    lax = sent.headers["set-cookie"].lower()
    assert "httponly" in lax and "samesite=lax" in lax and "max-age=600" in lax

    answer = come_back(browser, provider.authorise(sent.json()["location"], "cookies"))

    ours, removed = sorted(answer.headers.get_list("set-cookie"), key=lambda each: "-on-" in each)
    kept = next(each for each in (ours, removed) if "samesite=strict" in each.lower())
    assert kept.startswith("fieldscribe-8321=") and "HttpOnly" in kept
    assert list(browser.cookies) == ["fieldscribe-8321"]


def test_over_tls_both_cookies_are_bound_to_the_host(api, provider):
    invite(api, sign_on={"subject": "tls"})
    address = "https://transcripts.example.org"
    browser = TestClient(api.app, base_url=address, client=("192.0.2.7", 1))
    _, location = start(api, browser=browser)
    assert list(browser.cookies) == ["__Host-fieldscribe-sign-on"]
    back = provider.authorise(location, "tls")
    assert back.startswith(f"{address}/v1/sign-on/callback?")

    assert come_back(browser, back).status_code == 303

    assert list(browser.cookies) == ["__Host-fieldscribe"]


def test_an_e_mail_address_may_come_from_the_user_info(api, provider):
    invite_by_email(api, "info@uni.example")
    provider.user_info = verified("info@uni.example")

    assert sign_in(api, provider, "info")[1].status_code == 303


def test_user_info_of_another_person_is_refused(api, provider):
    invite_by_email(api, "swapped@uni.example")
    provider.user_info = {**verified("swapped@uni.example"), "sub": "somebody"}

    assert refused(sign_in(api, provider, "other")[1], "sign_on_refused", 401)


UNVERIFIED = {
    "unverified": {"email": "e@uni.example", "email_verified": False},
    "silent": {"email": "e@uni.example"},
    "number": {"email": "e@uni.example", "email_verified": 2},
    "kelvin": {"email": "\u212a@uni.example", "email_verified": True},  # its lower case is k
    "list": {"email": ["e@uni.example"], "email_verified": True},
}


@pytest.mark.parametrize("claims", UNVERIFIED.values(), ids=UNVERIFIED)
def test_an_address_that_the_provider_has_not_verified_opens_nothing(api, provider, claims):
    for email in ("e@uni.example", "k@uni.example"):
        invite_by_email(api, email) if not is_invited(api, email) else None

    _, answer = sign_in(api, provider, "unverified-subject", **claims)

    assert refused(answer, "sign_on_not_invited", 403)
    assert "unverified-subject" in answer.text  # for the administrator's invitation


def is_invited(api, email):
    body = {"role": "coder", "sign_on": {"email": email}}
    answer = api.post("/v1/invitations", json=body)
    if answer.status_code == 201:
        api.request("DELETE", f"/v1/tokens/{answer.json()['token']['id']}")
    return answer.status_code == 409


def test_an_account_that_was_revoked_is_refused_until_the_person_is_invited_again(api, provider):
    first = invite_by_email(api, "back@uni.example", studies=[api.study()["code"]])
    browser, _ = sign_in(api, provider, "back", **verified("back@uni.example"))

    api.request("DELETE", f"/v1/tokens/{first['token']['id']}")

    assert browser.get("/v1/studies", headers=OWN).json()["code"] == "token_revoked"
    _, answer = sign_in(api, provider, "back", **verified("back@uni.example"))
    assert refused(answer, "sign_on_not_invited", 403)
    assert "access has ended" in answer.text
    invite_by_email(api, "back@uni.example", role="coder")
    again, answer = sign_in(api, provider, "back", **verified("back@uni.example"))
    assert answer.status_code == 303
    assert again.get("/v1/sign-in", headers=OWN).json()["role"] == "coder"


def test_an_account_that_has_expired_is_refused(api, provider):
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    invite(api, sign_on={"subject": "expiring"}, expires_at=soon)
    assert sign_in(api, provider, "expiring")[1].status_code == 303

    time.sleep(1.1)

    assert refused(sign_in(api, provider, "expiring")[1], "sign_on_not_invited", 403)


def test_an_invitation_to_sign_on_expires(api, provider):
    made = invite(api, sign_on={"subject": "late"}, days=3)
    with api.services.sessionmaker.begin() as session:
        session.execute(
            update(SignOn)
            .where(SignOn.token_id == UUID(made["token"]["id"]))
            .values(expires_at=datetime.now(UTC))
        )

    assert refused(sign_in(api, provider, "late")[1], "sign_on_not_invited", 403)
    invite(api, sign_on={"subject": "late"})
    assert sign_in(api, provider, "late")[1].status_code == 303


def test_one_person_has_one_account(api, provider):
    first = invite_by_email(api, "twice@uni.example")

    taken = invite(api, 409, sign_on={"email": "TWICE@uni.example"})

    assert taken["code"] == "sign_on_taken"
    assert f"fieldscribe token revoke {first['token']['id']}" in taken["detail"]


def test_an_admin_invites_nobody_who_reads_content(api):
    admin = api.token("admin", all_studies=True)
    body = {"role": "researcher", "all_studies": True, "sign_on": {"subject": "friend"}}

    assert api.post("/v1/invitations", token=admin, json=body).json()["code"] == "not_allowed"


@pytest.mark.parametrize(
    "person",
    [
        {},
        {"email": "a@b.example", "subject": "both"},
        {"email": "no address"},
        {"email": "a@b@c.example"},
        {"email": "\u00e9@uni.example"},
        {"subject": ""},
        {"subject": "\n"},
        {"name": "x"},
    ],
    ids=["none", "both", "space", "two-at", "not-ascii", "empty", "newline", "name"],
)
def test_an_invalid_person_is_refused(api, person):
    assert invite(api, 422, sign_on=person)["code"] == "invalid_request"


def test_only_keyed_hashes_of_people_are_stored(api, provider):
    invite_by_email(api, "stored@uni.example")
    sign_in(api, provider, "stored-subject", **verified("stored@uni.example"))
    with api.services.sessionmaker() as session:
        rows = session.scalars(select(SignOn)).all()
    stored = [value for row in rows for value in (row.expected, row.identity) if value is not None]
    assert stored and all(len(value) == 32 for value in stored)
    assert api.services.settings.sign_on_key.stat().st_mode & 0o777 == 0o600
    assert len(read_sign_on_key(api.services.settings)) == 32


# --- answers of the provider that must be refused -------------------------------------------------


HOSTILE_CLAIMS = {
    "wrong-nonce": {"nonce": "another"},
    "no-nonce": {"nonce": None},
    "wrong-audience": {"aud": "another-client"},
    "no-audience": {"aud": None},
    "audience-among-others": {"aud": [CLIENT, "another-client"], "azp": "another-client"},
    "another-audience-for-us": {"aud": "another-client", "azp": CLIENT},
    "others-without-azp": {"aud": [CLIENT, "another-client"]},
    "wrong-issuer": {"iss": "https://elsewhere.example"},
    "no-issuer": {"iss": None},
    "expired": {"exp": 1_000_000_000},
    "no-expiry": {"exp": None},
    "never-expires": {"exp": float("nan")},
    "from-the-future": {"iat": 9_000_000_000, "exp": 9_000_000_300},
    "no-subject": {"sub": None},
    "empty-subject": {"sub": ""},
    "subject-is-a-list": {"sub": ["hostile"]},
    "another-access-token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("claims", HOSTILE_CLAIMS.values(), ids=HOSTILE_CLAIMS)
def test_an_id_token_with_wrong_claims_is_refused(api, provider, claims):
    ensure_invited(api, "hostile")
    provider.claims = claims

    assert refused(sign_in(api, provider, "hostile")[1], "sign_on_refused", 401)


def ensure_invited(api, subject):
    answer = api.post("/v1/invitations", json={"role": "coder", "sign_on": {"subject": subject}})
    assert answer.status_code in (201, 409)


def test_the_same_token_with_right_claims_is_accepted(api, provider):
    ensure_invited(api, "hostile")

    assert sign_in(api, provider, "hostile")[1].status_code == 303


@pytest.mark.parametrize("kind", ["none", "hmac-with-public-key", "another-key", "unknown-key-id"])
def test_an_id_token_with_a_wrong_signature_is_refused(api, provider, kind):
    ensure_invited(api, "hostile")
    provider.signing = {
        "none": lambda: {"header": {"alg": "none"}},
        "hmac-with-public-key": lambda: {"header": {"alg": "HS256", "kid": "k1"}},
        "another-key": lambda: {
            "header": {"alg": "RS256", "kid": "k1"},
            "key": RSAKey.generate_key(2048),
        },
        "unknown-key-id": lambda: {"header": {"alg": "RS256", "kid": "k2"}},
    }[kind]()

    assert refused(sign_in(api, provider, "hostile")[1], "sign_on_refused", 401)


def replace_parameter(address, **values):
    parts = urlsplit(address)
    asked = {name: each[0] for name, each in parse_qs(parts.query).items()} | values
    kept = {name: value for name, value in asked.items() if value is not None}
    return parts._replace(query=urlencode(kept)).geturl()


CHANGED = {
    "no-state": {"state": None},
    "wrong-state": {"state": "x" * 43},
    "no-issuer": {"iss": None},
    "another-issuer": {"iss": "https://elsewhere.example"},
    "no-code": {"code": None},
    "unknown-code": {"code": "guess"},
    "an-error": {"error": "access_denied"},
}


@pytest.mark.parametrize("values", CHANGED.values(), ids=CHANGED)
def test_a_changed_answer_is_refused(api, provider, values):
    ensure_invited(api, "hostile")
    browser, location = start(api)

    answer = come_back(
        browser, replace_parameter(provider.authorise(location, "hostile"), **values)
    )

    assert refused(answer, "sign_on_refused", 401)
    assert not browser.cookies  # the attempt is over


def test_an_answer_is_used_once(api, provider):
    ensure_invited(api, "hostile")
    browser, location = start(api)
    attempt = browser.cookies["fieldscribe-8321-sign-on"]
    back = provider.authorise(location, "hostile")
    assert come_back(browser, back).status_code == 303
    browser.cookies.clear()

    assert refused(come_back(browser, back), "sign_on_refused", 401)
    browser.cookies.set("fieldscribe-8321-sign-on", attempt)
    assert refused(come_back(browser, back), "sign_on_refused", 401)


def test_a_code_of_another_browser_is_refused(api, provider):
    """An attacker's code in the victim's browser would sign the victim in as the attacker."""
    ensure_invited(api, "hostile")
    _, attackers = start(api)
    victim, own = start(api)
    stolen = provider.authorise(attackers, "hostile")

    assert refused(come_back(victim, stolen), "sign_on_refused", 401)
    victim, own = start(api)
    state = parse_qs(urlsplit(own).query)["state"][0]
    with_state = replace_parameter(provider.authorise(attackers, "hostile"), state=state)
    assert refused(come_back(victim, with_state), "sign_on_refused", 401)
    stranger = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)
    assert refused(come_back(stranger, stolen), "sign_on_refused", 401)


def test_an_attempt_ends_after_ten_minutes_and_cannot_be_forged(monkeypatch):
    key, now = b"k" * 32, time.time()
    attempt = Attempt.start(key, "/studies/PEER?page=2")
    again = Attempt.read(key, attempt.cookie, attempt.state)
    assert (again, again.next) == (attempt, "/studies/PEER?page=2")
    secret, at, path = attempt.cookie.split(".")
    evil = urlsafe_b64encode(b"https://elsewhere.example").decode().rstrip("=")
    forged = [
        f"{secret}.{at}.{evil}",
        f"{secret}.{int(at) + 1}.{path}",
        f"{'a' * 43}.{at}.{path}",
        f"{secret}.{at}",
        f"\u00e9{secret[1:]}.{at}.{path}",
        "",
        None,
    ]
    for cookie in forged:
        with pytest.raises(SignOnRefused):
            Attempt.read(key, cookie, attempt.state)
    with pytest.raises(SignOnRefused):
        Attempt.read(b"other" * 8, attempt.cookie, attempt.state)
    monkeypatch.setattr(time, "time", lambda: now + 601)
    with pytest.raises(SignOnRefused):
        Attempt.read(key, attempt.cookie, attempt.state)


@pytest.mark.parametrize("path", ["/studies/PEER?page=2", "/", "/transcripts/x/review"])
def test_the_browser_goes_on_to_the_page_that_it_came_from(api, provider, path):
    ensure_invited(api, "hostile")
    browser, location = start(api, path)

    answer = come_back(browser, provider.authorise(location, "hostile"))

    assert answer.headers["location"] == path


@pytest.mark.parametrize(
    "path",
    [
        "https://elsewhere.example",
        "//elsewhere.example",
        "/\\elsewhere.example",
        "\\\\elsewhere.example",
        "/a\\b",
        "/\t/elsewhere.example",
        "/\n/elsewhere.example",
        "javascript:alert(1)",
        "",
        "studies",
        "/\u00e9",
        "/a\n",
        "/" + "a" * 500,
    ],
)
def test_no_page_of_another_site_is_opened_afterwards(api, path):
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)

    answer = browser.post("/v1/sign-on", json={"next": path}, headers=OWN)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_another_sites_page_cannot_start_a_sign_in(api):
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}):
        answer = browser.post("/v1/sign-on", json={}, headers=headers)
        assert answer.json()["code"] == "cross_site_request"


def test_without_tls_only_this_machine_may_sign_on(api, provider):
    browser = TestClient(
        api.app, base_url="http://transcripts.example.org", client=("192.0.2.7", 1)
    )
    answer = browser.post("/v1/sign-on", json={}, headers=OWN)
    assert (answer.status_code, answer.json()["code"]) == (403, "insecure_connection")
    assert refused(
        come_back(browser, "http://transcripts.example.org/v1/sign-on/callback?code=a&state=b"),
        "insecure_connection",
        403,
    )


def test_sign_ons_are_rate_limited(api, monkeypatch):
    monkeypatch.setattr(api.app.state.limits, "sign_ons", Bucket(rate=0.001, burst=2))
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)

    statuses = [browser.post("/v1/sign-on", json={}, headers=OWN).status_code for _ in range(3)]

    assert statuses == [201, 201, 429]
    assert refused(come_back(browser, "/v1/sign-on/callback"), "too_many_requests", 429)


# --- providers that are slow, down or misconfigured -----------------------------------------------


def test_a_slow_provider_holds_up_nothing_but_its_own_sign_in(api, provider, monkeypatch):
    monkeypatch.setattr(openid, "TIMEOUT", 0.5)
    monkeypatch.setattr(openid, "REST_AFTER_FAILURE", 3600.0)
    browser, location = start(api)
    back = provider.authorise(location, "hostile")
    provider.delay = 0.1  # the whole answer would take a minute
    began = time.monotonic()

    assert refused(come_back(browser, back), "sign_on_unavailable", 503)

    assert time.monotonic() - began < 30
    asked = provider.n_requests
    answer = browser.post("/v1/sign-on", json={}, headers=OWN)
    assert (answer.status_code, answer.json()["code"]) == (503, "sign_on_unavailable")
    assert "Example University does not answer" in answer.json()["detail"]
    assert provider.n_requests == asked  # the next one does not wait for it


BROKEN = {
    "an-error": {"status": 500},
    "another-issuer": {"metadata": {"issuer": "https://elsewhere.example"}},
    "no-keys": {"metadata": {"jwks_uri": None}},
    "plain-http": {"metadata": {"token_endpoint": "http://elsewhere.example/token"}},
    "an-address-of-a-file": {"metadata": {"jwks_uri": "file:///etc/passwd"}},
    "no-object": {"metadata": {"padding": "x" * 300_000}},
}


@pytest.mark.parametrize("state", BROKEN.values(), ids=BROKEN)
def test_a_broken_provider_is_said_to_be_unavailable(api, provider, state):
    for name, value in state.items():
        setattr(provider, name, value)
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)

    answer = browser.post("/v1/sign-on", json={}, headers=OWN)

    assert (answer.status_code, answer.json()["code"]) == (503, "sign_on_unavailable")
    assert not browser.cookies


def test_a_provider_that_is_down_is_said_to_be_unavailable(api, monkeypatch):
    def refuse(*_, **__):
        raise httpx2.ConnectError("refused")

    monkeypatch.setattr(httpx2.AsyncClient, "stream", refuse)
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)

    answer = browser.post("/v1/sign-on", json={}, headers=OWN)

    assert (answer.status_code, answer.json()["code"]) == (503, "sign_on_unavailable")


def test_nothing_of_a_person_reaches_the_log(api, provider, caplog):
    caplog.set_level("DEBUG")
    browser, location = start(api)
    back = provider.authorise(location, "quendolin", **verified("quendolin@uni.example"))
    come_back(browser, back)
    provider.claims = {"nonce": "x"}
    sign_in(api, provider, "quendolin")

    ours = [record for record in caplog.records if record.name.startswith("service")]
    assert ours
    assert "quendolin" not in "".join(record.getMessage() for record in ours)
    code = parse_qs(urlsplit(back).query)["code"][0]
    kept = [each for each in caplog.records if not each.name.startswith(("httpx2", "httpcore2"))]
    assert code not in "".join(record.getMessage() for record in kept)


# --- without a provider ---------------------------------------------------------------------------


def test_without_a_provider_there_is_no_button_and_no_way_in(api, monkeypatch):
    services, configured = api.services, api.services.settings
    browser = TestClient(api.app, base_url=BASE_URL, client=ADDRESS)
    assert browser.get("/v1/sign-on").json() == {"label": "Example University"}
    update = {"sign_on_issuer": None, "sign_on_client_id": None}
    object.__setattr__(services, "settings", configured.model_copy(update=update))
    try:
        assert browser.get("/v1/sign-on").json() == {"label": None}
        answer = browser.post("/v1/sign-on", json={}, headers=OWN)
        assert (answer.status_code, answer.json()["code"]) == (404, "sign_on_not_configured")
        assert refused(
            come_back(browser, "/v1/sign-on/callback?code=a"), "sign_on_not_configured", 404
        )
        assert invite(api, 404, sign_on={"subject": "x"})["code"] == "sign_on_not_configured"
    finally:
        object.__setattr__(services, "settings", configured)


@pytest.mark.parametrize(
    "values",
    [
        {"sign_on_issuer": "https://login.example.org"},
        {"sign_on_client_id": CLIENT},
        {"sign_on_issuer": "http://login.example.org", "sign_on_client_id": CLIENT},
        {"sign_on_issuer": "https://u:p@login.example.org", "sign_on_client_id": CLIENT},
        {"sign_on_issuer": "https://login.example.org?x", "sign_on_client_id": CLIENT},
        {"sign_on_issuer": "login.example.org", "sign_on_client_id": CLIENT},
        {"sign_on_issuer": "https://login.example.org:x", "sign_on_client_id": CLIENT},
    ],
    ids=["no-client", "no-issuer", "http", "password", "query", "no-scheme", "port"],
)
def test_settings_of_a_provider_that_is_not_safe_are_refused(values):
    with pytest.raises(ValueError, match="sign_on_issuer"):
        Settings(**values)


def test_a_provider_on_this_machine_needs_no_tls():
    assert Settings(**LOCAL).sign_on_issuer
    assert is_safe_url("http://localhost:9/token", "http://127.0.0.1:9")
    assert is_safe_url("https://login.example.org/token?tenant=a", "https://login.example.org")
    for url in ("http://login.example.org/token", "ftp://127.0.0.1/", "//x", "http://[::1"):
        assert not is_safe_url(url, "http://127.0.0.1:9")
    assert not is_safe_url("http://127.0.0.1/token", "https://login.example.org")


@pytest.mark.parametrize("content", [None, b" \n", b"\xff"], ids=["missing", "empty", "binary"])
def test_the_service_does_not_start_without_its_clients_secret(settings, tmp_path, content):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    wrong = settings.model_copy(update={**LOCAL, "sign_on_secret_file": path})

    with pytest.raises(BadSettings, match="sign_on_secret_file"):
        prepare(wrong)
