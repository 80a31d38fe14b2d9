"""The only place that imports pyannote.audio: without telemetry, hub or CUDA extension.

models/environment.py sets the variables that turn off telemetry and the hub. torchaudio 2.11 cannot
load its CUDA extension with a CPU-only torch.
"""

import importlib
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

NOT_NEEDED = (
    "huggingface_hub",
    "lightning",
    "networkx",
    "opentelemetry",
    "optuna",
    "pyannote.audio.pipelines.multilabel",
    "pyannote.audio.pipelines.speaker_diarization",
    "pyannote.audio.pipelines.speech_separation",
    "pyannote.audio.pipelines.utils",
    "pyannote.audio.pipelines.voice_activity_detection",
    "pyannote.core.notebook",
    "pyannote.database",
    "pyannote.metrics",
    "pyannote.pipeline.optimizer",
    "sklearn",
    "torch_audiomentations",
    "torchmetrics",
)
"""What pyannote.audio imports to train, plot, score, report and fetch. With what they import in
turn (transformers, matplotlib, pandas), they take 4 of the 5 s of processor time that importing it
takes. Only sklearn is used, when the number of speakers is given, and is imported then."""

_PARTS = (
    "pyannote.audio.core.plda",
    "pyannote.audio.models.embedding",
    "pyannote.audio.models.segmentation",
    "pyannote.audio.pipelines.clustering",
)


def import_pyannote_models() -> None:
    """Import pyannote.audio's models and clustering, without NOT_NEEDED.

    Its pipelines do not work after this; call `import_pyannote_audio` for those.
    """
    if "pyannote.audio" in sys.modules:
        return
    stub_torchaudio_extension()
    with warnings.catch_warnings(), _stand_ins():
        warnings.simplefilter("ignore")  # no torchcodec: pyannote gets waveforms, never paths
        for part in _PARTS:
            importlib.import_module(part)


def import_pyannote_audio() -> Any:
    """Import all of pyannote.audio, to train with it or to compare with it, and return it.

    Models that `import_pyannote_models` was used for stay usable, but are not instances of the
    classes that are imported now.
    """
    model = sys.modules.get("pyannote.audio.core.model")
    if model is not None and hasattr(model.Model, "is_for_inference_only"):
        for name in [name for name in sys.modules if name.startswith("pyannote.")]:
            del sys.modules[name]
    stub_torchaudio_extension()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


# --- stand-ins for packages that inference does not need ------------------------------------------


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Meanwhile, importing one of NOT_NEEDED gives a module of classes that do nothing."""
    finder: Any = _StandInFinder()  # typeshed wants a class
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn):
                del sys.modules[name]


class _StandInFinder:
    """Finds and creates the stand-ins: an entry of `sys.meta_path` and its own loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: object = None
    ) -> ModuleSpec | None:
        if not f"{name}.".startswith(tuple(f"{package}." for package in NOT_NEEDED)):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]  # no Loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "lightning":
            module.LightningModule = _inference_module()  # type: ignore[attr-defined]
        if module.__name__ == "sklearn.cluster":
            module.KMeans = _k_means  # type: ignore[attr-defined]


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_DoesNothing,), {})


class _DoesNothing:
    """Accepts any arguments; every method does the same."""

    __args__ = ()  # of `Subset`, a Literal

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return _DoesNothing


def _inference_module() -> Any:
    """What pyannote's models use of a `LightningModule` when they are not trained."""
    import torch

    class InferenceModule(torch.nn.Module):
        is_for_inference_only = True

        def save_hyperparameters(self, *names: str) -> None:
            """Keep arguments of the constructor that calls this as `hparams`."""
            arguments = sys._getframe(1).f_locals
            self.__dict__.setdefault("hparams", types.SimpleNamespace())
            vars(self.hparams).update({name: arguments[name] for name in names})

        @property
        def device(self) -> torch.device:
            return next(self.parameters()).device

    return InferenceModule


def _k_means(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("sklearn.cluster").KMeans(*args, **kwargs)
