"""The whole service on a machine with loopback only: it works and attempts no other connection."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.make_interview import make_interview, write_wav
from scripts.stand_in.installation import ROOT, Installation, wait_until
from service.worker.protocol import PIPELINE_ENGINE

pytestmark = pytest.mark.slow

CLI = "from service.commands.main import main; main()"


def run_isolated(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in its own network namespace."""
    mapped = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
    namespace = ["unshare", *mapped, "--net", "sh", "-c"]
    if subprocess.run([*namespace, "ip link set lo up"], capture_output=True).returncode:
        pytest.skip("network namespaces are not allowed here")
    return subprocess.run(
        [
            *namespace,
            'ip link set lo up; exec "$@"',
            "-",
            sys.executable,
            "-c",
            program,
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )


def n_attempts() -> int:
    """Number of attempts in this namespace to reach another machine, including name servers."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if "Ip:" in line
    )
    six = Path("/proc/net/snmp6")
    lines = six.read_text().splitlines() if six.exists() else []
    return int(values[names.index("OutNoRoutes")]) + sum(
        int(line.split()[1]) for line in lines if line.startswith("Ip6OutNoRoutes")
    )


def test_no_connection_is_attempted_from_recording_to_hand_off(data_folder):
    ended = run_isolated(
        "from tests.test_network import run_workflow; run_workflow()", str(data_folder)
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "attempts: 0"


def test_an_attempted_connection_would_be_seen():
    program = """
import contextlib, socket; from tests.test_network import n_attempts
with contextlib.suppress(OSError): socket.create_connection(("192.0.2.1", 80), 1)
print(n_attempts())
"""
    ended = run_isolated(program)

    assert int(ended.stdout) > 0, ended.stderr


def run_workflow() -> None:
    """From upload to hand-off, with the real models and a researcher's commands."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    folder = Path(sys.argv[1])
    site = Installation(folder, None)
    serve = site.start_serve(PIPELINE_ENGINE)
    try:
        wait_until(site.is_ready, 120, "the service to answer")
        recording = folder / "INT-01.wav"
        write_wav(recording, make_interview(810_001, seconds=10).samples)
        command(site, "study", "create", "PEER", "--language", "en", "--model", "demo")
        job = command(site, "upload", str(recording), "--study", "PEER", "--speakers", "2").strip()
        watched = json.loads(command(site, "watch", job, "--json"))
        assert watched["status"] == "succeeded", watched
        token = command(site, "token", "create", "--role", "deidentifier", "--study", "PEER")
        claimed = program(
            site, "from scripts.demo_handoff import main; main()", FIELDSCRIBE_TOKEN=token.strip()
        )
        assert "completed" in claimed
        serve.terminate()
        assert serve.wait(60) == 0
    finally:
        site.cut_power()
    sys.stdout.write(f"attempts: {n_attempts()}\n")


def command(site: Installation, *arguments: str) -> str:
    return program(site, CLI, *arguments)


def program(site: Installation, text: str, *arguments: str, **more: str) -> str:
    state = {"XDG_STATE_HOME": str(site.folder / "state")}
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, **site.settings.as_environment(), **state, **more},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
