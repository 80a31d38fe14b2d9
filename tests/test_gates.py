"""Lower precision is requested, measured and vouched for before it is used."""

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
from models.error_rates import ErrorRate
from models.errors import UnavailablePrecision, UnmeasuredPrecision
from models.gates import Gate, ModelPrecisions, check_gates, required_gates, resolve_precision
from models.options import JobOptions
from models.weights.catalogue import PipelineWeights, WhisperWeights, find_pipeline, find_whisper
from scripts import evaluate
from scripts.evaluation import Measurement, Row
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
WORDS, SPEECH = ErrorRate(200, 10_000), ErrorRate(100.0, 5_000.0)


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


def whisper_gate(**changes: Any) -> Gate:
    gate = Gate("small", WHISPER.sha256, "int8", "cpu", "wer", fp32=WORDS, lower=WORDS)
    return replace(gate, **changes)


def is_used(folder: Path, **changes: Any) -> bool:
    try:
        check_gates("int8", CPU, replace(WHISPER, **changes), DIARISATION, folder)
    except UnmeasuredPrecision:
        return False
    return True


# --- what a requested precision means ---


def test_the_default_and_fp32_need_no_gate(bf16):
    assert required_gates(None, CPU, WHISPER, DIARISATION) == []
    assert required_gates("fp32", GPU, WHISPER, DIARISATION) == []
    assert resolve_precision(None, CPU) == ModelPrecisions(None, "fp32")


def test_with_int8_for_whisper_diarisation_uses_bf16_if_the_device_has_it(bf16):
    assert resolve_precision("int8", CPU) == ModelPrecisions("int8", "bf16" if bf16 else "fp32")
    gates = required_gates("int8", CPU, WHISPER, DIARISATION)
    whisper, diarisation = ("wer", "a" * 64, "int8"), ("der", "b" * 64, "bf16")

    assert [(gate.metric, gate.sha256, gate.precision) for gate in gates] == (
        [whisper, diarisation] if bf16 else [whisper]
    )


def test_a_precision_the_device_does_not_support_is_refused(no_bf16):
    with pytest.raises(UnavailablePrecision, match="CPU"):
        resolve_precision("int8", GPU)
    with pytest.raises(UnavailablePrecision, match="bf16"):
        resolve_precision("bf16", CPU)


# --- the gate ---


def test_a_gate_vouches_for_these_weights_on_this_kind_of_device_only(tmp_path, no_bf16):
    assert not is_used(tmp_path)
    whisper_gate().save(tmp_path)

    assert is_used(tmp_path)
    assert not is_used(tmp_path, sha256="c" * 64)
    assert not whisper_gate(device="cuda").is_vouched(tmp_path)
    assert not whisper_gate(precision="bf16").is_vouched(tmp_path)


def test_a_gate_does_not_vouch_for_a_processor_whose_int8_is_less_exact(
    tmp_path, monkeypatch, no_bf16
):
    whisper_gate().save(tmp_path)
    monkeypatch.setattr(gates, "has_vnni", lambda: False)
    assert not is_used(tmp_path)

    whisper_gate(device="cpu-7bit").save(tmp_path)
    assert is_used(tmp_path)


def test_both_models_have_to_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "has_bf16", lambda device: True)
    whisper_gate().save(tmp_path)
    assert not is_used(tmp_path)
    Gate("community", "b" * 64, "bf16", "cpu", "der", fp32=SPEECH, lower=SPEECH).save(tmp_path)

    assert is_used(tmp_path)


@pytest.mark.parametrize(
    ("fp32", "lower", "holds"),
    [
        (ErrorRate(200, 10_000), ErrorRate(210, 10_000), True),  # 0.1 points
        (ErrorRate(200, 10_000), ErrorRate(211, 10_000), False),
        (ErrorRate(200, 10_000), ErrorRate(150, 10_000), True),
        (ErrorRate(20, 1_000), ErrorRate(21, 1_000), True),
        (ErrorRate(0, 999), ErrorRate(0, 999), False),  # too few words to tell
    ],
)
def test_a_tenth_of_a_point_is_the_largest_loss(fp32, lower, holds):
    assert whisper_gate(fp32=fp32, lower=lower).holds is holds


