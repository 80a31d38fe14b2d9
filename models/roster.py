"""Who was there: the people of a session by code and role, as somebody wrote it down."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import OptionError

MAX_ROSTER = 12
MAX_CHARACTERS = 40


class BadRoster(OptionError):
    """More than twelve people, a code twice or empty, or a number of speakers that differs."""

    code = "bad_roster"


@dataclass(frozen=True)
class RosterEntry:
    """One person. Which speaker of a transcript they are is for a person to say.

    `role`: moderator, interviewer, participant, interpreter, ...
    """

    code: str
    role: str


def check_roster(roster: Sequence[RosterEntry]) -> None:
    """
    Raises:
        BadRoster
    """
    if len(roster) > MAX_ROSTER:
        raise BadRoster(f"A roster has up to {MAX_ROSTER} people, not {len(roster)}.")
    if any(not 1 <= len(e.code.strip()) <= MAX_CHARACTERS or not e.role.strip() for e in roster):
        raise BadRoster(f"Everybody has a code of 1 to {MAX_CHARACTERS} characters and a role.")
    if len({entry.code for entry in roster}) < len(roster):
        raise BadRoster("A code of the roster is used for two people.")
