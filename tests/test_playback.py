"""Playback copies: the sound and its times, the routes, erasure, and a full disk."""

import io
import subprocess
import time
from contextlib import contextmanager
from uuid import UUID

import numpy as np
import pytest

from models.audio.decode import decode
from models.audio.memory_file import memory_file
from models.audio.playback import PLAYBACK_RATE, SAMPLES_PER_PEAK, Peaks, make_playback, mix
from scripts.stand_in.jobs import make_job
from service.database.tables import Recording
from service.domain import playback, strays
from service.domain.playback import make_copy
from service.domain.recordings import identified, sound_artefact
from service.vault.errors import DiskFull
from tests.api import open_api, tone
from tests.audio_files import noise, wav
from tests.finished import age, finish_job


@pytest.fixture(scope="module")
def api(module_settings):
    with open_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def study(api):
    return api.study()["id"]


@pytest.fixture(scope="module")
def recording(api, study):
    """A recording of two seconds with its playback copy."""
    id = api.upload(study, tone(2))["id"]
    make_copy(api.services, row(api, id))
    return id


def row(api, recording_id):
    with api.services.sessionmaker() as session:
        return session.get_one(Recording, UUID(recording_id))


def made(content):
    """The copy and its peaks."""
    written = []

    @contextmanager
    def open_output():
        output = io.BytesIO()
        yield output
        written.append(output.getvalue())

    with memory_file([content]) as file:
        peaks = make_playback(file, open_output)
    return written[-1], peaks


