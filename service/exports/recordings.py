"""Finding the recordings of a transcript in a folder, by their content."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models.transcript import Source

Identify = Callable[[str], str | None]
"""Turns a file's SHA-256, in hex, into the keyed checksum that transcripts hold; None: unknown."""


@dataclass(frozen=True)
class Match:
    """`path`: the recording, or None. `others`: files of its size that are not it."""

    path: Path | None
    others: tuple[Path, ...] = ()


class RecordingFolder:
    """A folder in which recordings are looked up. Only files of the right size are read."""

    def __init__(self, folder: Path, identify: Identify) -> None:
        self._folder = folder
        self._identify = identify
        self._sha256: dict[Path, str | None] = {}

    def find(self, source: Source) -> Match:
        same_size = self._by_size.get(source.n_bytes, ())
        found = next((path for path in same_size if self._is(path, source)), None)
        return Match(found, () if found else tuple(same_size))

    def _is(self, path: Path, source: Source) -> bool:
        sha256 = self._read_sha256(path)
        if sha256 is None:
            return False
        if source.identity is None:  # written by an earlier version of batch mode
            return sha256 == source.sha256
        return self._identify(sha256) == source.identity

    def _read_sha256(self, path: Path) -> str | None:
        if path not in self._sha256:
            try:
                with path.open("rb") as file:
                    self._sha256[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                self._sha256[path] = None
        return self._sha256[path]

    @cached_property
    def _by_size(self) -> dict[int, list[Path]]:
        sizes: dict[int, list[Path]] = {}
        for path in sorted(self._folder.iterdir()):
            if path.is_file():
                sizes.setdefault(path.stat().st_size, []).append(path)
        return sizes
