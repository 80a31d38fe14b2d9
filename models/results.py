"""Serialises the results of the costly stages, so that an interrupted job resumes where it stopped.

Each result is a numpy .npz file: arrays as they are, everything else as JSON in one of them. They
hold what people said, so callers must encrypt them.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.diarisation.diarisation import Diarisation
from models.diarisation.segmentation import Segmentation
from models.stage_results import StageResults
from models.transcript import Turn, Word
from models.whisper_engine import DecodedWindow, LanguageGuess
from models.whisper_engine.word_times import Alignment
from models.windows import Window


def check_timeline(results: StageResults, n_seconds: float) -> None:
    """Discard stored results that belong to another timeline.

    With another number of speakers, channels that were split may be mixed, or the other way round:
    the timeline that the models see is then shorter or longer.
    """
    data = results.load("segment")
    if data is not None and abs(unpack_segmentation(data).audio_duration - n_seconds) >= 0.01:
        results.discard()


@dataclass(frozen=True)
class DecodedSession:
    """The decoded windows of one session."""

    language: str
    language_probability: float | None
    windows: tuple[DecodedWindow, ...]
    memory_ran_out: bool = False  # and batches were halved
    heard: LanguageGuess | None = None  # if the language was given


def pack_segmentation(segmentation: Segmentation) -> bytes:
    plain = {name: value for name, value in vars(segmentation).items() if name != "activity"}
    return _pack(plain, activity=segmentation.activity)


def unpack_segmentation(data: bytes) -> Segmentation:
    plain, arrays = _unpack(data)
    return Segmentation(activity=arrays["activity"], **plain)


def pack_decoded(decoded: DecodedSession) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    plain = asdict(decoded)
    for i, window in enumerate(plain["windows"]):
        if (aligned := window.pop("alignment")) is not None:
            arrays |= {f"{name}_{i}": value for name, value in aligned.items()}
    return _pack(plain, **arrays)


def unpack_decoded(data: bytes) -> DecodedSession:
    plain, arrays = _unpack(data)

    def window(i: int, plain: dict[str, Any]) -> DecodedWindow:
        aligned = None
        if f"times_{i}" in arrays:
            aligned = Alignment(arrays[f"times_{i}"], arrays[f"probabilities_{i}"])
        gap = plain.get("gap")
        own = {
            "window": Window(**plain["window"]),
            "tokens": tuple(plain["tokens"]),
            "gap": Window(**gap) if gap else None,
        }
        return DecodedWindow(**{**plain, **own}, alignment=aligned)

    windows = tuple(window(i, plain) for i, plain in enumerate(plain["windows"]))
    heard = plain.get("heard")
    return DecodedSession(
        plain["language"],
        plain["language_probability"],
        windows,
        plain["memory_ran_out"],
        LanguageGuess(**heard) if heard else None,
    )


def pack_words(words: Sequence[Word]) -> bytes:
    return _pack({"words": [asdict(word) for word in words]})


def unpack_words(data: bytes) -> tuple[Word, ...]:
    plain, _ = _unpack(data)
    return tuple(Word(**word) for word in plain["words"])


def pack_diarisation(diarisation: Diarisation) -> bytes:
    plain = {
        "turns": [asdict(turn) for turn in diarisation.turns],
        "exclusive_turns": [asdict(turn) for turn in diarisation.exclusive_turns],
        "sampled": diarisation.sampled,
        "warnings": diarisation.warnings,
        "speakers": list(diarisation.voices),
    }
    voices = np.stack([*diarisation.voices.values()]) if diarisation.voices else np.empty((0, 0))
    return _pack(plain, embeddings=diarisation.embeddings, voices=voices)


def unpack_diarisation(data: bytes) -> Diarisation:
    plain, arrays = _unpack(data)
    return Diarisation(
        turns=tuple(Turn(**turn) for turn in plain["turns"]),
        exclusive_turns=tuple(Turn(**turn) for turn in plain["exclusive_turns"]),
        embeddings=arrays["embeddings"],
        sampled=plain["sampled"],
        warnings=tuple(plain["warnings"]),
        # Results of earlier versions have no voices.
        voices=dict(zip(plain.get("speakers", ()), arrays.get("voices", ()), strict=True)),
    )


def _pack(plain: Mapping[str, Any], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    text = json.dumps(plain).encode()
    np.savez(file, plain=np.frombuffer(text, dtype=np.uint8), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("plain").tobytes()), arrays
