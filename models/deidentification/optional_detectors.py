"""Finds and loads the named-entity model that a command or a setting names."""

import importlib.util
from pathlib import Path

from models.deidentification.occurrences import Detector
from models.deidentification.spacy_model import (
    check_pipeline,
    find_installed_package,
    load_spacy,
)
from models.weights.catalogue import DEFAULT_SPACY, find_model, find_spacy, is_installed

NONE = "none"


def load_detectors(name: str | None, weights: Path) -> list[Detector]:
    """Load the model; none if `name` is "none", or if it is None and no model is installed.

    Raises:
        UnknownModel, ModelMissing, WeightsCorrupt, UnsafeCheckpoint.
    """
    if name == NONE:
        return []
    if name is None:
        path = find_default(weights)
        return [] if path is None else [load_spacy(path, DEFAULT_SPACY)]
    return [load_spacy(_find_named(name, weights))]


def _find_named(name: str, weights: Path) -> Path:
    package = None if "/" in name else find_installed_package(name)
    if package is not None and not is_installed(find_model(name, "spacy"), weights):
        return package
    return find_spacy(name, weights)


def check_detectors(name: str | None, weights: Path) -> None:
    """Check that the model that `load_detectors` would load is usable, without loading it.

    Raises:
        UnknownModel, ModelMissing, WeightsCorrupt, UnsafeCheckpoint.
    """
    if name == NONE or name is None:
        path = None if name == NONE else find_default(weights)
    else:
        path = _find_named(name, weights)
    if path is not None and path.is_dir():
        check_pipeline(path)


def find_default(weights: Path) -> Path | None:
    """The default pipeline: fetched with `fieldscribe models fetch`, or installed as a package."""
    if importlib.util.find_spec("spacy") is None:
        return None
    if is_installed(find_model(DEFAULT_SPACY, "spacy"), weights):
        return find_spacy(DEFAULT_SPACY, weights)
    return find_installed_package(DEFAULT_SPACY)
