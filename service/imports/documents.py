"""Word documents and noScribe's HTML.

Sources: ECMA-376, part 1 (WordprocessingML); noScribe's files, whose passages are
`<a name="ts_START_END_SPEAKER">` with times in milliseconds.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

from service.errors import TranscriptNotReadable
from service.imports.text import clean_text, read_lines, seconds
from service.imports.turns import ImportedTurn

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
MAX_XML_BYTES = 256 * 2**20
BREAKS = {f"{W}tab": " ", f"{W}br": " ", f"{W}cr": " ", f"{W}noBreakHyphen": "-"}
DELETED = {f"{W}del", f"{W}moveFrom"}  # tracked changes count as accepted
OUR_HEADER_STYLES = ("Title", "Small")
OUR_STYLES = {"Turn": True, "Continued": False}  # whether a paragraph begins with a name
SPEAKER_TITLES = ("speaker", "sprecher", "name", "who")
TIME_TITLES = ("timespan", "time", "start")
ANCHOR = re.compile(r"ts_(\d+)_(\d+)_?(.*)")
SHOWN_TIME = re.compile(r"\s*\[\d\d:\d\d:\d\d\]\s*")


def read_docx(content: bytes) -> list[ImportedTurn]:
    """Read paragraphs such as `P07: [00:01:02] text`, headings by speaker, or a table of turns.

    Raises:
        TranscriptNotReadable
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = archive.getinfo("word/document.xml")
            if info.file_size > MAX_XML_BYTES:
                raise TranscriptNotReadable(
                    "The Word document is too large: check that it is a transcript."
                )
            body = ElementTree.fromstring(archive.read(info)).find(f"{W}body")
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, OSError, RuntimeError):
        raise TranscriptNotReadable(
            "The Word document cannot be read: open it in Word or LibreOffice and save it again as "
            ".docx."
        ) from None
    if body is None:
        return []
    rows = [
        [" ".join(_text(cell).split()) for cell in row.findall(f"{W}tc")]
        for row in body.iter(f"{W}tr")
    ]
    if rows:
        return list(_read_table(rows))
    return _read_paragraphs([(_style(each), _text(each)) for each in body.iter(f"{W}p")])


def _style(paragraph: ElementTree.Element) -> str:
    style = paragraph.find(f"{W}pPr/{W}pStyle")
    return "" if style is None else style.get(f"{W}val", "")


def _text(element: ElementTree.Element) -> str:
    if element.tag in DELETED:
        return ""
    if element.tag == f"{W}t":
        return element.text or ""
    inner = "".join(map(_text, element))
    return BREAKS.get(element.tag, inner) + (" " if element.tag == f"{W}p" else "")


def _read_paragraphs(paragraphs: list[tuple[str, str]]) -> list[ImportedTurn]:
    """Paragraphs by style and text; a heading that is a name is the speaker of those below it."""
    said = [(style, text) for style, text in paragraphs if text.strip()]
    headings = {text.strip() for style, text in said if style.startswith(("Heading", "berschrift"))}
    if not headings:
        body = [(style, text) for style, text in said if style not in OUR_HEADER_STYLES]
        return read_lines(
            [text for _, text in body], named=[OUR_STYLES.get(style) for style, _ in body]
        )
    turns, speaker = list[ImportedTurn](), None
    for _, text in said:
        if text.strip() in headings:
            speaker = text.strip()
        elif speaker is not None:
            turns += [replace(turn, speaker=speaker) for turn in read_lines([text], named=[False])]
    return turns


def _read_table(rows: list[list[str]]) -> Iterator[ImportedTurn]:
    """Read a table with a row per turn; its header row names the columns."""
    titles = [cell.lower() for cell in rows[0]]
    who = next((i for i, title in enumerate(titles) if title in SPEAKER_TITLES), None)
    when = next((i for i, title in enumerate(titles) if title in TIME_TITLES), None)
    what = max(range(len(titles)), key=lambda i: sum(len(row[i]) for row in rows if i < len(row)))
    for row in rows[who is not None :]:
        if what >= len(row):
            continue
        time = re.match(r"[\d:.,]+", row[when]) if when is not None and when < len(row) else None
        name = row[who] if who is not None and who < len(row) else ""
        start = seconds(time[0]) if time and ":" in time[0] else None
        yield ImportedTurn(name or None, clean_text(row[what]), start)


def read_html(text: str) -> list[ImportedTurn]:
    """Read noScribe's HTML: a paragraph per turn, with the speaker before a colon."""
    parser = _Paragraphs()
    parser.feed(text)
    parser.close()
    timed = [(start, line) for start, line in parser.paragraphs if start is not None]
    if not timed:
        raise TranscriptNotReadable(
            "The HTML is not a noScribe transcript: save the transcript as .docx or text."
        )
    turns = read_lines([_without_pauses(line) for _, line in timed], parser.speakers)
    return [
        ImportedTurn(turn.speaker, turn.text, start)
        for turn, (start, _) in zip(turns, timed, strict=True)
    ]


def _without_pauses(line: str) -> str:
    """Remove noScribe's pauses, and times within the line; an empty line must stay a line."""
    line = SHOWN_TIME.sub(" ", line).replace(" :", ":")
    return re.sub(r"\((?:\.+|\d+ [\w ]+)\)", "", line).strip() or "\N{ZERO WIDTH SPACE}"


class _Paragraphs(HTMLParser):
    """The text of each paragraph, and the start of its first passage in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[tuple[float | None, str]] = []
        self.speakers: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "p":
            self.paragraphs.append((None, ""))
        match = ANCHOR.fullmatch(dict(attrs).get("name") or "") if tag == "a" else None
        if match and self.paragraphs:
            start, text = self.paragraphs[-1]
            self.paragraphs[-1] = (int(match[1]) / 1000 if start is None else start, text)
            if match[3]:
                self.speakers.add(match[3])

    def handle_data(self, data: str) -> None:
        if self.paragraphs:
            start, text = self.paragraphs[-1]
            self.paragraphs[-1] = (start, text + data)
