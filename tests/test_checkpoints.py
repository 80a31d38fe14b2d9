import dataclasses
import lzma
import os
import pickle
import shutil
import socket
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from whisper.model import ModelDimensions, Whisper

from models import checkpoints, weights
from models.checkpoints import (
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    UnsupportedPipeline,
    load_pipeline,
    load_whisper,
)
from models.pyannote_guard import pyannote_audio
from models.weights import WeightsCorrupt, WhisperWeights, find_pipeline, find_whisper

CPU = torch.device("cpu")
TINY = ModelDimensions(80, 1500, 8, 2, 2, 51865, 448, 8, 2, 2)


class Bomb:
    """A pickle that runs a program when it is read: it would touch the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path):
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


# --- Whisper


@pytest.fixture(scope="module")
def tiny_checkpoint() -> dict[str, Any]:
    """Random weights in openai-whisper's format; half precision, as theirs."""
    torch.manual_seed(0)
    model = Whisper(TINY)
    torch.nn.init.normal_(model.decoder.positional_embedding)  # uninitialised memory otherwise
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    return {"dims": dataclasses.asdict(TINY), "model_state_dict": state}


@pytest.fixture
def checkpoint(tiny_checkpoint):
    """A copy that a test may change."""
    return {name: dict(value) for name, value in tiny_checkpoint.items()}


def saved(checkpoint: Any, path: Path) -> WhisperWeights:
    torch.save(checkpoint, path)
    return find_whisper(str(path), path.parent)


def test_a_checkpoint_of_openai_whisper_is_loaded_in_fp32_for_evaluation(checkpoint, tmp_path):
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))

    assert isinstance(model, Whisper)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint["model_state_dict"][name].float())


def test_a_checkpoint_under_xz_is_the_same_checkpoint(checkpoint, tmp_path):
    plain = saved(checkpoint, tmp_path / "own.pt")
    packed = tmp_path / "own.pt.xz"
    packed.write_bytes(lzma.compress(plain.path.read_bytes(), preset=0))

    model = load_whisper(find_whisper(str(packed), tmp_path))

    expected = load_whisper(plain).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_UNPACKED_BYTES", 1000)
    packed = tmp_path / "own.pt.xz"
    packed.write_bytes(lzma.compress(bytes(1001), preset=0))
    with pytest.raises(UnsupportedCheckpoint, match="too large"):
        load_whisper(find_whisper(str(packed), tmp_path))


@pytest.mark.parametrize("kept", [0, 1, 10, 5000, -30, -1])
def test_a_checkpoint_that_is_cut_short_is_corrupt(checkpoint, tmp_path, kept):
    path = saved(checkpoint, tmp_path / "own.pt").path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(path), tmp_path))


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_a_checkpoint_under_xz_that_is_cut_short_is_corrupt(tmp_path, kept):
    packed = tmp_path / "own.pt.xz"
    packed.write_bytes(lzma.compress(bytes(1000), preset=0)[:kept])
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(packed), tmp_path))


def test_a_checkpoint_with_a_damaged_pickle_is_corrupt(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path / "own.pt").path
    rewrite(path, {"own/data.pkl": b"\x80\x02}."[:3]})
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(path), tmp_path))


@pytest.mark.parametrize("place", ["everything", "dims", "model_state_dict", "a tensor"])
def test_a_checkpoint_that_wants_to_run_something_is_refused(checkpoint, tmp_path, canary, place):
    if place == "everything":
        checkpoint = Bomb(canary)
    elif place == "a tensor":
        checkpoint["model_state_dict"]["encoder.conv1.bias"] = Bomb(canary)
    else:
        checkpoint[place] = Bomb(canary)

    with pytest.raises(UnsafeCheckpoint) as caught:
        load_whisper(saved(checkpoint, tmp_path / "own.pt"))
    assert caught.value.code == "unsafe_checkpoint"


