"""The catalogue of weights: finding and verifying them."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.weights import catalogue
from models.weights.catalogue import KnownModel, find_pipeline, find_whisper
from models.weights.errors import ModelMissing, UnknownModel, WeightsCorrupt
from models.weights.transfer import fetch
from tests.published_weights import (
    CONFIG,
    SEGMENTATION,
    WHISPER,
    publish,
    serve,
)

server = pytest.fixture(serve)
published = pytest.fixture(publish)


@pytest.fixture
def small(published: dict[str, KnownModel]) -> KnownModel:
    return published["small"]


@pytest.fixture
def pipeline(published: dict[str, KnownModel]) -> KnownModel:
    return published[catalogue.DEFAULT_PIPELINE]


def install(model: KnownModel, folder: Path) -> Path:
    """Fetch a model and return the path of its first file."""
    fetch(model, folder)
    return folder / model.files[0].path


# --- what exists


def test_checksums_match_the_installed_whisper():
    from whisper import _MODELS

    urls = {
        name: catalogue.KNOWN[name].files[0].url for name in catalogue.KNOWN if name in _MODELS
    } | {alias: catalogue.KNOWN[name].files[0].url for alias, name in catalogue.ALIASES.items()}
    assert urls == _MODELS
    assert all(file.sha256 in file.url for file in catalogue.KNOWN["large-v3"].files)


def test_listing_installed_models_does_not_import_torch():
    code = "import sys, models.weights.catalogue; sys.exit('torch' in sys.modules)"
    root = Path(catalogue.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("device", "name"), [("cpu", "small"), ("cuda", "large-v3-turbo"), ("cuda:1", "large-v3-turbo")]
)
def test_the_default_model_suits_the_device(device, name):
    assert catalogue.default_whisper(device) == name


def test_demo_weights_are_only_used_together():
    assert catalogue.default_pipeline("demo") == "demo"
    assert catalogue.default_pipeline("small") == catalogue.DEFAULT_PIPELINE


def test_an_unknown_name_is_answered_with_the_known_ones_and_not_repeated(tmp_path):
    with pytest.raises(UnknownModel, match="large-v3-turbo, demo") as caught:
        find_whisper("eva-muster", tmp_path)
    assert caught.value.code == "unknown_model"
    assert "eva" not in str(caught.value)


def test_a_pipeline_is_not_a_whisper_model(tmp_path):
    with pytest.raises(UnknownModel):
        find_whisper(catalogue.DEFAULT_PIPELINE, tmp_path)
    with pytest.raises(UnknownModel):
        find_pipeline("small", tmp_path)


# --- find and verify


@pytest.mark.parametrize("name", ["large-v3-turbo", "turbo"])
def test_the_error_for_a_missing_model_says_how_to_fetch_it(tmp_path, name):
    with pytest.raises(ModelMissing, match="`fieldscribe models fetch large-v3-turbo`") as caught:
        find_whisper(name, tmp_path)
    assert caught.value.code == "model_missing"


def test_the_error_for_a_missing_gated_model_mentions_the_token(tmp_path):
    with pytest.raises(ModelMissing, match=f"fetch {catalogue.DEFAULT_PIPELINE} --token-stdin`"):
        find_pipeline(catalogue.DEFAULT_PIPELINE, tmp_path)


def test_a_wrong_path_is_a_missing_model_and_is_not_repeated(tmp_path):
    for find, path in [(find_whisper, "eva/muster.pt"), (find_pipeline, "eva/muster")]:
        with pytest.raises(ModelMissing) as caught:
            find(str(tmp_path / path), tmp_path)
        assert "muster" not in str(caught.value)


def test_files_copied_by_hand_are_found(small, tmp_path):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "small.pt").write_bytes(WHISPER)

    found = find_whisper("small", tmp_path)

    assert found.path == tmp_path / "whisper" / "small.pt"
    assert found.sha256 == hashlib.sha256(WHISPER).hexdigest()
    assert not found.demo


def test_a_damaged_file_is_refused(small, tmp_path):
    install(small, tmp_path).write_bytes(WHISPER[:-1] + b"?")

    with pytest.raises(WeightsCorrupt, match="fetch small") as caught:
        find_whisper("small", tmp_path)
    assert caught.value.code == "weights_corrupt"


def test_an_installed_file_is_not_hashed_at_every_start(small, tmp_path, monkeypatch):
    install(small, tmp_path)
    monkeypatch.setattr(catalogue, "sha256_of", None)

    assert find_whisper("small", tmp_path).sha256 == hashlib.sha256(WHISPER).hexdigest()


def test_a_file_with_a_new_time_is_hashed_again(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(WHISPER[:-1] + b"?")  # same size
    os.utime(path, ns=(1, 1))

    with pytest.raises(WeightsCorrupt):
        find_whisper("small", tmp_path)


def test_a_manifest_cannot_override_a_published_checksum(small, tmp_path):
    path = install(small, tmp_path)
    path.write_bytes(b"something else")
    status = path.stat()
    file = {
        "path": "whisper/small.pt",
        "sha256": hashlib.sha256(b"something else").hexdigest(),
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
    }
    (tmp_path / "whisper" / "small.json").write_text(json.dumps({"files": [file]}))

    with pytest.raises(WeightsCorrupt):
        find_whisper("small", tmp_path)


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": [{}]}', '{"files": 3}'])
def test_an_invalid_manifest_only_costs_time(small, tmp_path, manifest):
    install(small, tmp_path)
    (tmp_path / "whisper" / "small.json").write_text(manifest)

    assert find_whisper("small", tmp_path).name == "small"


def test_verify_finds_damage_that_left_size_and_time_unchanged(small, tmp_path):
    path = install(small, tmp_path)
    before = path.stat().st_mtime_ns
    path.write_bytes(WHISPER[:-1] + b"?")
    os.utime(path, ns=(before, before))

    with pytest.raises(WeightsCorrupt):
        catalogue.verify(small, tmp_path)


def test_a_verified_copy_is_not_hashed_at_every_start(small, tmp_path, monkeypatch):
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "small.pt").write_bytes(WHISPER)
    catalogue.verify(small, tmp_path)
    monkeypatch.setattr(catalogue, "sha256_of", None)

    assert find_whisper("small", tmp_path).name == "small"


def test_a_checkpoint_given_by_path_is_named_after_its_checksum(tmp_path):
    (tmp_path / "eva-muster.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()

    found = find_whisper(str(tmp_path / "eva-muster.pt"), tmp_path)

    assert (found.name, found.sha256) == (f"checkpoint-{sha256[:12]}", sha256)


@pytest.mark.parametrize("name", ["small", "own.pt"])
def test_unreadable_weights_count_as_missing(small, tmp_path, monkeypatch, name):
    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = install(small, tmp_path)
    os.utime(path, ns=(1, 1))
    (tmp_path / "own.pt").write_bytes(b"")
    monkeypatch.setattr(catalogue, "sha256_of", refuse)
    with pytest.raises(ModelMissing, match="do not have permission"):
        find_whisper(name if name == "small" else str(tmp_path / name), tmp_path)


def own_pipeline(folder: Path, config: bytes = CONFIG) -> Path:
    (folder / "segmentation").mkdir(parents=True)
    (folder / "config.yaml").write_bytes(config)
    (folder / "segmentation" / "a.bin").write_bytes(SEGMENTATION)
    return folder


def test_the_checksum_of_a_pipeline_covers_its_visible_files_in_any_folder(pipeline, tmp_path):
    install(pipeline, tmp_path)
    installed = find_pipeline(catalogue.DEFAULT_PIPELINE, tmp_path)
    own = own_pipeline(tmp_path / "own")
    (own / ".gitattributes").write_text("not loaded")
    changed = own_pipeline(tmp_path / "changed", config=b"pipeline: {x}")

    found = find_pipeline(str(own), tmp_path)

    assert found.sha256 == installed.sha256 != find_pipeline(str(changed), tmp_path).sha256
    assert found.name == f"pipeline-{found.sha256[:12]}"
