"""Resumable uploads with tus 1.0, https://tus.io/protocols/resumable-upload.

Extensions: creation, creation-with-upload, checksum, expiration, termination. An upload and the
recording it becomes have the same id.
"""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC
from email.utils import format_datetime
from functools import partial
from typing import Annotated
from uuid import UUID

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.api.access import LimitsDep, ReadingsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.limits import Limits
from service.api.multipart import BadForm, FormReader
from service.api.openapi import problems
from service.api.routes.recordings import RecordingView, wake_checker
from service.api.routes.views import SessionName, StudyName
from service.database.tables import Recording
from service.domain import recordings
from service.domain.callers import Caller
from service.domain.consent import ApprovalMissing
from service.domain.erasure import erase_recording
from service.domain.recordings import (
    BLOCK_BYTES,
    Checksum,
    acknowledge,
    announced_sha256,
    find_recording,
    max_upload_bytes,
    parse_metadata,
    place_of,
    read_metadata,
    receive,
    upload_offset,
)
from service.errors import (
    BadUploadHeader,
    RecordingInUse,
    RecordingNotFound,
    SessionNotFound,
    StudyNotFound,
    UnknownChecksum,
    UnsupportedMediaType,
    UnsupportedTusVersion,
    UploadTooLarge,
    WrongLength,
)
from service.services import Services
from service.vault.errors import (
    KEY_ERRORS,
    WRITE_ERRORS,
    Erased,
    UploadBusy,
    UploadDamaged,
    WrongOffset,
)

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=GuardedRoute)
Researcher = Annotated[Caller, Depends(allow("researcher"))]
Eraser = Annotated[Caller, Depends(allow("researcher", sealed_too=True))]

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
MEDIA_TYPE = "application/offset+octet-stream"
CHECKSUMS = {"sha1": 20, "sha256": 32}  # bytes; tus 1.0 requires SHA-1
# A request counts as cut off if these bytes take longer, not counting the time for storing them.
# What has arrived is kept, and the client resumes there.
MIN_BYTES = 20 * 2**10
MIN_BYTES_SECONDS = 20.0
FORM = "multipart/form-data"
MAX_METADATA = 8192  # bytes
TUS_HEADERS = ("tus-resumable", "upload-length", "upload-metadata", "upload-checksum")
MAX_LENGTH = 2**53  # larger numbers are not exact in JSON

TRANSFER_ERRORS = (
    BadUploadHeader,
    UnknownChecksum,
    WrongLength,
    UnsupportedMediaType,
    UnsupportedTusVersion,
    WrongOffset,
    UploadBusy,
    UploadDamaged,
    *WRITE_ERRORS,
)


def header(name: str, description: str, *, required: bool = False) -> dict[str, object]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string"},
    }


TUS_VERSION = header("Tus-Resumable", "1.0.0, which is also the default.")
CHECKSUM = header(
    "Upload-Checksum", "`sha1` or `sha256`, a space, and the digest of this body in base64."
)
BINARY = {"type": "string", "format": "binary"}
BODY_CONTENT = {MEDIA_TYPE: {"schema": BINARY}}
FORM_SCHEMA = {"type": "object", "properties": {"file": BINARY}, "required": ["file"]}
OFFSET_HEADERS = {
    "Upload-Offset": {"schema": {"type": "string"}, "description": "Bytes stored so far."},
    "Upload-Expires": {
        "schema": {"type": "string"},
        "description": "When the unfinished upload will be deleted.",
    },
}