def test_a_bare_pickle_is_not_even_opened(checkpoint, tmp_path, canary):
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(canary)))
    torch.save(checkpoint, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("bomb.pt", "old.pt"):
        with pytest.raises(UnsupportedCheckpoint, match="bare pickle"):
            load_whisper(find_whisper(str(tmp_path / name), tmp_path))


def rewrite(path: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def test_a_torchscript_program_is_refused(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path / "own.pt").path
    rewrite(path, {"own/constants.pkl": b"\x80\x02)."})
    with pytest.raises(UnsupportedCheckpoint, match="TorchScript"):
        load_whisper(find_whisper(str(path), tmp_path))


def test_a_checkpoint_that_would_unpack_to_more_is_refused(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path / "own.pt").path
    rewrite(path, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedCheckpoint, match="compressed"):
        load_whisper(find_whisper(str(path), tmp_path))


def test_weights_of_another_project_are_named_as_such(tmp_path):
    transformers = {"model.encoder.conv1.weight": torch.zeros(1)}
    others: list[Any] = [transformers, [], {"dims": {}}]
    for other in others:
        with pytest.raises(UnsupportedCheckpoint, match="not a checkpoint of openai-whisper") as e:
            load_whisper(saved(other, tmp_path / "own.pt"))
        assert e.value.code == "unsupported_checkpoint"


@pytest.mark.parametrize(
    "change",
    [
        {"n_mels": 81},
        {"n_audio_ctx": 3000},
        {"n_vocab": 100_000},
        {"n_text_layer": 10**9},
        {"n_text_layer": 0},
        {"n_text_layer": True},
        {"n_text_layer": 2.0},
        {"n_text_layer": "2"},
        {"n_audio_state": 10},
        {"n_audio_head": 3},
        {"n_text_head": 3},
        {"n_more": 1},
        None,
    ],
)
def test_impossible_dimensions_are_refused(checkpoint, tmp_path, change):
    checkpoint["dims"] = None if change is None else checkpoint["dims"] | change
    with pytest.raises(UnsupportedCheckpoint, match="The dimensions in the checkpoint"):
        load_whisper(saved(checkpoint, tmp_path / "own.pt"))


def hostile_states(state: dict[str, Any]) -> dict[str, Any]:
    bias = "encoder.conv1.bias"
    return {
        "one too few": {name: tensor for name, tensor in state.items() if name != bias},
        "one too many": state | {"more": torch.zeros(1)},
        "another shape": state | {bias: torch.zeros(9)},
        "whole numbers": state | {bias: torch.zeros(8, dtype=torch.long)},
        "sparse": state | {bias: torch.zeros(8).to_sparse()},
        "no tensor": state | {bias: "text"},
        "numbers repeated": state
        | {"decoder.token_embedding.weight": torch.zeros(1).expand(51865, 8)},
        "not a state": [],
    }


@pytest.mark.parametrize("what", hostile_states({}))
def test_tensors_that_do_not_fit_are_refused(checkpoint, tmp_path, what):
    state = hostile_states(checkpoint["model_state_dict"])[what]
    own = saved(checkpoint | {"model_state_dict": state}, tmp_path / "own.pt")
    with pytest.raises(UnsupportedCheckpoint, match="[Tt]ensor"):
        load_whisper(own)


def test_a_small_file_with_large_dimensions_does_not_take_the_memory(checkpoint, tmp_path):
    large = {"n_audio_state": 2048, "n_text_state": 2048, "n_audio_layer": 64, "n_text_layer": 64}
    own = saved(checkpoint | {"dims": checkpoint["dims"] | large}, tmp_path / "own.pt")
    with pytest.raises(UnsupportedCheckpoint):  # 20 GB and a minute, were it built first
        load_whisper(own)


# --- Whisper: alignment heads


@pytest.mark.parametrize(
    ("name", "n_mels", "n_vocab", "n_state", "n_layer"),
    [
        ("tiny.en", 80, 51864, 384, 4),
        ("tiny", 80, 51865, 384, 4),
        ("base.en", 80, 51864, 512, 6),
        ("base", 80, 51865, 512, 6),
        ("small.en", 80, 51864, 768, 12),
        ("small", 80, 51865, 768, 12),
        ("medium.en", 80, 51864, 1024, 24),
        ("medium", 80, 51865, 1024, 24),
        ("large-v2", 80, 51865, 1280, 32),
        ("large-v3", 128, 51866, 1280, 32),
        ("large-v3-turbo", 128, 51866, 1280, 4),
    ],
)
def test_a_fine_tuned_model_keeps_the_heads_of_its_original(
    name, n_mels, n_vocab, n_state, n_layer
):
    import whisper

    n_head = n_state // 64
    dims = ModelDimensions(
        n_mels, 1500, n_state, n_head, n_layer, n_vocab, 448, n_state, n_head, n_layer
    )
    assert (
        checkpoints._alignment_heads("a checksum of its own", dims)
        == (whisper._ALIGNMENT_HEADS[name])
    )


def test_an_official_file_has_its_own_heads():
    import whisper

    dims = ModelDimensions(80, 1500, 1280, 20, 32, 51865, 448, 1280, 20, 32)
    for name in ("large-v1", "large-v2"):
        sha256 = weights.KNOWN[name].files[0].sha256
        assert checkpoints._alignment_heads(sha256, dims) == whisper._ALIGNMENT_HEADS[name]


def test_the_heads_of_the_original_are_set(tmp_path, checkpoint, monkeypatch):
    import base64
    import gzip

    heads = np.array([[True, False], [False, False]])
    monkeypatch.setitem(checkpoints._OFFICIAL_SHAPES, (80, 51865, 8, 2), "tiny")
    monkeypatch.setattr(
        "whisper._ALIGNMENT_HEADS", {"tiny": base64.b85encode(gzip.compress(heads.tobytes()))}
    )
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))
    assert model.alignment_heads.to_dense().tolist() == heads.tolist()


