"""The pages that lead to NVivo, MAXQDA, ATLAS.ti and QualCoder: every command runs as printed."""

import re
import shlex
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

import service.commands.transcribe as transcribe_command
from models.transcript import Transcript
from service.commands.main import app
from tests.api import connect_commands, open_api, tone
from tests.fakes import FakePipeline, made_with, segment, transcript
from tests.finished import finish_job

ROOT = Path(__file__).parent.parent
PAGES = ("nvivo", "maxqda", "atlas", "qualcoder")
WRITTEN = {
    "nvivo": ("INT-07.v2.identified.nvivo.docx", "INT-07.v2.identified.docx"),
    "maxqda": ("INT-07.v2.identified.maxqda.txt",),
    "atlas": ("INT-07.v2.identified.atlas.txt",),
    "qualcoder": ("project.identified.qdpx",),
}


def commands_of(page: str) -> tuple[list[list[str]], list[list[str]]]:
    """The commands for one's own machine, and those for the service."""
    text = (ROOT / f"docs/researcher/{page}.md").read_text(encoding="utf-8")
    own: list[list[str]] = []
    service: list[list[str]] = []
    for section in text.split("\n## "):
        chosen = service if section.startswith("With the service") else own
        lines = re.findall(r"^ +fieldscribe (.*)$", section, re.M)
        chosen += [shlex.split(line) for line in lines]
    return own, service


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (arguments, result.output)
    return result.output


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "INT-07.m4a").write_bytes(tone(20.0))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


class TwoSpeakers(FakePipeline):
    def transcribe(self, recordings: Any, options: Any, on_progress: Any = print) -> Transcript:
        made = super().transcribe(recordings, options, on_progress)
        said = [segment("SPEAKER_00", "Why?"), segment("SPEAKER_01", "I was a nurse.", 2.0)]
        return transcript(
            said, sources=made.sources, made_with=made_with(options=made.made_with.options)
        )


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_for_your_own_machine_run_as_printed(page, folder, monkeypatch):
    monkeypatch.setattr(transcribe_command, "Pipeline", lambda *arguments: TwoSpeakers())
    monkeypatch.setattr(transcribe_command, "default_whisper", lambda device: "demo")
    own, _ = commands_of(page)
    for arguments in own:
        run(arguments)

    assert len(own) >= 4
    for name in WRITTEN[page]:
        assert (folder / "exports" / name).stat().st_size, name


@pytest.fixture
def api(settings, monkeypatch):
    with open_api(settings) as api:
        connect_commands(api, monkeypatch)
        yield api


def test_the_commands_for_the_service_run_as_printed(folder, api, monkeypatch):
    """The pages differ in the last command only, so the others run once."""
    monkeypatch.setattr("service.domain.jobs._default_model", lambda weights: "demo")
    first, *others = ([*commands_of(page)[1]] for page in PAGES)
    for arguments in first:
        if arguments[0] == "watch":
            (job,) = api.get("/v1/jobs").json()["items"]
            finish_job(api.services, UUID(job["id"]))
        run(arguments)
    for commands in others:
        assert commands[:-1] == first[:-1]
        run(commands[-1])

    names = {name.replace("project", "PEER") for page in PAGES for name in WRITTEN[page]}
    assert {path.name for path in (folder / "exports").iterdir()} == names

    run(["export", "PEER", "--for", "coding", "--out", "lines"])  # with the first version's numbers
    table = (folder / "lines" / "INT-07.v2.identified.lines.csv").read_text(encoding="utf-8-sig")
    assert [row.split(",")[:2] for row in table.splitlines()[1:3]] == [["1", ""], ["2", ""]]


def test_the_pages_are_linked_from_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")

    assert all(f"researcher/{page}.md" in index for page in PAGES)
