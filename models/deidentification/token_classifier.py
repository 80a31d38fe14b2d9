"""A token classifier of Hugging Face's transformers as a detector, from a local folder.

It is read as data: only safetensors, and no code of the folder's own. Nothing is looked up on the
Hub.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from models.deidentification.foreign_labels import PREFIX, label_of
from models.deidentification.occurrences import Span
from models.environment import set_library_variables
from models.pyannote_guard import stub_torchaudio_extension
from models.weights.errors import (
    ModelMissing,
    UnsafeCheckpoint,
    UnsupportedCheckpoint,
    WeightsCorrupt,
)

MAX_TOKENS = 512  # of a window; most of these models know no more positions
STRIDE = 64  # tokens that two windows share
WINDOWS_AT_ONCE = 8
THRESHOLD = 0.3  # of the mean probability; low, because a person decides


class TokenClassifier:
    """Loaded once; `find` may be called any number of times."""

    finds_names = True

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._labels = {int(i): str(label) for i, label in model.config.id2label.items()}
        positions = getattr(model.config, "max_position_embeddings", MAX_TOKENS)
        self._max_tokens = min(MAX_TOKENS, positions, tokenizer.model_max_length)

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        return [list(self._find(text)) if text.strip() else [] for text in texts]

    def _find(self, text: str) -> Iterator[Span]:
        group: list[tuple[int, int, float]] = []
        label: str | None = None
        for start, end, name, probability in self._classify(text):
            ours = label_of(name)
            begins = PREFIX.match(name.upper()) is not None and name[:1].upper() in "BSU"
            is_new_word = not group or text[group[-1][1] : start].strip(" ") != "" or begins
            continues_word = bool(group) and start == group[-1][1]
            if group and (ours != label or (is_new_word and not continues_word)):
                yield from self._span(group, label)
                group = []
            if ours is not None:
                label = ours
                group.append((start, end, probability))
        if group:
            yield from self._span(group, label)

    def _span(self, group: Sequence[tuple[int, int, float]], label: str | None) -> Iterator[Span]:
        score = sum(probability for _, _, probability in group) / len(group)
        if label is not None and score >= THRESHOLD:
            yield Span(group[0][0], group[-1][1], label, 0.5, "unsure", "token_classifier")

    def _classify(self, text: str) -> list[tuple[int, int, str, float]]:
        """Each token's characters [start, end), its most probable label and the probability.

        A token in two windows counts in the one in which it has more context.
        """
        import torch

        windows = self._tokenizer(
            text,
            max_length=self._max_tokens,
            stride=min(STRIDE, self._max_tokens // 4),
            truncation=True,
            padding=True,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = windows.pop("offset_mapping").tolist()
        windows.pop("overflow_to_sample_mapping", None)
        best: dict[tuple[int, int], tuple[int, int, float]] = {}
        for first in range(0, len(offsets), WINDOWS_AT_ONCE):
            batch = {name: rows[first : first + WINDOWS_AT_ONCE] for name, rows in windows.items()}
            with torch.inference_mode():
                probabilities = self._model(**batch).logits.softmax(dim=-1)
            highest, labels = probabilities.max(dim=-1)
            for row, spans in enumerate(offsets[first : first + WINDOWS_AT_ONCE]):
                for i, (start, end) in enumerate(spans):
                    if start == end:  # a token that stands for no text
                        continue
                    context = min(i, len(spans) - 1 - i)
                    if context > best.get((start, end), (-1, 0, 0.0))[0]:
                        found = (context, int(labels[row, i]), float(highest[row, i]))
                        best[start, end] = found
        return [
            (start, end, self._labels[label], probability)
            for (start, end), (_, label, probability) in sorted(best.items())
        ]


def load_token_classifier(folder: Path) -> TokenClassifier:
    """
    Raises:
        ModelMissing, UnsafeCheckpoint, UnsupportedCheckpoint, WeightsCorrupt
    """
    check_token_classifier(folder)
    set_library_variables()
    try:
        from safetensors import SafetensorError

        stub_torchaudio_extension()  # transformers imports torchaudio if it is installed
        import transformers
    except ImportError:
        raise ModelMissing(
            "transformers is not installed: run `pip install transformers` beside Fieldscribe's"
            " worker packages."
        ) from None
    try:
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, **local)
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, use_safetensors=True, **local
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise WeightsCorrupt("The token classifier cannot be read: fetch it again.") from error
    if not tokenizer.is_fast:
        raise UnsupportedCheckpoint("The token classifier's tokenizer.json is missing.")
    return TokenClassifier(model.eval(), tokenizer, folder.name)


def check_token_classifier(folder: Path) -> None:
    """Check that a folder holds a token classifier without code of its own.

    Raises:
        ModelMissing, UnsafeCheckpoint, UnsupportedCheckpoint, WeightsCorrupt
    """
    config = read_config(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in read_config(folder / name):
            raise UnsafeCheckpoint("The model needs code of its own: choose another one.")
    require_safetensors(folder)
    labels = config.get("id2label")
    if not isinstance(labels, dict) or not any(label_of(str(each)) for each in labels.values()):
        raise UnsupportedCheckpoint(
            "The model has no labels of people, places or other identifiers: choose another one."
        )


def read_config(path: Path) -> dict[str, Any]:
    """
    Raises:
        ModelMissing, WeightsCorrupt
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelMissing("There is no such model at the given path: check the path.") from None
    except (OSError, ValueError) as error:
        raise WeightsCorrupt(f"The model's {path.name} cannot be read.") from error
    if not isinstance(config, dict):
        raise WeightsCorrupt(f"The model's {path.name} cannot be read.")
    return config


def require_safetensors(folder: Path) -> None:
    """
    Raises:
        UnsafeCheckpoint: the weights are in no format that cannot run code.
    """
    if not any(folder.glob("*.safetensors")):
        raise UnsafeCheckpoint(
            "The model's weights are not in safetensors, and other formats can run code: choose a"
            " release with safetensors."
        )
