"""The roster of a study as CSV: kind, code, name, aliases, and what else the service stores."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from models.deidentification.errors import BadEntityRoster
from models.deidentification.pseudonyms import is_entity_code
from models.deidentification.reading import MAX_ENTITIES, MAX_NAME
from models.speaker_names import is_code, is_pseudonym

COLUMNS = ("kind", "code", "name", "aliases", "always", "descriptor", "chosen_name")
REQUIRED = ("kind", "name")
KINDS = ("person", "participant", "interviewer", "organisation", "place", "other", "allowed")
SPELLINGS = {"organization": "organisation", "org": "organisation", "moderator": "interviewer"}
MAX_ALIASES = 100
MAX_DESCRIPTOR = 60  # characters
YES = ("yes", "y", "true", "1", "always", "x")


@dataclass(frozen=True)
class RosterRow:
    """A line of the roster. The first name is the main one.

    `code` is the pseudonym, which for people in sessions is their code there. `number`: of the
    entry, from 1. `chosen_name`: stands in releases in place of the code.
    """

    number: int
    kind: str
    code: str | None
    names: tuple[str, ...]
    always: bool = False
    descriptor: str | None = None
    chosen_name: str | None = None


def parse_study_roster(text: str) -> list[RosterRow]:
    """Read a roster; commas, semicolons or tabs separate its columns, as the first line says.

    Raises:
        BadEntityRoster: with the number of the entry, without its content.
    """
    text = text.removeprefix("\ufeff")
    first = text.lstrip().partition("\n")[0]
    separator = next((mark for mark in ",\t;" if mark in first), ",")
    try:
        rows = list(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator))
    except csv.Error:
        raise BadEntityRoster("The roster is not a CSV file: save it as CSV, in UTF-8.") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if any(name not in header for name in REQUIRED):
        raise BadEntityRoster(
            f"The roster's first line must name its columns: {','.join(COLUMNS[:4])}."
        )
    filled = [
        (number, dict(zip(header, row, strict=False)))
        for number, row in enumerate(rows[1:], 1)
        if any(cell.strip() for cell in row)
    ]
    if len(filled) > MAX_ENTITIES:
        raise BadEntityRoster(f"The roster has more than {MAX_ENTITIES} entries.")
    return [_read_row(number, row) for number, row in filled]


def _read_row(number: int, row: Mapping[str, str]) -> RosterRow:
    names = [row.get("name", ""), *row.get("aliases", "").split(";")]
    if not names[0].strip():
        raise BadEntityRoster(f"Entry {number} of the roster has no name.")
    return check_row(
        RosterRow(
            number,
            row.get("kind", "").strip().lower(),
            row.get("code", "").strip() or None,
            tuple(names),
            row.get("always", "").strip().lower() in YES,
            row.get("descriptor", "").strip() or None,
            row.get("chosen_name", "").strip() or None,
        )
    )


def check_row(row: RosterRow) -> RosterRow:
    """Return an entry with tidy names, without empty ones.

    Raises:
        BadEntityRoster
    """
    entry = f"Entry {row.number} of the roster"
    kind = SPELLINGS.get(row.kind, row.kind)
    if kind not in KINDS:
        raise BadEntityRoster(f"{entry}: the kind must be one of {', '.join(KINDS)}.")
    names = tuple(dict.fromkeys(name for name in map(tidy, row.names) if name))
    if not names:
        raise BadEntityRoster(f"{entry} has no name.")
    if len(names) > MAX_ALIASES or any(len(name) > MAX_NAME for name in names):
        raise BadEntityRoster(
            f"{entry}: it has more than {MAX_ALIASES} names, or one is longer than {MAX_NAME} "
            "characters."
        )
    if any(unicodedata.category(c) in ("Cc", "Cs") for name in names for c in name):
        raise BadEntityRoster(f"{entry}: a name contains control characters.")
    if row.code is not None and not is_valid_pseudonym(row.code):
        raise BadEntityRoster(f"{entry}: the code must look like P07, I1 or PLACE-1.")
    if row.descriptor is not None and not is_descriptor(row.descriptor):
        raise BadEntityRoster(
            f"{entry}: a descriptor is at most {MAX_DESCRIPTOR} letters, digits, spaces and ,.'-"
        )
    if row.chosen_name is not None and not is_pseudonym(row.chosen_name):
        raise BadEntityRoster(
            f"{entry}: a chosen name consists of letters, digits, spaces and .'- only."
        )
    return replace(row, kind=kind, names=names)


def tidy(name: str) -> str:
    """Return a name in Unicode NFC, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def is_valid_pseudonym(text: str) -> bool:
    """Return whether a text is a code, such as P07 or PLACE-1. No real name is one."""
    return is_entity_code(text) or is_code(text)


def is_descriptor(text: str) -> bool:
    """Return whether a text can stand in brackets behind a code: `regional town`."""
    return 0 < len(text) <= MAX_DESCRIPTOR and all(
        unicodedata.category(c)[0] in "LMN" or c in " ,.'’-" for c in text
    )


def format_study_roster(rows: Iterable[RosterRow]) -> str:
    """Return the CSV that `parse_study_roster` reads. A semicolon in a name becomes a comma."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        name, *aliases = (name.replace(";", ",") for name in row.names)
        always = "yes" if row.always else ""
        more = (row.descriptor or "", row.chosen_name or "")
        writer.writerow((row.kind, row.code or "", name, ";".join(aliases), always, *more))
    return file.getvalue()
