"""Participants of a study as a list: a CSV file, and combinations of attributes that few share."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations

from models.deidentification.reading import MAX_NAME
from models.deidentification.study_roster import MAX_ALIASES, tidy
from models.errors import BadParticipants
from models.speaker_names import is_code

SCOPES = ("recording", "transcription", "quotation", "sharing", "future_use", "recontact")
COLUMNS = (
    "code",
    "name",
    "aliases",
    "contact",
    "sessions",
    "consent_version",
    "consent_date",
    "consent_scopes",
)
MAX_PARTICIPANTS = 2000
MAX_VALUE = 200  # characters
SMALL_CELL = 5  # people; a combination of attributes with fewer is reported


@dataclass(frozen=True)
class GivenConsent:
    sheet_version: str
    given_on: date
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class ParticipantRow:
    """A line of the list. `number`: of the entry, from 1. The first name is the main one."""

    number: int
    code: str
    names: tuple[str, ...] = ()
    contacts: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    consent: GivenConsent | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def parse_participants(text: str, attributes: Sequence[str]) -> list[ParticipantRow]:
    """Read a list of participants; commas, semicolons or tabs separate its columns.

    Args:
        attributes: the study's, each of which may be a column.

    Raises:
        BadParticipants: with the number of the entry, without its content.
    """
    text = text.removeprefix("\ufeff").lstrip()
    first = text.partition("\n")[0]
    separator = next((mark for mark in "\t;," if mark in first), ",")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error:
        raise BadParticipants("The list is not a CSV file: save it as CSV, in UTF-8.") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    _check_header(header, attributes)
    filled = [
        (number, {key: cell.strip() for key, cell in zip(header, row, strict=False)})
        for number, row in enumerate(rows[1:], 1)
        if any(cell.strip() for cell in row)
    ]
    if len(filled) > MAX_PARTICIPANTS:
        raise BadParticipants(f"The list has more than {MAX_PARTICIPANTS} entries.")
    read = [_read_row(number, row, attributes) for number, row in filled]
    _refuse_duplicates(read)
    return read


def _check_header(header: Sequence[str], attributes: Sequence[str]) -> None:
    if "code" not in header:
        raise BadParticipants(
            "The first line of the list must name its columns, of which one is code."
        )
    if len(set(header) - {""}) < len([name for name in header if name]):
        raise BadParticipants("The list has two columns with one name.")
    unknown = [i for i, name in enumerate(header, 1) if name not in (*COLUMNS, *attributes, "")]
    if unknown:
        known = ", ".join((*COLUMNS, *attributes))
        raise BadParticipants(
            f"Column {unknown[0]} of the list is unknown; known are {known}. Define attributes "
            "first: fieldscribe study set CODE --attribute NAME."
        )


def _refuse_duplicates(rows: Iterable[ParticipantRow]) -> None:
    for code, n in Counter(row.code for row in rows).items():
        if n > 1:
            raise BadParticipants(f"{code} is in the list twice.")


def _read_row(number: int, row: Mapping[str, str], attributes: Sequence[str]) -> ParticipantRow:
    entry = f"Entry {number} of the list"
    code = row.get("code", "")
    if not is_code(code):
        raise BadParticipants(f"{entry}: the code must look like P07.")
    names = [tidy(name) for name in (row.get("name", ""), *row.get("aliases", "").split(";"))]
    made = ParticipantRow(
        number,
        code,
        tuple(dict.fromkeys(filter(None, names))),
        tuple(filter(None, map(tidy, row.get("contact", "").split(";")))),
        tuple(filter(None, map(str.strip, row.get("sessions", "").split(";")))),
        _read_consent(entry, row),
        {name: row[name] for name in attributes if row.get(name)},
    )
    values = (*made.contacts, *made.attributes.values())
    if len(made.names) > MAX_ALIASES or any(len(name) > MAX_NAME for name in made.names):
        raise BadParticipants(f"{entry}: it has too many names, or one is too long.")
    if any(len(value) > MAX_VALUE or not value.isprintable() for value in values):
        raise BadParticipants(
            f"{entry}: a contact or an attribute is longer than {MAX_VALUE} characters, or cannot "
            "be printed."
        )
    return made


def _read_consent(entry: str, row: Mapping[str, str]) -> GivenConsent | None:
    version, given_on, scopes = (
        row.get(f"consent_{name}", "") for name in ("version", "date", "scopes")
    )
    if not (version or given_on or scopes):
        return None
    if not (version and given_on and scopes):
        raise BadParticipants(f"{entry}: a consent needs its version, its date and its scopes.")
    listed = SCOPES if scopes == "all" else tuple(map(str.strip, scopes.split(";")))
    if not set(listed) <= set(SCOPES):
        raise BadParticipants(f"{entry}: the scopes are {', '.join(SCOPES)}, or all.")
    if not is_sheet_version(version):
        raise BadParticipants(
            f"{entry}: a version of an information sheet is at most 20 letters, digits, . and -"
        )
    try:
        day = date.fromisoformat(given_on)
    except ValueError:
        raise BadParticipants(f"{entry}: write the date as 2031-01-07.") from None
    return GivenConsent(version, day, tuple(scope for scope in SCOPES if scope in listed))


def is_sheet_version(text: str) -> bool:
    """Whether a text can be the version of an information sheet: no name fits."""
    return 0 < len(text) <= 20 and all(c.isascii() and (c.isalnum() or c in ".-") for c in text)


@dataclass(frozen=True)
class SmallCell:
    """A combination of attributes that `n` people share, fewer than `SMALL_CELL`."""

    values: tuple[tuple[str, str], ...]
    n: int


def small_cells(people: Sequence[Mapping[str, str]]) -> list[SmallCell]:
    """The combinations of one, two or three attributes that few people share, fewest first.

    A combination is left out if a part of it is shared by no more people: it adds nothing.
    """
    counts: Counter[tuple[tuple[str, str], ...]] = Counter()
    for person in people:
        values = sorted((name, value.casefold()) for name, value in person.items())
        for size in (1, 2, 3):
            counts.update(combinations(values, size))
    small = {values: n for values, n in counts.items() if n < SMALL_CELL}
    written = {
        (name, value.casefold()): value for person in people for name, value in person.items()
    }

    def adds_something(values: tuple[tuple[str, str], ...]) -> bool:
        parts = [part for size in range(1, len(values)) for part in combinations(values, size)]
        return all(counts[part] > counts[values] for part in parts)

    cells = [
        SmallCell(tuple((name, written[name, value]) for name, value in values), n)
        for values, n in small.items()
        if adds_something(values)
    ]
    return sorted(cells, key=lambda cell: (cell.n, len(cell.values), cell.values))
