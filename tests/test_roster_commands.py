"""`fieldscribe roster`: names in, pseudonyms out."""

import json

import pyrage
import pytest
from typer.testing import CliRunner

from service.commands.main import app
from tests.api import connect_commands, open_api

ROSTER = (
    "kind,code,name,aliases\n"
    "person,P07,Zacharias Quendolin,Zac\n"
    "person,,Hope,\n"
    "place,PLACE-3,Coffs Harbour,Coffs\n"
)


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture
def study(api, monkeypatch):
    connect_commands(api, monkeypatch)
    return api.study()["code"]


def run(*arguments, input=None):
    done = CliRunner().invoke(app, list(map(str, arguments)), input=input)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def imported(study, tmp_path):
    file = tmp_path / "roster.csv"
    file.write_text(ROSTER)
    return run("roster", "import", study, file)


def test_a_roster_is_imported_and_listed_without_names(study, imported):
    assert imported.stdout == "3 new, 0 changed, 0 unchanged\n"
    assert imported.stderr == (
        "entry 2: a name is also a common word: check its mentions with care\n"
    )
    listed = run("roster", "list", study).stdout
    assert "P07" in listed and "PLACE-3" in listed and "(none yet)" in listed
    assert "uendolin" not in listed
    places = json.loads(run("roster", "list", study, "--kind", "place", "--json").stdout)
    assert [each["pseudonym"] for each in places["items"]] == ["PLACE-3"]


def test_a_bad_roster_is_misuse_and_its_text_is_not_shown(study, tmp_path):
    file = tmp_path / "roster.csv"
    file.write_text("kind,name\nalien,Quendolin\n")

    done = CliRunner().invoke(app, ["roster", "import", study, str(file)])

    assert done.exit_code == 2
    assert "bad_entity_roster: Entry 1" in done.stderr
    assert "uendolin" not in done.output


def test_names_are_asked_for_and_looked_up_with_a_reason(study):
    run("roster", "add", study, "person", "--pseudonym", "P09", input="Ada Lovelace; Ada\n")
    run("roster", "alias", study, "P09", input="Countess\n")
    run("roster", "alias", study, "p09", "--remove", input="Ada\n")

    found = run("roster", "look-up", study, "P09", "--reason", "withdrawal")

    assert found.stdout == "P09: Ada Lovelace; Countess\n"
    assert "withdrawal" in run("roster", "look-ups", study).stdout
    free_text = CliRunner().invoke(
        app, ["roster", "look-up", study, "P09", "--reason", "Ada asked"]
    )
    assert free_text.exit_code == 2
    assert "The reason is" in free_text.stderr and "asked" not in free_text.stderr


def test_an_entity_is_changed_by_its_pseudonym(study, imported):
    run("roster", "set", study, "PLACE-3", "--descriptor", "coastal town", "--always")
    run("roster", "set", study, "P07", "--chosen-name", input="Rowan\n")

    assert run("roster", "look-up", study, "P07", "--reason", "audit").stdout == (
        "P07: Zacharias Quendolin; Zac (in releases: Rowan)\n"
    )
    listed = json.loads(run("roster", "list", study, "--json").stdout)["items"]
    assert {each["pseudonym"] for each in listed if each["always"]} == {"PLACE-3"}
    nothing = CliRunner().invoke(app, ["roster", "set", study, "PLACE-3"])
    unknown = CliRunner().invoke(app, ["roster", "set", study, "PLACE-4", "--always"])
    assert (nothing.exit_code, unknown.exit_code) == (2, 2)
    assert "entity_unknown" in unknown.stderr


def test_entities_are_merged_split_and_erased(study, imported):
    run("roster", "add", study, "person", "--pseudonym", "PERSON-4", input="Zachy\n")
    assert run("roster", "merge", study, "PERSON-4", "P07", "--yes").stdout == "P07\n"
    made = run("roster", "split", study, "P07", "--pseudonym", "PERSON-5", input="Zachy\n")
    assert len(made.stdout.split()[-1]) == 36
    assert run("roster", "erase", study, "P07", "--yes").stdout == "erased\n"

    listed = json.loads(run("roster", "list", study, "--json").stdout)["items"]
    assert [each["pseudonym"] for each in listed if each["erased_at"]] == ["P07"]


def test_the_table_is_saved_encrypted_to_the_custodians_key(study, imported, tmp_path):
    identity, out = pyrage.x25519.Identity.generate(), tmp_path / "linkage.age"
    missing = CliRunner().invoke(app, ["roster", "export", study, "--out", str(out)])
    shown = run("study", "set", study, "--custodian-key", identity.to_public(), "--dates", "shift")
    saved = run("roster", "export", study, "--out", out)

    assert missing.exit_code == 1 and "custodian_key_missing" in missing.stderr
    assert "dates: shift, people: codes" in shown.stdout
    assert saved.stdout == f"saved {out.stat().st_size} bytes\n"
    assert out.stat().st_mode & 0o777 == 0o600
    assert "Quendolin" in pyrage.decrypt(out.read_bytes(), [identity]).decode()
    bad = CliRunner().invoke(app, ["study", "set", study, "--custodian-key", "age1nonsense"])
    assert bad.exit_code == 2 and "age1..." in bad.stderr
