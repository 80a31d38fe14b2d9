"""Reads transcripts made or corrected elsewhere as turns: speaker, text and start.

May import the plain data of `models`. `commands` may import it.
"""

from collections.abc import Callable
from pathlib import Path

from service.errors import TranscriptNotReadable
from service.imports.documents import read_docx, read_html
from service.imports.subtitles import read_srt, read_vtt
from service.imports.text import read_text
from service.imports.turns import ImportedTurn, decode

Reader = Callable[[bytes], list[ImportedTurn]]
READERS: dict[str, Reader] = {
    ".docx": read_docx,
    ".html": lambda content: read_html(decode(content)),
    ".htm": lambda content: read_html(decode(content)),
    ".vtt": lambda content: read_vtt(decode(content)),
    ".srt": lambda content: read_srt(decode(content)),
    ".txt": lambda content: read_text(decode(content)),
    ".md": lambda content: read_text(decode(content)),
}
MAX_BYTES = 64 * 2**20

__all__ = ["READERS", "ImportedTurn", "read_turns"]


def read_turns(path: Path) -> list[ImportedTurn]:
    """Read a transcript by its suffix.

    Raises:
        TranscriptNotReadable
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise TranscriptNotReadable(
            f"Only {', '.join(READERS)} can be imported: save the transcript as one of these."
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TranscriptNotReadable(f"The transcript cannot be read ({error.strerror}).") from None
    if len(content) > MAX_BYTES:
        raise TranscriptNotReadable(
            f"The file is larger than {MAX_BYTES >> 20} MiB: check that it is a transcript."
        )
    turns = [turn for turn in reader(content) if turn.text]
    if not turns:
        raise TranscriptNotReadable(
            "The file holds nothing that anybody says: check that it is a transcript."
        )
    return turns
