"""compose.yaml, without Docker: what it starts, sets and mounts is what there is."""

import shlex
from typing import Any

import pytest
import yaml

from service.database.embedded import SETTINGS
from service.settings import Settings, variable_name
from tests.installation import ROOT
from tests.test_docs import commands

OURS = ("api", "worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Folder in the container: name of the volume."""
    return {mount.split(":")[1]: mount.split(":")[0] for mount in service["volumes"]}


@pytest.mark.parametrize("name", OURS)
def test_its_services_are_commands(compose, name):
    assert compose["services"][name]["command"][0] in {command for command, _ in commands()}


@pytest.mark.parametrize("name", OURS)
def test_its_variables_are_settings_and_make_sense_together(compose, name):
    variables = compose["services"][name]["environment"]
    fields = {variable_name(field): field for field in Settings.model_fields}

    assert set(variables) <= set(fields)
    values = {fields[variable]: value for variable, value in variables.items()}
    assert Settings(**{"keys": "/keys", **values})


def test_its_volumes_are_declared_and_all_of_them_used(compose):
    used = {volume for each in compose["services"].values() for volume in mounts(each).values()}

    assert used == set(compose["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_the_folders_of_its_settings_are_mounted(compose, name):
    service = compose["services"][name]
    folders = {value for value in service["environment"].values() if value.startswith("/")}

    assert folders == set(mounts(service))
    for folder in folders:
        assert folder in (ROOT / "Dockerfile.gpu").read_text()


def test_only_the_api_has_the_keys_with_the_owners_token(compose):
    having = [name for name, each in compose["services"].items() if "keys" in mounts(each).values()]

    assert having == ["api"]


def test_its_database_logs_as_little_as_the_embedded_one(compose):
    """It once wrote messages of ERROR, which quote values."""
    words = shlex.split(compose["services"]["database"]["command"])
    assert words[0] == "postgres"
    assert words[1::2] == ["-c"] * len(words[2::2])
    given = dict(word.split("=", 1) for word in words[2::2])

    quiet = {name: value for name, value in SETTINGS.items() if name.startswith("log_")}
    assert given == quiet


def test_its_networks_and_secrets_are_declared(compose):
    for each in compose["services"].values():
        assert set(each["networks"]) <= set(compose["networks"])
        assert set(each["secrets"]) <= set(compose["secrets"])
        assert set(each.get("depends_on", ())) <= set(compose["services"])


def test_the_worker_asks_the_api_under_the_name_and_port_that_it_has(compose):
    api, worker = (compose["services"][name] for name in OURS)
    port = Settings.model_fields["port"].default

    assert worker["environment"]["FIELDSCRIBE_URL"] == f"http://api:{port}"
    assert api["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert set(api["networks"]) & set(worker["networks"])