def test_a_model_of_another_size_takes_the_upper_half_of_the_layers(tmp_path, checkpoint):
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))
    assert model.alignment_heads.to_dense().tolist() == [[False, False], [True, True]]


# --- pyannote

CONFIG = {
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "AgglomerativeClustering",
            "segmentation": "$model/segmentation",
            "embedding": "$model/embedding",
            "plda": "$model/plda",
            "embedding_exclude_overlap": True,
            "segmentation_batch_size": 4,
        },
    },
    "params": {
        "clustering": {"method": "centroid", "min_cluster_size": 4, "threshold": 0.7},
        "segmentation": {"min_duration_off": 0.0},
    },
}


def checkpoint_of(model: Any, specifications: Any, module: str) -> dict[str, Any]:
    """As pyannote.audio writes it: Model.on_save_checkpoint."""
    return {
        "state_dict": {name: tensor.detach() for name, tensor in model.state_dict().items()},
        "pytorch-lightning_version": "2.6.0",
        "pyannote.audio": {
            "versions": {"torch": torch.__version__, "pyannote.audio": "4.0.0"},
            "architecture": {"module": module, "class": type(model).__name__},
            "specifications": specifications,
        },
    }


def segmentation_checkpoint() -> dict[str, Any]:
    pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    lstm = {"hidden_size": 4, "num_layers": 1, "bidirectional": True, "monolithic": True}
    model: Any = PyanNet(lstm=lstm, linear={"hidden_size": 4, "num_layers": 1})
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=10.0,
        warm_up=(0.1, 0.1),
        classes=["speaker1", "speaker2", "speaker3"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()
    module = "pyannote.audio.models.segmentation.PyanNet"
    checkpoint = checkpoint_of(model, model.specifications, module)
    return checkpoint | {"hparams_name": "kwargs", "hyper_parameters": dict(model.hparams)}


def embedding_checkpoint(n_channels: int, dimension: int) -> dict[str, Any]:
    """Without hyper-parameters, as community-1's."""
    pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet

    model = WeSpeakerResNet34()
    resnet: Any = ResNet
    model.resnet = resnet(BasicBlock, [3, 4, 6, 3], n_channels, 80, dimension, two_emb_layer=False)
    specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0
    )
    return checkpoint_of(model, specifications, "pyannote.audio.models.embedding.wespeaker")


def plda(dimension: int) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    reduced = dimension // 2
    return {
        "xvec_transform": {
            "mean1": rng.normal(size=dimension),
            "mean2": rng.normal(size=reduced),
            "lda": rng.normal(size=(dimension, reduced)),
        },
        "plda": {
            "mu": rng.normal(size=reduced),
            "tr": np.linalg.qr(rng.normal(size=(reduced, reduced)))[0],
            "psi": np.linspace(2, 1, reduced),
        },
    }


def write_pipeline(folder: Path, *, n_channels: int = 2, dimension: int = 16) -> Path:
    torch.manual_seed(0)
    for name in ("segmentation", "embedding", "plda"):
        (folder / name).mkdir(parents=True)
    torch.save(segmentation_checkpoint(), folder / "segmentation" / "pytorch_model.bin")
    embedding = embedding_checkpoint(n_channels, dimension)
    torch.save(embedding, folder / "embedding" / "pytorch_model.bin")
    for name, arrays in plda(dimension).items():
        np.savez(folder / "plda" / f"{name}.npz", **arrays)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture
