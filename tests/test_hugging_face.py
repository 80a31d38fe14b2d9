"""Checkpoints saved by Hugging Face transformers, compared with transformers itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.pyannote_guard import stub_torchaudio_extension
from models.weights.catalogue import find_whisper
from models.weights.errors import (
    ModelMissing,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    WeightsCorrupt,
)
from models.weights.whisper import load_whisper

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference_model() -> Any:
    stub_torchaudio_extension()  # transformers imports torchaudio if it is installed
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=51865,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        decoder_layers=3,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=1500,
        max_target_positions=448,
        pad_token_id=50256,
    )
    model = WhisperForConditionalGeneration(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def folder(reference_model: Any, tmp_path: Path) -> Path:
    reference_model.save_pretrained(tmp_path)
    return tmp_path


def load(folder: Path) -> Any:
    return load_whisper(find_whisper(str(folder), Path()))


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@torch.inference_mode()
def test_a_converted_checkpoint_gives_the_logits_of_transformers(reference_model, folder):
    mel = torch.randn(2, 80, 3000)
    tokens = torch.randint(0, 51865, (2, 9))
    expected = reference_model(input_features=mel, decoder_input_ids=tokens).logits
    found = load(folder)(mel, tokens)

    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max().item())


def test_a_sharded_checkpoint_loads_the_same_weights(reference_model, folder, tmp_path):
    parts = tmp_path / "parts"
    reference_model.save_pretrained(parts, max_shard_size="2MB")
    assert len(list(parts.glob("model-*.safetensors"))) > 1
    whole, parted = load(folder).state_dict(), load(parts).state_dict()

    assert all(torch.equal(parted[name], tensor) for name, tensor in whole.items())


def test_a_pytorch_model_bin_is_read_as_data(reference_model, folder):
    whole = load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    state = {name: tensor.clone() for name, tensor in reference_model.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")

    loaded = load(folder).state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)

    torch.save({"x": Path()}, folder / "pytorch_model.bin")  # an object, not a number
    with pytest.raises(UnsafeCheckpoint):
        load(folder)


def test_alignment_heads_come_from_the_generation_config(folder):
    change_json(folder / "generation_config.json", alignment_heads=[[1, 3], [2, 0]])

    assert load(folder).alignment_heads.indices().T.tolist() == [[1, 3], [2, 0]]


def test_without_a_generation_config_the_upper_half_of_the_layers_is_used_for_alignment(folder):
    (folder / "generation_config.json").unlink(missing_ok=True)

    assert load(folder).alignment_heads.to_dense().sum(1).tolist() == [0, 4, 4]


@pytest.mark.parametrize("heads", [[[3, 0]], [[0, -1]], [[0]], "all", 7])
def test_alignment_heads_that_the_model_does_not_have_are_refused(folder, heads):
    change_json(folder / "generation_config.json", alignment_heads=heads)
    with pytest.raises(UnsupportedCheckpoint, match="alignment heads"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "wav2vec2"},
        {"activation_function": "relu"},
        {"d_model": 33},
        {"vocab_size": 50000},
        {"encoder_layers": "two"},
        {"decoder_layers": 2},
    ],
)
def test_a_config_that_does_not_describe_the_weights_is_refused(folder, changes):
    change_json(folder / "config.json", **changes)
    with pytest.raises(UnsupportedCheckpoint):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_not_json_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UnsupportedCheckpoint):
        load(folder)


def test_a_truncated_file_is_corrupt(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsCorrupt):
        load(folder)


def test_the_error_for_a_folder_without_weights_names_the_missing_files(tmp_path):
    with pytest.raises(ModelMissing, match="safetensors"):
        find_whisper(str(tmp_path), Path())


def test_other_files_left_by_training_are_ignored(folder):
    before = find_whisper(str(folder), Path())
    (folder / "optimizer.pt").write_bytes(b"anything")
    (folder / "model.fp32-00001-of-00002.safetensors").write_bytes(b"anything")

    assert find_whisper(str(folder), Path()) == before


def test_an_output_matrix_that_differs_from_the_embedding_is_refused(reference_model, folder):
    from safetensors.torch import save_file

    state = {
        name: tensor.contiguous().clone() for name, tensor in reference_model.state_dict().items()
    }
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"] + 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UnsupportedCheckpoint, match="output matrix"):
        load(folder)
