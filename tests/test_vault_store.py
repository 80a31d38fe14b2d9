"""The artefacts of a class, in a folder and in a bucket: bindings, atomic writes, disk space."""

import os
import shutil
import stat
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from service.vault import ArtefactClass, files, store
from service.vault.errors import ArtefactDamaged, ArtefactMissing, DiskFull
from service.vault.store import Artefact, Store
from service.vault.streaming import Key
from tests.api import artefact_path
from tests.s3 import bucket_store

CANARY = b"my name is Eva Muster and I live in Musterdorf"


@pytest.fixture(params=["folder", "s3"])
def vault(request, tmp_path):
    if request.param == "folder":
        return Store(ArtefactClass.IDENTIFIED, tmp_path / "identified")
    return bucket_store(request.getfixturevalue("s3_server").url, tmp_path / "identified")


in_folder = pytest.mark.parametrize("vault", ["folder"], indirect=True)


@pytest.fixture
def key():
    return Key(os.urandom(32))


def artefact(kind="transcript"):
    return Artefact(study_id=uuid4(), subject_id=uuid4(), kind=kind)


def put(vault, artefact, key, content=CANARY):
    with vault.write(artefact, key) as writer:
        writer.write(content)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


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


def test_an_artefact_can_be_read_back(vault, key):
    transcript = artefact()
    put(vault, transcript, key)

    with vault.open(transcript, key) as file:
        assert file.read() == CANARY


@in_folder
def test_a_path_contains_only_ids(vault, key):
    transcript = artefact()
    put(vault, transcript, key)

    [path] = files_in(vault.folder)
    name = str(transcript.id)
    assert path == vault.folder / "artefacts" / name[:2] / name[2:4] / name


@in_folder
def test_only_the_owner_can_read_files_and_folders(vault, key):
    put(vault, artefact(), key)

    for path in [vault.folder, *vault.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_an_artefact_in_the_place_of_another_is_refused(vault, key):
    ours = artefact()
    theirs = replace(ours, id=uuid4())
    put(vault, ours, key)
    put(vault, theirs, key)
    with vault.objects.open(ours.id) as our_file, vault.objects.write(theirs.id) as their_file:
        shutil.copyfileobj(our_file, their_file)

    with pytest.raises(ArtefactDamaged):
        vault.open(theirs, key)


@pytest.mark.parametrize(
    "other", [{"study_id": uuid4()}, {"subject_id": uuid4()}, {"kind": "recording"}]
)
def test_an_artefact_opened_as_another_is_refused(vault, key, other):
    transcript = artefact("transcript")
    put(vault, transcript, key)

    with pytest.raises(ArtefactDamaged):
        vault.open(replace(transcript, **other), key)


def test_an_artefact_moved_to_another_class_is_refused(vault, key):
    transcript = artefact()
    put(vault, transcript, key)

    with pytest.raises(ArtefactDamaged):
        Store(ArtefactClass.DEIDENTIFIED, vault.folder, vault.objects).open(transcript, key)


def test_a_kind_that_could_imitate_another_artefact_is_a_bug():
    with pytest.raises(ValueError):
        artefact("transcript|part 0")


def test_the_error_for_a_missing_artefact_names_it(vault, key):
    missing = artefact()

    with pytest.raises(ArtefactMissing, match=str(missing.id)):
        vault.open(missing, key)


def test_a_crash_in_the_first_write_leaves_nothing(vault, key):
    with pytest.raises(KeyboardInterrupt), vault.write(artefact(), key) as writer:
        writer.write(CANARY * 10_000)
        raise KeyboardInterrupt

    assert files_in(vault.folder) == []


def test_a_crash_while_replacing_an_artefact_keeps_the_old_one(vault, key):
    transcript = artefact()
    put(vault, transcript, key)

    with pytest.raises(KeyboardInterrupt), vault.write(transcript, key) as writer:
        writer.write(b"half of another" * 10_000)
        raise KeyboardInterrupt

    with vault.open(transcript, key) as file:
        assert file.read() == CANARY


@in_folder
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_artefact_that_was_not_synced_does_not_exist(vault, key, monkeypatch, step):
    vault.folder.mkdir()
    transcript = artefact()
    files.make_folder(artefact_path(vault, transcript.id).parent)

    def fail(*args):
        raise OSError("unplugged")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="unplugged"):
        put(vault, transcript, key)

    assert files_in(vault.folder) == []