def folder(tiny_pipeline, tmp_path):
    """A pipeline's folder that a test may change."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))


def load(folder: Path) -> Any:
    return load_pipeline(find_pipeline(str(folder), folder.parent), CPU)


def change_checkpoint(folder: Path, model: str, **changes: Any) -> None:
    """Changes a top-level entry, or, below "pyannote.audio", one of its entries."""
    path = folder / model / "pytorch_model.bin"
    checkpoint = torch.load(path, weights_only=False)
    for name, value in changes.items():
        below = checkpoint if name in ("state_dict", "hyper_parameters") else None
        (checkpoint["pyannote.audio"] if below is None else below)[name] = value
    torch.save(checkpoint, path)


def change_config(folder: Path, *path: str, to: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = to
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_pipeline_gives_what_pyannote_s_own_loader_gives(tmp_path):
    """Of published size, because pyannote's loader knows no other."""
    folder = write_pipeline(tmp_path / "pipeline", n_channels=32, dimension=256)
    pyannote_audio()
    from pyannote.audio import Pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock: Any = Pipeline.from_pretrained(folder)
    own = load(folder)

    parameters = stock.parameters(instantiated=True)
    assert own.clustering == stock.klustering
    assert own.parameters == parameters["clustering"]
    assert own.min_duration_off == parameters["segmentation"]["min_duration_off"]
    assert own.segmentation_step == stock.segmentation_step
    assert own.exclude_overlap == stock.embedding_exclude_overlap
    waveforms = torch.randn(1, 1, 160_000)
    for ours, theirs in (
        (own.segmentation, stock._segmentation.model),
        (own.embedding, stock._embedding.model_),
    ):
        assert not ours.training
        assert ours.specifications == theirs.specifications
        with torch.inference_mode():
            assert torch.equal(ours(waveforms), theirs(waveforms))
    embeddings = np.random.default_rng(1).normal(size=(3, 256))
    assert np.array_equal(own.plda(embeddings), stock._plda(embeddings))


def test_a_smaller_embedding_is_read_by_its_shape(folder):
    pipeline = load(folder)
    assert pipeline.embedding.dimension == 16
    assert pipeline.exclude_overlap


def test_loading_opens_no_socket(folder, checkpoint, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    own = saved(checkpoint, tmp_path / "own.pt")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    load(folder)
    load_whisper(own)


@pytest.mark.parametrize("model", ["segmentation", "embedding"])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "specifications", "versions"])
def test_a_pyannote_checkpoint_that_wants_to_run_something_is_refused(folder, canary, model, place):
    change_checkpoint(folder, model, **{place: Bomb(canary)})
    with pytest.raises(UnsafeCheckpoint):
        load(folder)


def test_a_class_in_a_checkpoint_is_not_imported(folder):
    change_checkpoint(folder, "embedding", versions=Path("inert, but not on the list"))
    with pytest.raises(UnsafeCheckpoint):
        load(folder)


@pytest.mark.parametrize(
    "architecture",
    [
        {"module": "os", "class": "system"},
        {"module": "pyannote.audio.models.segmentation", "class": "SSeRiouSS"},
        {"module": "pyannote.audio.models.embedding", "class": "WeSpeakerResNet34"},
        {"module": ["unhashable"], "class": "PyanNet"},
        {"module": "pyannote.audio.models.segmentation"},
        None,
    ],
)
def test_an_architecture_that_is_not_listed_is_refused(folder, architecture):
    change_checkpoint(folder, "segmentation", architecture=architecture)
    with pytest.raises(UnsupportedCheckpoint, match="allow-list: PyanNet"):
        load(folder)


@pytest.mark.parametrize(
    "parameters",
    [
        {"more": 1},
        {"sample_rate": 8000},
        {"lstm": {"hidden_size": 10**9}},
        {"lstm": {"hidden_size": 4.5}},
        {"lstm": {"hidden_size": True}},
        {"lstm": {"dropout": float("nan")}},
        {"lstm": {"proj_size": 3}},
        {"lstm": [4]},
        {"sincnet": {"stride": "10"}},
        [],
    ],
)
def test_hyper_parameters_that_are_not_listed_are_refused(folder, parameters):
    change_checkpoint(folder, "segmentation", hyper_parameters=parameters)
    with pytest.raises(UnsupportedCheckpoint, match="hyper-parameter"):
        load(folder)


