"""compose.yaml, checked without Docker: commands, settings and mounts exist and fit together."""

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.stand_in.installation import ROOT
from service.database.embedded import SETTINGS
from service.settings import Settings, variable_name
from tests.test_docs import commands

OURS = ("api", "worker")
DOCKERFILE = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return found


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Folders in the container, each with the name of its volume."""
    return {mount.split(":")[1]: mount.split(":")[0] for mount in service["volumes"]}


@pytest.mark.parametrize("name", OURS)
def test_the_services_run_existing_commands(compose, name):
    assert compose["services"][name]["command"][0] in {command for command, _ in commands()}


@pytest.mark.parametrize("name", OURS)
def test_the_variables_are_settings_and_valid_together(compose, name):
    variables = compose["services"][name]["environment"]
    fields = {variable_name(field): field for field in Settings.model_fields}

    assert set(variables) <= set(fields)
    values = {fields[variable]: value for variable, value in variables.items()}
    assert Settings(**{"keys": "/keys", **values})


def test_all_volumes_are_declared_and_used(compose):
    used = {volume for each in compose["services"].values() for volume in mounts(each).values()}

    assert used == set(compose["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_the_folders_in_the_settings_are_mounted(compose, name):
    service = compose["services"][name]
    folders = {value for value in service["environment"].values() if value.startswith("/")}

    assert folders == set(mounts(service))
    for folder in folders:
        assert folder in DOCKERFILE


def test_only_the_api_has_the_keys_and_the_owners_token(compose):
    having = [name for name, each in compose["services"].items() if "keys" in mounts(each).values()]

    assert having == ["api"]


def test_the_database_logs_as_little_as_the_embedded_one(compose):
    """It logged messages of level ERROR, which quote values."""
    words = shlex.split(compose["services"]["database"]["command"])
    assert words[0] == "postgres"
    assert words[1::2] == ["-c"] * len(words[2::2])
    given = dict(word.split("=", 1) for word in words[2::2])

    quiet = {name: value for name, value in SETTINGS.items() if name.startswith("log_")}
    assert given == quiet


def test_all_networks_and_secrets_are_declared(compose):
    for each in compose["services"].values():
        assert set(each["networks"]) <= set(compose["networks"])
        assert set(each["secrets"]) <= set(compose["secrets"])
        assert set(each.get("depends_on", ())) <= set(compose["services"])


def test_the_worker_uses_the_apis_name_and_port(compose):
    api, worker = (compose["services"][name] for name in OURS)
    port = Settings.model_fields["port"].default

    assert worker["environment"]["FIELDSCRIBE_URL"] == f"http://api:{port}"
    assert api["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert set(api["networks"]) & set(worker["networks"])


def test_the_services_cannot_change_their_image_or_gain_rights(compose):
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "/tmp" in service["tmpfs"]


def test_nothing_runs_as_root(compose):
    assert compose["services"]["database"]["user"] == "postgres"
    assert not any("user" in compose["services"][name] for name in OURS)
    before_the_command = DOCKERFILE[: DOCKERFILE.index("ENTRYPOINT")]
    assert re.findall(r"^USER (.*)$", before_the_command, re.M)[-1] == "fieldscribe"
    assert "/home/fieldscribe" in compose["services"]["api"]["tmpfs"]


def test_the_worker_waits_until_the_api_is_ready(compose):
    services = compose["services"]

    assert services["worker"]["depends_on"]["api"] == {"condition": "service_healthy"}
    assert services["api"]["depends_on"]["database"] == {"condition": "service_healthy"}


Answer = Callable[[int], int]


@pytest.fixture
def answer() -> Iterator[Answer]:
    """Start an API that answers /readyz with a status; returns its port."""
    servers = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def is_healthy(command: list[str], **environment: str) -> bool:
    environment["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return not subprocess.run(command, env=environment, capture_output=True).returncode


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_api_is_healthy_when_it_is_ready(compose, answer, status, healthy):
    command = compose["services"]["api"]["healthcheck"]["test"]
    assert command[0] == "CMD"
    default = str(Settings.model_fields["port"].default)
    assert default in command[-1]
    here = command[-1].replace(default, str(answer(status)))

    assert is_healthy([*command[1:-1], here]) == healthy


def test_the_api_is_not_healthy_before_it_answers(compose):
    command = compose["services"]["api"]["healthcheck"]["test"]

    assert not is_healthy([*command[1:-1], command[-1].replace("8321", "1")])


def image_is_healthy(process: list[str], folder: Path, port: int) -> bool:
    """The result of the image's HEALTHCHECK in a container whose first process is this."""
    found = re.search(r"^HEALTHCHECK .*?CMD (.*?)^ENTRYPOINT", DOCKERFILE, re.M | re.S)
    assert found
    command = found[1].replace("\\\n", "")
    assert "/proc/1/cmdline" in command
    assert f":-{Settings.model_fields['port'].default}}}" in command
    cmdline = folder / "cmdline"
    cmdline.write_bytes(b"".join(word.encode() + b"\0" for word in process))
    command = command.replace("/proc/1/cmdline", shlex.quote(str(cmdline)))
    return is_healthy(["sh", "-c", command], FIELDSCRIBE_PORT=str(port))


@pytest.mark.parametrize("init", [[], ["/sbin/docker-init", "--", "sh", "-c", "exec fieldscribe"]])
@pytest.mark.parametrize("command", ["api", "serve"])
def test_a_container_of_the_api_is_healthy_when_it_is_ready(answer, tmp_path, init, command):
    process = [*init, "fieldscribe", command]

    assert image_is_healthy(process, tmp_path, answer(200))
    assert not image_is_healthy(process, tmp_path, answer(507))
    assert not image_is_healthy(process, tmp_path, 1)


@pytest.mark.parametrize("command", [["worker"], ["transcribe", "/recordings/api.m4a"], ["doctor"]])
def test_a_container_of_any_other_command_is_healthy_while_it_runs(tmp_path, command):
    assert image_is_healthy(["fieldscribe", *command], tmp_path, 1)


def test_a_change_of_the_source_downloads_nothing_when_the_image_is_built():
    """Every edit downloaded torch and its CUDA libraries again."""
    lines = DOCKERFILE.replace("\\\n", "").splitlines()
    (locked,) = (i for i, line in enumerate(lines) if "requirements/cuda.txt" in line)
    (source,) = (i for i, line in enumerate(lines) if line.startswith("COPY service"))

    assert locked < source
    after = [line for line in lines[source:] if "pip install" in line]
    assert after == ["RUN pip install --no-cache-dir --no-deps --no-build-isolation ."]


def test_the_files_that_the_image_copies_exist_and_are_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = {
        path.removeprefix("./")
        for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M)
        for path in line.split()
    }

    assert {f"!{path}" for path in copied} <= set(ignored)
    assert all((ROOT / path).exists() for path in copied)


def test_the_base_image_is_pinned_to_a_full_version():
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) == ["python:3.12.13-slim-bookworm"]