@in_folder
def test_an_artefact_and_its_name_are_synced_before_the_write_returns(vault, key, monkeypatch):
    transcript = artefact()
    files.make_folder(artefact_path(vault, transcript.id).parent)
    steps = recorded(monkeypatch, "fsync", "replace")

    put(vault, transcript, key)

    assert steps == ["fsync", "replace", "fsync"]


def test_ids_lists_only_finished_artefacts(vault, key):
    done = [artefact() for _ in range(3)]
    for one in done:
        put(vault, one, key)

    with vault.write(artefact(), key) as writer:
        writer.write(CANARY)
        assert set(vault.ids()) == {one.id for one in done}


def test_a_deleted_artefact_is_gone(vault, key):
    transcript = artefact()
    put(vault, transcript, key)

    vault.delete(transcript.id)

    assert transcript.id not in vault
    assert files_in(vault.folder) == []


def test_deleting_twice_succeeds(vault):
    vault.delete(uuid4())


@in_folder
def test_the_partial_file_of_a_killed_process_is_deleted_after_a_day(vault, key):
    with pytest.raises(FileNotFoundError), vault.write(artefact(), key):  # its own clean-up fails
        [partial] = files_in(vault.folder)
        long_ago = time.time() - files.ABANDONED_AFTER - 60
        os.utime(partial, (long_ago, long_ago))
        files.delete_abandoned(files.files_below(vault.folder))
        assert files_in(vault.folder) == []


def test_a_file_being_written_is_not_deleted_as_abandoned(vault, key):
    transcript = artefact()
    with vault.write(transcript, key):
        files.delete_abandoned(files.files_below(vault.folder))

    assert transcript.id in vault


def test_an_upload_that_does_not_fit_is_refused_before_it_begins(vault, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(store.RESERVED_SPACE + 1000))

    vault.require_space(1000)
    with pytest.raises(DiskFull):
        vault.require_space(1001)


def test_a_disk_that_becomes_full_is_reported_and_no_file_is_left(vault, key):
    full = OSError(28, "No space left on device")

    with pytest.raises(DiskFull), vault.write(artefact(), key):
        raise full

    assert files_in(vault.folder) == []


@in_folder
def test_a_full_disk_is_also_noticed_where_a_folder_is_made(vault, key, monkeypatch):
    """An upload whose folder could not be made was refused with `internal_error`."""

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", fail)

    with pytest.raises(DiskFull), vault.write(artefact(), key):
        pass
    with pytest.raises(DiskFull), files.locked(vault.folder / "uploads", wait=True):
        pass


@in_folder
def test_no_file_contains_speech_even_during_a_write(vault, key):
    long = CANARY * 5000  # several segments
    with vault.write(artefact(), key) as writer:
        writer.write(long)
        while_writing = [path.read_bytes() for path in files_in(vault.folder)]
    afterwards = [path.read_bytes() for path in files_in(vault.folder)]

    assert sum(map(len, while_writing)) > 2 * 64 * 1024
    assert len(afterwards) == 1
    for content in while_writing + afterwards:
        assert b"Eva Muster" not in content
        assert key.secret not in content


def test_a_half_written_file_of_another_user_is_left_alone(tmp_path, monkeypatch):
    """In a shared backup folder it must not stop the backup."""
    (tmp_path / ".theirs.partial").touch()
    os.utime(tmp_path / ".theirs.partial", (0, 0))

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    files.delete_abandoned(tmp_path.iterdir())

    assert (tmp_path / ".theirs.partial").exists()
