"""A GLiNER model as a detector, from a local folder. It looks for whatever labels it is given."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.deidentification.foreign_labels import label_of
from models.deidentification.occurrences import Span
from models.deidentification.token_classifier import read_config, require_safetensors
from models.environment import set_library_variables
from models.pyannote_guard import stub_torchaudio_extension
from models.weights.errors import ModelMissing, WeightsCorrupt

ASKED = (
    "person",
    "nickname",
    "city",
    "suburb",
    "landmark",
    "organization",
    "hospital",
    "school",
    "street address",
    "date",
    "age",
    "phone number",
    "email",
    "medical record number",
    "username",
)
THRESHOLD = 0.3  # low, because a person decides
WINDOW = 200  # words; most of these models know 384
STEP = 160  # words, so that windows share 40
BATCH = 8


class GlinerDetector:
    """Loaded once; `find` may be called any number of times."""

    finds_names = True

    def __init__(self, model: Any, name: str) -> None:
        self.name = name
        self._model = model

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        windows = [
            (i, start, part) for i, text in enumerate(texts) for start, part in cut_windows(text)
        ]
        found: list[dict[tuple[int, int], Span]] = [{} for _ in texts]
        for first in range(0, len(windows), BATCH):
            batch = windows[first : first + BATCH]
            answers = self._model.inference(
                [part for _, _, part in batch], list(ASKED), threshold=THRESHOLD, batch_size=BATCH
            )
            for (i, start, _), entities in zip(batch, answers, strict=True):
                for entity in entities:
                    label = label_of(str(entity["label"]))
                    place = (start + int(entity["start"]), start + int(entity["end"]))
                    if label is not None:
                        found[i][place] = Span(*place, label, 0.5, "unsure", "gliner")
        return [sorted(spans.values(), key=lambda span: span.start) for spans in found]


def cut_windows(text: str) -> Iterator[tuple[int, str]]:
    """Yield overlapping parts of a text, each with its first character's place."""
    starts, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        starts.append(at)
        at += len(word)
    for first in range(0, len(starts), STEP):
        after = first + WINDOW
        end = starts[after] if after < len(starts) else len(text)
        yield starts[first], text[starts[first] : end]
        if after >= len(starts):
            return


def load_gliner(folder: Path) -> GlinerDetector:
    """
    Raises:
        ModelMissing, UnsafeCheckpoint, WeightsCorrupt
    """
    check_gliner(folder)
    set_library_variables()
    try:
        from safetensors import SafetensorError

        stub_torchaudio_extension()  # transformers imports torchaudio if it is installed
        import gliner
    except ImportError:
        raise ModelMissing("GLiNER is not installed: run `pip install gliner`.") from None
    try:
        model = gliner.GLiNER.from_pretrained(
            str(folder), local_files_only=True, map_location="cpu", load_tokenizer=True
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsCorrupt(
            "The GLiNER model cannot be read. Its folder must hold the tokenizer and, in"
            " gliner_config.json, the encoder's configuration, because nothing is downloaded."
        ) from error
    return GlinerDetector(model.eval(), folder.name)


def check_gliner(folder: Path) -> None:
    """
    Raises:
        ModelMissing, UnsafeCheckpoint, WeightsCorrupt
    """
    read_config(folder / "gliner_config.json")
    require_safetensors(folder)
