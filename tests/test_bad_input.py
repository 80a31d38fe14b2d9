"""Bad input to `fieldscribe transcribe`, without any fakes.

Each failure has its documented code and exit code and a one-sentence message, and leaves no partial
results.
"""

import json
import lzma
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models.weights.catalogue import DEMO_FOLDER
from models.whisper_engine import WhisperEngine, WhisperOptions
from service.batch.identity import KEY_FILE
from service.commands.main import app
from tests.audio_files import noise, tones, wav
from tests.bomb import Bomb
from tests.fakes import random_whisper

ROOT = Path(__file__).parent.parent
MORE_THAN_A_DAY = 24 * 3600 * 8000 * 2 + 2_000_000  # bytes of 16 bits at 8 kHz


def transcribe(*arguments: object) -> tuple[int, Any, str]:
    """Returns exit code, parsed JSON output and standard error."""
    words = ["transcribe", "--json", *map(str, arguments)]
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, json.loads(result.stdout), result.stderr


def written(out: Path) -> list[str]:
    """Names of all files except the folder's key and the note that explains the folder."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return sorted(names - {KEY_FILE, ".fieldscribe-identified"})


def assert_one_sentence(code: str, message: str, errors: str) -> None:
    assert message.endswith(".") and "\n" not in message
    assert f"{code}: {message}\n" in errors
    assert "Traceback" not in errors


def half_an_m4a(folder: Path, *options: str) -> bytes:
    path = folder / "whole.m4a"
    sound = ["-f", "lavfi", "-i", "anoisesrc=amplitude=0.3:duration=20:sample_rate=16000"]
    subprocess.run(["ffmpeg", "-v", "error", *sound, *options, str(path)], check=True)
    content = path.read_bytes()
    return content[: len(content) // 2]


RECORDINGS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a text called .wav": ("unreadable_audio", lambda _: b"Dear colleagues,\nthe recording ...\n"),
    "a playlist": ("unreadable_audio", lambda _: b"#EXTM3U\n/etc/passwd\n"),
    "an m4a cut before its index": ("unreadable_audio", half_an_m4a),
    "an m4a cut after its index": (
        "truncated_audio",
        lambda folder: half_an_m4a(folder, "-movflags", "+faststart"),
    ),
    "no bytes": ("empty_file", lambda _: b""),
    "silence": ("silent_audio", lambda _: wav(tones(300, peak=0.0005))),
    "over a day": (
        "too_long",
        lambda _: wav(noise(16_000).astype(np.int16), rate=8000, declared_bytes=MORE_THAN_A_DAY),
    ),
    "32 channels": ("too_many_channels", lambda _: wav(noise(16_000, 32))),
    "4 kHz": ("sample_rate_too_low", lambda _: wav(noise(16_000), rate=4000)),
    "a picture": ("no_audio_stream", lambda _: b"\x89PNG\r\n\x1a\n" + bytes(500)),
}


@pytest.mark.parametrize("kind", RECORDINGS)
def test_a_bad_recording_fails_with_its_code_and_leaves_nothing(kind, tmp_path):
    code, make = RECORDINGS[kind]
    path, out = tmp_path / "INT-07.wav", tmp_path / "out"
    path.write_bytes(make(tmp_path))
    exit_code, rows, errors = transcribe(path, "--model", "demo", "--out", out)

    assert exit_code == 1
    (row,) = rows
    assert (row["status"], row["code"], row["outputs"]) == ("failed", code, [])
    assert_one_sentence(code, row["message"], errors)
    assert written(out) == []


def test_paths_that_are_not_files_are_refused_without_blocking(tmp_path):
    """Opening a pipe blocks until there is a writer; a device can be read forever."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    paths = [tmp_path / name for name in ("pipe.wav", "folder.wav", "loop.wav", "none.wav")]
    exit_code, rows, errors = transcribe(
        *paths, "/dev/zero", "--model", "demo", "--out", tmp_path / "out"
    )

    assert exit_code == 1
    assert [row["code"] for row in rows] == ["recording_not_found"] * 5
    assert "folder, a pipe or a device" in errors
    assert written(tmp_path / "out") == []


OPTIONS = {
    "an unknown language": ("unknown_language", ["--language", "klingon"]),
    "no speakers": ("bad_speaker_count", ["--speakers", "0"]),
    "a minimum above the maximum": ("bad_speaker_count", ["--speakers", "4-2"]),
    "a crowd": ("bad_speaker_count", ["--speakers", "21"]),
    "an unknown model": ("unknown_model", ["--model", "enormous"]),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_bad_option_is_refused_before_anything_is_written(kind, tmp_path):
    code, options = OPTIONS[kind]
    (tmp_path / "INT-07.wav").write_bytes(wav(tones(300)))
    out = tmp_path / "out"
    exit_code, answer, errors = transcribe(
        tmp_path / "INT-07.wav", "--model", "demo", "--out", out, *options
    )

    assert exit_code == 2
    assert answer["error"]["code"] == code
    assert_one_sentence(code, answer["error"]["message"], errors)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["a file", "under a file", "/dev/null", "/proc/out"])