def played(mp3, rate):
    command = f"ffmpeg -v quiet -f mp3 -i pipe:0 -f f32le -ac 1 -ar {rate} pipe:1"
    done = subprocess.run(command.split(), input=mp3, capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<f4")


def test_every_sound_is_heard_at_its_time():
    """The encoder's delay used to be heard: every word came 46 ms late."""
    samples = np.zeros((5 * 16_000, 1), dtype=np.float32)
    for second in (1, 3):
        samples[second * 16_000 :][:800] = noise(800)
    content = wav(samples)

    mp3, _ = made(content)

    with memory_file([content]) as file:
        expected = decode(file).samples[0]
    heard = played(mp3, 16_000)
    n = 1 << 18
    product = np.fft.rfft(heard, n) * np.conj(np.fft.rfft(expected, n))
    assert np.argmax(np.fft.irfft(product, n)) in (0, 1, n - 1)
    assert len(mp3) / 8000 == pytest.approx(5, abs=0.05)


def test_peaks_are_pairs_of_each_tenth_of_a_second():
    samples = np.zeros((16_000, 1), dtype=np.float32)
    samples[8_000:] = 0.5

    _, peaks = made(wav(samples))

    header, pairs = np.frombuffer(peaks[:24], "<i4"), np.frombuffer(peaks[24:], np.int8)
    assert header.tolist() == [2, 1, PLAYBACK_RATE, SAMPLES_PER_PEAK, 10, 1]
    assert pairs.reshape(-1, 2)[:4].max() <= 1
    assert pairs.reshape(-1, 2)[6:9, 1].min() > 55


def test_peaks_do_not_depend_on_the_blocks():
    samples = noise(10_000)[:, 0]
    whole, parts = Peaks(), Peaks()
    whole.add(samples)
    for begin in range(0, 10_000, 777):
        parts.add(samples[begin : begin + 777])

    assert whole.to_bytes() == parts.to_bytes()


def test_tracks_are_mixed_and_the_shorter_one_is_silent_at_the_end():
    short = iter([np.full(5, 0.5, np.float32)])
    long = iter([np.full(4, 1, np.float32), np.full(4, 1, np.float32)])

    mixed = np.concatenate(list(mix([short, long])))

    assert mixed.tolist() == [0.75] * 5 + [0.5] * 3


def test_a_copy_is_served_in_byte_ranges(api, recording):
    path = f"/v1/recordings/{recording}/playback"
    whole = api.get(path)
    size, etag = len(whole.content), whole.headers["ETag"]
    assert (whole.status_code, whole.headers["Content-Type"]) == (200, "audio/mpeg")
    assert whole.headers["Cache-Control"] == "no-store"
    assert whole.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    part = api.get(path, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{size}"
    same = api.get(path, headers={"Range": "bytes=5-", "If-Range": etag})
    other = api.get(path, headers={"Range": "bytes=5-", "If-Range": '"another"'})
    assert (same.status_code, other.status_code) == (206, 200)
    beyond = api.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
    head = api.request("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(size)
    assert len(api.get(f"/v1/recordings/{recording}/peaks").content) == 24 + 2 * 20


def test_the_timeline_lists_the_recordings_and_their_copies(api, study, recording):
    transcript = finish_job(api.services, make_job(api.services, UUID(study)))
    path = f"/v1/transcripts/{transcript}/playback"

    (part,) = api.get(path).json()["recordings"]
    assert (part["start"], part["duration"], part["state"]) == (0.0, 20.0, "preparing")

    with api.services.sessionmaker.begin() as session:  # the stand-in's recording is no sound
        session.get_one(Recording, UUID(part["recording_id"])).playback_error = "unreadable_audio"
    (part,) = api.get(path).json()["recordings"]
    assert (part["state"], part["error"]) == ("failed", "unreadable_audio")
    answer = api.get(f"/v1/recordings/{part['recording_id']}/playback")
    assert (answer.status_code, answer.json()["code"]) == (422, "no_playback")


def test_a_copy_is_made_when_it_is_first_asked_for(api, study):
    id = api.upload(study, tone())["id"]
    answer = api.get(f"/v1/recordings/{id}/playback")
    assert (answer.status_code, answer.json()["code"]) == (409, "playback_not_ready")

    for _ in range(100):
        if api.get(f"/v1/recordings/{id}/playback").status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError


def test_a_copy_is_erased_with_its_recording(api, study):
    id = api.upload(study, tone())["id"]
    make_copy(api.services, row(api, id))
    copied = row(api, id)
    store, _ = identified(api.services)
    assert copied.playback_artefact_id in store and copied.peaks_artefact_id in store

    assert api.request("DELETE", f"/v1/recordings/{id}").status_code == 204

    assert copied.playback_artefact_id not in store and copied.peaks_artefact_id not in store
    assert row(api, id).playback_artefact_id is None
    assert api.get(f"/v1/recordings/{id}/playback").status_code == 410


def test_a_copy_made_while_its_recording_is_erased_leaves_nothing(api, study, monkeypatch):
    id = api.upload(study, tone())["id"]
    before = row(api, id)
    write = playback._write_copy

    def erase_then_write(*arguments):
        write(*arguments)
        assert api.request("DELETE", f"/v1/recordings/{id}").status_code == 204

    monkeypatch.setattr(playback, "_write_copy", erase_then_write)
    store, _ = identified(api.services)
    known = set(store.ids())

    make_copy(api.services, before)

    assert set(store.ids()) <= known


def test_on_a_full_disk_no_copy_is_made_but_it_is_tried_again(api, study, monkeypatch):
    id = api.upload(study, tone())["id"]
    store, _ = identified(api.services)

    def refuse(n_bytes):
        raise DiskFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "require_space", lambda self, n_bytes: refuse(n_bytes))
        make_copy(api.services, row(api, id))
    assert row(api, id).playback_error is None

    make_copy(api.services, row(api, id))
    assert row(api, id).playback_artefact_id is not None


def test_a_recording_that_cannot_be_decoded_is_not_tried_again(api, study):
    id = api.upload(study, tone())["id"]
    recording = row(api, id)
    store, keyring = identified(api.services)
    key = keyring.data_key(recording.study_id, recording.id)
    with store.write(sound_artefact(recording), key) as file:
        file.write(b"no sound")

    make_copy(api.services, recording)

    assert row(api, id).playback_error == "unreadable_audio"


def test_copies_are_no_strays(api, recording):
    age(api.services)

    strays.remove_strays(api.services)

    assert api.get(f"/v1/recordings/{recording}/playback").status_code == 200
    assert api.get(f"/v1/recordings/{recording}/peaks").status_code == 200
