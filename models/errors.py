"""The errors of models/: everything that can go wrong between a recording and its transcript.

    SpeechError
    ├── AudioError           the recording cannot be used; leaves in audio/errors.py
    ├── OptionError          an option is invalid
    │   ├── UnknownLanguage, CannotTranslate, VocabularyTooLong
    │   ├── BadRoster, BadSpeakerCount
    │   ├── BadEntityRoster, TranscriptUnreadable    in deidentification/errors.py
    │   ├── UnavailablePrecision, UnmeasuredPrecision
    │   └── UnknownModel     in weights/errors.py
    ├── WeightsError         weights are missing, damaged or unsafe; leaves in weights/errors.py
    ├── OutOfMemory
    └── Stopped

Every leaf has a stable `code`, listed in docs/reference/errors.md. The first line of its docstring
is its title in the API and `user_action` says what the owner of a failed job can do. A message is
one sentence that is safe to store and show: it holds numbers and remedies, never text, names or
paths of a recording.

The modules that define leaves do not import torch, so that the API can look leaves up by code.
"""

from typing import ClassVar

ASK_ADMINISTRATOR = "Ask your administrator; the worker's log has details."


class SpeechError(Exception):
    code: ClassVar[str] = "speech_error"
    retryable: ClassVar[bool] = False
    user_action: ClassVar[str] = ASK_ADMINISTRATOR


class AudioError(SpeechError):
    pass


class OptionError(SpeechError):
    pass


class WeightsError(SpeechError):
    pass


class UnknownLanguage(OptionError):
    """Whisper, or this model, does not support the language."""

    code = "unknown_language"
    user_action = "Choose another language."


class CannotTranslate(OptionError):
    """English-only models cannot translate."""

    code = "cannot_translate"
    user_action = "Choose a multilingual model."


class VocabularyTooLong(OptionError):
    """The vocabulary does not fit into Whisper's prompt."""

    code = "vocabulary_too_long"
    user_action = "Enter fewer or shorter words."


class BadRoster(OptionError):
    """The roster has over twelve people, a duplicate code, or a person without code or role."""

    code = "bad_roster"
    user_action = "List one to twelve people, each with a role and a different code."


class BadSpeakerCount(OptionError):
    """The number of speakers is not from 1 to 20, or the minimum is above the maximum."""

    code = "bad_speaker_count"
    user_action = "Enter a number from 1 to 20."


class UnavailablePrecision(OptionError):
    """The device does not support this precision."""

    code = "unavailable_precision"
    user_action = ASK_ADMINISTRATOR


class UnmeasuredPrecision(OptionError):
    """No evaluation vouches for these weights at this precision."""

    code = "unmeasured_precision"
    user_action = ASK_ADMINISTRATOR


class OutOfMemory(SpeechError):
    """The device does not have enough free memory."""

    code = "out_of_memory"
    retryable = True
    user_action = (
        "Wait if another program is using the GPU: the job then continues automatically."
        " Otherwise cancel it and choose a smaller model."
    )


class Stopped(SpeechError):
    """The job was asked to stop."""

    code = "stopped"
    user_action = "Run the job again if that was a mistake."


class BadParticipants(OptionError):
    """The list of participants is invalid."""

    code = "bad_participants"
    user_action = "Correct the entry that the message names, then try again."
