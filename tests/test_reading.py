"""Reading recordings ahead: the memory limit, errors, and stopping."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.audio.decode import decode
from models.audio.probe import probe
from models.errors import Stopped
from service.batch import reading
from service.batch.reading import Reader
from service.errors import RecordingNotFound
from tests.audio_files import noise, wav
from tests.test_batch import write_tone


@pytest.fixture
def sessions(tmp_path: Path) -> dict[str, list[Path]]:
    """Three sessions, of one, two and three seconds."""
    paths = {f"INT-0{i}": [tmp_path / f"INT-0{i}.wav"] for i in (1, 2, 3)}
    for i, (path,) in enumerate(paths.values()):
        write_tone(path, 1.0 + i)
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that decoded a recording, in the order in which they finished."""
    threads: list[str] = []

    def note(*arguments, **options):
        recording = decode(*arguments, **options)
        threads.append(threading.current_thread().name)
        return recording

    monkeypatch.setattr(reading, "decode", note)
    return threads


def reader(sessions, *, split_channels=False, is_wanted=lambda name: True):
    return Reader(sessions, split_channels=split_channels, is_wanted=is_wanted)


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_recordings_are_decoded_before_they_are_taken(sessions, decoded):
    with reader(sessions) as ahead:
        wait_until(lambda: len(decoded) == 3)
        taken = [ahead.take(name) for name in sessions]

    assert [round(recording.duration) for (recording,) in taken] == [1, 2, 3]
    assert len(decoded) == 3
    assert all(name.startswith("reader") for name in decoded)


def test_a_session_that_exceeds_the_limit_is_read_when_its_turn_comes(
    sessions, decoded, monkeypatch
):
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 3.5)
    with reader(sessions) as ahead:
        ahead.take("INT-01")
        wait_until(lambda: ahead._ahead["INT-03"].done())
        assert ahead._held == {"INT-01": 1.0, "INT-02": 2.0, "INT-03": 0.0}
        ahead.release("INT-01")
        ahead.take("INT-02")
        ahead.take("INT-03")

    assert decoded[-1] == "MainThread"


def test_an_undeclared_length_is_noticed_while_decoding(sessions, decoded, monkeypatch):
    """AMR and many MP3 files declare no length; an estimate could be wrong by hours."""
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 3.5)
    monkeypatch.setattr(reading, "probe", lambda file: replace(probe(file), duration=None))
    with reader(sessions) as ahead:
        ahead.take("INT-01")
        wait_until(lambda: ahead._ahead["INT-03"].done())

        assert ahead._held["INT-03"] == 0.0
        assert ahead._ahead["INT-03"].result() is None


def test_a_session_longer_than_the_limit_is_read_at_its_turn(sessions, monkeypatch):
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 0.5)
    with reader(sessions) as ahead:
        for name, seconds in zip(sessions, (1, 2, 3), strict=True):
            (recording,) = ahead.take(name)
            assert round(recording.duration) == seconds
            ahead.release(name)


def test_fits_is_known_before_a_session_is_taken(sessions, monkeypatch):
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 3.5)
    sessions = {**sessions, "bad": [Path("none")], "done": sessions["INT-01"]}
    with reader(sessions, is_wanted=lambda name: name != "done") as ahead:
        ahead.take("INT-01")
        fitting = {name: ahead.fits(name, 2.0) for name in sessions if name != "INT-01"}
        small = ahead.fits("INT-02", 1.9)

    assert fitting == {"INT-02": True, "INT-03": False, "bad": True, "done": True}
    assert not small


def test_an_unwanted_session_is_read_only_when_taken(sessions, decoded):
    with reader(sessions, is_wanted=lambda name: name != "INT-02") as ahead:
        wait_until(lambda: len(decoded) == 2)
        ahead.take("INT-02")

    assert decoded[2] == "MainThread"


def test_each_channel_counts_towards_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 3.0)
    path = tmp_path / "INT-01.wav"
    path.write_bytes(wav((noise(2 * 16_000, 2) * 32767).astype(np.int16)))
    with reader({"none": [], "INT-01": [path]}, split_channels=True) as ahead:
        wait_until(lambda: ahead._ahead["INT-01"].done())
        assert ahead._ahead["INT-01"].result() is None  # four seconds, both channels added up
        assert ahead.take("INT-01")[0].samples.shape[0] == 2


def test_an_error_is_raised_on_take_and_other_sessions_can_be_read(sessions):
    sessions["INT-02"][0].unlink()
    with reader(sessions) as ahead:
        assert ahead.take("INT-01")
        with pytest.raises(RecordingNotFound):
            ahead.take("INT-02")
        assert ahead.take("INT-03")
        assert ahead._held["INT-02"] == 0.0


def test_releasing_a_session_that_was_not_taken_frees_its_audio(sessions, monkeypatch):
    """A session whose result cannot be written is released without being taken."""
    monkeypatch.setattr(reading, "MAX_HELD_SECONDS", 3.5)
    with reader(sessions) as ahead:
        wait_until(lambda: ahead._held["INT-02"] == 2.0)
        ahead.release("INT-01")
        ahead.release("INT-02")

        assert ahead._held == dict.fromkeys(sessions, 0.0) | {"INT-03": ahead._held["INT-03"]}
        assert list(ahead._ahead) == ["INT-03"]


def test_the_progress_callback_can_stop_the_reading(sessions, monkeypatch):
    def never(*_, on_progress, **__):
        while True:
            time.sleep(0.01)
            on_progress(0.1)  # raises when the reader is closed

    def stop(fraction):
        raise Stopped

    monkeypatch.setattr(reading, "decode", never)
    with reader(sessions) as ahead, pytest.raises(Stopped):
        ahead.take("INT-01", stop)

    assert all(future.done() for future in ahead._ahead.values())


def test_closing_the_reader_leaves_no_ffmpeg_running(tmp_path):
    path = tmp_path / "INT-01.wav"
    n_bytes = 8 * 3600 * 32_000
    path.write_bytes(wav((noise(1000) * 32767).astype(np.int16), declared_bytes=n_bytes))
    with path.open("r+b") as file:
        file.truncate(n_bytes + 44)
    with reader({"INT-01": [path]}) as ahead:
        ahead._current, future = "INT-01", ahead._ahead["INT-01"]
        wait_until(lambda: ahead._held["INT-01"] > 0)

    assert isinstance(future.exception(), Stopped)
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
    assert not [command for command in commands if "ffmpeg" in command]
