"""A text for a participant to check, as a Word document."""

from collections.abc import Iterator, Sequence

from service.exports.docx import Heading, Table, report_docx
from service.exports.papers import PaperLabel


def packet_docx(session: str, passages: Sequence[tuple[str, str]], summary: str | None) -> bytes:
    """
    Args:
        passages: speaker and text.
    """
    label = PaperLabel(session="", study="To check")
    return report_docx("Please check what you said", _blocks(passages, summary), label, "en")


def _blocks(
    passages: Sequence[tuple[str, str]], summary: str | None
) -> Iterator[Heading | Table | str]:
    yield (
        "This text was written from a recorded conversation that you took part in. Please read it "
        "and mark what is wrong or what you want to have changed. You need not change anything."
    )
    if summary is not None:
        yield from summary.splitlines()
        return
    for speaker, text in passages:
        yield f"{speaker}: {text}"
