"""The key hierarchy, erasure and root keys."""

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from service.vault import ArtefactClass, files, keys, roots
from service.vault.errors import (
    Erased,
    KeyDamaged,
    KeyMissing,
    RootKeyExposed,
    RootKeyUnusable,
    Sealed,
    WrongPassphrase,
)
from service.vault.keys import KeyRing
from service.vault.roots import (
    create_root_key,
    create_sealed_root_key,
    read_root_keys,
    unseal_root_key,
)
from service.vault.store import Artefact, Store
from service.vault.streaming import Key

IDENTIFIED, LINKAGE = ArtefactClass.IDENTIFIED, ArtefactClass.LINKAGE


@dataclass
class Place:
    """A key ring with one study and one recording in it."""

    keys: Path
    ledger: Path
    root: Key
    study: UUID
    recording: UUID

    def ring(self, name: ArtefactClass = IDENTIFIED, root: Key | None = None) -> KeyRing:
        """As after a restart."""
        return KeyRing(name, self.keys, self.ledger, root or self.root)

    def file(self, name: object, study: UUID | None = None) -> Path:
        return self.keys / "identified" / str(study or self.study) / f"{name}.key"


@pytest.fixture
def place(tmp_path):
    root = Key(os.urandom(32))
    place = Place(tmp_path / "keys", tmp_path / "ledger", root, uuid4(), uuid4())
    place.ring().create_study_key(place.study)
    place.ring().create_data_key(place.study, place.recording)
    return place


def test_a_data_key_is_the_same_after_a_restart(place):
    other = uuid4()
    created = place.ring().create_data_key(place.study, other)

    assert place.ring().data_key(place.study, other) == created


def test_every_recording_has_its_own_key(place):
    other = uuid4()
    place.ring().create_data_key(place.study, other)

    ring = place.ring()
    assert ring.data_key(place.study, place.recording) != ring.data_key(place.study, other)


def test_the_same_recording_has_another_key_in_another_class(place):
    ring = place.ring(LINKAGE)
    ring.create_study_key(place.study)
    ring.create_data_key(place.study, place.recording)

    assert ring.data_key(place.study, place.recording) != place.ring().data_key(
        place.study, place.recording
    )


def test_a_key_is_never_replaced(place):
    with pytest.raises(FileExistsError):
        place.ring().create_data_key(place.study, place.recording)
    with pytest.raises(FileExistsError):
        place.ring().create_study_key(place.study)


def test_a_lost_key_is_not_created_again(place):
    place.file(place.recording).unlink()

    with pytest.raises(KeyMissing):
        place.ring().data_key(place.study, place.recording)


def test_a_data_key_without_its_study_key_names_what_is_missing(place):
    place.file("study").unlink()

    with pytest.raises(KeyMissing):
        place.ring().data_key(place.study, place.recording)


def test_only_their_owner_can_read_wrapped_keys(place):
    for path in [place.keys, *place.keys.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_no_file_contains_an_unwrapped_key(place):
    secrets = [place.root.secret, place.ring().data_key(place.study, place.recording).secret]

    for path in place.keys.rglob("*.key"):
        assert not any(secret in path.read_bytes() for secret in secrets)


def test_another_root_key_opens_nothing(place):
    with pytest.raises(KeyDamaged):
        place.ring(root=Key(os.urandom(32))).data_key(place.study, place.recording)


def test_the_key_of_one_recording_in_the_place_of_another_is_refused(place):
    other = uuid4()
    place.ring().create_data_key(place.study, other)
    shutil.copy(place.file(place.recording), place.file(other))

    with pytest.raises(KeyDamaged):
        place.ring().data_key(place.study, other)


def test_a_study_moved_to_another_id_is_refused(place):
    other = uuid4()
    shutil.copytree(place.file("study").parent, place.file("study", other).parent)

    with pytest.raises(KeyDamaged):
        place.ring().data_key(other, place.recording)


def test_a_study_moved_to_another_class_is_refused_even_under_the_same_root_key(place):
    shutil.copytree(place.keys / "identified", place.keys / "linkage")

    with pytest.raises(KeyDamaged):
        place.ring(LINKAGE).data_key(place.study, place.recording)


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: w + b"\0", lambda w: b"\2" + w[1:]])
def test_a_changed_key_file_is_refused(place, change):
    path = place.file(place.recording)
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(KeyDamaged):
        place.ring().data_key(place.study, place.recording)


def test_a_crash_while_a_key_is_created_leaves_none(place, monkeypatch):
    other = uuid4()

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", crash)
        place.ring().create_data_key(place.study, other)

    place.ring().create_data_key(place.study, other)


# Erasure


def test_an_artefact_whose_key_was_erased_cannot_be_opened_again(place, tmp_path):
    vault = Store(IDENTIFIED, tmp_path / "identified")
    transcript = Artefact(place.study, place.recording, "transcript")
    with vault.write(transcript, place.ring().data_key(place.study, place.recording)) as writer:
        writer.write(b"anything")

    place.ring().erase(place.study, place.recording)

    assert transcript.id in vault
    with pytest.raises(Erased):
        vault.open(transcript, place.ring().data_key(place.study, place.recording))


