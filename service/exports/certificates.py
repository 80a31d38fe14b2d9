"""Certificates as PDF, to be filed or handed over. The signed file is the JSON."""

import io
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

TITLES = {
    "withdrawal": "Certificate of withdrawal",
    "destruction": "Certificate of destruction",
}
SCOPES = {
    "data": "remove all data of the participant",
    "identified": "remove identified data, keep de-identified releases",
    "participation": "no longer take part; recorded data is kept",
}
SECTIONS = (
    ("removed", "Removed"),
    ("replaced", "Replaced"),
    ("kept", "Kept"),
    ("not_removed", "Not removed"),
)
OUTCOMES = {"passed": "passed", "failed": "FAILED", "not_checked": "not checked"}
MAX_IDS = 12  # printed of each item; the JSON has all


def certificate_pdf(document: dict[str, Any], signature: str, public_key: str) -> bytes:
    # here, because a client of the API prints certificates without these packages
    from reportlab.lib.enums import TA_LEFT
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

    from service.signing import fingerprint

    plain = ParagraphStyle("plain", fontName="Helvetica", fontSize=9.5, leading=13)
    small = ParagraphStyle("small", parent=plain, fontSize=8, leading=10.5, textColor="#444444")
    code = ParagraphStyle("code", parent=small, fontName="Courier", fontSize=7, leading=9)
    head = ParagraphStyle(
        "head", parent=plain, fontName="Helvetica-Bold", fontSize=11.5, spaceBefore=9, spaceAfter=3
    )
    title = ParagraphStyle(
        "title", parent=head, fontSize=19, leading=24, alignment=TA_LEFT, spaceBefore=0
    )
    warning = ParagraphStyle(
        "warning", parent=plain, fontName="Helvetica-Bold", textColor="#a00000"
    )

    def text(content: str, style: Any = plain) -> Any:
        return Paragraph(escape(content), style)

    def table(rows: Iterable[tuple[str, ...]], widths: list[float]) -> Any:
        cells = [[text(cell) for cell in row] for row in rows]
        made = Table(cells, colWidths=[width * mm for width in widths], hAlign="LEFT")
        made.setStyle(
            TableStyle(
                [
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                    ("LINEBELOW", (0, 0), (-1, -2), 0.25, "#cccccc"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    ("TOPPADDING", (0, 0), (-1, -1), 2),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                ]
            )
        )
        return made

    story: list[Any] = [text(TITLES.get(document["kind"], "Certificate"), title)]
    if not document["complete"]:
        story.append(text("Not everything was removed: see below.", warning))
        story.append(Spacer(1, 2 * mm))
    story.append(table(_about(document), [38, 132]))
    for name, heading in SECTIONS:
        if document[name]:
            story.append(text(heading, head))
            story.append(table(map(_item, document[name]), [46, 14, 110]))
    if document["checks"]:
        story.append(text("How it was verified", head))
        story.append(table(map(_check, document["checks"]), [130, 40]))
    if document["passed_on"]:
        story.append(text("Passed on before: ask the holders to delete it", head))
        rows = [
            (each["what"], each["by"], each["at"], each["id"]) for each in document["passed_on"]
        ]
        story.append(table(rows, [40, 24, 40, 66]))
    if document["backups"]:
        story.append(text("Backups", head))
        story += [text(sentence) for sentence in document["backups"]]
    story.append(text("Signature", head))
    story.append(
        text(
            "This page is a reading copy. The signed file is the JSON with the same number; "
            "`fieldscribe certificate verify FILE` checks it without the service. Fingerprint of "
            f"the installation's public key: {fingerprint(public_key)}",
            small,
        )
    )
    story += [text(f"key {public_key}", code), text(f"signature {signature}", code)]
    file = io.BytesIO()
    SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=20 * mm,
        rightMargin=20 * mm,
        topMargin=18 * mm,
        bottomMargin=18 * mm,
        title=f"{TITLES.get(document['kind'], 'Certificate')} {document['id']}",
        author="Fieldscribe",
        invariant=1,
    ).build(story)
    return file.getvalue()


def certificate_text(document: dict[str, Any]) -> str:
    """The certificate for a terminal."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield TITLES.get(document["kind"], "Certificate")
    if not document["complete"]:
        yield "NOT EVERYTHING WAS REMOVED: see below."
    for label, value in _about(document):
        yield f"  {label:<18} {value}"
    for name, heading in SECTIONS:
        if document[name]:
            yield heading
            for what, n, rest in map(_item, document[name]):
                yield f"  {n:>4} {what}" + (f": {rest}" if rest else "")
    if document["checks"]:
        yield "How it was verified"
        for what, outcome in map(_check, document["checks"]):
            yield f"  {outcome}: {what}"
    if document["passed_on"]:
        yield "Passed on before: ask the holders to delete it"
        for each in document["passed_on"]:
            yield f"  {each['at']} {each['what']} {each['id']}, by {each['by']}"
    if document["backups"]:
        yield "Backups"
        yield from (f"  {sentence}" for sentence in document["backups"])


def _about(document: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("Number", document["id"]),
        ("Issued", document["issued_at"]),
        ("Study", document["study"]),
        ("About", document["subject"]),
        ("Requested", f"{document['requested_at']} by {document['requested_by'] or 'the service'}"),
        ("Scope", SCOPES.get(document["scope"], document["scope"])),
    ]
    if document["reason"]:
        rows.append(("Reason", document["reason"].replace("_", " ")))
    return rows


def _item(item: dict[str, Any]) -> tuple[str, str, str]:
    ids = ", ".join(item["ids"][:MAX_IDS])
    more = f" and {len(item['ids']) - MAX_IDS} more" if len(item["ids"]) > MAX_IDS else ""
    note = f"{item['note']} " if item["note"] else ""
    return item["what"].replace("_", " "), str(item["n"]), f"{note}{ids}{more}".strip()


def _check(check: dict[str, Any]) -> tuple[str, str]:
    failures = f" ({', '.join(check['failures'][:MAX_IDS])})" if check["failures"] else ""
    return check["what"] + failures, OUTCOMES[check["outcome"]]
