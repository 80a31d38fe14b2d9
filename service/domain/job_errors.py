"""Errors that can end a job or an attempt of one, and the lookup of their classes by code."""

from collections.abc import Iterator
from typing import Any, ClassVar

import models.audio.errors  # so that find_error knows its errors
import models.deidentification.errors
import models.weights.errors  # noqa: F401
import service.vault.errors  # noqa: F401
from models.errors import ASK_ADMINISTRATOR, SpeechError, WeightsError
from service.errors import ServiceError, title_of

AUTOMATIC = "Nothing: the job is tried again automatically."


class WorkerDied(ServiceError):
    """The worker was killed, or its machine failed."""

    code: ClassVar[str] = "worker_died"
    user_action: ClassVar[str] = AUTOMATIC


class EngineDied(ServiceError):
    """The process that runs the models was killed by a GPU fault or for lack of memory."""

    code: ClassVar[str] = "engine_died"
    user_action: ClassVar[str] = AUTOMATIC


class GaveUp(ServiceError):
    """The job crashed three times without finishing a stage."""

    code: ClassVar[str] = "gave_up"
    user_action: ClassVar[str] = ASK_ADMINISTRATOR


class ConsentEnded(ServiceError):
    """Somebody in the session withdrew, or ended their consent, while the job was in the queue."""

    code: ClassVar[str] = "consent_ended"
    user_action: ClassVar[str] = "Run the job again once a new consent is recorded."


class InternalError(ServiceError):
    """Fieldscribe has a bug; its log says where."""

    code: ClassVar[str] = "internal_error"
    user_action: ClassVar[str] = ASK_ADMINISTRATOR


class WeightsChanged(WeightsError):
    """The installed weights are not those with which the job was submitted."""

    code: ClassVar[str] = "weights_changed"
    user_action: ClassVar[str] = "Run the job again with the weights that are installed now."


def find_error(code: str) -> type[SpeechError | ServiceError] | None:
    """The error with this code; None if it comes from another version of Fieldscribe."""
    errors = [*_descendants(SpeechError), *_descendants(ServiceError)]
    return next((error for error in errors if error.code == code), None)


def _descendants(parent: type) -> Iterator[Any]:
    child: type
    for child in parent.__subclasses__():
        yield child
        yield from _descendants(child)


def error_title(code: str) -> str:
    error = find_error(code)
    return title_of(error) if error else f"The job ended with {code}."


def error_action(code: str) -> str:
    """What the owner of a job with this error can do."""
    error = find_error(code)
    return error.user_action if error else ASK_ADMINISTRATOR
