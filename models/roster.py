"""Who was there: the people of a session by code and role, as somebody wrote it down."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import BadRoster

MAX_ROSTER = 12
MAX_CHARACTERS = 40
OBSERVER = "observer"  # the only role whose part it is to say nothing


@dataclass(frozen=True)
class RosterEntry:
    """One person. Which speaker of a transcript they are is for a person to say.

    `role`: moderator, interviewer, participant, interpreter, ...
    """

    code: str
    role: str


def read_line(line: str) -> RosterEntry:
    """`P01 participant`

    Raises:
        BadRoster
    """
    code, _, role = line.strip().partition(" ")
    if not role.strip():
        raise BadRoster("A line of a roster is a code and a role: P01 participant.")
    return RosterEntry(code, role.strip())


def expected(roster: Sequence[RosterEntry]) -> tuple[int, int]:
    """At least and at most so many people speak: an observer may stay silent."""
    silent = sum(entry.role.strip().lower() == OBSERVER for entry in roster)
    return max(1, len(roster) - silent), len(roster)


def check_roster(roster: Sequence[RosterEntry]) -> None:
    """
    Raises:
        BadRoster
    """
    if len(roster) > MAX_ROSTER:
        raise BadRoster(f"A roster has up to {MAX_ROSTER} people, not {len(roster)}.")
    if any(not 1 <= len(e.code.strip()) <= MAX_CHARACTERS or not e.role.strip() for e in roster):
        raise BadRoster(f"Everybody has a code of 1 to {MAX_CHARACTERS} characters and a role.")
    if len({entry.code.strip() for entry in roster}) < len(roster):
        raise BadRoster("A code of the roster is used for two people.")
