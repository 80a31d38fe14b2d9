"""The turns that readers return, and the decoding of a file's bytes."""

from dataclasses import dataclass

from service.errors import TranscriptNotReadable

MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True)
class ImportedTurn:
    """One person's words. `speaker`: None if the file does not say who it is."""

    speaker: str | None
    text: str
    start: float | None = None  # s


def decode(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with its mark, as Windows' editors write it.

    Raises:
        TranscriptNotReadable
    """
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if content.startswith(b"{\\rtf"):
        raise TranscriptNotReadable("The file is RTF: save it as .docx or as plain text in UTF-8.")
    try:
        text = content.decode(encoding)
    except UnicodeError:
        raise TranscriptNotReadable(
            "The file is not UTF-8: save it as plain text in UTF-8."
        ) from None
    if "\0" in text:
        raise TranscriptNotReadable(
            "The file is not text: save the transcript as .docx, or as plain text."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")
