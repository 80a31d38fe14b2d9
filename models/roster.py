"""The roster of a session: the people who were there, by code and role."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import BadRoster

MAX_ROSTER = 12
MAX_CHARACTERS = 40
OBSERVER = "observer"  # the only role that may stay silent


@dataclass(frozen=True)
class RosterEntry:
    """One person of a session. A researcher decides which speaker of the transcript this is.

    `role`: moderator, interviewer, participant, interpreter, ...
    """

    code: str
    role: str


def parse_line(line: str) -> RosterEntry:
    """Read a line such as `P01 participant`.

    Raises:
        BadRoster
    """
    code, _, role = line.strip().partition(" ")
    if not role.strip():
        raise BadRoster("A line of a roster is a code and a role, such as: P01 participant.")
    return RosterEntry(code, role.strip())


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
