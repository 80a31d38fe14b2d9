"""Uploads in parts: synced, merged, resumed, never in the clear."""

import hashlib
import os
import shutil
import tracemalloc
from collections import namedtuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.vault import ArtefactClass, store
from service.vault.errors import (
    ArtefactDamaged,
    DiskFull,
    UploadBusy,
    UploadDamaged,
    UploadIncomplete,
    WrongOffset,
)
from service.vault.store import Artefact, Store
from service.vault.streaming import Key
from service.vault.uploads import discard, merge, received, write_part
from tests.s3 import bucket_store

CANARY = b"my name is Eva Muster and I live in Musterdorf"
KEY = Key(os.urandom(32))


@pytest.fixture(params=["folder", "s3"])
def vault(request, tmp_path):
    if request.param == "folder":
        return Store(ArtefactClass.IDENTIFIED, tmp_path / "identified")
    return bucket_store(request.getfixturevalue("s3_server").url, tmp_path / "identified")


@pytest.fixture
def recording():
    return Artefact(study_id=uuid4(), subject_id=uuid4(), kind="recording")


def send(vault, recording, content):
    with write_part(vault, recording, KEY, offset=received(vault, recording.id)) as writer:
        writer.write(content)


def parts(vault):
    return sorted(path for path in (vault.folder / "uploads").rglob("*") if path.is_file())


def content(vault, recording):
    with vault.open(recording, KEY) as file:
        return file.read()


@given(sizes=st.lists(st.integers(0, 70_000), max_size=4))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_parts_of_any_size_become_one_artefact(vault, sizes):
    recording = Artefact(study_id=uuid4(), subject_id=uuid4(), kind="recording")
    sent = [os.urandom(size) for size in sizes]
    for part in sent:
        send(vault, recording, part)
    whole = b"".join(sent)

    assert received(vault, recording.id) == len(whole)
    merge(vault, recording, KEY, length=len(whole), sha256=hashlib.sha256(whole).digest())
    assert content(vault, recording) == whole


def recorded(monkeypatch, *names):
    """Record the calls of these `os` functions, in order. They still do their work."""
    calls: list[str] = []

    def record(name, function):
        def call(*args):
            calls.append(name)
            return function(*args)

        monkeypatch.setattr(os, name, call)

    for name in names:
        record(name, getattr(os, name))
    return calls


def test_parts_are_deleted_when_they_are_merged(vault, recording):
    send(vault, recording, CANARY)
    merge(vault, recording, KEY, length=len(CANARY), sha256=None)

    assert parts(vault) == []


def test_every_part_has_its_own_salt(vault, recording):
    send(vault, recording, CANARY)
    send(vault, recording, CANARY)

    one, two = (path.read_bytes()[1:40] for path in parts(vault))
    assert one != two


def test_a_part_is_synced_before_it_is_acknowledged(vault, recording, monkeypatch):
    send(vault, recording, CANARY)
    steps = recorded(monkeypatch, "fsync", "replace")

    send(vault, recording, CANARY)

    assert steps == ["fsync", "replace", "fsync"]


def test_a_half_written_part_is_discarded(vault, recording, monkeypatch):
    send(vault, recording, CANARY)
    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
        write_part(vault, recording, KEY, offset=len(CANARY)) as writer,
    ):
        patch.setattr(os, "unlink", lambda path: None)  # a killed process cleans nothing up
        writer.write(CANARY * 10_000)
        raise KeyboardInterrupt
    assert len(parts(vault)) == 2

    assert received(vault, recording.id) == len(CANARY)
    send(vault, recording, b"again")
    assert len(parts(vault)) == 2
    merge(vault, recording, KEY, length=len(CANARY) + 5, sha256=None)
    assert content(vault, recording) == CANARY + b"again"


def test_a_half_written_first_part_does_not_count(vault, recording):
    with write_part(vault, recording, KEY, offset=0) as writer:
        writer.write(CANARY)

        assert received(vault, recording.id) == 0


def test_a_failed_part_does_not_change_the_upload(vault, recording):
    send(vault, recording, CANARY)

    with (
        pytest.raises(ConnectionError),
        write_part(vault, recording, KEY, offset=len(CANARY)) as writer,
    ):
        writer.write(CANARY)
        raise ConnectionError

    assert received(vault, recording.id) == len(CANARY)


