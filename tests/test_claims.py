"""Several runs on one output folder: no recording is transcribed twice, and none is left out."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from service.batch import batch as batch_module
from service.batch.batch import SessionFiles, Shard, group_into_sessions
from service.batch.claims import BUSY, FOLDER, HELD, MAX_DEATHS, Claims, Failure
from service.commands.main import app
from tests.fakes import FakePipeline
from tests.test_batch import ROOT, batch, results_of, write_tone

SOON: dict[str, Any] = {"beat": 0.05, "stale": 0.5}


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes the claims of later runs look like those of other machines, one each."""

    def move(name):
        monkeypatch.setattr("service.batch.claims._machine", lambda: name)

    return move


def files(folder):
    found = folder / FOLDER
    return sorted(path.name for path in found.iterdir()) if found.exists() else []


def test_only_one_run_can_have_a_claim(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("INT-07") == HELD
        assert second.take("INT-07") == BUSY
        first.release("INT-07")
        assert second.take("INT-07") == HELD
    assert not (tmp_path / FOLDER).exists()


def test_the_claim_of_a_run_that_is_alive_is_not_taken_over(tmp_path, elsewhere):
    elsewhere("first")
    with Claims(tmp_path, **SOON) as first:
        first.take("INT-07")
        elsewhere("second")
        with Claims(tmp_path, **SOON) as second:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                assert second.take("INT-07") == BUSY
                time.sleep(0.02)


def test_a_run_that_was_frozen_loses_its_claim_and_finds_out(tmp_path, elsewhere):
    elsewhere("first")
    frozen = Claims(tmp_path, **SOON)  # never touches its claim
    assert frozen.take("INT-07") == HELD
    elsewhere("second")
    with Claims(tmp_path, **SOON) as second:
        assert second.take("INT-07") == BUSY
        time.sleep(0.6)
        assert second.take("INT-07") == HELD

        assert not frozen.still_holds("INT-07")
        frozen.release("INT-07")
        assert second.still_holds("INT-07")
        second.release("INT-07")
        assert second.take("INT-07") == HELD
        assert not frozen.still_holds("INT-07")  # although its file's name is in use again


def test_a_failed_session_is_tried_again_by_later_runs_only(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        first.take("INT-07")
        first.fail("INT-07", "silent_audio", "It is silent.")

        assert second.take("INT-07") == Failure("silent_audio", "It is silent.")
        with Claims(tmp_path) as later:
            assert later.take("INT-07") == HELD


def run_and_die(folder):
    code = (
        "import os, sys; from pathlib import Path; from service.batch.claims import Claims;"
        "Claims(Path(sys.argv[1])).take('INT-07'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=False)


def test_a_killed_run_is_taken_over_at_once_on_its_machine_but_not_for_ever(tmp_path):
    """A recording that exhausts the memory of every machine must not kill one after another."""
    for _ in range(MAX_DEATHS):
        run_and_die(tmp_path)
    with Claims(tmp_path, old_failures=()) as claims:
        answer = claims.take("INT-07")

    assert isinstance(answer, Failure)
    assert answer.code == "runs_died"


def test_a_session_of_another_run_is_done_last_and_then_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "WAIT_SECONDS", 0.01)
    paths = [tmp_path / f"INT-0{i}.wav" for i in (1, 2, 3)]
    for i, path in enumerate(paths):
        write_tone(path, 1.0 + i)
    work = batch(paths, tmp_path / "out")
    other = Claims(tmp_path / "out")
    first = work.sessions[0]
    with other:
        other.take(batch_module.claim_name(first, work))

        def on_progress(progress):
            if progress.stage == "wait":  # the other run finishes it meanwhile
                other.release(batch_module.claim_name(first, work))
                results_of(batch(paths[:1], tmp_path / "out"))

        results = results_of(work, on_progress=on_progress)

    assert [(r.session.name, r.status) for r in results] == [
        ("INT-02", "done"),
        ("INT-03", "done"),
        ("INT-01", "skipped"),
    ]


def test_a_group_leaves_other_runs_their_part(tmp_path):
    """The first of two runs claimed all short recordings at once, and the other had none."""
    paths = [tmp_path / f"INT-0{i}.wav" for i in range(8)]
    for path in paths:
        write_tone(path, 1.0)
    work, pipeline = batch(paths, tmp_path / "out"), FakePipeline()
    with Claims(tmp_path / "out"):
        results_of(work, pipeline)
    alone = FakePipeline()
    results_of(batch(paths, tmp_path / "alone"), alone)

    assert pipeline.transcribed_together == [2, 1, 1, 1, 1, 1, 1]
    assert alone.transcribed_together == [8]


def test_a_run_that_lost_its_claim_does_not_write(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_module, "WAIT_SECONDS", 0.01)
    write_tone(tmp_path / "INT-01.wav", 1.0)
    work = batch([tmp_path / "INT-01.wav"], tmp_path / "out")
    holds = [False, True]
    monkeypatch.setattr(Claims, "still_holds", lambda self, name: holds.pop(0))
    results = results_of(work)

    assert [result.status for result in results] == ["done"]
    assert holds == []  # transcribed again after it was lost


def test_shards_divide_recordings_by_their_content(tmp_path):
    paths = [tmp_path / f"{i}.wav" for i in range(40)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 100)
    sessions = group_into_sessions(paths, join=False)
    parts = [{s.name for s in sessions if s in Shard(k, 4)} for k in (1, 2, 3, 4)]

    assert sorted(name for part in parts for name in part) == sorted(s.name for s in sessions)
    assert all(len(part) > 3 for part in parts)
    renamed = tmp_path / "renamed.wav"
    paths[7].rename(renamed)
    (part,) = [k for k in (1, 2, 3, 4) if SessionFiles("renamed", (renamed,)) in Shard(k, 4)]
    assert "7" in parts[part - 1]


def test_a_missing_recording_is_in_the_first_shard(tmp_path):
    missing = SessionFiles("gone", (tmp_path / "gone.wav",))

    assert [missing in Shard(k, 3) for k in (1, 2, 3)] == [True, False, False]


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0"])
def test_a_shard_that_does_not_exist_is_refused(text, tmp_path):
    answer = CliRunner().invoke(app, ["transcribe", "x.wav", "--out", "o", "--shard", text])

    assert answer.exit_code == 2
    assert "3/16" in answer.output


RUN = """
import json, sys, time
from pathlib import Path

from service.batch import batch as module, claims
from tests.fakes import FakePipeline
from tests.fakes import FakePipeline
from tests.test_batch import batch

out, log, machine = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
claims.BEAT, claims.STALE = 0.1, 1.0
claims.Claims.__init__.__kwdefaults__.update(beat=0.1, stale=1.0)
claims._machine = lambda: machine
module.WAIT_SECONDS = 0.05

class Slow(FakePipeline):
    seconds_at_once = 2.5
    def finish(self, session, on_progress):
        time.sleep(0.02)
        return super().finish(session, on_progress)

work = batch([Path(path) for path in sys.argv[4:]], out)
for result in module.run(work, Slow, lambda group: None, lambda progress: None):
    with open(log, "a") as file:
        file.write(f"{result.status} {result.session.name}\\n")
"""


@pytest.mark.slow
def test_runs_on_several_machines_with_kills_do_every_recording_once(tmp_path):
    """Each real process takes itself for a machine; three are killed while they work."""
    paths = [tmp_path / f"INT-{i:02}.wav" for i in range(24)]
    for i, path in enumerate(paths):
        write_tone(path, 1.0, level=1000 + 100 * i)
    out, log = tmp_path / "out", tmp_path / "log"
    log.touch()
    generator = random.Random(7)

    def start(number):
        command = [sys.executable, "-c", RUN, str(out), str(log), f"machine {number}"]
        return subprocess.Popen([*command, *map(str, paths)], cwd=ROOT)

    runs = [start(number) for number in range(4)]
    while len(log.read_text().splitlines()) < 3:
        time.sleep(0.02)
    for victim in generator.sample(runs, 3):
        time.sleep(generator.uniform(0, 0.2))
        os.kill(victim.pid, signal.SIGKILL)
    codes = [run.wait(60) for run in runs]

    assert sorted(codes) == [-signal.SIGKILL] * 3 + [0]
    done = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("done")]
    names = sorted(path.stem for path in paths)
    assert len(done) == len(set(done))
    assert sorted(path.name.split(".")[0] for path in out.glob("*.json")) == names
    survivors = [line.split()[1] for line in log.read_text().splitlines()]
    assert set(survivors) == set(names)
    for path in out.glob("*.json"):
        json.loads(path.read_text())
