"""`scripts/bench gpu`, rehearsed on the CPU at tiny size: there is no GPU here."""

import argparse
import json
import sys

import pytest

from scripts import bench_gpu
from scripts.bench_gpu import RESULT, STEPS, run


def arguments(path, **changes):
    values = {"device": "cpu", "size": "tiny", "steps": [*STEPS], "seconds": 600.0, "json": path}
    return argparse.Namespace(**{**values, **changes})


def test_the_limits_of_the_steps_in_the_order_of_value_fit_into_eight_minutes():
    assert bench_gpu.SECONDS < 8 * 60
    assert list(STEPS)[:3] == ["hardware", "equality", "turbo"]


@pytest.fixture
def scripted(monkeypatch):
    """Makes each step a short program of the test."""
    programs = {
        "hardware": f"print('{RESULT}' + '{{\"rtfx\": 7}}')",
        "equality": "raise SystemExit('no such device')",
        "turbo": "import time; time.sleep(60)",
        "large": f"print('{RESULT}' + '{{}}')",
    }
    monkeypatch.setattr(
        bench_gpu, "step_command", lambda step, setup: [sys.executable, "-c", programs[step]]
    )
    monkeypatch.setattr(bench_gpu, "LEAST_SECONDS", 0.0)
    monkeypatch.setitem(STEPS, "turbo", (STEPS["turbo"][0], 0.5))
    return list(programs)


def test_a_step_that_fails_or_hangs_costs_only_its_own_results(scripted, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        bench_gpu, "write_report", lambda path, report: written.append(json.dumps(report["steps"]))
    )
    run(arguments(tmp_path / "gpu.json", steps=scripted))

    assert [list(json.loads(each)) for each in written] == [scripted[: i + 1] for i in range(4)]
    steps = json.loads(written[-1])
    assert steps["hardware"]["rtfx"] == 7
    assert steps["equality"]["error"] == ["no such device"]
    assert steps["turbo"]["error"].startswith("took longer than")
    assert "error" not in steps["large"]


def test_no_step_begins_after_the_time_is_up(scripted, tmp_path):
    run(arguments(tmp_path / "gpu.json", steps=["hardware"], seconds=-1.0))

    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["steps"]["hardware"] == {"error": "no time left"}


@pytest.mark.slow
def test_every_step_runs_at_tiny_size(tmp_path, monkeypatch):
    for step, (measure, limit) in list(STEPS.items()):
        monkeypatch.setitem(STEPS, step, (measure, 10 * limit))  # two busy cores
    run(arguments(tmp_path / "gpu.json", seconds=3600.0))

    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report["steps"]) == list(STEPS)
    for step, result in report["steps"].items():
        assert "error" not in result, (step, result)
    assert report["steps"]["equality"]["same_tokens"] == 1
    assert report["steps"]["equality"]["same_turns"]
    for step in bench_gpu.GOALS:
        assert report["steps"][step]["rtfx"] > 0
    assert len(report["steps"]["pair"]["processes"]) == 2
