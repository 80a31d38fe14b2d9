"""Forms with a recording (multipart/form-data), read block by block as they arrive.

The usual form parsers write a large file to a temporary file, which would be plaintext on disk.

ServiceError
└── BadForm
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import ClassVar

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import ServiceError

MAX_TEXT_BYTES = 64 * 2**10  # all fields but the file, names included
MAX_PARTS = 200


class BadForm(ServiceError):
    """The body is not a form with one recording."""

    code: ClassVar[str] = "bad_form"
    status: ClassVar[int] = 400


class FormReader:
    """Parses a form: `file_blocks` yields the file, and `fields` holds the rest afterwards.

    Args:
        content_type: the request's header.
        file_field: name of the field with the recording.

    Raises:
        BadForm
    """

    def __init__(self, content_type: str, file_field: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise BadForm(
                f"Send a form, multipart/form-data, with the recording in the field {file_field}"
            )
        self.fields: defaultdict[str, list[str]] = defaultdict(list)
        self.file_name: str | None = None
        self._file_field = file_field
        self._file = bytearray()
        self._text = bytearray()
        self._n_text_bytes = self._n_parts = 0
        self._header = [bytearray(), bytearray()]  # name, value
        self._disposition = b""
        self._in_file = self._has_file = self._ended = False
        self._name = ""
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin_part,
                "on_header_field": lambda data, start, end: self._add_header(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._add_header(1, data[start:end]),
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": lambda data, start, end: self._add_data(data[start:end]),
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def file_blocks(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the file's bytes as the body arrives.

        Raises:
            BadForm
        """
        async for block in blocks:
            try:
                self._parser.write(block)
            except (MultipartParseError, UnicodeDecodeError):
                raise BadForm("The form is malformed") from None
            if self._file:
                yield bytes(self._file)
                self._file.clear()
        if not self._ended:
            raise BadForm("The form is cut off: send it again")
        if not self._has_file:
            raise BadForm(f"The form has no file in the field {self._file_field}")

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise BadForm(f"A form may have at most {MAX_PARTS} fields")
        self._in_file, self._disposition = False, b""
        self._text.clear()

    def _add_header(self, part: int, data: bytes) -> None:
        self._count(data)
        self._header[part] += data

    def _end_header(self) -> None:
        if bytes(self._header[0]).lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        for part in self._header:
            part.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode()
        if self._name == self._file_field:
            if self._has_file:
                raise BadForm("A form may hold only one recording: send the others separately")
            self._has_file = self._in_file = True
            name = options.get(b"filename")
            self.file_name = name.decode(errors="replace") if name else None
        elif b"filename" in options:
            raise BadForm(f"Put the recording into the field {self._file_field}")

    def _add_data(self, data: bytes) -> None:
        if self._in_file:
            self._file += data
        else:
            self._count(data)
            self._text += data

    def _end_part(self) -> None:
        if not self._in_file:
            self.fields[self._name.partition("[")[0]].append(self._text.decode())

    def _end(self) -> None:
        self._ended = True

    def _count(self, data: bytes) -> None:
        self._n_text_bytes += len(data)
        if self._n_text_bytes > MAX_TEXT_BYTES:
            raise BadForm(
                f"The fields of a form may have {MAX_TEXT_BYTES} bytes in total: shorten them"
            )
