"""Rosters, vocabularies and other text files that commands read."""

import re
from pathlib import Path

from models.roster import RosterEntry, parse_roster
from service.errors import Misused, RosterNotReadable, VocabularyNotReadable

MAX_LIST_BYTES = 1 << 20  # Whisper's prompt holds about two hundred words of a vocabulary
FORMATS = (
    (rb"\s*\{\\rtf", "RTF (rich text)"),
    (rb"PK[\x03\x05\x07]", "a Word, Excel, OpenDocument or Pages document"),
    (rb"\xd0\xcf\x11\xe0", "an old Word or Excel document"),
    (rb"%PDF", "a PDF"),
    (rb"\s*(<!doctype html|<html|<\?xml)", "a web page or XML"),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff", "UTF-32"),
    (rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", "UTF-16"),
)
"""Formats that people save instead of plain text in UTF-8, by their first bytes."""
UTF_8_MARK = b"\xef\xbb\xbf"
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The terms: one on each line.

    Raises:
        VocabularyNotReadable
    """
    lines = (
        line.strip(" \t\xa0;,") for line in _read_lines(path, "vocabulary", VocabularyNotReadable)
    )
    return tuple(line for line in lines if line and line != "#" and not line.startswith("# "))


def read_roster(path: Path) -> tuple[RosterEntry, ...]:
    """The participants: each line of the file holds a code and a role.

    Raises:
        RosterNotReadable, BadRoster
    """
    return parse_roster(_read_lines(path, "roster", RosterNotReadable))


def _read_lines(path: Path, what: str, not_readable: type[Misused]) -> list[str]:
    return read_text(path, what, not_readable, MAX_LIST_BYTES).splitlines()


def read_text(path: Path, what: str, not_readable: type[Misused], max_bytes: int) -> str:
    """The content of a plain text file in UTF-8, with or without a byte order mark.

    Raises: `not_readable`
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise not_readable(f"The {what} file cannot be read ({error.strerror}).") from None
    if len(content) > max_bytes:
        raise not_readable(
            f"The {what} file is larger than {max_bytes >> 20} MiB; is it the right file?"
        )
    found = _other_format(content)
    if found is None:
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            found = "in another encoding than UTF-8"
    raise not_readable(f"The {what} file is {found}: save it as plain text, in UTF-8.")


def _other_format(content: bytes) -> str | None:
    """What a file is if it is not plain text."""
    content = content.removeprefix(UTF_8_MARK)
    for beginning, name in FORMATS:
        if re.match(beginning, content, re.IGNORECASE):
            return name
    return "not text" if CONTROLS.search(content) else None
