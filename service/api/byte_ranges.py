"""Answers requests for a range of bytes (RFC 9110, section 14)."""

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from service.errors import RangeNotSatisfiable

BLOCK_BYTES = 256 * 1024


def ranged_response(
    request: Request,
    open_file: Callable[[], BinaryIO],
    *,
    size: int,
    media_type: str,
    etag: str | None = None,
    record: Callable[[int, int, int], None] | None = None,
) -> Response:
    """A file, or the range of it that the request asks for. HEAD gets the headers only.

    Args:
        open_file: called when the response is sent.
        size: of the file, bytes.
        etag: changes with the content; a request with another one in `If-Range` gets all of it.
        record: called before bytes are sent with their range, and the end of the whole answer.
            Nothing more is sent if it raises.

    Raises:
        RangeNotSatisfiable
    """
    wanted = None
    if request.headers.get("if-range", etag) == etag:
        wanted = byte_range(request.headers.get("range"), size)
    start, end = wanted or (0, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    if etag is not None:
        headers["ETag"] = etag
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    if record is not None:  # now, so that the answer is an error if it cannot be recorded
        record(start, min(end, start + BLOCK_BYTES), end)
    return StreamingResponse(
        _blocks(open_file, start, end, record),
        status_code=status,
        headers=headers,
        media_type=media_type,
    )


def _blocks(
    open_file: Callable[[], BinaryIO],
    start: int,
    end: int,
    record: Callable[[int, int, int], None] | None,
) -> Iterator[bytes]:
    with open_file() as file:
        file.seek(start)
        while start < end and (block := file.read(min(BLOCK_BYTES, end - start))):
            if record is not None:
                record(start, start + len(block), end)
            start += len(block)
            yield block


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The requested range as [start, end), or None for the whole file.

    Several ranges, or an invalid one, get the whole file, as RFC 9110 allows.

    Raises:
        RangeNotSatisfiable
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:  # the last N bytes
        start, end = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        if match[2] and int(match[2]) < start:
            return None
        end = min(size, int(match[2]) + 1) if match[2] else size
    if start >= end:
        raise RangeNotSatisfiable(f"The recording has {size} bytes", size)
    return start, end