def test_an_erased_key_is_overwritten_before_its_file_is_deleted(place):
    path = place.file(place.recording)
    with open(path, "rb") as file:  # an open file still shows the content after its name is deleted
        place.ring().erase(place.study, place.recording)

        assert set(file.read()) == {0}
    assert not path.exists()


def test_other_recordings_survive_an_erasure(place):
    other = uuid4()
    created = place.ring().create_data_key(place.study, other)

    place.ring().erase(place.study, place.recording)

    assert place.ring().data_key(place.study, other) == created


def test_erasing_twice_succeeds_and_keeps_the_first_entry(place):
    place.ring().erase(place.study, place.recording)
    entry = place.ledger / "identified" / str(place.study) / str(place.recording)
    first = entry.read_bytes()

    place.ring().erase(place.study, place.recording)

    assert entry.read_bytes() == first


def test_an_erased_key_cannot_be_created_again(place):
    place.ring().erase(place.study, place.recording)

    with pytest.raises(Erased):
        place.ring().create_data_key(place.study, place.recording)


def test_an_erased_study_has_no_key_left(place):
    place.ring().erase_study(place.study)

    assert list(place.keys.rglob("*.key")) == []
    with pytest.raises(Erased):
        place.ring().data_key(place.study, place.recording)
    with pytest.raises(Erased):
        place.ring().create_study_key(place.study)


def test_an_erasure_in_one_class_does_not_affect_the_others(place):
    ring = place.ring(LINKAGE)
    ring.create_study_key(place.study)
    created = ring.create_data_key(place.study, place.recording)

    place.ring().erase_study(place.study)

    assert place.ring(LINKAGE).data_key(place.study, place.recording) == created


@pytest.mark.parametrize("whole_study", [False, True])
def test_a_key_that_a_restore_brought_back_is_refused_and_destroyed_again(
    place, tmp_path, whole_study
):
    shutil.copytree(place.keys, tmp_path / "backup")
    if whole_study:
        place.ring().erase_study(place.study)
    else:
        place.ring().erase(place.study, place.recording)
    shutil.rmtree(place.keys)
    shutil.copytree(tmp_path / "backup", place.keys)

    with pytest.raises(Erased):
        place.ring().data_key(place.study, place.recording)
    assert place.ring().apply_ledger() == (2 if whole_study else 1)
    assert not place.file(place.recording).exists()


def test_an_erasure_interrupted_by_a_crash_is_finished_at_the_next_start(place, monkeypatch):
    def crash(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keys, "shred", crash)
        place.ring().erase(place.study, place.recording)

    assert place.ring().apply_ledger() == 1
    assert not place.file(place.recording).exists()


def test_a_half_written_ledger_entry_erases_nothing(place):
    folder = place.ledger / "identified" / str(place.study)
    folder.mkdir(parents=True)
    (folder / f".study{files.PARTIAL}").touch()

    assert place.ring().apply_ledger() == 0
    place.ring().data_key(place.study, place.recording)


def test_the_ledger_records_the_time_of_an_erasure(place):
    place.ring().erase(place.study, place.recording)

    entry = place.ledger / "identified" / str(place.study) / str(place.recording)
    assert entry.read_text().endswith("+00:00\n")


# Sealed


def test_a_sealed_key_ring_refuses_to_give_keys(place):
    ring = KeyRing(IDENTIFIED, place.keys, place.ledger, root=None)

    assert ring.sealed
    with pytest.raises(Sealed):
        ring.data_key(place.study, place.recording)
    with pytest.raises(Sealed):
        ring.create_study_key(uuid4())


def test_unsealing_opens_the_key_ring(place):
    ring = KeyRing(IDENTIFIED, place.keys, place.ledger, root=None)

    ring.unseal(place.root)

    assert not ring.sealed
    assert ring.data_key(place.study, place.recording)


def test_erasing_needs_no_root_key(place):
    KeyRing(IDENTIFIED, place.keys, place.ledger, root=None).erase(place.study, place.recording)

    with pytest.raises(Erased):
        place.ring().data_key(place.study, place.recording)


# Root keys


@pytest.fixture
def data_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_a_root_key_is_random_and_only_its_owner_can_read_it(tmp_path, data_folder):
    paths = {name: tmp_path / name for name in ArtefactClass}
    for path in paths.values():
        create_root_key(path)

    assert len(read_root_keys(paths, data_folder=data_folder)) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths.values()} == {0o600}


@pytest.mark.parametrize(
    "create", [create_root_key, lambda p: create_sealed_root_key(p, LINKAGE, "x")]
)
def test_a_root_key_is_never_overwritten(tmp_path, create, cheap_argon2):
    create(tmp_path / "root")
    before = (tmp_path / "root").read_bytes()

    with pytest.raises(RootKeyUnusable):
        create(tmp_path / "root")
    assert (tmp_path / "root").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o610])
