"""The roster of a session: the people who were there, by code and role."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import BadRoster

MAX_ROSTER = 12
MAX_CHARACTERS = 40
OBSERVER = "observer"  # the only role that may stay silent
BLANK = " \t\r\n\xa0;,"  # around a line: a spreadsheet writes its empty cells too
TITLES = ("code", "role")


@dataclass(frozen=True)
class RosterEntry:
    """One person of a session. A researcher decides which speaker of the transcript this is.

    `role`: moderator, interviewer, participant, interpreter, ...
    """

    code: str
    role: str


def parse_roster(lines: Sequence[str]) -> tuple[RosterEntry, ...]:
    """Read a roster's lines, even if they were pasted or exported from a spreadsheet.

    Code and role are separated by a tab, a semicolon, a comma or spaces. Empty cells, empty lines,
    lines that begin with `#` and a first line of titles, such as `Code;Role`, are left out.

    Raises:
        BadRoster
    """
    lines = [line for line in lines if line.strip(BLANK) and not line.lstrip().startswith("#")]
    entries = [parse_line(line) for line in lines]
    if entries and (entries[0].code.lower(), entries[0].role.lower()) == TITLES:
        del entries[0]
    return tuple(entries)


def parse_line(line: str) -> RosterEntry:
    """Read a line such as `P01 participant`.

    Raises:
        BadRoster
    """
    cells = _split_cells(line.strip(BLANK))
    if len(cells) > 2:
        raise BadRoster(
            "A line of the roster has more than a code and a role: remove the other columns."
        )
    if len(cells) < 2 or not all(cells):
        raise BadRoster("A line of a roster is a code and a role, such as: P01 participant.")
    return RosterEntry(*cells)


def _split_cells(line: str) -> list[str]:
    for separator in "\t;":
        if separator in line:
            return [_strip_cell(cell) for cell in line.split(separator)]
    code, comma, role = line.partition(",")
    if comma and not code.strip().count(" "):  # a role may contain a comma, but not before a space
        return [_strip_cell(code), *(_strip_cell(cell) for cell in role.split(","))]
    return [_strip_cell(cell) for cell in line.split(maxsplit=1)]


def _strip_cell(cell: str) -> str:
    cell = cell.strip()
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return " ".join((cell[1:-1] if quoted else cell).split())


def speaker_bounds(roster: Sequence[RosterEntry]) -> tuple[int, int]:
    """Return the least and greatest number of speakers: an observer may stay silent."""
    silent = sum(entry.role.strip().lower() == OBSERVER for entry in roster)
    return max(1, len(roster) - silent), len(roster)


def check_roster(roster: Sequence[RosterEntry]) -> None:
    """Check that a roster is valid.

    Raises:
        BadRoster
    """
    if len(roster) > MAX_ROSTER:
        raise BadRoster(f"A roster has at most {MAX_ROSTER} people, not {len(roster)}.")
    if any(not 1 <= len(e.code.strip()) <= MAX_CHARACTERS or not e.role.strip() for e in roster):
        raise BadRoster(
            f"Each person on a roster has a code of 1 to {MAX_CHARACTERS} characters and a role."
        )
    if len({entry.code.strip() for entry in roster}) < len(roster):
        raise BadRoster("A code is used for two people on the roster.")