def test_an_embedding_with_hyper_parameters_is_read_by_them(folder):
    pyannote_audio()
    from pyannote.audio.models.embedding import WeSpeakerResNet34

    usual = dict(WeSpeakerResNet34().hparams)
    change_checkpoint(folder, "embedding", hyper_parameters=usual | {"window_type": "povey"})
    assert load(folder).embedding.hparams.window_type == "povey"


@pytest.mark.parametrize(
    "parameters", [{"fbank_centering_span": 3.0}, {"window_type": "none"}, {"dither": 0.1}]
)
def test_hyper_parameters_of_an_embedding_that_are_not_listed_are_refused(folder, parameters):
    change_checkpoint(folder, "embedding", hyper_parameters=parameters)
    with pytest.raises(UnsupportedCheckpoint, match="hyper-parameter"):
        load(folder)


def specifications(**changes: Any) -> Any:
    pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution, Specifications

    good: dict[str, Any] = {
        "problem": Problem.MONO_LABEL_CLASSIFICATION,
        "resolution": Resolution.FRAME,
        "duration": 10.0,
        "classes": ["a", "b", "c"],
        "powerset_max_classes": 2,
    }
    return Specifications(**(good | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"problem": 1},
        {"resolution": "frame"},
        {"duration": 1e9},
        {"duration": "10"},
        {"min_duration": -1},
        {"warm_up": None},
        {"warm_up": (0.0, 0.0, 0.0)},
        {"warm_up": (0.0, "1")},
        {"classes": []},
        {"classes": [1, 2]},
        {"classes": ["a"] * 1000},
        {"powerset_max_classes": 10**6},
    ],
)
def test_specifications_out_of_range_are_refused(folder, changes):
    change_checkpoint(folder, "segmentation", specifications=specifications(**changes))
    with pytest.raises(UnsupportedCheckpoint, match="specifications"):
        load(folder)


@pytest.mark.parametrize("what", ["for a chunk", "several labels", "no sets", "no classes", "none"])
def test_a_segmentation_model_of_another_kind_is_refused(folder, what):
    pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution

    others = {
        "for a chunk": specifications(resolution=Resolution.CHUNK),
        "several labels": specifications(problem=Problem.MULTI_LABEL_CLASSIFICATION),
        "no sets": specifications(powerset_max_classes=None),
        "no classes": specifications(classes=None),
        "none": None,
    }
    change_checkpoint(folder, "segmentation", specifications=others[what])
    with pytest.raises(UnsupportedCheckpoint, match="which set of speakers"):
        load(folder)


def test_attributes_slipped_into_specifications_do_not_survive(folder):
    found = specifications()
    found.__dict__["num_powerset_classes"] = 10**9
    change_checkpoint(folder, "segmentation", specifications=found)
    assert load(folder).segmentation.specifications.num_powerset_classes == 7


def test_a_checkpoint_with_the_weights_of_its_loss_is_read(folder):
    path = folder / "embedding" / "pytorch_model.bin"
    state = torch.load(path, weights_only=False)["state_dict"]
    change_checkpoint(folder, "embedding", state_dict=state | {"loss_func.W": torch.zeros(3)})
    load(folder)


@pytest.mark.parametrize("model", ["segmentation", "embedding"])
def test_tensors_of_another_model_are_refused(folder, model):
    change_checkpoint(folder, model, state_dict={"more": torch.zeros(1)})
    with pytest.raises(UnsupportedCheckpoint, match="tensors"):
        load(folder)


@pytest.mark.parametrize("name", ["segmentation/pytorch_model.bin", "plda/plda.npz"])
def test_a_pipeline_file_that_is_cut_short_is_corrupt(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsCorrupt):
        load(folder)


@pytest.mark.parametrize("name", ["segmentation/pytorch_model.bin", "plda/plda.npz"])
def test_a_pipeline_that_lacks_a_file_is_not_supported(folder, name):
    (folder / name).unlink()
    with pytest.raises(UnsupportedPipeline, match="lacks") as caught:
        load(folder)
    assert caught.value.code == "unsupported_pipeline"


def test_objects_in_the_plda_are_not_unpickled(folder, canary):
    path = folder / "plda" / "plda.npz"
    np.savez(path, mu=np.array([Bomb(canary)]), tr=np.eye(8), psi=np.ones(8))
    with pytest.raises(UnsafeCheckpoint):
        load(folder)


