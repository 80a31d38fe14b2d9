"""Lower precision is asked for, measured, and vouched for before it is used."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from typer.testing import CliRunner

from models import gates
from models.errors import UnavailablePrecision, UnmeasuredPrecision
from models.gates import Gate, ModelPrecisions, check_gates, gates_of, resolve_precision
from models.metrics import Rate
from models.options import JobOptions
from models.weights.catalogue import PipelineWeights, WhisperWeights, find_pipeline, find_whisper
from scripts import evaluate
from scripts.evaluation import Measured, Row
from service.commands import transcribe as transcribe_command
from service.commands.main import app
from service.domain.engine_job import EngineJob
from service.settings import Settings
from service.worker.engine_process import EngineProcess
from service.worker.pipeline_engine import PipelineEngine
from service.worker.protocol import PIPELINE_ENGINE
from tests.fakes import FakePipeline
from tests.test_batch import write_tone

CPU, GPU = torch.device("cpu"), torch.device("cuda")
WHISPER = WhisperWeights("small", Path("small.pt"), "a" * 64, demo=False)
DIARISATION = PipelineWeights("community", Path("community"), "b" * 64, demo=False)
WORDS, SPEECH = Rate(200, 10_000), Rate(100.0, 5_000.0)


@pytest.fixture(autouse=True)
def vnni(monkeypatch):
    monkeypatch.setattr(gates, "has_vnni", lambda: True)


@pytest.fixture(params=[False, True], ids=["without-bf16", "with-bf16"])
def bf16(request, monkeypatch):
    monkeypatch.setattr(gates, "has_bf16", lambda device: request.param)
    return request.param


@pytest.fixture
def no_bf16(monkeypatch):
    monkeypatch.setattr(gates, "has_bf16", lambda device: False)


def of_whisper(**changes: Any) -> Gate:
    gate = Gate("small", WHISPER.sha256, "int8", "cpu", "wer", fp32=WORDS, lower=WORDS)
    return replace(gate, **changes)


def is_used(folder: Path, **changes: Any) -> bool:
    try:
        check_gates("int8", CPU, replace(WHISPER, **changes), DIARISATION, folder)
    except UnmeasuredPrecision:
        return False
    return True


# --- what a choice means ---


def test_the_default_and_fp32_have_to_pass_no_gate(bf16):
    assert gates_of(None, CPU, WHISPER, DIARISATION) == []
    assert gates_of("fp32", GPU, WHISPER, DIARISATION) == []
    assert resolve_precision(None, CPU) == ModelPrecisions(None, "fp32")


def test_int8_is_whispers_and_diarisation_takes_bf16_where_there_is_some(bf16):
    assert resolve_precision("int8", CPU) == ModelPrecisions("int8", "bf16" if bf16 else "fp32")
    gates = gates_of("int8", CPU, WHISPER, DIARISATION)
    whisper, diarisation = ("wer", "a" * 64, "int8"), ("der", "b" * 64, "bf16")

    assert [(gate.metric, gate.sha256, gate.precision) for gate in gates] == (
        [whisper, diarisation] if bf16 else [whisper]
    )


def test_what_a_device_does_not_compute_in_is_refused(no_bf16):
    with pytest.raises(UnavailablePrecision, match="CPU"):
        resolve_precision("int8", GPU)
    with pytest.raises(UnavailablePrecision, match="bf16"):
        resolve_precision("bf16", CPU)


# --- the gate ---


def test_a_gate_vouches_for_these_weights_on_this_kind_of_device_only(tmp_path, no_bf16):
    assert not is_used(tmp_path)
    of_whisper().save(tmp_path)

    assert is_used(tmp_path)
    assert not is_used(tmp_path, sha256="c" * 64)
    assert not of_whisper(device="cuda").vouched(tmp_path)
    assert not of_whisper(precision="bf16").vouched(tmp_path)


def test_a_gate_does_not_vouch_for_a_processor_whose_int8_is_less_exact(
    tmp_path, monkeypatch, no_bf16
):
    of_whisper().save(tmp_path)
    monkeypatch.setattr(gates, "has_vnni", lambda: False)
    assert not is_used(tmp_path)

    of_whisper(device="cpu-7bit").save(tmp_path)
    assert is_used(tmp_path)


def test_both_models_have_to_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "has_bf16", lambda device: True)
    of_whisper().save(tmp_path)
    assert not is_used(tmp_path)
    Gate("community", "b" * 64, "bf16", "cpu", "der", fp32=SPEECH, lower=SPEECH).save(tmp_path)

    assert is_used(tmp_path)


@pytest.mark.parametrize(
    ("fp32", "lower", "holds"),
    [
        (Rate(200, 10_000), Rate(210, 10_000), True),  # 0.1 points
        (Rate(200, 10_000), Rate(211, 10_000), False),
        (Rate(200, 10_000), Rate(150, 10_000), True),
        (Rate(20, 1_000), Rate(21, 1_000), True),
        (Rate(0, 999), Rate(0, 999), False),  # too few words to tell
    ],
)
def test_a_tenth_of_a_point_is_the_largest_loss(fp32, lower, holds):
    assert of_whisper(fp32=fp32, lower=lower).holds is holds


def test_a_measurement_that_fails_takes_back_what_an_earlier_one_said(tmp_path, no_bf16):
    of_whisper().save(tmp_path)
    of_whisper(lower=Rate(300, 10_000)).save(tmp_path)

    assert not is_used(tmp_path)
    assert list((tmp_path / "gates").iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({"sha256": "a" * 64, "fp32": 1, "lower": 2})]
)
def test_a_damaged_gate_vouches_for_nothing(tmp_path, no_bf16, content):
    of_whisper().save(tmp_path)
    of_whisper().path(tmp_path).write_text(content)

    assert not is_used(tmp_path)


def test_a_gate_of_other_weights_under_this_name_vouches_for_nothing(tmp_path, no_bf16):
    other = of_whisper(sha256="c" * 64)
    other.save(tmp_path)
    other.path(tmp_path).rename(of_whisper().path(tmp_path))

    assert not is_used(tmp_path)


# --- where it is asked for ---


def transcribe(folder: Path, *arguments: object) -> Any:
    options = ["--model", "demo", "--weights", folder, "--out", folder / "out", *arguments]
    return CliRunner().invoke(app, ["transcribe", *map(str, options)])


def test_batch_mode_says_what_to_run_and_uses_int8_when_the_gate_is_passed(
    tmp_path, monkeypatch, no_bf16
):
    loaded = []

    def load(*arguments):
        loaded.append(arguments[-1])
        return FakePipeline(precision=arguments[-1])

    monkeypatch.setattr(transcribe_command, "Pipeline", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recording = tmp_path / "INT-07.wav"
    write_tone(recording, 1.0)
    refused = transcribe(tmp_path, "--precision", "int8", recording)
    assert (refused.exit_code, loaded) == (2, [])
    assert "unmeasured_precision" in refused.stderr
    assert "scripts/evaluate --precision int8" in refused.stderr

    of_whisper(sha256=find_whisper("demo", tmp_path).sha256).save(tmp_path)
    result = transcribe(tmp_path, "--precision", "int8", recording)
    made = json.loads((tmp_path / "out" / "INT-07.identified.json").read_text())

    assert (result.exit_code, loaded) == (0, ["int8"]), result.output
    assert made["made_with"]["options"]["precision"] == "int8"


def test_a_job_of_a_worker_whose_precision_nobody_measured_fails_with_a_name(tmp_path, no_bf16):
    engine = PipelineEngine(tmp_path, "int8")
    engine._device = CPU

    with pytest.raises(UnmeasuredPrecision):
        engine.load(job_with_the_demo_weights())


def job_with_the_demo_weights() -> EngineJob:
    return EngineJob(
        id=uuid4(),
        study_id=uuid4(),
        recordings=(uuid4(),),
        options=JobOptions(),
        vocabulary_artefact_id=None,
        whisper_model="demo",
        whisper_sha256=find_whisper("demo", Path()).sha256,
        diarisation_pipeline="demo",
        diarisation_sha256=find_pipeline("demo", Path()).sha256,
        kept={},
    )


def test_a_workers_setting_reaches_the_process_with_the_models(tmp_path):
    folders = {name: tmp_path / name for name in ("data", "keys", "weights")}
    child = EngineProcess(PIPELINE_ENGINE, Settings(precision="int8", **folders))

    async def events() -> list[dict[str, Any]]:
        try:
            return [event async for event in child.run(job_with_the_demo_weights())]
        finally:
            await child.kill()

    (failed,) = asyncio.run(events())
    expected = "unavailable" if torch.cuda.is_available() else "unmeasured"
    assert failed == {"event": "failed", "code": f"{expected}_precision", "retryable": False}


# --- scripts/evaluate ---


def test_evaluate_compares_with_fp32_and_leaves_a_gate(tmp_path, monkeypatch, capsys, no_bf16):
    errors = {"fp32": 200, "int8": 205}
    written = {}

    def load(whisper, diarisation, device, precision):
        return precision

    def rendered(precision, n_recordings, seconds):
        rates = {"wer": Rate(errors[precision] / 2, 5_000)}
        yield from [Row("clean", str(i), Measured(rates, 2, 2, "en", 60.0, 1.0)) for i in range(2)]

    monkeypatch.setattr(evaluate, "Pipeline", load)
    monkeypatch.setattr(evaluate, "measure_rendered", rendered)
    monkeypatch.setattr(evaluate, "document_of", lambda rows, pipeline: {"groups": []})
    monkeypatch.setattr(evaluate, "write", lambda out, document: written.update({out.name: 1}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = ["--precision", "int8", "--weights", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
    evaluate.main()

    whisper = find_whisper("demo", tmp_path)
    assert list(written) == ["fp32", "int8"]
    assert "demo, int8: WER 2.05%, in fp32 2.00% (+0.05 points); it may be used" in (
        capsys.readouterr().out
    )
    check_gates("int8", CPU, whisper, DIARISATION, tmp_path)

    errors["int8"] = 240
    evaluate.main()
    assert "it is not used" in capsys.readouterr().out
    with pytest.raises(UnmeasuredPrecision):
        check_gates("int8", CPU, whisper, DIARISATION, tmp_path)


def test_rendered_voices_do_not_vouch_for_weights_of_ones_own(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "--model", "small", "--precision", "int8"])

    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--manifest" in capsys.readouterr().err
