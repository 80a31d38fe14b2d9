"""Errors of the service.

    ServiceError
    ├── Misused               nothing was started
    │   ├── OutputNotWritable, SameName, VocabularyNotReadable, RosterNotReadable
    ├── TokenMissing, TokenUnknown, TokenExpired, TokenRevoked, NotAllowed
    ├── SignedOut, SignInLinkUnusable, InsecureConnection, CrossSiteRequest, DeviceNotFound
    ├── SignOnNotConfigured, SignOnUnavailable, SignOnRefused, SignOnNotInvited, SignOnTaken
    ├── RecordingNotFound, StudyNotFound, StudyUnclear, SessionNotFound, TokenNotFound, NoSuchPath
    ├── MethodNotAllowed, InvalidRequest, VersionMissing, BodyTooLarge, RequestTooSlow
    ├── StudyCodeTaken, SessionCodeTaken
    ├── RecordingNotReady, RecordingRefused, RecordingInUse, RangeNotSatisfiable
    ├── UploadTooLarge, WrongLength, BadUploadHeader, UnknownChecksum, UnsupportedMediaType,
    │   UnsupportedTusVersion
    ├── TooManyRequests, TooManyWaiting
    └── StaleFence

and those of the vault, the database, the queue and the commands, which are defined next to the code
that raises them. Every leaf has a stable `code`, listed in docs/reference/errors.md.
service/api/problems.py turns an error into a response: `status` is the HTTP status, the first line
of the docstring the title, the message the detail. A message is one sentence and never contains
speech, names or paths of recordings.
"""

import traceback
from typing import ClassVar

from models.errors import ASK_ADMINISTRATOR


class ServiceError(Exception):
    code: ClassVar[str] = "service_error"
    status: ClassVar[int] = 500
    user_action: ClassVar[str] = ASK_ADMINISTRATOR


def title_of(error: type[Exception]) -> str:
    """The first line of an error's docstring."""
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
    """The results cannot be written to the given folder."""

    code = "output_not_writable"


class SameName(Misused):
    """Two recordings would write the same result file."""

    code = "same_name"


class VocabularyNotReadable(Misused):
    """The vocabulary file does not exist or is not UTF-8 text."""

    code = "vocabulary_not_readable"


class RosterNotReadable(Misused):
    """The roster file does not exist or is not text."""

    code = "roster_not_readable"


class TranscriptNotReadable(Misused):
    """The transcript file does not exist or is not text."""

    code = "transcript_not_readable"


# --- access ---------------------------------------------------------------------------------------


class TokenMissing(ServiceError):
    """The request has no `Authorization: Bearer` header."""

    code = "token_missing"
    status = 401


class TokenUnknown(ServiceError):
    """The token does not exist."""

    code = "token_unknown"
    status = 401


class TokenExpired(ServiceError):
    """The token has expired."""

    code = "token_expired"
    status = 401


class TokenRevoked(ServiceError):
    """The token was revoked."""

    code = "token_revoked"
    status = 401


class SignedOut(ServiceError):
    """This browser is no longer signed in."""

    code = "signed_out"
    status = 401


class SignInLinkUnusable(ServiceError):
    """The sign-in link was used, has expired or never existed."""

    code = "sign_in_link_unusable"
    status = 401


class SignOnNotConfigured(ServiceError):
    """The service has no single sign-on."""

    code = "sign_on_not_configured"
    status = 404


class SignOnUnavailable(ServiceError):
    """The provider of single sign-on does not answer, or not as it should."""

    code = "sign_on_unavailable"
    status = 503


class SignOnRefused(ServiceError):
    """The provider of single sign-on did not confirm the sign-in."""

    code = "sign_on_refused"
    status = 401


class SignOnNotInvited(ServiceError):
    """The person signed in at the provider but has no account here."""

    code = "sign_on_not_invited"
    status = 403

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject  # the provider's identifier of the person; shown to that person only


class SignOnTaken(ServiceError):
    """The person has an account already."""

    code = "sign_on_taken"
    status = 409


class InsecureConnection(ServiceError):
    """Browsers can sign in only over HTTPS or on the machine of the service."""

    code = "insecure_connection"
    status = 403


