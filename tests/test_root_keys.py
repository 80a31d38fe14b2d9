"""Root keys at the start: created once, completed after a kill, never replaced if still needed."""

import pytest

from scripts.stand_in.jobs import make_recording, make_study, make_token
from service.api.process import prepare
from service.services import create_root_keys, has_root_keys, open_vault, unseal
from service.vault import ArtefactClass
from service.vault.errors import RootKeyUnusable, WrongPassphrase

PASSPHRASE = "correct horse battery staple"


def root(settings, name):
    return settings.root_keys / f"{name}.key"


def contents(settings):
    return {path.name: path.read_bytes() for path in settings.root_keys.iterdir()}


def test_existing_root_keys_are_left_unchanged(settings):
    before = contents(settings)

    assert not create_root_keys(settings)
    assert contents(settings) == before
    assert len(before) == len(ArtefactClass)


@pytest.mark.parametrize("gone", [list(ArtefactClass), [ArtefactClass.LINKAGE]], ids=str)
def test_lost_root_keys_that_files_are_encrypted_with_are_not_replaced(services, settings, gone):
    """With the keys folder not mounted, a start silently created new keys and carried on."""
    study_id = make_study(services)
    make_recording(services, study_id, make_token(services), b"sound")
    settings.keys.rename(settings.keys.with_name("away"))
    for name in set(ArtefactClass) - set(gone):
        root(settings, name).parent.mkdir(parents=True, exist_ok=True)
        away = settings.keys.with_name("away") / "root" / f"{name}.key"
        root(settings, name).write_bytes(away.read_bytes())

    with pytest.raises(RootKeyUnusable, match="mounted"):
        prepare(settings)
    assert [name for name in ArtefactClass if not root(settings, name).exists()] == gone


def test_lost_root_keys_that_study_keys_are_wrapped_with_are_not_replaced(services, settings):
    make_study(services)  # no recording yet
    for name in ArtefactClass:
        root(settings, name).unlink()

    with pytest.raises(RootKeyUnusable, match="mounted"):
        create_root_keys(settings)


@pytest.mark.parametrize("killed", ["between two keys", "while writing a key"])
def test_a_first_start_that_was_killed_is_completed(settings, killed):
    kept = root(settings, ArtefactClass.IDENTIFIED).read_bytes()
    root(settings, ArtefactClass.LINKAGE).unlink()
    if killed == "while writing a key":
        root(settings, ArtefactClass.DEIDENTIFIED).write_bytes(b"")
    else:
        root(settings, ArtefactClass.DEIDENTIFIED).unlink()
    assert not has_root_keys(settings)

    assert create_root_keys(settings)
    assert root(settings, ArtefactClass.IDENTIFIED).read_bytes() == kept
    assert not open_vault(settings).sealed


def test_a_killed_first_start_with_a_passphrase_is_completed_with_the_same_one(
    services, settings, cheap_argon2
):
    for name in ArtefactClass:
        root(settings, name).unlink()
    create_root_keys(settings, PASSPHRASE)
    root(settings, ArtefactClass.LINKAGE).unlink()

    with pytest.raises(RootKeyUnusable, match="--passphrase"):
        create_root_keys(settings)
    with pytest.raises(WrongPassphrase):
        create_root_keys(settings, "another")
    assert create_root_keys(settings, PASSPHRASE)
    vault = open_vault(settings)
    assert vault.sealed
    reopened = type(services)(settings, services.engine, services.sessionmaker, vault)
    unseal(reopened, PASSPHRASE)
    assert not vault.sealed
