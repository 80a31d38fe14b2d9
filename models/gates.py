"""The precision that models compute in, and the gates that a lower one must pass.

By default, Whisper computes in bf16 on devices that support it and in fp32 elsewhere; diarisation
computes in fp32. Lower precision is faster, but may cost words or speakers, more with some models
and voices than with others. So it is used only on request, and only after an evaluation:
`scripts/evaluate --precision int8` compares it with fp32 on recordings whose words and turns are
known, and writes a gate file for each model that passes.

    <weights folder>/gates/<sha256 of the weights>.int8.cpu.json

A gate vouches for these weights only, at this precision, on this kind of device.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from models.error_rates import ErrorRate
from models.errors import UnavailablePrecision, UnmeasuredPrecision
from models.precision import Precision, TrunkPrecision
from models.weights.catalogue import (
    PipelineWeights,
    WhisperWeights,
    open_private,
    translate_write_errors,
)
from models.whisper_engine.linear import HAS_ONEDNN, has_bf16, has_vnni

Metric = Literal["wer", "der"]

LARGEST_LOSS = 0.001  # 0.1 percentage points of the words or the speech, above fp32
MIN_REFERENCE = {"wer": 1000, "der": 600}
"""Words, or seconds of speech, in the references. With fewer words, a single error would exceed the
largest loss."""


@dataclass(frozen=True)
class ModelPrecisions:
    """The precision of each model."""

    whisper: Precision | None  # None: the device's default
    trunk: TrunkPrecision  # of diarisation's embedding model


def resolve_precision(requested: Precision | None, device: torch.device) -> ModelPrecisions:
    """Return the precision of each model for the requested one; None is the default.

    Raises:
        UnavailablePrecision
    """
    if requested == "int8" and (device.type != "cpu" or not HAS_ONEDNN):
        raise UnavailablePrecision("int8 runs only on CPUs; on a GPU choose bf16.")
    if requested == "bf16" and not has_bf16(device):
        raise UnavailablePrecision(
            "This device does not support bf16; choose fp32, or int8 on a CPU."
        )
    lower = requested in ("bf16", "int8") and has_bf16(device)
    return ModelPrecisions(requested, "bf16" if lower else "fp32")


@dataclass(frozen=True)
class Gate:
    """One model's measured loss at a lower precision.

    Args:
        model: its name, for people; `sha256` identifies the weights.
        metric: "wer" for Whisper, "der" for diarisation.
        fp32, lower: the error rates of the same recordings at both precisions.
    """

    model: str
    sha256: str
    precision: Precision
    device: str  # cpu or cuda; cpu-7bit for processors with less exact int8
    metric: Metric
    fp32: ErrorRate
    lower: ErrorRate

    @property
    def loss(self) -> float:
        return self.lower.rate - self.fp32.rate

    @property
    def has_enough(self) -> bool:
        return min(self.fp32.total, self.lower.total) >= MIN_REFERENCE[self.metric]

    @property
    def holds(self) -> bool:
        return self.has_enough and self.loss <= LARGEST_LOSS + 1e-9

    def path(self, weights_folder: Path) -> Path:
        return weights_folder / "gates" / f"{self.sha256}.{self.precision}.{self.device}.json"

    def save(self, weights_folder: Path) -> None:
        """Write the gate's file, or delete an earlier one if the gate does not hold.

        Raises:
            CannotWriteWeights, NoSpace
        """
        path = self.path(weights_folder)
        with translate_write_errors():
            if not self.holds:
                path.unlink(missing_ok=True)
                return
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = path.with_name(path.name + ".partial")
            with open_private(partial) as out:
                out.write(json.dumps(asdict(self), indent=1).encode())
            partial.replace(path)

    def is_vouched(self, weights_folder: Path) -> bool:
        """Return whether a file vouches for these weights, precision and device."""
        try:
            stored: dict[str, Any] = json.loads(self.path(weights_folder).read_text())
            rates = {name: ErrorRate(**stored[name]) for name in ("fp32", "lower")}
            found = Gate(**{**stored, **rates})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False
        same = (found.sha256, found.precision, found.device, found.metric) == (
            *(self.sha256, self.precision, self.device, self.metric),
        )
        return same and found.holds

    def __str__(self) -> str:
        name = {"wer": "WER", "der": "DER"}[self.metric]
        verdict = "may be used" if self.holds else "is not used"
        if not self.has_enough:
            unit = {"wer": "words", "der": "seconds of speech"}[self.metric]
            needed = MIN_REFERENCE[self.metric]
            verdict += f": {self.fp32.total:.0f} {unit} are too few, {needed} are needed"
        return (
            f"{self.model}, {self.precision}: {name} {self.lower.rate:.2%}, in fp32 "
            f"{self.fp32.rate:.2%} ({100 * self.loss:+.2f} points); it {verdict}"
        )


def required_gates(
    requested: Precision | None,
    device: torch.device,
    whisper: WhisperWeights,
    diarisation: PipelineWeights,
) -> list[Gate]:
    """Return the gates that the requested precision must pass, without measurements.

    Raises:
        UnavailablePrecision
    """
    if requested not in ("bf16", "int8"):
        return []
    nothing = ErrorRate(0, 0)
    kind = "cpu-7bit" if requested == "int8" and not has_vnni() else device.type
    gates = [
        Gate(whisper.name, whisper.sha256, requested, kind, "wer", fp32=nothing, lower=nothing)
    ]
    trunk = resolve_precision(requested, device).trunk
    if trunk != "fp32":
        gates.append(
            Gate(diarisation.name, diarisation.sha256, trunk, device.type, "der", nothing, nothing)
        )
    return gates


def check_gates(
    requested: Precision | None,
    device: torch.device,
    whisper: WhisperWeights,
    diarisation: PipelineWeights,
    weights_folder: Path,
) -> None:
    """Check that the requested precision may be used. Called before models are loaded.

    Raises:
        UnavailablePrecision, UnmeasuredPrecision
    """
    for gate in required_gates(requested, device, whisper, diarisation):
        if not gate.is_vouched(weights_folder):
            raise UnmeasuredPrecision(
                f"No evaluation vouches for {gate.model} at {requested}: run "
                f"`scripts/evaluate --precision {requested} --model {whisper.name} "
                "--manifest FILE` on your own recordings first "
                "(docs/researcher/accuracy.md), or keep the default precision."
            )
