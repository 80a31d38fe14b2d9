"""Finds and loads the detectors that a command or a setting names, besides the rules.

    en_core_web_sm, FOLDER      a spaCy pipeline
    hf:FOLDER                   a token classifier of Hugging Face's transformers
    gliner:FOLDER               a GLiNER model
    presidio                    Presidio's recognisers, without a model
    none                        rules alone

Several are separated by commas. Each needs its library, and weights that are on this machine:
nothing is downloaded. A detector returns spans and nothing else, so a language model behind this
interface can propose spans but never rewrite a text.
"""

import importlib.util
from pathlib import Path

from models.deidentification.gliner_model import check_gliner, load_gliner
from models.deidentification.occurrences import Detector
from models.deidentification.presidio import check_presidio, load_presidio
from models.deidentification.spacy_model import (
    check_pipeline,
    find_installed_package,
    load_spacy,
)
from models.deidentification.token_classifier import check_token_classifier, load_token_classifier
from models.weights.catalogue import DEFAULT_SPACY, find_model, find_spacy, is_installed

NONE = "none"
PRESIDIO = "presidio"
HUGGING_FACE, GLINER = "hf:", "gliner:"


def load_detectors(names: str | None, weights: Path) -> list[Detector]:
    """Load the named detectors; the default spaCy pipeline, if it is installed, for None.

    Raises:
        UnknownModel, ModelMissing, WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint.
    """
    if names is None:
        path = find_default(weights)
        return [] if path is None else [load_spacy(path, DEFAULT_SPACY)]
    return [_load(name, weights) for name in _split(names)]


def _split(names: str) -> list[str]:
    every = (name.strip() for name in names.split(","))
    return [name for name in every if name and name != NONE]


def _load(name: str, weights: Path) -> Detector:
    if name == PRESIDIO:
        return load_presidio()
    if name.startswith(HUGGING_FACE):
        return load_token_classifier(Path(name.removeprefix(HUGGING_FACE)))
    if name.startswith(GLINER):
        return load_gliner(Path(name.removeprefix(GLINER)))
    return load_spacy(_find_pipeline(name, weights))


def _find_pipeline(name: str, weights: Path) -> Path:
    package = None if "/" in name else find_installed_package(name)
    if package is not None and not is_installed(find_model(name, "spacy"), weights):
        return package
    return find_spacy(name, weights)


def check_detectors(names: str | None, weights: Path) -> None:
    """Check that the detectors that `load_detectors` would load are usable, without loading them.

    Raises:
        UnknownModel, ModelMissing, WeightsCorrupt, UnsafeCheckpoint, UnsupportedCheckpoint.
    """
    if names is None:
        _check_pipeline(find_default(weights))
        return
    for name in _split(names):
        if name == PRESIDIO:
            check_presidio()
        elif name.startswith(HUGGING_FACE):
            check_token_classifier(Path(name.removeprefix(HUGGING_FACE)))
        elif name.startswith(GLINER):
            check_gliner(Path(name.removeprefix(GLINER)))
        else:
            _check_pipeline(_find_pipeline(name, weights))


def _check_pipeline(path: Path | None) -> None:
    if path is not None and path.is_dir():
        check_pipeline(path)


def find_default(weights: Path) -> Path | None:
    """The default pipeline: fetched with `fieldscribe models fetch`, or installed as a package."""
    if importlib.util.find_spec("spacy") is None:
        return None
    if is_installed(find_model(DEFAULT_SPACY, "spacy"), weights):
        return find_spacy(DEFAULT_SPACY, weights)
    return find_installed_package(DEFAULT_SPACY)
