"""Loading Whisper checkpoints, including hostile ones."""

import dataclasses
import lzma
import pickle
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from models.errors import WeightsError
from models.weights import catalogue, whisper
from models.weights.catalogue import WhisperWeights, find_whisper
from models.weights.errors import UnsafeCheckpoint, UnsupportedCheckpoint, WeightsCorrupt
from models.weights.whisper import _alignment_heads, load_whisper
from tests.bomb import Bomb

TINY = ModelDimensions(80, 1500, 8, 2, 2, 51865, 448, 8, 2, 2)


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


def test_an_openai_whisper_checkpoint_is_loaded_in_fp32_for_evaluation(checkpoint, tmp_path):
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))

    assert isinstance(model, Whisper)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint["model_state_dict"][name].float())


def test_the_expected_state_is_that_of_the_model():
    """It is computed: building the model on the meta device imports a second's worth of torch."""
    dims = ModelDimensions(80, 1500, 16, 4, 2, 51864, 448, 8, 2, 3)
    expected = {name: tensor.shape for name, tensor in whisper._expected_state(dims).items()}

    assert expected == {name: tensor.shape for name, tensor in Whisper(dims).state_dict().items()}


def test_an_xz_compressed_checkpoint_loads_the_same_weights(checkpoint, tmp_path):
    plain = saved(checkpoint, tmp_path / "own.pt")
    packed = tmp_path / "own.pt.xz"
    packed.write_bytes(lzma.compress(plain.path.read_bytes(), preset=0))

    model = load_whisper(find_whisper(str(packed), tmp_path))

    expected = load_whisper(plain).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_expands_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(whisper, "MAX_UNPACKED_BYTES", 1000)
    packed = tmp_path / "own.pt.xz"
    packed.write_bytes(lzma.compress(bytes(1001), preset=0))
    with pytest.raises(UnsupportedCheckpoint, match="too large"):
        load_whisper(find_whisper(str(packed), tmp_path))


@pytest.mark.parametrize("kept", [0, 1, 10, 5000, -30, -1])
def test_a_truncated_checkpoint_is_corrupt(checkpoint, tmp_path, kept):
    path = saved(checkpoint, tmp_path / "own.pt").path
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(path), tmp_path))


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_a_truncated_xz_checkpoint_is_corrupt(tmp_path, kept):
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
def test_a_checkpoint_that_would_run_code_is_refused(checkpoint, tmp_path, canary, place):
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


class Reduced:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


HUGE = 8 << 30
TRICKS: dict[str, tuple[Any, str]] = {
    "bytes": (Reduced(bytearray, HUGE), "unsafe_checkpoint"),
    "a tensor class": (Reduced(torch.Tensor, HUGE), "unsafe_checkpoint"),
    "a quantised tensor": (
        Reduced(torch._utils._rebuild_qtensor, 0, 0, (HUGE,), (1,), (), False, {}),
        "unsafe_checkpoint",
    ),
    "a tensor larger than its storage": (b"\x8a\x05\x00\x00\x00\x00\x02", "unsupported_checkpoint"),
    "an exponential key": (None, "unsafe_checkpoint"),
}


def write_trick(name: str, path: Path) -> None:
    """A checkpoint of a few hundred bytes that asks for 8 GiB, or for ages."""
    torch.save({"dims": {}, "model_state_dict": TRICKS[name][0]}, path)
    record = f"{path.stem}/data.pkl"
    if name == "a tensor larger than its storage":
        torch.save({"dims": {}, "model_state_dict": {"x": torch.zeros(77)}}, path)
        with zipfile.ZipFile(path) as archive:
            content = archive.read(record)
        one, huge = b"K\x4d\x85", TRICKS[name][0] + b"\x85"  # (77,), (2 ** 33,)
        assert content.count(one) == 1
        rewrite(path, {record: content.replace(one, huge)})
    if name == "an exponential key":  # a tuple of two of the same, 60 deep
        deep = b"".join(b"q\x01h\x01\x86" for _ in range(60))
        rewrite(path, {record: b"\x80\x02}K\x01" + deep + b"Ns."})


WITHIN_A_GIBIBYTE = """
import resource, sys
from pathlib import Path
from models.errors import WeightsError
from models.weights.catalogue import find_whisper
from models.weights.whisper import load_whisper
import torch, whisper.model
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
for path in map(Path, sys.argv[1:]):
    try:
        load_whisper(find_whisper(str(path), path.parent))
    except WeightsError as error:
        print(error.code)
    except BaseException as error:
        print(type(error).__name__)
"""


def test_tricks_that_would_take_memory_or_time_are_refused(tmp_path):
    """torch's unpickler calls `bytearray`, and `set_` enlarges a storage that is too small."""
    paths = [tmp_path / f"{i}.pt" for i in range(len(TRICKS))]
    for path, name in zip(paths, TRICKS, strict=True):
        write_trick(name, path)
    command = [sys.executable, "-W", "ignore", "-c", WITHIN_A_GIBIBYTE, *map(str, paths)]
    root = Path(__file__).parent.parent
    ran = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)

    codes = dict(zip(TRICKS, ran.stdout.split(), strict=True))
    assert codes == {name: code for name, (_, code) in TRICKS.items()}, ran.stderr