@pytest.mark.parametrize("in_archive", [True, False])
def test_a_pickle_in_place_of_the_plda_is_not_unpickled(folder, canary, in_archive):
    path = folder / "plda" / "plda.npz"
    path.write_bytes(pickle.dumps(Bomb(canary)))
    if in_archive:
        bomb = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mu.npy", bomb)
    with pytest.raises((UnsafeCheckpoint, UnsupportedPipeline)):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"mu": np.ones(9)},
        {"tr": np.ones((8, 9))},
        {"tr": np.zeros((8, 8))},
        {"mu": np.full(8, np.nan)},
        {"mu": np.array(["text"] * 8)},
    ],
)
def test_a_plda_that_does_not_fit_is_refused(folder, changes):
    np.savez(folder / "plda" / "plda.npz", **(plda(16)["plda"] | changes))
    with pytest.raises(UnsupportedPipeline, match="PLDA"):
        load(folder)


def test_a_plda_that_unpacks_to_too_much_is_refused(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_PLDA_BYTES", 100)
    with pytest.raises(UnsupportedPipeline, match="more than any PLDA"):
        load(folder)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["pipeline", "name"], "os.system"),
        (["pipeline", "name"], ["unhashable"]),
        (["pipeline", "params", "clustering"], "OracleClustering"),
        (["pipeline", "params", "clustering"], ["unhashable"]),
        (["pipeline", "params", "legacy"], True),
        (["pipeline", "params", "segmentation_batch_size"], 10**9),
        (["pipeline", "params", "segmentation"], "pyannote/segmentation-3.0"),
        (["pipeline", "params", "segmentation"], "/etc"),
        (["pipeline", "params", "segmentation"], "$model/../segmentation"),
        (["pipeline", "params", "segmentation"], "$model/segmentation@main"),
        (["pipeline", "params", "segmentation"], "$model/.hidden"),
        (["pipeline", "params", "embedding"], {"checkpoint": "pyannote/embedding"}),
        (["pipeline", "params", "plda"], None),
        (["pipeline", "params"], None),
        (["pipeline", "more"], 1),
        (["preprocessors"], {"audio": {"name": "os.system"}}),
        (["device"], "cuda"),
        (["freeze"], {}),
        (["params", "clustering", "threshold"], float("inf")),
        (["params", "clustering", "Fa"], 0.07),
        (["params", "segmentation"], None),
        (["params"], {}),
        (["params", "clustering"], {"threshold": 0.7}),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(folder, path, value):
    change_config(folder, *path, to=value)
    with pytest.raises(UnsupportedPipeline):
        load(folder)


@pytest.mark.parametrize("text", ["a: [", "\0", "#" * 70_000, "3"])
def test_a_config_that_is_no_plain_yaml_is_refused(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UnsupportedPipeline):
        load(folder)


def test_a_config_that_wants_to_run_something_is_refused(folder, canary):
    call = f"!!python/object/apply:os.system ['touch {canary}']"
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{config}\nversion: {call}\n")
    with pytest.raises(UnsupportedPipeline):
        load(folder)


@pytest.mark.parametrize("name", ["segmentation", "segmentation/pytorch_model.bin", "config.yaml"])
def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path, name):
    outside = shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(outside)
    with pytest.raises(UnsupportedPipeline, match="link"):
        load(folder)


def test_a_model_in_a_hidden_folder_is_refused_because_the_checksum_leaves_it_out(folder):
    shutil.copytree(folder / "segmentation", folder / ".segmentation")
    change_config(folder, "pipeline", "params", "segmentation", to="$model/.segmentation")
    with pytest.raises(UnsupportedPipeline, match=r"\$model/<subfolder>"):
        load(folder)


def test_the_layout_of_community_1_is_read(folder):
    """Its config, with VBx clustering and no `min_cluster_size`."""
    change_config(folder, "pipeline", "params", "clustering", to="VBxClustering")
    change_config(folder, "params", "clustering", to={"threshold": 0.6, "Fa": 0.07, "Fb": 0.8})
    change_config(folder, "dependencies", to={"pyannote.audio": "4.0.0"})

    pipeline = load(folder)

    assert pipeline.clustering == "VBxClustering"
    assert pipeline.parameters["Fb"] == 0.8
