"""`pip install fieldscribe` without extras: the client's commands work, the others say what to do.

The installation is a folder of links to the packages that requirements/client.txt lists.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import ROOT
from tests.test_lock import PROJECT, pins

ID = "0b5e7c1c-59d5-4d3e-8a0e-0a5f3a2f7a11"

# Runs commands one after the other, and prints for each its exit code, output and exception.
RUN = """
import json, sys
from typer.testing import CliRunner
from service.commands.main import app
for command in json.load(sys.stdin):
    result = CliRunner().invoke(app, command)
    raised = result.exception and type(result.exception).__name__
    print(json.dumps([result.exit_code, result.output, raised]))
"""
Outcome = tuple[int, str, str | None]


def link_packages(names: Iterable[str], folder: Path) -> None:
    """Make `folder` a site-packages with these packages, and with Fieldscribe's own."""
    for name in ["fieldscribe", *names]:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or ()} - {".."}:
            if not top.endswith(".pth") and not (folder / top).exists():
                (folder / top).symlink_to(str(installed.locate_file(top)))
    for package in ("models", "service"):
        (folder / package).symlink_to(ROOT / package)


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """These packages and those that they need, as they are installed here."""
    seen: set[tuple[str, str]] = set()
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) in seen:
                continue
            seen.add(key)
            for needed in map(Requirement, distribution(requirement.name).requires or ()):
                if not needed.marker or needed.marker.evaluate({"extra": extra}):
                    todo.append(needed)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install fieldscribe` puts into site-packages."""
    folder = tmp_path_factory.mktemp("client")
    link_packages(pins("client", f"3.{sys.version_info.minor}"), folder)
    return folder


class Api(BaseHTTPRequestHandler):
    """Lists are empty, and nothing else exists."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_list = self.command == "GET" and self.path.split("?")[0].count("/") == 2
        found: dict[str, Any] = {"items": [], "next_cursor": None}
        problem = {"code": "not_here", "status": 404, "title": "Not here", "detail": "It is not."}
        body = json.dumps(found if is_list else problem).encode()
        self.send_response(200 if is_list else 404)
        self.send_header("Content-Type", f"application/{'' if is_list else 'problem+'}json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_HEAD = do_PATCH = answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run(site: Path, folder: Path, url: str, *commands: list[str]) -> list[Outcome]:
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN],  # -S: without the packages that are installed here
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(site),
            "FIELDSCRIBE_URL": url,
            "FIELDSCRIBE_TOKEN": "a token",
        },
        cwd=folder,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_packages_of_the_models_and_the_server_are_not_there(site):
    search = "from importlib.util import find_spec; print([find_spec(n) for n in NAMES])"
    names = ["torch", "whisper", "pyannote", "numpy", "fastapi", "sqlalchemy", "psycopg"]
    done = subprocess.run(
        [sys.executable, "-S", "-c", search.replace("NAMES", repr(names))],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == str([None] * len(names))


def test_every_command_has_its_help(site, tmp_path):
    from typer.main import get_command

    from service.commands.main import app

    paths: list[list[str]] = [[]]
    everything: Any = get_command(app)
    for name, command in everything.commands.items():
        paths += [[name], *([name, each] for each in getattr(command, "commands", ()))]
    outcomes = run(site, tmp_path, "http://127.0.0.1:1", *([*path, "--help"] for path in paths))

    assert len(paths) > 25
    for path, (exit_code, output, _) in zip(paths, outcomes, strict=True):
        assert exit_code == 0 and "Usage:" in output, path


def test_the_clients_commands_work(site, tmp_path, url):
    recording = tmp_path / "INT-07.wav"
    recording.write_bytes(b"RIFF")
    lists = [["jobs"], ["jobs", "--json"], ["study", "list"], ["token", "list"]]
    others = [
        *([command, ID] for command in ("status", "watch", "transcript", "cancel", "delete")),
        ["rerun", ID, "--from", "diarise"],
        ["upload", str(recording), "--study", "PEER"],
        ["study", "create", "PEER"],
        ["token", "create", "--role", "admin"],
        ["token", "revoke", ID],
    ]
    outcomes = run(site, tmp_path, url, *lists, *others)

    for command, (exit_code, output, _) in zip(lists, outcomes, strict=False):
        assert exit_code == 0, (command, output)
    for command, (exit_code, output, raised) in zip(others, outcomes[len(lists) :], strict=True):
        assert (exit_code, raised) == (1, "SystemExit"), (command, output)
        assert "not_here: It is not." in output, (command, output)


def test_transcripts_are_exported_without_any_other_package(site, tmp_path):
    from models.transcript_json import to_json
    from tests.export_cases import interview

    folder = tmp_path / "transcripts"
    folder.mkdir()
    (folder / "INT-07.identified.json").write_text(to_json(interview()))
    programs = ["nvivo", "maxqda", "atlas", "qualcoder", "subtitles", "elan", "praat", "coding"]
    commands = (
        ["export", "--from", str(folder), "--for", program, "--out", str(tmp_path / "exports")]
        for program in programs
    )

    for exit_code, output, _ in run(site, tmp_path, "http://127.0.0.1:1", *commands):
        assert exit_code == 0, output


def test_weights_are_listed_and_moved_without_the_models(site, tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    ((exit_code, output, _),) = run(
        site, tmp_path, "http://127.0.0.1:1", ["models", "list", "--weights", str(weights)]
    )

    assert exit_code == 0
    assert "large-v3-turbo" in output


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["serve"], "worker"),
        (["api"], "server"),
        (["worker"], "worker"),
        (["transcribe", "INT-07.wav", "--out", "."], "worker"),
        (["doctor"], "worker"),
        (["backup", "--keys-to", "keys"], "server"),
        (["restore", "a.tar", "--keys-from", "b.tar"], "server"),
        (["models", "fetch"], "worker"),
        (["merge-codings", "a.qdpx", "b.qdpx", "--out", "."], "coding"),
    ],
    ids=lambda each: each if isinstance(each, str) else each[0],
)
def test_any_other_command_says_what_to_install(site, tmp_path, command, extra):
    ((exit_code, output, raised),) = run(site, tmp_path, "http://127.0.0.1:1", command)

    name = " ".join(command[:2]) if command[0] == "models" else command[0]
    assert (exit_code, raised) == (1, "SystemExit")
    assert output == (
        f"packages_missing: `fieldscribe {name}` needs packages that are not installed: "
        f"run `pip install 'fieldscribe[{extra}]'`.\n"
    )


def test_the_server_needs_no_package_of_the_models(tmp_path):
    metadata = PROJECT["project"]
    wanted = [*metadata["dependencies"], *metadata["optional-dependencies"]["server"]]
    link_packages(closure(map(Requirement, wanted)), tmp_path)
    modules = "service.api.process, service.api.app, service.domain.queue, service.backup"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import {modules}"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert not done.returncode, done.stderr
    assert not (tmp_path / "torch").exists()