def test_an_unwritable_output_folder_is_misuse(kind, tmp_path):
    (tmp_path / "INT-07.wav").write_bytes(wav(tones(300)))
    (tmp_path / "file").write_text("notes")
    out = {"a file": tmp_path / "file", "under a file": tmp_path / "file" / "out"}.get(kind, kind)
    exit_code, answer, errors = transcribe(tmp_path / "INT-07.wav", "--model", "demo", "--out", out)

    assert exit_code == 2
    assert answer["error"]["code"] == "output_not_writable"
    assert_one_sentence("output_not_writable", answer["error"]["message"], errors)
    assert (tmp_path / "file").read_text() == "notes"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_output_folder_is_misuse(tmp_path):
    (tmp_path / "INT-07.wav").write_bytes(wav(tones(300)))
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    exit_code, answer, _ = transcribe(tmp_path / "INT-07.wav", "--model", "demo", "--out", out)

    assert (exit_code, answer["error"]["code"]) == (2, "output_not_writable")


def pickle_bomb(folder: Path) -> Path:
    import torch

    path = folder / "bomb.pt"
    torch.save({"dims": Bomb(folder / "canary"), "model_state_dict": {}}, path)
    return path


def plain_pickle_bomb(folder: Path) -> Path:
    path = folder / "bomb.pt"
    path.write_bytes(pickle.dumps(Bomb(folder / "canary")))
    return path


def truncated(folder: Path) -> Path:
    whole = lzma.decompress((DEMO_FOLDER / "whisper.pt.xz").read_bytes())
    path = folder / "cut.pt"
    path.write_bytes(whole[: len(whole) // 2])
    return path


def truncated_xz(folder: Path) -> Path:
    whole = (DEMO_FOLDER / "whisper.pt.xz").read_bytes()
    path = folder / "cut.pt.xz"
    path.write_bytes(whole[: len(whole) // 2])
    return path


def truncated_installed(folder: Path) -> str:
    (folder / "weights" / "whisper").mkdir(parents=True)
    (folder / "weights" / "whisper" / "small.pt").write_bytes(b"PK\x03\x04" + bytes(1000))
    return "small"


WEIGHTS: dict[str, tuple[str, Callable[[Path], Path | str]]] = {
    "a bomb in a checkpoint": ("unsafe_checkpoint", pickle_bomb),
    "a bomb alone": ("unsupported_checkpoint", plain_pickle_bomb),
    "truncated": ("weights_corrupt", truncated),
    "truncated xz file": ("weights_corrupt", truncated_xz),
    "truncated installed file": ("weights_corrupt", truncated_installed),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_bad_weights_end_the_batch_before_anything_is_written(kind, tmp_path):
    code, make = WEIGHTS[kind]
    paths = [tmp_path / "INT-07.wav", tmp_path / "INT-08.wav"]
    for path in paths:
        path.write_bytes(wav(tones(300)))
    out = tmp_path / "out"
    model = ["--model", make(tmp_path), "--diarisation", "demo"]
    exit_code, answer, errors = transcribe(
        *paths, *model, "--weights", tmp_path / "weights", "--out", out
    )

    assert exit_code == 1
    assert answer["error"]["code"] == code
    assert_one_sentence(code, answer["error"]["message"], errors)
    assert errors.count(code) == 1  # once, not for every recording
    assert written(out) == []
    assert not (tmp_path / "canary").exists()


def test_a_vocabulary_that_is_too_long_is_misuse_and_reported_once(tmp_path):
    """Only the loaded model knows the limit."""
    paths = [tmp_path / "INT-07.wav", tmp_path / "INT-08.wav"]
    for path in paths:
        path.write_bytes(wav(tones(300)))
    (tmp_path / "names.txt").write_text("Toowoomba\n" * 1000)
    vocabulary = ["--vocabulary", tmp_path / "names.txt"]
    out = tmp_path / "out"
    exit_code, answer, errors = transcribe(*paths, *vocabulary, "--model", "demo", "--out", out)

    assert exit_code == 2
    assert answer["error"]["code"] == "vocabulary_too_long"
    assert errors.count("vocabulary_too_long") == 1
    assert written(out) == []


def test_a_vocabulary_may_contain_text_that_looks_like_special_tokens():
    """Whisper's tokenizer raised a ValueError, which crashed instead of giving a message."""
    engine = WhisperEngine(random_whisper())

    engine.check(WhisperOptions("en", ("<|endoftext|>", "Eva <|en|> Muster")))


def test_an_endless_vocabulary_is_refused(tmp_path):
    (tmp_path / "INT-07.wav").write_bytes(wav(tones(300)))
    exit_code, answer, _ = transcribe(
        tmp_path / "INT-07.wav", "--vocabulary", "/dev/zero", "--model", "demo", "--out", tmp_path
    )

    assert (exit_code, answer["error"]["code"]) == (2, "vocabulary_not_readable")


def test_a_recording_with_a_cover_picture_is_accepted(tmp_path):
    """A cover picture is a video of one frame; only the sound matters."""
    path, out = tmp_path / "INT-07.m4a", tmp_path / "out"
    picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=1:duration=1", "-map", "0:a"]
    picture += ["-map", "1:v", "-c:v", "mjpeg", "-disposition:v", "attached_pic", "-c:a", "aac"]
    sound = ["-t", "8", "-i", str(ROOT / "demo" / "interview.flac")]
    subprocess.run(["ffmpeg", "-v", "error", *sound, *picture, str(path)], check=True)
    exit_code, rows, _ = transcribe(path, "--model", "demo", "--out", out)

    assert exit_code == 0
    assert rows[0]["duration"] == pytest.approx(8, abs=0.1)
    assert written(out) == [
        f"INT-07.identified.{ending}" for ending in ("json", "srt", "statistics.txt", "txt", "vtt")
    ]
