"""Loading pyannote pipelines, including hostile ones."""

import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.pyannote_guard import import_pyannote_audio
from models.weights import pyannote
from models.weights.catalogue import find_pipeline
from models.weights.errors import (
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    UnsupportedPipeline,
    WeightsCorrupt,
)
from models.weights.pyannote import load_pipeline
from tests.bomb import Bomb

CPU = torch.device("cpu")

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
    """A checkpoint as pyannote.audio writes it in Model.on_save_checkpoint."""
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
    import_pyannote_audio()
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
    """Without hyper-parameters, like that of community-1."""
    import_pyannote_audio()
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
    """A pipeline folder that a test may change."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))


def load(folder: Path) -> Any:
    return load_pipeline(find_pipeline(str(folder), folder.parent), CPU)


def change_checkpoint(folder: Path, model: str, **changes: Any) -> None:
    """Change a top-level entry, or an entry of "pyannote.audio"."""
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


def test_a_pipeline_loads_as_with_pyannotes_own_loader(tmp_path):
    """Of the published size, because pyannote's loader supports no other."""
    folder = write_pipeline(tmp_path / "pipeline", n_channels=32, dimension=256)
    import_pyannote_audio()
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


def test_the_shape_of_a_smaller_embedding_is_read_from_its_weights(folder):
    pipeline = load(folder)
    assert pipeline.embedding.dimension == 16
    assert pipeline.exclude_overlap


def test_loading_a_pipeline_opens_no_socket(folder, no_sockets):
    load(folder)


@pytest.mark.parametrize("model", ["segmentation", "embedding"])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "specifications", "versions"])
def test_a_pyannote_checkpoint_that_would_run_code_is_refused(folder, canary, model, place):
    change_checkpoint(folder, model, **{place: Bomb(canary)})
    with pytest.raises(UnsafeCheckpoint):
        load(folder)


def test_a_class_named_in_a_checkpoint_is_not_imported(folder):
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
    with pytest.raises(UnsupportedCheckpoint, match="models: PyanNet"):
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


def test_the_hyper_parameters_of_an_embedding_are_used(folder):
    import_pyannote_audio()
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
    import_pyannote_audio()
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
    import_pyannote_audio()
    from pyannote.audio.core.task import Problem, Resolution

    others = {
        "for a chunk": specifications(resolution=Resolution.CHUNK),
        "several labels": specifications(problem=Problem.MULTI_LABEL_CLASSIFICATION),
        "no sets": specifications(powerset_max_classes=None),
        "no classes": specifications(classes=None),
        "none": None,
    }
    change_checkpoint(folder, "segmentation", specifications=others[what])
    with pytest.raises(UnsupportedCheckpoint, match="set of active speakers"):
        load(folder)


def test_extra_attributes_of_specifications_are_dropped(folder):
    found = specifications()
    found.__dict__["num_powerset_classes"] = 10**9
    change_checkpoint(folder, "segmentation", specifications=found)
    assert load(folder).segmentation.specifications.num_powerset_classes == 7


def test_a_checkpoint_that_includes_the_weights_of_its_loss_loads(folder):
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
def test_a_truncated_pipeline_file_is_corrupt(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsCorrupt):
        load(folder)


@pytest.mark.parametrize("name", ["segmentation/pytorch_model.bin", "plda/plda.npz"])
def test_a_pipeline_that_lacks_a_file_is_refused(folder, name):
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


def test_an_array_that_declares_more_than_its_file_holds_is_corrupt(folder):
    """numpy allocates what the header declares before it reads."""
    path = folder / "plda" / "plda.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", array)
    with pytest.raises(WeightsCorrupt):
        load(folder)


def test_a_plda_that_expands_too_much_is_refused(folder, monkeypatch):
    monkeypatch.setattr(pyannote, "MAX_PLDA_BYTES", 100)
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
def test_a_config_with_unsupported_values_is_refused(folder, path, value):
    change_config(folder, *path, to=value)
    with pytest.raises(UnsupportedPipeline):
        load(folder)


def test_a_pipeline_of_pyannote_3_1_is_read_with_its_models_in_the_folder(folder):
    """Its config.yaml has a version and no PLDA, which agglomerative clustering does not use."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["pipeline"]["params"]["plda"]
    shutil.rmtree(folder / "plda")
    (folder / "config.yaml").write_text(yaml.safe_dump({"version": "3.1.0", **config}))

    assert load(folder).plda is None
    config["pipeline"]["params"]["embedding"] = "pyannote/wespeaker-voxceleb-resnet34-LM"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UnsupportedPipeline, match="Copy the model's pytorch_model.bin"):
        load(folder)


def test_vbx_clustering_needs_a_plda(folder):
    change_config(folder, "pipeline", "params", "clustering", to="VBxClustering")
    change_config(folder, "params", "clustering", to={"threshold": 0.6, "Fa": 0.07, "Fb": 0.8})
    load(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["pipeline"]["params"]["plda"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UnsupportedPipeline):
        load(folder)


@pytest.mark.parametrize("text", ["a: [", "\0", "#" * 70_000, "3"])
def test_a_config_that_is_not_plain_yaml_is_refused(folder, text):
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UnsupportedPipeline):
        load(folder)


def test_a_config_that_would_run_code_is_refused(folder, canary):
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


def test_a_model_in_a_hidden_folder_is_refused_because_the_checksum_excludes_it(folder):
    shutil.copytree(folder / "segmentation", folder / ".segmentation")
    change_config(folder, "pipeline", "params", "segmentation", to="$model/.segmentation")
    with pytest.raises(UnsupportedPipeline, match=r"\$model/<subfolder>"):
        load(folder)


def test_the_layout_of_community_1_loads(folder):
    """Its config uses VBx clustering and has no `min_cluster_size`."""
    change_config(folder, "pipeline", "params", "clustering", to="VBxClustering")
    change_config(folder, "params", "clustering", to={"threshold": 0.6, "Fa": 0.07, "Fb": 0.8})
    change_config(folder, "dependencies", to={"pyannote.audio": "4.0.0"})

    pipeline = load(folder)

    assert pipeline.clustering == "VBxClustering"
    assert pipeline.parameters["Fb"] == 0.8
