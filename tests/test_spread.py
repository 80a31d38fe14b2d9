"""Batch mode on several devices: children on the CPU in the place of GPUs, some of which die."""

import json
import os
import re
import subprocess
import sys
import wave

import pytest

from scripts.make_interview import make_interview
from service.batch import spread as spread_module
from service.batch.claims import FOLDER
from service.batch.spread import spread
from tests.scripted import load_scripted
from tests.test_batch import ROOT, batch, write_tone


@pytest.fixture
def recordings(tmp_path):
    def write(*seconds):
        paths = [tmp_path / f"INT-{i:02}.wav" for i in range(len(seconds))]
        for i, (path, length) in enumerate(zip(paths, seconds, strict=True)):
            write_tone(path, length, level=1000 + 100 * i)
        return paths

    return write


def run_spread(work, devices=("cpu:0", "cpu:1")):
    messages = list(spread(work, devices, load=load_scripted))
    results = [(device, value) for device, name, value in messages if name == "result"]
    return messages, results


@pytest.mark.slow
def test_each_session_is_done_by_one_of_the_devices(recordings, tmp_path):
    work = batch(recordings(*[1.0] * 8), tmp_path / "out")
    messages, results = run_spread(work)

    assert sorted(result.session.name for _, result in results) == [
        session.name for session in work.sessions
    ]
    assert {result.status for _, result in results} == {"done"}
    assert {device for device, name, _ in messages if name == "rates"} <= {"cpu:0", "cpu:1"}
    assert len(list((tmp_path / "out").glob("*.json"))) == 8
    assert not (tmp_path / "out" / FOLDER).exists()


@pytest.mark.slow
def test_the_recordings_of_a_dead_child_are_taken_over(recordings, tmp_path):
    work = batch(recordings(*[3.0] * 3, *[1.0] * 3), tmp_path / "out")
    messages, results = run_spread(work)

    assert {result.status for _, result in results} == {"done"}
    assert len(results) == 6
    assert {device for device, result in results if result.transcript.duration > 2} <= {"cpu:0"}


@pytest.mark.slow
def test_a_recording_that_kills_every_child_fails_and_the_others_are_done(recordings, tmp_path):
    work = batch(recordings(1.0, 5.0, 1.0, 1.0), tmp_path / "out")
    _, results = run_spread(work)

    outcomes = {result.session.name: (result.status, result.code) for _, result in results}
    assert outcomes.pop("INT-01") == ("failed", "runs_died")
    assert set(outcomes.values()) == {("done", None)}


def test_recordings_fail_if_every_device_keeps_dying(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(spread_module, "CHILD", "service.batch.no_such_module")
    _, results = run_spread(batch(recordings(1.0), tmp_path / "out"))

    assert [(result.status, result.code) for _, result in results] == [("failed", "runs_died")]


@pytest.fixture
def interviews(tmp_path):
    paths = [tmp_path / f"INT-{i}.wav" for i in range(4)]
    for i, path in enumerate(paths):
        samples = make_interview(830_001 + i, seconds=8).samples
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((samples * 32767).astype("<i2").tobytes())
    return paths


def transcribe(paths, out, devices):
    command = [
        *(sys.executable, "-c", "from service.commands.main import main; main()", "transcribe"),
        *map(str, paths),
        *("--out", str(out), "--model", "demo", "--diarisation", "demo", "--devices", devices),
        "--json",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.slow
def test_transcripts_are_byte_for_byte_those_of_one_device(interviews, tmp_path):
    """With the demo models. The folders share a key, which is part of the recordings' checksums."""
    key = ".fieldscribe-key"
    one = transcribe(interviews, tmp_path / "one", "cpu")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / key).write_bytes((tmp_path / "one" / key).read_bytes())
    two = transcribe(interviews, tmp_path / "two", "cpu,cpu")

    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes(), path.name
    rows = [json.loads(done.stdout) for done in (one, two)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"], row["outputs"]
    assert rows[0] == rows[1]
    assert len(re.findall(r"^Loading the models on cpu:[01]\.$", two.stderr, re.M)) == 2