class CrossSiteRequest(ServiceError):
    """A page of another site sent the request."""

    code = "cross_site_request"
    status = 403


class NotAllowed(ServiceError):
    """The token's role does not allow this."""

    code = "not_allowed"
    status = 403


class TooManyRequests(ServiceError):
    """The caller has sent too many requests."""

    code = "too_many_requests"
    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # s


class TooManyWaiting(ServiceError):
    """Too many requests are waiting for a change."""

    code = "too_many_waiting"
    status = 429


# --- requests -------------------------------------------------------------------------------------


class RecordingNotFound(ServiceError):
    """The recording does not exist or cannot be read."""

    code = "recording_not_found"
    status = 404


class StudyNotFound(ServiceError):
    """There is no such study, or it is not yours."""

    code = "study_not_found"
    status = 404


class StudyUnclear(ServiceError):
    """The request names no study, and the token has several or none."""

    code = "study_unclear"
    status = 422


class SessionNotFound(ServiceError):
    """There is no such session, or it is not yours."""

    code = "session_not_found"
    status = 404


class TokenNotFound(ServiceError):
    """No token has this id."""

    code = "token_not_found"
    status = 404


class DeviceNotFound(ServiceError):
    """There is no such signed-in browser, or it is not yours."""

    code = "device_not_found"
    status = 404


class NoSuchPath(ServiceError):
    """The API does not have this path."""

    code = "no_such_path"
    status = 404


class MethodNotAllowed(ServiceError):
    """The API does not have this method at this path."""

    code = "method_not_allowed"
    status = 405


class InvalidRequest(ServiceError):
    """A parameter or a field is missing, unknown or out of range."""

    code = "invalid_request"
    status = 422


class VersionMissing(ServiceError):
    """The request needs an `If-Match` header with the version that it is based on."""

    code = "version_missing"
    status = 428


class BodyTooLarge(ServiceError):
    """The request's body is too large."""

    code = "body_too_large"
    status = 413


class RequestTooSlow(ServiceError):
    """The request's body did not arrive in time."""

    code = "request_too_slow"
    status = 408


class StudyCodeTaken(ServiceError):
    """Another study has this code, or had it before it was deleted."""

    code = "study_code_taken"
    status = 409


class SessionCodeTaken(ServiceError):
    """Another session of the study has this code, or had it before it was deleted."""

    code = "session_code_taken"
    status = 409


class RecordingNotReady(ServiceError):
    """The recording has not been uploaded completely or has not been checked yet."""

    code = "recording_not_ready"
    status = 409


class RecordingRefused(ServiceError):
    """The recording was refused when it was checked."""

    code = "recording_refused"
    status = 409


class RecordingDuplicate(ServiceError):
    """The session already has a recording with the same content."""

    code = "recording_duplicate"
    status = 409


class RecordingInUse(ServiceError):
    """An unfinished job needs the recording."""

    code = "recording_in_use"
    status = 409


class RangeNotSatisfiable(ServiceError):
    """The requested range is outside the recording."""

    code = "range_not_satisfiable"
    status = 416

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size  # bytes


class StaleFence(ServiceError):
    """Another worker has claimed the job since, or the job has ended."""

    code = "stale_fence"
    status = 409


# --- uploads --------------------------------------------------------------------------------------


class UploadTooLarge(ServiceError):
    """The recording is larger than the service accepts."""

    code = "upload_too_large"
    status = 413


class WrongLength(ServiceError):
    """The upload's length is missing, or more bytes arrived than were announced."""

    code = "wrong_length"
    status = 400


class BadUploadHeader(ServiceError):
    """A header of the upload protocol, tus 1.0, is missing or invalid."""

    code = "bad_upload_header"
    status = 400


class UnknownChecksum(ServiceError):
    """The service does not support this kind of checksum."""

    code = "unknown_checksum"
    status = 400


class UnsupportedMediaType(ServiceError):
    """This path does not accept the body's media type."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedTusVersion(ServiceError):
    """The client does not use version 1.0.0 of the upload protocol."""

    code = "unsupported_tus_version"
    status = 412