def test_a_storage_larger_than_its_record_is_refused(checkpoint, tmp_path):
    """torch would read past the end of the record."""
    path = saved(checkpoint | {"more": torch.zeros(77)}, tmp_path / "own.pt").path
    with zipfile.ZipFile(path) as archive:
        content = archive.read("own/data.pkl")
        sizes = [(member.file_size, member.filename) for member in archive.infolist()]
    (name,) = [name for size, name in sizes if size == 77 * 4]
    rewrite(path, {"own/data.pkl": content, name: bytes(70 * 4)})
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(path), tmp_path))


@pytest.mark.parametrize("offset", [4, 6, 8, 10])
def test_a_mutant_of_the_zip_directory_is_refused_or_loads(checkpoint, tmp_path, offset):
    """An unknown version raised NotImplementedError; others struct.error."""
    path = saved(checkpoint, tmp_path / "own.pt").path
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02") + offset
    for value in (b"\xff\xff", b"\x00\x80", b"\x63\x00"):
        path.write_bytes(content[:at] + value + content[at + 2 :])
        with suppress(WeightsError):
            load_whisper(find_whisper(str(path), tmp_path))


def test_an_xz_file_that_asks_for_much_memory_is_refused(checkpoint, tmp_path):
    plain = saved(checkpoint, tmp_path / "own.pt").path
    packed = tmp_path / "own.pt.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 16 << 20}]
    content = bytearray(lzma.compress(plain.read_bytes(), filters=filters, check=lzma.CHECK_NONE))
    assert content[12:16] == b"\x02\x00\x21\x01"  # header of the block: LZMA2, one byte of options
    content[16] = 36  # a dictionary of 1 GiB
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")
    packed.write_bytes(content)
    with pytest.raises(WeightsCorrupt):
        load_whisper(find_whisper(str(packed), tmp_path))


def test_a_torchscript_program_is_refused(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path / "own.pt").path
    rewrite(path, {"own/constants.pkl": b"\x80\x02)."})
    with pytest.raises(UnsupportedCheckpoint, match="TorchScript"):
        load_whisper(find_whisper(str(path), tmp_path))


def test_an_internally_compressed_checkpoint_is_refused(checkpoint, tmp_path):
    path = saved(checkpoint, tmp_path / "own.pt").path
    rewrite(path, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedCheckpoint, match="compressed"):
        load_whisper(find_whisper(str(path), tmp_path))


def test_the_error_for_weights_of_another_project_says_so(tmp_path):
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


def test_a_small_file_with_large_dimensions_does_not_exhaust_memory(checkpoint, tmp_path):
    large = {"n_audio_state": 2048, "n_text_state": 2048, "n_audio_layer": 64, "n_text_layer": 64}
    own = saved(checkpoint | {"dims": checkpoint["dims"] | large}, tmp_path / "own.pt")
    with pytest.raises(UnsupportedCheckpoint):  # building it first would take 20 GB and a minute
        load_whisper(own)


def test_loading_whisper_opens_no_socket(checkpoint, tmp_path, no_sockets):
    load_whisper(saved(checkpoint, tmp_path / "own.pt"))


# --- alignment heads


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
    import whisper  # the library

    n_head = n_state // 64
    dims = ModelDimensions(
        n_mels, 1500, n_state, n_head, n_layer, n_vocab, 448, n_state, n_head, n_layer
    )
    found = _alignment_heads("another checksum", dims)
    assert found == whisper._ALIGNMENT_HEADS[name]


def test_each_official_file_has_its_own_heads():
    import whisper  # the library

    dims = ModelDimensions(80, 1500, 1280, 20, 32, 51865, 448, 1280, 20, 32)
    for name in ("large-v1", "large-v2"):
        sha256 = catalogue.KNOWN[name].files[0].sha256
        assert _alignment_heads(sha256, dims) == whisper._ALIGNMENT_HEADS[name]


def test_the_heads_of_the_original_are_set(tmp_path, checkpoint, monkeypatch):
    import base64
    import gzip

    heads = np.array([[True, False], [False, False]])
    monkeypatch.setitem(whisper._OFFICIAL_SHAPES, (80, 51865, 8, 2), "tiny")
    monkeypatch.setattr(
        "whisper._ALIGNMENT_HEADS", {"tiny": base64.b85encode(gzip.compress(heads.tobytes()))}
    )
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))
    assert model.alignment_heads.to_dense().tolist() == heads.tolist()


def test_a_model_of_unofficial_size_uses_the_upper_half_of_the_layers(tmp_path, checkpoint):
    model = load_whisper(saved(checkpoint, tmp_path / "own.pt"))
    assert model.alignment_heads.to_dense().tolist() == [[False, False], [True, True]]
