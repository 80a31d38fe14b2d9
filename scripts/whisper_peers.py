"""openai-whisper and faster-whisper with our weights, for `scripts/evaluate --peers`.

Each transcribes a whole recording as its users do. A text is kept in the cache, by the checksums of
recording and weights, and is made once.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from models.weights.catalogue import WhisperWeights
from models.weights.whisper import load_whisper
from scripts.whisper_contestants import save_for_ctranslate2

EVERY_TEMPERATURE = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How whisper's tokenizer splits text. Source: whisper/tokenizer.py, `get_encoding`."""

PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "faster-whisper, greedy": ("faster-whisper", {"beam_size": 1}),
    "faster-whisper, greedy, no context": (
        "faster-whisper",
        {"beam_size": 1, "condition_on_previous_text": False},
    ),
    "faster-whisper": ("faster-whisper", {}),  # as it comes: five beams, previous text as context
    "faster-whisper, no context": ("faster-whisper", {"condition_on_previous_text": False}),
    "faster-whisper, in batches": ("faster-whisper batches", {}),  # windows of its speech detector
    "openai-whisper": ("openai-whisper", {}),  # `transcribe` as it comes: greedy
    "openai-whisper, its command": (
        "openai-whisper",
        {"beam_size": 5, "best_of": 5, "temperature": EVERY_TEMPERATURE},
    ),
}
"""The package, or a part of it, and the options of each peer."""


@dataclass(frozen=True)
class PeerText:
    """What a peer wrote for a recording."""

    text: str
    seconds: float  # of processing, on the machine that made it
    version: str


class Peers:
    """The peers with one model's weights, loaded when a text is not in the cache.

    Args:
        cache: the folder for texts, and for the weights in CTranslate2's format.
        threads: for faster-whisper; openai-whisper uses torch's.
    """

    def __init__(self, weights: WhisperWeights, cache: Path, threads: int) -> None:
        self.weights, self.cache, self.threads = weights, cache, threads

    def transcribe(self, peer: str, audio: Path, language: str | None) -> PeerText:
        """
        Args:
            peer: one of PEERS.
            language: None: detected by the peer.
        """
        part, options = PEERS[peer]
        package = part.split()[0]
        key = [peer, options, version(package), self.weights.sha256, language, _checksum(audio)]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        path = self.cache / "texts" / f"{digest}.json"
        if path.is_file():
            return PeerText(**json.loads(path.read_text()))
        made = {
            "openai-whisper": self._openai,
            "faster-whisper": self._faster,
            "faster-whisper batches": self._faster_in_batches,
        }[part]
        started = time.perf_counter()
        text = made(audio, language, options)
        found = PeerText(text, round(time.perf_counter() - started, 2), version(package))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(found)))
        return found

    def _openai(self, audio: Path, language: str | None, options: dict[str, Any]) -> str:
        torch.manual_seed(0)  # higher temperatures sample
        whisper = self._openai_model
        found = whisper.transcribe(str(audio), language=language, fp16=False, **options)
        return str(found["text"])

    def _faster(self, audio: Path, language: str | None, options: dict[str, Any]) -> str:
        segments, _ = self._faster_model.transcribe(str(audio), language=language, **options)
        return " ".join(segment.text.strip() for segment in segments)

    def _faster_in_batches(self, audio: Path, language: str | None, options: dict[str, Any]) -> str:
        from faster_whisper import BatchedInferencePipeline

        batched = BatchedInferencePipeline(model=self._faster_model)
        segments, _ = batched.transcribe(str(audio), language=language, **options)
        return " ".join(segment.text.strip() for segment in segments)

    @cached_property
    def _openai_model(self) -> Any:
        return load_whisper(self.weights)

    @cached_property
    def _faster_model(self) -> Any:
        from faster_whisper import WhisperModel

        folder = self.cache / f"{self.weights.sha256}.ct2"
        if not folder.is_dir():
            convert(self._openai_model, folder)
        return WhisperModel(
            str(folder), device="cpu", compute_type="float32", cpu_threads=self.threads
        )


def convert(whisper: Any, folder: Path) -> None:
    """Write the weights and their tokenizer as faster-whisper reads them."""
    from whisper.tokenizer import get_tokenizer

    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    tokenizer = get_tokenizer(whisper.is_multilingual, num_languages=whisper.num_languages)
    converted = _convert_tokenizer(tokenizer)
    converted.save(str(partial / "tokenizer.json"))
    vocabulary = [converted.id_to_token(i) for i in range(whisper.dims.n_vocab)]
    save_for_ctranslate2(whisper, tokenizer, str(partial), vocabulary)
    partial.rename(folder)


def _convert_tokenizer(tokenizer: Any) -> Any:
    import whisper.tokenizer
    from transformers.convert_slow_tokenizer import TikTokenConverter

    assets = Path(whisper.tokenizer.__file__).parent / "assets"
    special = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    converter = TikTokenConverter(  # type: ignore[no-untyped-call]
        str(assets / tokenizer.encoding.name),
        pattern=PATTERN,
        extra_special_tokens=special,
    )
    converted = converter.converted()
    assert all(converted.token_to_id(name) == tokenizer.special_tokens[name] for name in special)
    return converted


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
