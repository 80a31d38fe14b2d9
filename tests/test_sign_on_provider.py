"""Single sign-on in Chromium with a real provider, the certified `oidc-provider` of npm.

To run it: npm install --prefix FOLDER oidc-provider@9, then OIDC_PROVIDER=FOLDER. Its address is
`localhost` and ours 127.0.0.1, which are two sites to the browser.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.stand_in.installation import find_free_port
from tests.browser import Visitor, check_page, serve_api, settle, shoot
from tests.openid_provider import CLIENT, SECRET

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def port():
    folder = os.environ.get("OIDC_PROVIDER")
    if not folder or not shutil.which("node"):
        pytest.skip("OIDC_PROVIDER names no folder, or there is no node")
    return find_free_port()


@pytest.fixture(scope="module")
def site(module_settings, port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret")
    (folder / "client").write_text(SECRET)
    settings = module_settings.model_copy(
        update={
            "sign_on_issuer": f"http://localhost:{port}",
            "sign_on_client_id": CLIENT,
            "sign_on_secret_file": folder / "client",
            "sign_on_label": "Example University",
        }
    )
    with serve_api(settings) as api:
        yield api


@pytest.fixture
def provider(site, port):
    redirect = f"{str(site.client.base_url).rstrip('/')}/v1/sign-on/callback"
    script = Path(__file__).with_name("oidc_provider.mjs")
    arguments = [os.environ["OIDC_PROVIDER"], str(port), CLIENT, SECRET, redirect]
    process = subprocess.Popen(
        ["node", str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert any("ready" in line for line in process.stdout)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def visit(site, chromium, port):
    visitor = Visitor(site, chromium)
    # The provider's pages: their font, and an icon that they do not have.
    visitor.expected += [f"request to http://localhost:{port}", "fonts.googleapis.com", "404"]
    yield visitor
    visitor.close()


def open_browser(visit):
    page = visit.new_page()
    page.context.route(
        "https://fonts.googleapis.com/**",
        lambda route: route.fulfill(content_type="text/css", body=""),
    )
    return page


def sign_in_at_provider(page, name):
    page.get_by_role("button", name="Sign in with Example University").click()
    page.get_by_placeholder("Enter any login").fill(name)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()  # consents


def test_an_invited_person_signs_in_and_out_with_the_institutions_account(visit, site, provider):
    study = site.study()["code"]
    made = site.post(
        "/v1/invitations",
        json={
            "role": "researcher",
            "studies": [study],
            "display_name": "Ada",
            "sign_on": {"email": "ada@uni.example"},
        },
    ).json()
    page = open_browser(visit)
    visit.expected += ["401", "403"]
    page.goto(f"/studies/{study}")  # not signed in
    page.get_by_role("button", name="Sign in with Example University").wait_for()
    shoot(page, "sign-on")
    check_page(page)

    sign_in_at_provider(page, "ada")

    page.get_by_role("heading", name=study).wait_for()
    settle(page)
    assert page.url.endswith(f"/studies/{study}")
    (cookie,) = [each for each in page.context.cookies(visit.url) if "fieldscribe" in each["name"]]
    assert (cookie["sameSite"], cookie["httpOnly"]) == ("Strict", True)
    page.get_by_text("Ada").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in with Example University").click()
    page.get_by_role("heading", name="Studies").wait_for()  # still signed in at the provider

    site.request("DELETE", f"/v1/tokens/{made['token']['id']}")
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign in with Example University").click()
    page.get_by_text("Your access has ended").wait_for()


def test_an_administrator_invites_by_e_mail_and_the_person_signs_in_again_in_place(
    visit, site, provider
):
    study = site.study()["code"]
    page = visit("/admin")
    page.get_by_role("button", name="Invite somebody").click()
    page.get_by_label("Name").fill("Grace")
    page.get_by_label("E-mail address at Example University").fill("grace@uni.example")
    page.get_by_label(study, exact=True).check()
    assert page.get_by_label("Days until").input_value() == "14"
    shoot(page, "sign-on-invite")
    check_page(page)
    page.get_by_role("button", name="Create the invitation").click()
    page.get_by_text("Grace can sign in there with Example University").wait_for()
    assert page.locator(".secret").inner_text() == f"{visit.url}/sign-in"

    theirs = open_browser(visit)
    visit.expected += ["401", "403"]
    theirs.goto("/sign-in")
    sign_in_at_provider(theirs, "grace")
    theirs.get_by_role("link", name=study).click()
    theirs.get_by_text("No sessions yet").wait_for()
    theirs.context.clear_cookies(name=re.compile("^fieldscribe"))
    theirs.get_by_role("button", name="Try it with two demo recordings").click()
    with theirs.expect_popup() as opened:
        theirs.get_by_role("link", name="Sign in with Example University in a new tab").click()
    opened.value.get_by_role("button", name="Sign in with Example University").click()
    opened.value.get_by_role("heading", name="Studies").wait_for()
    theirs.get_by_role("button", name="I have signed in").click()
    theirs.get_by_role("heading", name="You are signed out").wait_for(state="detached")


@pytest.mark.parametrize("name", ["eve", "unverified-bob"])
def test_somebody_without_an_invitation_sees_what_to_do(visit, site, provider, name):
    if name.startswith("unverified"):
        body = {"role": "owner", "sign_on": {"email": f"{name}@uni.example"}}
        assert site.post("/v1/invitations", json=body).status_code == 201
    page = open_browser(visit)
    page.goto("/sign-in")
    visit.expected.append("403")

    sign_in_at_provider(page, name)

    page.get_by_text("ask your administrator to invite you").wait_for()
    assert page.get_by_text(name).count()  # the identifier to give the administrator
    shoot(page, "sign-on-refused")
    check_page(page)
    page.get_by_role("link", name="Back to the sign-in page").click()
    page.get_by_role("button", name="Sign in with Example University").wait_for()


def test_a_person_who_cancels_or_whose_provider_is_down_is_told(visit, site, provider):
    page = open_browser(visit)
    visit.expected += ["401", "503"]
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign in with Example University").click()
    page.get_by_role("link", name="Cancel").click()
    page.get_by_text("The provider did not sign you in").wait_for()

    provider.kill()
    provider.wait()
    page.get_by_role("link", name="Back to the sign-in page").click()
    page.get_by_role("button", name="Sign in with Example University").click()

    page.get_by_text("Example University does not answer").wait_for()
    shoot(page, "sign-on-down")
    check_page(page)