def test_a_failed_measurement_removes_the_earlier_gate(tmp_path, no_bf16):
    whisper_gate().save(tmp_path)
    whisper_gate(lower=ErrorRate(300, 10_000)).save(tmp_path)

    assert not is_used(tmp_path)
    assert list((tmp_path / "gates").iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", json.dumps({"sha256": "a" * 64, "fp32": 1, "lower": 2})]
)
def test_a_damaged_gate_vouches_for_nothing(tmp_path, no_bf16, content):
    whisper_gate().save(tmp_path)
    whisper_gate().path(tmp_path).write_text(content)

    assert not is_used(tmp_path)


def test_a_gate_of_other_weights_under_these_weights_name_vouches_for_nothing(tmp_path, no_bf16):
    other = whisper_gate(sha256="c" * 64)
    other.save(tmp_path)
    other.path(tmp_path).rename(whisper_gate().path(tmp_path))

    assert not is_used(tmp_path)


# --- where it is requested ---


def transcribe(folder: Path, *arguments: object) -> Any:
    options = ["--model", "demo", "--weights", folder, "--out", folder / "out", *arguments]
    return CliRunner().invoke(app, ["transcribe", *map(str, options)])


def test_batch_mode_names_the_evaluation_to_run_and_uses_int8_once_it_has_passed(
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

    whisper_gate(sha256=find_whisper("demo", tmp_path).sha256).save(tmp_path)
    result = transcribe(tmp_path, "--precision", "int8", recording)
    made = json.loads((tmp_path / "out" / "INT-07.identified.json").read_text())

    assert (result.exit_code, loaded) == (0, ["int8"]), result.output
    assert made["made_with"]["options"]["precision"] == "int8"


def test_a_job_fails_if_no_evaluation_vouches_for_the_workers_precision(tmp_path, no_bf16):
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
        stored={},
    )


def test_a_workers_precision_setting_reaches_the_engine_child(tmp_path):
    folders = {name: tmp_path / name for name in ("data", "keys", "weights")}
    child = EngineProcess(PIPELINE_ENGINE, Settings(precision="int8", **folders))
    job = job_with_the_demo_weights()

    async def events() -> list[dict[str, Any]]:
        try:
            return [event async for event in child.run([job])]
        finally:
            await child.kill()

    (failed,) = asyncio.run(events())
    expected = "unavailable" if torch.cuda.is_available() else "unmeasured"
    assert failed == {
        "event": "failed",
        "job": str(job.id),
        "code": f"{expected}_precision",
        "retryable": False,
    }


# --- scripts/evaluate ---


def test_evaluate_compares_with_fp32_and_writes_a_gate(tmp_path, monkeypatch, capsys, no_bf16):
    errors = {"fp32": 200, "int8": 205}
    written = {}

    def load(whisper, diarisation, device, precision):
        return precision

    def rendered(precision, n_recordings, seconds):
        rates = {"wer": ErrorRate(errors[precision] / 2, 5_000)}
        yield from [
            Row("clean", str(i), Measurement(rates, 2, 2, "en", 60.0, 1.0)) for i in range(2)
        ]

    monkeypatch.setattr(evaluate, "Pipeline", load)
    monkeypatch.setattr(evaluate, "measure_rendered", rendered)
    monkeypatch.setattr(
        evaluate, "build_document", lambda rows, pipeline: {"groups": [], "recordings": []}
    )
    monkeypatch.setattr(
        evaluate, "write_evaluation", lambda out, document: written.update({out.name: 1})
    )
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


def test_rendered_voices_do_not_vouch_for_other_weights(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "--model", "small", "--precision", "int8"])

    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--manifest" in capsys.readouterr().err
