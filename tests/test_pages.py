"""The pages' shells, headers and static files. tests/test_browser.py opens them in a browser."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from models.languages import LANGUAGES
from service.exports.programs import PROGRAM_FORMATS
from service.web import pages
from service.web.pages import HEADERS, PAGES, POLICY, STATIC, static_digest, static_files
from tests.api import open_api

TEXT = {"accept": "text/html,*/*;q=0.8"}


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.mark.parametrize("path", sorted(PAGES))
def test_every_page_has_the_security_headers_and_no_content(api, path):
    answer = api.client.get(re.sub(r"\{\w+\}", "INT-01", path), headers=TEXT)

    assert answer.status_code == 200
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "INT-01" not in answer.text
    assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*src=)|<style", answer.text)


def test_the_policy_allows_no_inline_script_and_no_other_host():
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert "trusted-types 'none'" in POLICY


def test_static_files_are_kept_for_ever_under_the_digest_of_all_of_them(api):
    html = api.client.get("/", headers=TEXT).text
    linked = re.findall(r'(?:href|src)="(/static/[^"]+)"', html)
    assert len(linked) >= 4
    for path in linked:
        answer = api.client.get(path)
        assert answer.status_code == 200, path
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    old = api.client.get("/static/000000000000/style.css")
    assert (old.status_code, old.headers["Cache-Control"]) == (404, "no-store")
    for name in ("../pages.py", "..%2fpages.py", "/etc/passwd"):
        assert api.client.get(f"/static/{static_digest()}/{name}").status_code == 404


def test_an_unknown_address_is_a_page_for_people_and_a_problem_for_programs(api):
    page = api.client.get("/nowhere", headers=TEXT)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert page.headers["Content-Security-Policy"] == POLICY
    assert api.client.get("/nowhere").json()["code"] == "no_such_path"
    assert api.client.get("/v1/nowhere", headers=TEXT).json()["code"] == "no_such_path"


def test_vendored_files_are_those_that_the_list_names():
    listed = json.loads((STATIC / "vendor/vendored.json").read_text())
    sums = {name: file["sha256"] for each in listed for name, file in each["files"].items()}
    here = {
        path.relative_to(STATIC / "vendor").as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in (STATIC / "vendor").rglob("*")
        if path.is_file() and path.name != "vendored.json"
    }

    assert here == sums
    for each in listed:
        assert {"package", "version", "licence", "registry"} <= each.keys()
        assert any(name.endswith("LICENSE") for name in each["files"])


def test_every_icon_that_a_page_names_exists():
    sources = [
        path.read_text()
        for folder in (STATIC, pages.FOLDER / "templates")
        for path in folder.glob("*.*")
        if path.suffix in (".js", ".html")
    ]
    named = {
        name
        for text in sources
        for name in re.findall(r"""icon\("([\w-]+)"|icon: "([\w-]+)"|icon icon-([\w-]+)""", text)
        for name in name
        if name
    }
    css = (STATIC / "icons.css").read_text()
    rules = dict(re.findall(r'\.icon-([\w-]+) \{ --icon: url\("(.+?)"\)', css))

    assert len(named) > 5
    assert named <= rules.keys()
    assert all(file in static_files() for file in rules.values())


def test_no_template_or_module_makes_html_from_strings():
    unsafe = re.compile(
        r"\|\s*safe\b|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
        r"|autoescape false|Markup\("
    )
    for path in [*pages.FOLDER.rglob("*.html"), *STATIC.glob("*.js"), *pages.FOLDER.glob("*.py")]:
        assert not unsafe.search(path.read_text()), path.name


def test_browsers_keep_nothing_but_settings():
    """No text, no names, no file names: a module that stores something must be listed here."""
    allowed = {"theme.js", "shell.js"}
    for path in STATIC.glob("*.js"):
        if re.search(r"localStorage|sessionStorage|indexedDB|caches\.", path.read_text()):
            assert path.name in allowed, path.name


def test_the_exports_page_offers_what_the_command_exports():
    """Programs and formats are those of `fieldscribe export --for`."""
    text = (STATIC / "exports.js").read_text()
    found = {
        program: tuple(re.findall(r'"([\w-]+)"', formats))
        for program, formats in re.findall(r'id: "(\w+)", name: .+?, formats: \[(.+?)\]', text)
    }

    assert found == {str(program): tuple(map(str, f)) for program, f in PROGRAM_FORMATS.items()}


def test_the_languages_that_pages_offer_are_those_that_whisper_knows():
    codes = re.search(r'CODES = "([^"]+)"', (STATIC / "languages.js").read_text())

    assert codes
    assert set(codes[1].split()) == set(LANGUAGES)


def test_administrators_see_the_state_of_the_service_and_others_do_not(api):
    for role, status in (("admin", 200), ("researcher", 403), ("coder", 403)):
        token = api.token(role, all_studies=True)
        assert api.get("/v1/service", token=token).status_code == status
    state = api.get("/v1/service").json()
    assert state["jobs"]["queued"] == 0
    assert state["disk"]["n_free"] > 0 or state["disk"] is None
    assert (state["sealed"], state["backup_age_seconds"]) == (False, None)


def loaded_by(template):
    """The scripts and styles that a page loads, with what they import at once or later."""
    html = bytes(pages.render(template).body).decode()
    found = set(re.findall(r"/static/\w+/([\w./-]+\.(?:js|css))", html))
    queue = list(found)
    while queue:
        name = queue.pop()
        text = static_files()[name].read_text()
        folder = Path(name).parent
        for path in re.findall(r"""(?:from|import) ?\(?"(\.[^"]+\.js)\"""", text):
            imported = os.path.normpath(folder / path)
            if imported not in found:
                found.add(imported)
                queue.append(imported)
    return found


@pytest.mark.parametrize("template", sorted(PAGES.values()))
def test_no_page_loads_more_than_200_kb_of_script_and_style(template):
    files = loaded_by(template)

    assert any(name.endswith(".js") for name in files)
    assert sum(static_files()[name].stat().st_size for name in files) < 200_000, files


def test_no_style_of_a_whole_page_depends_on_what_is_in_it():
    """`body:has(...)` once made each word that was marked cost the style of the whole transcript:
    0.2 s a second."""
    for path in STATIC.rglob("*.css"):
        assert not re.search(r"(?m)(^|[\s,}])(html|body|:root)\S*:has\(", path.read_text()), (
            path.name
        )
