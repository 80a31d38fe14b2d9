"""Pages that are missing in an Ogg file: each stream numbers its own."""

from typing import BinaryIO

from models.audio.memory_file import private_map

HEADER_BYTES = 27  # of a page, before its table of segments. Source: RFC 3533, 6.
MAX_PAGES = 5_000_000  # of a day, at 20 ms each
UNKNOWN = (1 << 64) - 1  # position of a page on which no packet ends


def find_missing_pages(file: BinaryIO) -> list[int]:
    """The positions, in samples, of the pages after which others are missing."""
    last: dict[bytes, tuple[int, int]] = {}  # number and position of each stream's last page
    missing = []
    with private_map(file) as content:
        at = content.find(b"OggS")
        for _ in range(MAX_PAGES):
            if at < 0 or at + HEADER_BYTES > len(content):
                break
            head = content[at : at + HEADER_BYTES]
            position, number = int.from_bytes(head[6:14], "little"), _number(head[18:22])
            stream = head[14:18]
            before, where = last.get(stream, (number - 1, 0))
            if number > before + 1:
                missing.append(where)
            last[stream] = (number, where if position == UNKNOWN else position)
            body = sum(content[at + HEADER_BYTES : at + HEADER_BYTES + head[26]])
            at = content.find(b"OggS", at + HEADER_BYTES + head[26] + body)
    return missing


def _number(field: bytes) -> int:
    return int.from_bytes(field, "little")
