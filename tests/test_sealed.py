"""The warning about root keys at the first start, and root keys under a passphrase."""

import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from scripts.stand_in.installation import ROOT, STAND_IN, Installation, wait_until
from scripts.stand_in.jobs import make_job
from service.api.process import LOSING_KEYS, prepare
from service.commands.main import app
from service.services import open_services, unseal

PASSPHRASE = "correct horse battery staple"
CLI = f"""
from functools import partial
from service import supervisor
from service.commands import main
supervisor.serve = partial(supervisor.serve, engine_module="{STAND_IN}")
main.main()
"""


def test_only_the_first_start_warns_about_losing_the_keys(settings, tmp_path, caplog):
    new = settings.model_copy(update={"keys": tmp_path / "new keys"})
    prepare(new)
    assert caplog.messages.count(LOSING_KEYS % new.root_keys) == 1
    caplog.clear()
    prepare(new)

    assert LOSING_KEYS % new.root_keys not in caplog.messages


@pytest.fixture
def site(data_folder, monkeypatch):
    site = Installation(data_folder, None)
    shutil.rmtree(site.settings.root_keys)
    monkeypatch.delenv("FIELDSCRIBE_TOKEN", raising=False)
    for name, value in site.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    yield site
    for process in site.processes:
        process.kill()
    site.cut_power()


def run(*arguments, input=None):
    return CliRunner().invoke(app, arguments, input=input)


@pytest.mark.slow
def test_a_job_waits_while_the_service_is_sealed_and_resumes_when_it_is_unsealed(site, tmp_path):
    """A worker retries a waiting job every 30 s."""
    first = subprocess.Popen(
        [sys.executable, "-c", CLI, "serve", "--passphrase"],
        env={**os.environ, "STAND_IN_LOG": str(site.log), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
    )
    site.processes.append(first)
    assert first.stdin is not None
    with first.stdin as stdin:
        stdin.write(f"{PASSPHRASE}\n".encode())
    wait_until(site.is_ready, 120, "the service to answer")
    assert run("study", "list").stderr.startswith("sealed: ")
    assert run("unseal", input="wrong\n").stderr.startswith("wrong_passphrase: ")
    assert run("unseal", input=f"{PASSPHRASE}\n").stdout == "unsealed\n"
    assert run("study", "list").exit_code == 0

    site.services = open_services(site.settings)
    unseal(site.services, PASSPHRASE)
    go = tmp_path / "go"
    job_id = make_job(site.services, wait_in="transcribe", until=str(go))
    site.wait_for_stage(job_id, "transcribe", 60)
    first.terminate()
    assert first.wait(60) == 0
    site.start_serve()
    site.wait_for(job_id, "waiting", 90)
    assert run("jobs").stderr.startswith("sealed: ")
    go.touch()
    assert run("unseal", input=f"{PASSPHRASE}\n").exit_code == 0

    site.wait_for(job_id, "succeeded", 90)
    assert site.started_stages(job_id).count("segment") == 1
    site.services.close()