@pytest.mark.parametrize("offset", [0, len(CANARY) - 1, len(CANARY) + 1])
def test_a_part_with_the_wrong_offset_is_refused(vault, recording, offset):
    send(vault, recording, CANARY)

    with pytest.raises(WrongOffset), write_part(vault, recording, KEY, offset=offset):
        pass


def test_two_parts_cannot_be_written_at_the_same_time(vault, recording):
    with write_part(vault, recording, KEY, offset=0):
        with pytest.raises(UploadBusy), write_part(vault, recording, KEY, offset=0):
            pass


def test_an_upload_cannot_end_while_a_part_is_written(vault, recording):
    with write_part(vault, recording, KEY, offset=0):
        with pytest.raises(UploadBusy):
            merge(vault, recording, KEY, length=0, sha256=None)
        with pytest.raises(UploadBusy):
            discard(vault, recording.id)


@pytest.mark.parametrize("length", [len(CANARY) - 1, len(CANARY) + 1])
def test_an_upload_of_the_wrong_length_stays_open(vault, recording, length):
    send(vault, recording, CANARY)

    with pytest.raises(UploadIncomplete):
        merge(vault, recording, KEY, length=length, sha256=None)

    assert recording.id not in vault
    assert received(vault, recording.id) == len(CANARY)


def test_an_upload_with_the_wrong_checksum_is_refused(vault, recording):
    send(vault, recording, CANARY)

    with pytest.raises(UploadDamaged):
        merge(vault, recording, KEY, length=len(CANARY), sha256=hashlib.sha256(b"").digest())

    assert recording.id not in vault
    assert received(vault, recording.id) == len(CANARY)


def test_a_missing_part_is_noticed(vault, recording):
    send(vault, recording, CANARY)
    send(vault, recording, CANARY)
    parts(vault)[0].unlink()

    with pytest.raises(UploadIncomplete):
        merge(vault, recording, KEY, length=2 * len(CANARY), sha256=None)


def test_parts_in_another_order_are_refused(vault, recording):
    send(vault, recording, CANARY)
    send(vault, recording, CANARY[::-1])
    one, two = parts(vault)
    shutil.copy(one, aside := vault.folder / "aside")
    two.rename(one)
    aside.rename(two)

    with pytest.raises(ArtefactDamaged):
        merge(vault, recording, KEY, length=2 * len(CANARY), sha256=None)


def test_a_part_of_another_recording_is_refused(vault, recording):
    other = Artefact(study_id=uuid4(), subject_id=uuid4(), kind="recording")
    send(vault, recording, CANARY)
    ours = parts(vault)[0]
    send(vault, other, CANARY)
    [theirs] = set(parts(vault)) - {ours}
    shutil.copy(theirs, ours)

    with pytest.raises(ArtefactDamaged):
        merge(vault, recording, KEY, length=len(CANARY), sha256=None)


def test_a_merge_killed_before_it_deleted_the_parts_can_be_repeated(vault, recording, monkeypatch):
    send(vault, recording, CANARY)
    send(vault, recording, CANARY)

    def half(folder):
        parts(vault)[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", half)
        merge(vault, recording, KEY, length=2 * len(CANARY), sha256=None)
    merge(vault, recording, KEY, length=2 * len(CANARY), sha256=None)

    assert parts(vault) == []
    assert content(vault, recording) == 2 * CANARY


def test_a_merge_without_enough_space_keeps_the_parts(vault, recording, monkeypatch):
    send(vault, recording, CANARY)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(store.RESERVED_SPACE))

    with pytest.raises(DiskFull):
        merge(vault, recording, KEY, length=len(CANARY), sha256=None)

    assert received(vault, recording.id) == len(CANARY)


def test_a_discarded_upload_leaves_nothing(vault, recording):
    send(vault, recording, CANARY)

    discard(vault, recording.id)

    assert parts(vault) == []
    assert received(vault, recording.id) == 0


def test_no_part_contains_speech(vault, recording):
    send(vault, recording, CANARY * 5000)
    send(vault, recording, CANARY)

    for path in parts(vault):
        assert b"Eva Muster" not in path.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_recording(vault, recording):
    block = os.urandom(2**20)
    tracemalloc.start()
    for _ in range(10):
        with write_part(vault, recording, KEY, offset=received(vault, recording.id)) as writer:
            for _ in range(20):
                writer.write(block)
    merge(vault, recording, KEY, length=200 * 2**20, sha256=None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * 2**20
