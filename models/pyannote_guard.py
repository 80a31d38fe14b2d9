"""The only place that imports pyannote.audio: without telemetry, hub or CUDA extension.

models/environment.py sets the variables that turn off telemetry and the hub. torchaudio 2.11 cannot
load its CUDA extension with a CPU-only torch.
"""

import sys
import types
import warnings
from typing import Any


def import_pyannote_audio() -> Any:
    """Import pyannote.audio and return it."""
    stub_torchaudio_extension()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no torchcodec: pyannote gets waveforms, never paths
        import pyannote.audio
    return pyannote.audio


def stub_torchaudio_extension() -> None:
    """Replace torchaudio's CUDA extension by a stub; does nothing on a CUDA build of torch."""
    import torch

    if torch.version.cuda is not None or "torchaudio" in sys.modules:
        return
    stub: Any = types.ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    stub._IS_RIR_AVAILABLE = False
    stub._IS_ALIGN_AVAILABLE = False
    for name in ("fail_if_no_align", "fail_if_no_rir"):
        setattr(stub, name, lambda function: function)
    sys.modules["torchaudio._extension"] = stub