@router.options("", status_code=204, response_class=Response)
def tus_options(services: ServicesDep) -> Response:
    """The tus features supported here. No token needed."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(max_upload_bytes(services.settings)),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        },
    )


@router.post(
    "",
    status_code=201,
    responses={
        200: {
            "model": RecordingView,
            "description": "The recording has been uploaded before.",
        },
        201: {
            "headers": {
                "Location": {"schema": {"type": "string"}, "description": "/v1/uploads/{id}"},
                **OFFSET_HEADERS,
            }
        },
        **problems(
            StudyNotFound,
            SessionNotFound,
            ApprovalMissing,
            UploadTooLarge,
            BadForm,
            *TRANSFER_ERRORS,
        ),
    },
    openapi_extra={
        "parameters": [
            TUS_VERSION,
            header("Upload-Length", "Bytes of the whole recording; default: those of this body."),
            header(
                "Upload-Metadata",
                "`filename`, `sha256` (hex; checked when all bytes are there), and anything else.",
            ),
            CHECKSUM,
        ],
        "requestBody": {
            "required": False,
            "content": {**BODY_CONTENT, FORM: {"schema": FORM_SCHEMA}},
        },
    },
)
async def create_upload(
    request: Request,
    response: Response,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
    study: Annotated[StudyName, Query()],
    session: Annotated[SessionName | None, Query()] = None,
    other_than: Annotated[
        list[UUID],
        Query(max_length=100, description="Recordings that do not count as the same; repeatable."),
    ] = [],  # noqa: B006  # FastAPI copies it
    copy: Annotated[
        bool, Query(description="Store the recording even if the session already has it.")
    ] = False,
) -> RecordingView:
    """Start an upload. The body may hold the first part or the whole recording.

    If `Upload-Metadata` announces the `sha256` of a recording that is already in the session (or in
    the study, if no session is named), the answer is 200 with that recording. The same if the body
    is the whole recording and the session already has it. Sent in parts without a `sha256`, such a
    recording is refused when it is checked (`recording_duplicate`).

    `curl -X POST -T FILE -H "Authorization: Bearer $TOKEN" -H "Content-Type:
    application/offset+octet-stream" "$URL/v1/uploads?study=PEER&session=INT-07"`

    The body may also be a form that has the whole recording in its field `file` and nothing else:
    `curl -F file=@FILE -H "Authorization: Bearer $TOKEN" "$URL/v1/uploads?study=PEER"`
    """
    limits.uploads.require(str(caller.token_id))
    if media_type(request) == FORM:
        return await upload_form(
            request, response, caller, services, limits, study, session, copy or bool(other_than)
        )
    require_version(request)
    has_body = media_type(request) == MEDIA_TYPE
    if not has_body:
        refuse_other_body(request)
    n_bytes = announced_length(request, has_body)
    metadata = metadata_of(request)
    find_same = partial(
        recordings.find_uploaded,
        services,
        caller,
        study=study,
        session=session,
        n_bytes=n_bytes,
        other_than=other_than,
    )
    announced = announced_sha256(metadata)
    if announced is not None and not copy:
        same = await asyncio.to_thread(find_same, sha256=announced)
        if same is not None:
            return await show_existing(same, services, response)
    recording = await asyncio.to_thread(
        recordings.create_upload,
        services,
        caller,
        study=study,
        session=session,
        n_bytes=n_bytes,
        metadata=metadata,
        copy=copy or bool(other_than),
    )
    offset, content = 0, hashlib.sha256()
    if has_body:
        try:
            offset = await store_body(
                request, caller, services, limits, recording, offset=0, content=content
            )
        except Exception:
            # The client does not know its id yet.
            await asyncio.to_thread(erase_recording, services, caller, recording.id)
            raise
        if offset == n_bytes and recording.session_id is not None and not recording.is_copy:
            found = await asyncio.to_thread(find_same, sha256=content.digest())
            if found is not None and found.id != recording.id:
                await asyncio.to_thread(erase_recording, services, caller, recording.id)
                return await show_existing(found, services, response)
    whole = content.digest() if offset == n_bytes else None
    recording.state = await asyncio.to_thread(
        acknowledge, services, recording, offset, whole, caller=caller
    )
    wake_checker(request, recording)
    response.headers["Location"] = f"/v1/uploads/{recording.id}"
    response.headers.update(offset_headers(recording, offset))
    return await asyncio.to_thread(RecordingView.of, recording, services)


async def upload_form(
    request: Request,
    response: Response,
    caller: Caller,
    services: Services,
    limits: Limits,
    study: str,
    session: str | None,
    copy: bool,
) -> RecordingView:
    """Store the recording of a form, whose length is known only at its end."""
    if any(name in request.headers for name in TUS_HEADERS):
        raise BadUploadHeader("The headers of tus cannot be used with a form: send the file alone")
    id, existed = await receive_form(
        request,
        caller,
        services,
        limits,
        refuse_fields,
        file_field="file",
        study=study,
        session=session,
        copy=copy,
    )
    recording = await asyncio.to_thread(_find, services, caller, id)
    if existed:
        return await show_existing(recording, services, response)
    response.headers["Location"] = f"/v1/uploads/{id}"
    response.headers.update(offset_headers(recording, recording.n_bytes))
    return await asyncio.to_thread(RecordingView.of, recording, services)


def refuse_fields(fields: dict[str, list[str]]) -> None:
    if fields:
        raise BadForm(
            "The form must hold the file only: put everything else into the address, such as "
            "?study=PEER&session=INT-07"
        )


async def show_existing(
    recording: Recording, services: Services, response: Response
) -> RecordingView:
    """Answer an upload with the recording that has the same content."""
    response.status_code = 200
    response.headers["Location"] = f"/v1/uploads/{recording.id}"
    response.headers.update(offset_headers(recording, recording.n_bytes))
    return await asyncio.to_thread(RecordingView.of, recording, services)


@router.head(
    "/{upload_id}",
    status_code=200,
    response_class=Response,
    responses={
        200: {
            "headers": {**OFFSET_HEADERS, "Upload-Length": {"schema": {"type": "string"}}},
            "description": "Where to resume.",
        },
        **problems(RecordingNotFound, UnsupportedTusVersion, *KEY_ERRORS),
    },
    openapi_extra={"parameters": [TUS_VERSION]},
)
def read_offset(
    upload_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    readings: ReadingsDep,
    limits: LimitsDep,
) -> Response:
    """How much of an upload has arrived."""
    require_version(request)
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        recording = find_recording(session, caller, upload_id)
    offset = upload_offset(services, recording)
    if recording.state == "receiving" and offset == recording.n_bytes:
        # The service was killed between storing the last part and acknowledging it.
        recording.state = acknowledge(services, recording, offset, caller=caller)
    headers = {"Upload-Length": str(recording.n_bytes), **offset_headers(recording, offset)}
    with suppress(Erased):  # the recording was refused
        if metadata := read_metadata(services, recording):
            place = place_of(recording)
            readings.record_once(caller, "recording.details_read", recording.study_id, place, {})
            headers["Upload-Metadata"] = metadata
    return Response(headers=headers)


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"headers": OFFSET_HEADERS},
        **problems(RecordingNotFound, *TRANSFER_ERRORS),
    },
    openapi_extra={
        "parameters": [
            TUS_VERSION,
            header("Upload-Offset", "Where this body starts, as HEAD reports.", required=True),
            CHECKSUM,
        ],
        "requestBody": {"required": True, "content": BODY_CONTENT},
    },
)
async def resume_upload(
    upload_id: UUID,
    request: Request,
    caller: Researcher,
    services: ServicesDep,
    limits: LimitsDep,
) -> Response:
    """Send the next part. Every part is encrypted and on disk before it is acknowledged."""
    require_version(request)
    limits.parts.require(str(caller.token_id))
    recording = await asyncio.to_thread(_find, services, caller, upload_id)
    if media_type(request) != MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send the part as {MEDIA_TYPE}")
    offset = number(request, "upload-offset")
    if offset is None:
        raise BadUploadHeader("A part needs the header Upload-Offset")
    offset = await store_body(request, caller, services, limits, recording, offset=offset)
    recording.state = await asyncio.to_thread(
        acknowledge, services, recording, offset, caller=caller
    )
    wake_checker(request, recording)
    return Response(status_code=204, headers=offset_headers(recording, offset))


@router.delete(
    "/{upload_id}",
    status_code=204,
    responses=problems(
        RecordingNotFound, RecordingInUse, Erased, UploadBusy, UnsupportedTusVersion
    ),
    openapi_extra={"parameters": [TUS_VERSION]},
)
def terminate_upload(
    upload_id: UUID, request: Request, caller: Eraser, services: ServicesDep
) -> None:
    """Abandon an upload and destroy what has arrived. The same as deleting the recording."""
    require_version(request)
    erase_recording(services, caller, upload_id)


# --- the bytes ------------------------------------------------------------------------------------


async def store_body(
    request: Request,
    caller: Caller,
    services: Services,
    limits: Limits,
    recording: Recording,
    *,
    offset: int,
    content: "hashlib._Hash | None" = None,
) -> int:
    """Store the request's body in a thread that takes it from the event loop block by block.

    Args:
        content: updated with the body.

    Returns:
        The offset after the body.

    Raises:
        TooManyRequests: all slots are taken, or the token's share of them.
        BadUploadHeader, UnknownChecksum, WrongLength, and what `receive` raises.
    """
    checksum = checksum_of(request)
    length = number(request, "content-length")
    if length is not None and offset + length > recording.n_bytes:
        raise WrongLength(
            f"The body would exceed the announced length of {recording.n_bytes} bytes"
        )
    blocks = request_blocks(request, checksum is not None)

    async def next_block() -> bytes:
        return await anext(blocks, b"")

    def read_block() -> bytes:
        block = anyio.from_thread.run(next_block)
        if content is not None:
            content.update(block)
        return block

    store = partial(receive, services, recording, read_block, offset=offset, checksum=checksum)
    with limits.receive(caller.token_id):
        return await anyio.to_thread.run_sync(store, limiter=limits.receiving)


async def request_blocks(request: Request, whole: bool) -> AsyncIterator[bytes]:
    """The body in larger blocks, up to its end or to where it was cut off or became too slow.

    Args:
        whole: the body is useless if it was cut off, because it has a checksum.

    Raises:
        UploadDamaged: the body was cut off and `whole` is set.
    """
    pending = bytearray()
    stream, clock = request.stream(), asyncio.get_running_loop().time
    n_bytes, waited = 0, 0.0  # since the last MIN_BYTES were complete
    while True:
        started = clock()
        try:
            async with asyncio.timeout(MIN_BYTES_SECONDS - waited):
                chunk = await anext(stream, None)
        except (ClientDisconnect, TimeoutError):
            if whole:
                raise UploadDamaged("The part was cut off: send it again") from None
            chunk = None
        if chunk is None:
            break
        n_bytes, waited = n_bytes + len(chunk), waited + clock() - started
        if n_bytes >= MIN_BYTES:
            n_bytes, waited = 0, 0.0
        pending += chunk
        if len(pending) >= BLOCK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


async def receive_form(
    request: Request,
    caller: Caller,
    services: Services,
    limits: Limits,
    read_fields: Callable[[dict[str, list[str]]], None],
    *,
    file_field: str,
    study: str,
    session: str | None,
    copy: bool = False,
) -> tuple[UUID, bool]:
    """Encrypt the form's file into the vault as it arrives.

    Returns:
        The recording's id, and whether it is that of a recording with the same content that the
        session, or the study without a session, already had. With `copy` it never is.

    Args:
        read_fields: called with the form's other fields. Nothing is kept if it raises.

    Raises:
        TooManyRequests, BadForm, WrongLength, and what `create_upload` and `receive` raise.
    """
    n_bytes = number(request, "content-length")
    if n_bytes is None:
        raise WrongLength("The request needs the header Content-Length")
    reader = FormReader(request.headers.get("content-type", ""), file_field)
    blocks = reader.file_blocks(request_blocks(request, whole=True))
    with limits.receive(caller.token_id):
        first = await anext(blocks, b"")
        if not first:
            raise BadForm("The recording has no bytes")
        recording = await asyncio.to_thread(
            recordings.create_upload,
            services,
            caller,
            study=study,
            session=session,
            n_bytes=n_bytes,  # of the whole form: that of the file is known at its end
            metadata=recordings.format_metadata(filename=reader.file_name),
            copy=copy,
        )
        try:
            digest, stored = hashlib.sha256(), all_blocks(first, blocks)

            async def next_block() -> bytes:
                block = await anext(stored, b"")
                digest.update(block)
                return block

            read_block = partial(anyio.from_thread.run, next_block)
            store = partial(
                recordings.receive, services, recording, read_block, offset=0, checksum=None
            )
            length = await anyio.to_thread.run_sync(store, limiter=limits.receiving)
            read_fields(dict(reader.fields))
            same = await asyncio.to_thread(
                recordings.finish_upload, services, caller, recording, length, digest.digest()
            )
        except BaseException:
            await asyncio.shield(asyncio.to_thread(erase_recording, services, caller, recording.id))
            raise
    if same is not None:  # the request was sent before
        await asyncio.to_thread(erase_recording, services, caller, recording.id)
        return same, True
    wake_checker(request, recording)
    return recording.id, False


async def all_blocks(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


def _find(services: Services, caller: Caller, upload_id: UUID) -> Recording:
    with services.sessionmaker() as session:
        return find_recording(session, caller, upload_id)


# --- headers --------------------------------------------------------------------------------------


def offset_headers(recording: Recording, offset: int) -> dict[str, str]:
    headers = {"Upload-Offset": str(offset)}
    if recording.state == "receiving" and recording.expires_at is not None:
        headers["Upload-Expires"] = format_datetime(
            recording.expires_at.astimezone(UTC), usegmt=True
        )
    return headers


def require_version(request: Request) -> None:
    if request.headers.get("tus-resumable", VERSION) != VERSION:
        raise UnsupportedTusVersion(f"This service supports tus {VERSION} only")


def announced_length(request: Request, has_body: bool) -> int:
    length = number(request, "upload-length")
    if length is None and has_body:
        length = number(request, "content-length")
    if length is None:
        raise WrongLength("An upload needs the header Upload-Length")
    return length


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def refuse_other_body(request: Request) -> None:
    """
    Raises:
        UnsupportedMediaType: the request has a body of another kind.
    """
    has_bytes = (number(request, "content-length") or 0) > 0 or (
        "transfer-encoding" in request.headers
    )
    if has_bytes:
        raise UnsupportedMediaType(
            f"The body must be the recording itself: send the file's bytes with Content-Type: "
            f"{MEDIA_TYPE} (curl -T FILE), or a form with the field file (curl -F file=@FILE)"
        )


def number(request: Request, name: str) -> int | None:
    text = request.headers.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18 or int(text) > MAX_LENGTH:
        raise BadUploadHeader(f"{name} is not a number of bytes")
    return int(text)


def checksum_of(request: Request) -> Checksum | None:
    text = request.headers.get("upload-checksum")
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise UnknownChecksum(f"Use a checksum of {' or '.join(CHECKSUMS)}")
    with suppress(binascii.Error, ValueError):
        digest = base64.b64decode(encoded, validate=True)
        if len(digest) == CHECKSUMS[algorithm]:
            return Checksum(algorithm, digest)
    raise BadUploadHeader("Upload-Checksum is not a digest in base64")


def metadata_of(request: Request) -> str | None:
    text = request.headers.get("upload-metadata")
    if text is None:
        return None
    if len(text) > MAX_METADATA:
        raise BadUploadHeader(f"Upload-Metadata is longer than {MAX_METADATA} bytes")
    try:
        parse_metadata(text)
    except ValueError:
        # Not chained: it names the file.
        raise BadUploadHeader("Upload-Metadata does not follow tus 1.0") from None
    return text
