"""Settings are read in one place and refused when they are invalid."""

import re
from pathlib import Path

import pytest

from service.settings import BadSettings, Settings, read_settings, refuse_unknown


def test_a_misspelt_variable_stops_the_start(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_PROT", "1")

    with pytest.raises(BadSettings, match="FIELDSCRIBE_PROT"):
        read_settings()


def test_arguments_override_the_environment(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_PORT", "1")

    assert read_settings(port=2, host=None).port == 2


def test_the_keys_folder_must_not_be_inside_the_data_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "data")

    with pytest.raises(BadSettings, match="keys"):
        read_settings(data=tmp_path / "data", keys=tmp_path / "link" / "keys")


def test_other_machines_can_connect_only_with_a_certificate_or_through_a_proxy():
    with pytest.raises(BadSettings):
        read_settings(host="0.0.0.0")
    assert read_settings(host="0.0.0.0", behind_proxy=True)


def test_contradictory_settings_are_explained_in_a_sentence(tmp_path):
    """The message began with pydantic's ": Value error, " and named no setting."""
    with pytest.raises(BadSettings, match="^the keys folder must not be inside the data folder$"):
        read_settings(data=tmp_path, keys=tmp_path / "keys")


def test_an_invalid_value_is_reported_with_its_setting():
    with pytest.raises(BadSettings, match="^port: "):
        read_settings(port=-1)


def test_an_error_does_not_quote_a_password(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_DATABASE_URL", "postgresql://me:s3cret@db/x")
    monkeypatch.setenv("FIELDSCRIBE_PORT", "s3cret")

    with pytest.raises(BadSettings) as caught:
        read_settings()
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(Settings.model_construct())


def test_a_child_process_has_the_same_settings(tmp_path, monkeypatch):
    settings = read_settings(
        data=tmp_path, database_url="postgresql://me:pw@/x", port=7, behind_proxy=True
    )
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)

    assert read_settings() == settings
    refuse_unknown(settings.as_environment())


def test_every_setting_is_documented():
    docs = "\n".join(path.read_text() for path in Path(__file__).parent.parent.glob("docs/**/*.md"))

    for name, field in Settings.model_fields.items():
        assert field.description
        assert re.search(rf"`FIELDSCRIBE_{name.upper()}`", docs), name
