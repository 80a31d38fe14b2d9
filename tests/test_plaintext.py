"""After a whole run, including kills, no recording and no speech is stored unencrypted."""

import base64
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from models.audio.decode import decode
from scripts.make_interview import make_interview, write_wav
from scripts.stand_in.installation import STAND_IN, Installation, wait_until
from service.commands.connection import open_client
from service.commands.tus_client import UnfinishedUploads, UploadSource, upload
from service.commands.upload import wait_for_recording
from service.services import open_services
from service.worker.protocol import PIPELINE_ENGINE

FILE_NAME = "Zacharias Quendolin.wav"
VOCABULARY = "Quendolin"
SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
MARK_BYTES = 64


@pytest.fixture
def recording(tmp_path):
    """A recording with unique samples: it contains fresh noise."""
    samples = make_interview(810_001, seconds=8).samples
    noise = np.frombuffer(os.urandom(2 * len(samples)), dtype="<i2") / 2**15
    path = tmp_path / FILE_NAME
    write_wav(path, np.clip(samples + 3e-3 * noise, -1, 1).astype(np.float32))
    return path


@pytest.mark.parametrize("temp", ["a folder", "not writable"])
@pytest.mark.parametrize(
    "engine",
    [STAND_IN, pytest.param(PIPELINE_ENGINE, marks=pytest.mark.slow)],
    ids=["stand-in", "real"],
)
def test_nothing_that_was_said_is_stored_unencrypted(
    engine, temp, data_folder, recording, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    started = time.time()
    monkeypatch.setenv("TMPDIR", str(temporary) if temp == "a folder" else "/proc/none")
    site = Installation(data_folder, None)
    site.log = tmp_path / "stand-in.log"
    said = tmp_path / "serve.log"
    with said.open("wb") as stderr:
        site.start_serve(engine, stderr=stderr)
    wait_until(site.is_ready, 120, "the service to answer")
    try:
        words = run_job(site, recording, tmp_path)
    finally:
        site.cut_power()

    marks = sound_samples(recording)
    assert files_with(marks, files_under(*new_in_shared_folders(started), since=started)) == []
    marks += [word.encode() for word in (words, FILE_NAME, VOCABULARY)]
    marks.append(base64.b64encode(FILE_NAME.encode()))  # as tus sends it
    ours = list(files_under(data_folder, temporary)) + [said]
    assert len(ours) > 100  # the database is among them
    assert files_with(marks, ours) == []


def run_job(site: Installation, recording: Path, tmp_path: Path) -> str:
    """From upload to transcript, killing the engine and the API in between.

    Returns:
        The transcript's first words.
    """
    with open_client(site.settings) as client:
        client.post("/v1/studies", {"code": "PEER", "language": "en", "model": "demo"})
        id = upload(
            client,
            UploadSource(recording, "PEER", None),
            UnfinishedUploads(tmp_path / "unfinished"),
        )
        assert wait_for_recording(client, id)["state"] == "ready"
        job = client.post("/v1/jobs", {"recordings": [id], "vocabulary": [VOCABULARY]})
        site.services = open_services(site.settings)
        begun = ("running", "succeeded")
        wait_until(lambda: site.status(UUID(job["id"])) in begun, 60, "the job to begin")
        time.sleep(1)
        for victim in ("engine", "api"):
            for pid in site.pids().get(victim, ()):
                os.kill(pid, signal.SIGKILL)
        wait_until(site.is_ready, 60, "the service to answer")
        site.wait_for(UUID(job["id"]), "succeeded", 400)
        site.services.close()
        done = client.get(f"/v1/jobs/{job['id']}")
        transcript = client.get(f"/v1/transcripts/{done['transcript_id']}")
    words = [word["text"] for segment in transcript["segments"] for word in segment["words"]]
    assert len(words) > 1
    return "".join(words[:6]).strip()


def sound_samples(recording: Path) -> list[bytes]:
    """Excerpts of the file, of its decoded samples (float32) and of 16-bit samples at 16 kHz."""
    with recording.open("rb") as file:
        samples = decode(file).samples[0]
    plain = (recording.read_bytes(), samples.tobytes(), (samples * 32767).astype("<i2").tobytes())
    return [
        content[start : start + MARK_BYTES]
        for content in plain
        for start in (len(content) // 3 // 4 * 4, len(content) // 2 // 4 * 4)
    ]


def new_in_shared_folders(since: float) -> list[Path]:
    """New entries, except the folders of this and other tests."""
    entries = [path for folder in SHARED for path in folder.iterdir()]
    return [
        path
        for path in entries
        if not path.name.startswith(("fieldscribe-", "pytest-")) and path.stat().st_ctime >= since
    ]


def files_under(*folders: Path, since: float = 0.0) -> Iterator[Path]:
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            with suppress(OSError):  # another process's, and already deleted
                if path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since:
                    yield path


def files_with(marks: Iterable[bytes], files: Iterable[Path]) -> list[Path]:
    found = []
    for path in files:
        with suppress(OSError):
            content = path.read_bytes()
            found += [path for mark in marks if mark in content]
    return found


@pytest.mark.parametrize("form", [0, 2, 4])
def test_the_search_finds_every_form_of_the_sound(recording, tmp_path, form):
    """Otherwise the test above would prove nothing."""
    marks = sound_samples(recording)
    (tmp_path / "leak").write_bytes(b"x" + marks[form] + b"x")

    assert tmp_path / "leak" in files_with(marks, files_under(tmp_path))
