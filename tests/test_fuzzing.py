"""Random damage to recordings and weights, from a seed: each ends in a result or a named error.

A failure names the seed of its mutation; `mutated(content, seed)` makes the file again.
"""

import dataclasses
import random
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from whisper.model import Whisper

from models.audio.decode import decode
from models.audio.memory_file import memory_file
from models.errors import AudioError, WeightsError
from models.weights import pyannote
from models.weights.catalogue import find_whisper
from models.weights.whisper import _read_safetensors, load_whisper
from tests.audio_files import WRITTEN_BY_HAND, tones, wav
from tests.test_pyannote_checkpoints import write_pipeline
from tests.test_whisper_checkpoints import TINY

pytestmark = pytest.mark.slow

N_MEDIA, N_CHECKPOINTS = 400, 300
LONGEST = 60.0  # s for one mutant, on a busy machine
MOST_MEMORY = 512 << 20  # bytes more than before, in this process
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)

ENCODERS = {
    "flac": ["-c:a", "flac"],
    "mp3": ["-c:a", "libmp3lame"],
    "m4a": ["-c:a", "aac"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus"],
    "webm": ["-c:a", "libopus"],
    "mkv": ["-c:a", "pcm_s16le"],
    "aiff": [],
    "caf": [],
    "au": [],
    "w64": [],
    "avi": ["-c:a", "pcm_s16le"],
    "wma": ["-f", "asf", "-c:a", "wmav2"],
    "ts": ["-f", "mpegts", "-c:a", "mp2"],
    "aac": ["-c:a", "aac"],
}


def mutated(content: bytes, seed: int, start: int = 0) -> bytes:
    """Change the content in one to eight places, half of them in the first or last 200 bytes.

    Args:
        start: leave the bytes before this one.
    """
    random_ = random.Random(seed)
    changed = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 4, 8))):
        last = max(start, len(changed) - 1)
        low, high = random_.choice(
            ((start, last), (start, last), (start, min(last, start + 200)), (last - 200, last))
        )
        at = random_.randint(max(start, low), max(start, high))
        match random_.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([random_.randrange(256)])
            case 1:
                changed[at : at + 1] = bytes([random_.choice(INTERESTING)])
            case 2:
                n_bytes = random_.choice((2, 4, 8))
                changed[at : at + n_bytes] = random_.choice((b"\xff", b"\0", b"\x7f")) * n_bytes
            case 3:
                del changed[at : at + random_.choice((1, 4, 100))]
            case 4:
                changed[at:at] = random_.randbytes(random_.choice((1, 4, 100)))
            case 5:
                other = random_.randint(start, last)
                changed[at : at + 64] = changed[other : other + 64]
            case _:
                if random_.randrange(4) == 0:
                    del changed[at:]
    return bytes(changed)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_all(n: int, attempt: Callable[[int], None]) -> None:
    """Call `attempt` with each seed; it must return in time and within memory."""
    before = peak_bytes()
    for seed in range(n):
        began = time.monotonic()
        try:
            attempt(seed)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        assert time.monotonic() - began < LONGEST, f"seed {seed}"
        assert peak_bytes() - before < MOST_MEMORY, f"seed {seed}"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A second of a tone in each container, and what ffmpeg cannot encode."""
    folder = tmp_path_factory.mktemp("media")
    made = [wav(tones(300, seconds=1)), *WRITTEN_BY_HAND.values()]
    for suffix, options in ENCODERS.items():
        path = folder / f"tone.{suffix}"
        source = ["-f", "lavfi", "-i", "sine=frequency=300:duration=1:sample_rate=16000"]
        command = ["ffmpeg", "-v", "error", *source, "-ac", "1", *options, str(path)]
        subprocess.run(command, check=True)
        made.append(path.read_bytes())
    return made


def test_damaged_media_end_in_a_recording_or_an_audio_error(media: list[bytes]) -> None:
    n_decoded = 0

    def attempt(seed: int) -> None:
        nonlocal n_decoded
        content = mutated(media[seed % len(media)], seed)
        with memory_file([content]) as file, suppress(AudioError):
            recording = decode(file)
            assert recording.duration > 0
            n_decoded += 1

    run_all(N_MEDIA, attempt)
    assert N_MEDIA // 10 < n_decoded < N_MEDIA  # damage that always, or never, mattered is no test


def structure_of(content: bytes) -> int:
    """Where the zip's directory begins; before it lie mostly numbers, whose damage is harmless."""
    return content.index(b"PK\x01\x02")


def damaged(content: bytes, seed: int) -> bytes:
    """Damage the pickle of a checkpoint, its zip directory, or any place."""
    match seed % 3:
        case 0:
            at = content.index(b"data.pkl")
            return mutated(content[: at + 20_000], seed, at) + content[at + 20_000 :]
        case 1:
            return mutated(content, seed, structure_of(content))
        case _:
            return mutated(content, seed)


def test_damaged_whisper_checkpoints_load_or_end_in_a_weights_error(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in Whisper(TINY).state_dict().items()}
    path = tmp_path / "own.pt"
    torch.save({"dims": dataclasses.asdict(TINY), "model_state_dict": state}, path)
    content = path.read_bytes()

    def attempt(seed: int) -> None:
        path.write_bytes(damaged(content, seed))
        with suppress(WeightsError):
            load_whisper(find_whisper(str(path), tmp_path))

    run_all(N_CHECKPOINTS, attempt)


@pytest.mark.parametrize("name", ["segmentation", "embedding"])
def test_damaged_pyannote_checkpoints_load_or_end_in_a_weights_error(
    tmp_path: Path, name: str
) -> None:
    path = write_pipeline(tmp_path / "pipeline") / name / "pytorch_model.bin"
    content = path.read_bytes()
    load = {"segmentation": pyannote._load_segmentation, "embedding": pyannote._load_embedding}

    def attempt(seed: int) -> None:
        path.write_bytes(damaged(content, seed))
        with suppress(WeightsError):
            load[name](path)

    run_all(N_CHECKPOINTS // 2, attempt)


def test_damaged_plda_files_load_or_end_in_a_weights_error(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipeline")
    path = folder / "plda" / "plda.npz"
    content = path.read_bytes()

    def attempt(seed: int) -> None:
        path.write_bytes(mutated(content, seed))
        with suppress(WeightsError):
            pyannote._load_plda(folder, folder / "plda", 16)

    run_all(N_CHECKPOINTS, attempt)


def test_damaged_safetensors_load_or_end_in_a_weights_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(100), "b": torch.zeros(3, 4)}, path)
    content = path.read_bytes()

    def attempt(seed: int) -> None:
        path.write_bytes(mutated(content, seed))
        with suppress(WeightsError):
            _read_safetensors(path)

    run_all(N_CHECKPOINTS, attempt)


def test_damaged_configs_load_or_end_in_a_weights_error(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "pipeline")
    content = (folder / "config.yaml").read_bytes()

    def attempt(seed: int) -> None:
        (folder / "config.yaml").write_bytes(mutated(content, seed))
        with suppress(WeightsError):
            pyannote._read_config(folder)

    run_all(N_CHECKPOINTS, attempt)
