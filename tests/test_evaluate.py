from pathlib import Path

import pytest

from models.whisper_engine.engine import UnknownLanguage
from scripts.evaluate import options_of
from scripts.references import Entry


def entry(**options: str) -> Entry:
    return Entry(Path("INT-01.wav"), (Path("INT-01.stm"),), options)


@pytest.mark.parametrize("name", ["en", "EN", "English"])
def test_a_language_of_a_manifest_is_its_code(name):
    """Another spelling was measured with the normaliser of other languages than English."""
    assert options_of(entry(language=name)).language == "en"


def test_an_unknown_language_of_a_manifest_is_refused_before_anything_is_transcribed():
    with pytest.raises(UnknownLanguage):
        options_of(entry(language="klingon"))
