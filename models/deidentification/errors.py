"""Errors in the de-identifier's input."""

from models.errors import OptionError


class BadEntityRoster(OptionError):
    """The study's roster of names is invalid."""

    code = "bad_entity_roster"
    user_action = "Correct the line that the message names, then try again."


class TranscriptUnreadable(OptionError):
    """The file is not a transcript in Fieldscribe's JSON format."""

    code = "transcript_unreadable"
    user_action = "Choose a transcript that Fieldscribe wrote in its JSON format."