def test_a_root_key_that_others_can_read_is_refused(tmp_path, data_folder, mode):
    create_root_key(tmp_path / "root")
    (tmp_path / "root").chmod(mode)

    with pytest.raises(RootKeyExposed, match="chmod 600"):
        read_root_keys({IDENTIFIED: tmp_path / "root"}, data_folder=data_folder)


def test_a_root_key_inside_the_data_folder_is_refused(data_folder):
    create_root_key(data_folder / "root")

    with pytest.raises(RootKeyExposed, match="data folder"):
        read_root_keys({IDENTIFIED: data_folder / "root"}, data_folder=data_folder)


def test_a_link_to_a_root_key_inside_the_data_folder_is_refused(tmp_path, data_folder):
    create_root_key(data_folder / "root")
    (tmp_path / "link").symlink_to(data_folder / "root")

    with pytest.raises(RootKeyExposed, match="data folder"):
        read_root_keys({IDENTIFIED: tmp_path / "link"}, data_folder=data_folder)


def test_a_missing_root_key_is_named(tmp_path, data_folder):
    with pytest.raises(RootKeyUnusable, match="identified"):
        read_root_keys({IDENTIFIED: tmp_path / "root"}, data_folder=data_folder)


def test_a_file_that_is_not_a_key_is_refused_and_not_quoted(tmp_path, data_folder):
    create_root_key(tmp_path / "root")
    (tmp_path / "root").write_text("s3cret" * 3)

    with pytest.raises(RootKeyUnusable) as refused:
        read_root_keys({IDENTIFIED: tmp_path / "root"}, data_folder=data_folder)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_two_classes_with_one_root_key_are_refused(tmp_path, data_folder):
    create_root_key(tmp_path / "root")

    with pytest.raises(RootKeyUnusable, match="its own"):
        read_root_keys(
            {IDENTIFIED: tmp_path / "root", LINKAGE: tmp_path / "root"}, data_folder=data_folder
        )


@pytest.fixture
def sealed(tmp_path, cheap_argon2):
    create_sealed_root_key(tmp_path / "root", LINKAGE, "correct hörse")
    return tmp_path / "root"


def test_the_passphrase_opens_the_same_key_every_time(sealed, data_folder):
    opened = [
        unseal_root_key(sealed, LINKAGE, "correct hörse", data_folder=data_folder) for _ in range(2)
    ]

    assert opened[0] == opened[1]


def test_an_umlaut_typed_as_two_characters_is_the_same_passphrase(sealed, data_folder):
    unseal_root_key(sealed, LINKAGE, "correct ho\u0308rse", data_folder=data_folder)


def test_a_wrong_passphrase_is_named(sealed, data_folder):
    with pytest.raises(WrongPassphrase):
        unseal_root_key(sealed, LINKAGE, "correct horse", data_folder=data_folder)


def test_the_sealed_root_key_of_another_class_is_refused(sealed, data_folder):
    with pytest.raises(WrongPassphrase):
        unseal_root_key(sealed, IDENTIFIED, "correct hörse", data_folder=data_folder)


def test_a_root_key_without_a_passphrase_cannot_be_unsealed(tmp_path, data_folder):
    create_root_key(tmp_path / "root")

    with pytest.raises(RootKeyUnusable):
        unseal_root_key(tmp_path / "root", LINKAGE, "anything", data_folder=data_folder)


def test_a_sealed_root_key_is_guarded_like_an_open_one(sealed, data_folder):
    with pytest.raises(RootKeyExposed):
        unseal_root_key(sealed, LINKAGE, "correct hörse", data_folder=sealed.parent)
    sealed.chmod(0o644)
    with pytest.raises(RootKeyExposed):
        unseal_root_key(sealed, LINKAGE, "correct hörse", data_folder=data_folder)


def test_the_cost_of_a_guess_is_at_least_what_rfc_9106_recommends():
    assert roots.ARGON2_ITERATIONS >= 3
    assert roots.ARGON2_LANES >= 4
    assert roots.ARGON2_MEMORY >= 64 * 1024
    assert roots.SALT_SIZE >= 16


@pytest.mark.slow
def test_the_passphrase_works_at_its_real_cost(tmp_path, data_folder):
    create_sealed_root_key(tmp_path / "root", LINKAGE, "correct hörse")

    unseal_root_key(tmp_path / "root", LINKAGE, "correct hörse", data_folder=data_folder)


def test_foreign_files_among_keys_and_in_the_ledger_are_ignored(place):
    """Such as those that file managers and synchronisation leave. They stopped every start."""
    ring = place.ring()
    for folder in (ring._folder, ring._ledger):
        for name in (".DS_Store/x", "notes/file.key", f"{place.study}/copy of.key"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    assert place.ring().apply_ledger() == 0
    assert place.ring().subjects() == {place.recording}
