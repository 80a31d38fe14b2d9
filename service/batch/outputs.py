"""The files of a transcript in batch mode, and changes that people have made to them.

The JSON records the checksum of every file that was written with it. A file that a person has
changed since is never overwritten: the new one gets another name.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from models.speaker_names import show_names
from models.transcript import Transcript
from models.transcript_json import from_json, to_json
from service.exports import SPECS, Format, Label, render
from service.exports.files import write_all_whole

MARK = "identified"  # part of every name: INT-07.identified.txt
JSON = SPECS[Format.JSON].extension
OWN_CHECKSUM = re.compile(rf'"{JSON}": "([0-9a-f]{{64}})"')
UNKNOWN_CHECKSUM = "0" * 64  # stands for the JSON's own while that is computed


@dataclass(frozen=True)
class Kept:
    """A file that a person has changed, and the name of the new one."""

    kept: Path
    written: Path


@dataclass(frozen=True)
class Outputs:
    paths: tuple[Path, ...]
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Earlier:
    """A transcript that was written before. `changed`: a person edited its file or its names."""

    transcript: Transcript
    changed: bool


def read_earlier(path: Path) -> Earlier | None:
    """Read the JSON of an earlier run; None if there is none, or if it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        transcript = from_json(text)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Earlier(transcript, transcript.version > 1 or _is_edited(text))


def _is_edited(text: str) -> bool:
    """Return whether a JSON was edited; False for earlier releases, which have no checksum."""
    match = OWN_CHECKSUM.search(text)
    return match is not None and _checksum(_without_own_checksum(text).encode()) != match[1]


def _without_own_checksum(text: str) -> str:
    return OWN_CHECKSUM.sub(f'"{JSON}": "{UNKNOWN_CHECKSUM}"', text)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_outputs(
    transcript: Transcript,
    base: Path,
    formats: Sequence[Format],
    label: Label,
    *,
    earlier: Earlier | None = None,
    missing_only: bool = False,
) -> Outputs:
    """Write a transcript's JSON and other formats, or none of them if one fails.

    Args:
        base: the paths without their extensions.
        earlier: what the JSON at `base` holds.
        missing_only: leave formats alone that there are files of.

    Raises:
        OSError
    """
    known = earlier.transcript.written if earlier else {}
    checksums, contents, paths, kept = dict(known), dict[Path, bytes](), list[Path](), list[Kept]()
    shown = show_names(transcript)
    for format in (each for each in formats if each != Format.JSON):
        extension = SPECS[format].extension
        path = next(_names(base, extension))
        if missing_only and path.exists():
            paths.append(path)
            continue
        free = next(p for p in _names(base, extension) if _is_ours(p, known.get(extension)))
        if free != path:
            kept.append(Kept(path, free))
        contents[free] = content = render(shown, format, replace(label, roles=shown.roles))
        checksums[extension] = _checksum(content)
        paths.append(free)
    json_path = next(_names(base, JSON))
    edited = earlier is not None and missing_only and earlier.changed and transcript.version == 1
    if (contents or not missing_only) and not edited:
        written = {**checksums, JSON: UNKNOWN_CHECKSUM}
        text = to_json(replace(transcript, written=written))
        own = f'"{JSON}": "{_checksum(text.encode())}"'
        contents[json_path] = OWN_CHECKSUM.sub(own, text).encode()  # last: the others exist by then
    write_all_whole(contents)
    return Outputs((*paths, json_path), tuple(kept))


def _names(base: Path, extension: str) -> Iterator[Path]:
    """Yield `INT-07.identified.txt`, `INT-07.identified-2.txt` and so on."""
    for number in count(1):
        suffix = "" if number == 1 else f"-{number}"
        yield base.with_name(f"{base.name}{suffix}.{extension}")


def _is_ours(path: Path, checksum: str | None) -> bool:
    """Return whether a file can be written: it does not exist, or nobody has edited it."""
    try:
        return _checksum(path.read_bytes()) == checksum
    except FileNotFoundError:
        return True
