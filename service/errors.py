"""What can go wrong around the models.

    ServiceError
    ├── Misused               nothing was begun
    │   ├── OutputNotWritable, SameName, VocabularyNotReadable, RosterNotReadable
    ├── TokenMissing, TokenUnknown, TokenExpired, TokenRevoked, NotAllowed
    ├── RecordingNotFound, StudyNotFound, SessionNotFound, TokenNotFound, NoSuchPath
    ├── MethodNotAllowed, InvalidRequest, BodyTooLarge
    ├── StudyCodeTaken, SessionCodeTaken
    ├── RecordingNotReady, RecordingRefused, RecordingInUse, RangeNotSatisfiable
    ├── UploadTooLarge, WrongLength, BadUploadHeader, UnknownChecksum, UnsupportedMediaType,
    │   UnsupportedTusVersion
    ├── TooManyRequests, TooManyWaiting
    └── StaleFence

and those of the vault, the database and the queue, which stand beside the code that raises them.
Every leaf has a stable `code`; docs/reference/errors.md lists them. service/api/problems.py makes
answers of them: `status` of HTTP, the first line of the docstring as title, the message as detail.
Messages are one sentence and never hold text, names or paths of recordings.
"""

import traceback
from typing import ClassVar

from models.errors import ASK_ADMINISTRATOR


class ServiceError(Exception):
    code: ClassVar[str] = "service_error"
    status: ClassVar[int] = 500
    user_action: ClassVar[str] = ASK_ADMINISTRATOR


def title_of(error: type[Exception]) -> str:
    """The first line of the docstring."""
    return (error.__doc__ or "").strip().partition("\n")[0]


class Misused(ServiceError):
    status = 422


def locate(error: BaseException) -> str:
    """Where an error was raised: `file:line` of the innermost frames, without source or values."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-8:])
    )


class OutputNotWritable(Misused):
    """Results cannot be written where they should go."""

    code = "output_not_writable"


class SameName(Misused):
    """Two recordings would have the same result."""

    code = "same_name"


class VocabularyNotReadable(Misused):
    """The vocabulary file is not there or is not UTF-8 text."""

    code = "vocabulary_not_readable"


class RosterNotReadable(Misused):
    """The roster file is not there or is not text."""

    code = "roster_not_readable"


# --- who may --------------------------------------------------------------------------------------


class TokenMissing(ServiceError):
    """The request has no `Authorization: Bearer` header."""

    code = "token_missing"
    status = 401


class TokenUnknown(ServiceError):
    """There is no such token."""

    code = "token_unknown"
    status = 401


class TokenExpired(ServiceError):
    """The token's end date has passed."""

    code = "token_expired"
    status = 401


class TokenRevoked(ServiceError):
    """Somebody has revoked the token."""

    code = "token_revoked"
    status = 401


class NotAllowed(ServiceError):
    """The role of the token does not allow this."""

    code = "not_allowed"
    status = 403


class TooManyRequests(ServiceError):
    """There were more requests than one caller may make."""

    code = "too_many_requests"
    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # s


class TooManyWaiting(ServiceError):
    """More requests are waiting for something to happen than the service keeps open."""

    code = "too_many_waiting"
    status = 429


# --- what was asked for ---------------------------------------------------------------------------


class RecordingNotFound(ServiceError):
    """A recording is not there or may not be read."""

    code = "recording_not_found"
    status = 404


class StudyNotFound(ServiceError):
    """There is no such study, or it is not yours."""

    code = "study_not_found"
    status = 404


class SessionNotFound(ServiceError):
    """There is no such session, or it is not yours."""

    code = "session_not_found"
    status = 404


class TokenNotFound(ServiceError):
    """There is no token of this id."""

    code = "token_not_found"
    status = 404


class NoSuchPath(ServiceError):
    """The API has nothing at this path."""

    code = "no_such_path"
    status = 404


class MethodNotAllowed(ServiceError):
    """The API has no such method at this path."""

    code = "method_not_allowed"
    status = 405


class InvalidRequest(ServiceError):
    """A parameter or a field is missing, unknown or out of range."""

    code = "invalid_request"
    status = 422


class BodyTooLarge(ServiceError):
    """The body of the request is too long."""

    code = "body_too_large"
    status = 413


class StudyCodeTaken(ServiceError):
    """Another study has this code."""

    code = "study_code_taken"
    status = 409


class SessionCodeTaken(ServiceError):
    """Another session of the study has this code."""

    code = "session_code_taken"
    status = 409


class RecordingNotReady(ServiceError):
    """The recording has not arrived, or has not been checked yet."""

    code = "recording_not_ready"
    status = 409


class RecordingRefused(ServiceError):
    """The recording was refused when it was checked."""

    code = "recording_refused"
    status = 409


class RecordingInUse(ServiceError):
    """A job that has not ended needs the recording."""

    code = "recording_in_use"
    status = 409


class RangeNotSatisfiable(ServiceError):
    """The recording has no such bytes."""

    code = "range_not_satisfiable"
    status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size  # bytes


class StaleFence(ServiceError):
    """Somebody else has taken the job since, or it has ended."""

    code = "stale_fence"
    status = 409


# --- uploads --------------------------------------------------------------------------------------


class UploadTooLarge(ServiceError):
    """The recording is longer than may be uploaded here."""

    code = "upload_too_large"
    status = 413


class WrongLength(ServiceError):
    """The length of an upload is missing, or more arrived than was announced."""

    code = "wrong_length"
    status = 400


class BadUploadHeader(ServiceError):
    """A header of the upload protocol is missing or is not what tus 1.0 says."""

    code = "bad_upload_header"
    status = 400


class UnknownChecksum(ServiceError):
    """The checksum is of a kind that is not known here."""

    code = "unknown_checksum"
    status = 400


class UnsupportedMediaType(ServiceError):
    """The body is of another media type than this path takes."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedTusVersion(ServiceError):
    """The client speaks another version of the upload protocol than 1.0.0."""

    code = "unsupported_tus_version"
    status = 412
