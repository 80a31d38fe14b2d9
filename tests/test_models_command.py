"""`fieldscribe models` against weights on a loopback server."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from models.weights import catalogue
from service.commands.models import app
from tests.published_weights import WHISPER, publish, serve

server = pytest.fixture(serve)


@pytest.fixture(autouse=True)
def published(server, monkeypatch):
    """A loopback server offers the weights for a machine without a GPU."""
    publish(server, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def run(tmp_path):
    def run(*words, exit_code=0, **kwargs):
        kwargs.setdefault("env", {"FIELDSCRIBE_WEIGHTS": str(tmp_path / "weights")})
        result = CliRunner().invoke(app, [str(word) for word in words], **kwargs)
        assert result.exit_code == exit_code, result.output
        return result

    return run


def test_fetch_downloads_what_suits_the_machine_and_names_the_licences(run, tmp_path):
    result = run("fetch")

    assert result.stdout.splitlines() == [
        "small: installed (licence MIT)",
        "speaker-diarization-community-1: installed (licence MIT)",
    ]
    assert (tmp_path / "weights" / "whisper" / "small.pt").read_bytes() == WHISPER


def test_fetch_as_json_prints_nothing_else_on_standard_output(run):
    assert json.loads(run("fetch", "small", "--json").stdout) == {
        "installed": ["small"],
        "fetched": ["small"],
    }
    assert json.loads(run("fetch", "small", "--json").stdout)["fetched"] == []


def test_a_name_given_twice_is_fetched_once(run):
    assert len(run("fetch", "small", "small").stdout.splitlines()) == 1


def test_the_token_is_read_from_standard_input_and_never_shown(run, server):
    result = run("fetch", catalogue.DEFAULT_PIPELINE, "--token-stdin", input="hf_secret\n")

    assert server.request_headers("Authorization") == ["Bearer hf_secret"] * 2
    assert "hf_secret" not in result.output


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "hf_\u00fc\n"])
def test_standard_input_without_a_token_is_misuse(run, server, text):
    run("fetch", "--token-stdin", input=text, exit_code=2)
    assert server.requests == []


def test_a_gated_model_is_reported_in_one_sentence(run, server):
    server.status = 401
    result = run("fetch", catalogue.DEFAULT_PIPELINE, exit_code=1)

    assert "access_denied: The model is available to registered users only" in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_error_as_json_has_its_code(run, server):
    server.status = 503
    error = json.loads(run("fetch", "small", "--json", exit_code=1).stdout)["error"]
    assert error["code"] == "network_unavailable"
    assert "503" in error["message"]


@pytest.mark.parametrize(
    ("name", "sentence"), [("nothing", "There is no such model"), ("demo", "part of fieldscribe")]
)
@pytest.mark.parametrize("command", [["fetch"], ["verify"], ["export", "bundle.tar"]])
def test_a_name_that_cannot_be_fetched_or_carried_is_misuse(run, command, name, sentence):
    result = run(*command, name, exit_code=2)
    assert result.stderr.startswith("unknown_model: ")
    assert sentence in result.stderr


def test_list_shows_installed_and_available_weights(run):
    run("fetch", "small")

    lines = run("list").stdout.splitlines()

    assert ["small", "whisper", "yes", "0", "MB", "MIT"] in [line.split() for line in lines]
    assert [catalogue.DEFAULT_PIPELINE, "pyannote", "0", "MB", "MIT"] in [
        line.split() for line in lines
    ]
    assert any(line.split()[:1] == ["demo"] for line in lines)


def test_list_as_json_has_sizes_licences_and_sources(run):
    small, pipeline = json.loads(run("list", "--json").stdout)
    assert small == {
        "name": "small",
        "kind": "whisper",
        "installed": False,
        "bytes": len(WHISPER),
        "licence": "MIT",
        "source": "https://model.page",
    }


def test_verify_tells_damaged_weights_from_intact_ones(run, tmp_path):
    run("fetch")
    run("verify")
    (tmp_path / "weights" / "whisper" / "small.pt").write_bytes(b"damaged")

    results = json.loads(run("verify", "--json", exit_code=1).stdout)

    assert [(result["name"], result["status"]) for result in results] == [
        ("small", "weights_corrupt"),
        (catalogue.DEFAULT_PIPELINE, "ok"),
    ]
    assert run("verify", "small", exit_code=1).stdout.startswith("small: weights_corrupt: A file")


@pytest.mark.parametrize("command", [["verify"], ["export", "bundle.tar"]])
def test_a_machine_without_weights_has_nothing_to_verify_or_export(run, command):
    assert "model_missing: No weights are installed" in run(*command, exit_code=1).stderr


def test_a_bundle_carries_weights_to_another_machine(run, tmp_path):
    run("fetch")
    exported = json.loads(run("export", tmp_path / "bundle.tar", "--json").stdout)
    shutil.rmtree(tmp_path / "weights")

    imported = json.loads(run("import", tmp_path / "bundle.tar", "--json").stdout)

    assert exported["exported"] == imported["installed"] == ["small", catalogue.DEFAULT_PIPELINE]
    assert exported["bytes"] == (tmp_path / "bundle.tar").stat().st_size
    run("verify")


def test_a_bundle_can_hold_only_some_of_the_weights(run, tmp_path):
    run("fetch")
    run("export", tmp_path / "bundle.tar", "small")
    assert run("import", tmp_path / "bundle.tar").stdout == "small: installed (licence MIT)\n"


def test_a_file_that_is_not_a_bundle_is_refused(run, tmp_path):
    (tmp_path / "bundle.tar").write_bytes(b"no bundle")
    assert "weights_corrupt" in run("import", tmp_path / "bundle.tar", exit_code=1).stderr
    run("import", tmp_path / "missing.tar", exit_code=2)


def test_the_weights_folder_can_be_given_as_an_option(run, tmp_path):
    run("fetch", "small", "--weights", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "whisper" / "small.json").exists()


@pytest.mark.parametrize("words", [["list"], ["fetch", "small"], ["verify"], ["export", "b.tar"]])
def test_a_folder_that_this_user_may_not_read_is_reported_in_one_sentence(run, monkeypatch, words):
    """Another user's weights, in a folder of mode 0700 as `fetch` creates it, gave a traceback."""

    def deny(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", deny)
    result = run(*words, exit_code=1)

    assert "model_missing: You do not have permission to read the weights" in result.stderr
