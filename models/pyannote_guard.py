"""The one door to pyannote.audio: no telemetry, no hub, and no CUDA extension on a CPU build.

models/environment.py sets the variables that switch off telemetry and the hub. torchaudio 2.11
cannot load its CUDA extension beside a CPU-only torch.
"""

import sys
import types
import warnings
from typing import Any


def pyannote_audio() -> Any:
    """Import pyannote.audio and return it."""
    stand_in_for_torchaudio_extension()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchcodec is absent on purpose: waveforms, never paths
        import pyannote.audio
    return pyannote.audio


def stand_in_for_torchaudio_extension() -> None:
    """Nothing on a CUDA build of torch."""
    import torch

    if torch.version.cuda is not None or "torchaudio" in sys.modules:
        return
    stand_in: Any = types.ModuleType("torchaudio._extension")
    stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stand_in._IS_RIR_AVAILABLE = False
    stand_in._IS_ALIGN_AVAILABLE = False
    for name in ("fail_if_no_align", "fail_if_no_rir"):
        setattr(stand_in, name, lambda function: function)
    sys.modules["torchaudio._extension"] = stand_in
