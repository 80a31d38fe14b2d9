"""Word documents, opened by python-docx, and LibreOffice where it is installed."""

import io
import shutil
import subprocess
import zipfile
from typing import Any

import docx
import pytest
from lxml import etree

from models.transcript import Segment, Word
from service.exports import ExportOptions, Format, Label, render
from service.exports.options import Timestamps, Wording
from tests.export_cases import CASES, LONG_NAME, interview
from tests.fakes import transcript

LABEL = Label(session="INT-07", study="PEER", version=3)
DOCUMENTS = (Format.DOCX, Format.NVIVO, Format.HEADINGS)


def opened(case: Any, format: Format, label: Label = LABEL, **options: Any) -> Any:
    made = CASES[case]() if isinstance(case, str) else case
    return docx.Document(io.BytesIO(render(made, format, label, ExportOptions(**options))))


def body_texts(document: Any) -> list[str]:
    """The paragraphs after the lines about the transcript."""
    return [p.text for p in document.paragraphs if p.style.name not in ("Title", "Small")]


@pytest.mark.parametrize("format", DOCUMENTS)
@pytest.mark.parametrize("case", CASES)
def test_python_docx_opens_it_and_all_parts_are_well_formed(case, format):
    written = render(CASES[case](), format, LABEL)
    docx.Document(io.BytesIO(written))

    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        for name in archive.namelist():
            etree.fromstring(archive.read(name))


def test_a_paragraph_begins_with_the_bold_name_its_colon_and_the_time():
    document = opened("interview", Format.DOCX)
    second = document.paragraphs[[p.text[:4] for p in document.paragraphs].index("P07:")]

    assert second.text.startswith("P07: [00:00:04] At the hospital: ward 3.")
    assert [run.text for run in second.runs if run.bold] == ["P07:"]


def test_a_turn_of_several_segments_names_its_speaker_once():
    texts = body_texts(opened("interview", Format.DOCX))

    assert texts[2].startswith("[00:00:10] ") and texts[2].endswith("stop.]")
    assert [text.split(":")[0] for text in texts if text[0] != "["] == ["I1", "P07", "I1", "P07"]


def test_the_page_header_shows_the_codes_and_that_the_transcript_is_identified():
    for format in DOCUMENTS:
        header = opened("interview", format).sections[0].header
        assert header.paragraphs[0].text == "PEER, INT-07, version 3\tIDENTIFIED"


def test_a_release_shows_its_number_and_never_says_identified():
    label = Label(session="INT-07", study="PEER", release=2)
    document = opened("interview", Format.DOCX, label)
    everything = [p.text for p in document.paragraphs]

    assert document.sections[0].header.paragraphs[0].text == "PEER, INT-07\tRELEASE 2"
    assert "identified" not in " ".join(everything).replace("De-identified", "").lower()


def test_no_export_claims_to_be_anonymised():
    for label in (LABEL, Label(session="INT-07", release=2)):
        for format in Format:
            written = render(interview(), format, label)
            assert b"anonym" not in written.lower()
            if format in DOCUMENTS:
                with zipfile.ZipFile(io.BytesIO(written)) as archive:
                    assert not any(b"anonym" in archive.read(n).lower() for n in archive.namelist())


def test_the_lines_are_numbered_by_word_itself_unless_the_options_say_otherwise():
    numbers = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}lnNumType"
    document = opened("interview", Format.DOCX)
    plain = opened("interview", Format.DOCX, line_numbers=False)

    assert document.sections[0]._sectPr.find(numbers) is not None
    assert plain.sections[0]._sectPr.find(numbers) is None


def test_the_core_properties_are_set_and_name_nobody():
    properties = opened("interview", Format.DOCX).core_properties

    assert properties.title == "PEER, INT-07, version 3, identified"
    assert properties.author == properties.last_modified_by == "Fieldscribe"
    assert properties.created is None


def test_the_same_transcript_gives_the_same_file():
    assert render(interview(), Format.DOCX, LABEL) == render(interview(), Format.DOCX, LABEL)


def test_arabic_is_marked_as_right_to_left():
    document = opened("right to left", Format.DOCX)
    properties = document.paragraphs[-1]._p.pPr

    assert properties.xpath("w:bidi") and document.paragraphs[-1].runs[-1]._r.xpath("w:rPr/w:rtl")


def test_timestamps_once_a_minute_also_stand_within_a_long_paragraph():
    (text,) = body_texts(opened("60-minute turn", Format.DOCX, timestamps=Timestamps.MINUTE))
    (once,) = body_texts(opened("60-minute turn", Format.DOCX))
    (none,) = body_texts(opened("60-minute turn", Format.DOCX, timestamps=Timestamps.NONE))

    assert "[00:17:00]" in text and text.count("[") == 44
    assert (once.count("["), none.count("[")) == (1, 0)


def test_a_clean_document_has_no_hesitations_and_no_false_starts():
    texts = body_texts(opened("interview", Format.DOCX, wording=Wording.CLEAN))

    assert texts[1].endswith("At the hospital: ward 3. I was a nurse.")


def test_pauses_and_overlaps_are_in_jeffersons_notation():
    texts = body_texts(opened("interview", Format.DOCX, pauses=1.0))

    assert texts[0] == "I1: [00:00:00] Where do you work? (2.6)"
    assert texts[2].endswith("to [stop.]") and texts[3].endswith("[Mhm.] (64.0)")


# --- NVivo ----------------------------------------------------------------------------------------


def rows_of(document: Any) -> list[list[str]]:
    (table,) = document.tables
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_nvivos_table_has_the_columns_that_its_import_maps():
    """NVivo 12 help, "Import transcripts": columns for timespan, content and speaker."""
    rows = rows_of(opened("interview", Format.NVIVO))

    assert rows[0] == ["Timespan", "Speaker", "Content"]
    assert rows[2][:2] == ["00:00:04.2-00:00:07.8", "P07"]
    assert rows[2][2].startswith("At the hospital: ward 3.")


@pytest.mark.parametrize("case", CASES)
def test_nvivos_timespans_are_full_chronological_and_at_least_a_tenth(case):
    """NVivo 8 help, "Importing Transcripts": hh:mm:ss, tenths, in chronological order.

    Short forms such as 75 are expanded, so every part is written.
    """
    if case == "8-hour group":
        pytest.skip("python-docx takes seconds to read its rows")
    spans = [row[0] for row in rows_of(opened(case, Format.NVIVO))[1:]]
    pairs = [span.split("-") for span in spans]

    assert all(len(time) == len("00:00:00.0") for pair in pairs for time in pair)
    assert all(start < end for start, end in pairs)
    assert [start for start, _ in pairs] == sorted(start for start, _ in pairs)


def test_a_turn_without_length_takes_a_tenth_of_a_second():
    yes = Segment("P07", 1.0, 1.0, (Word(" Yes.", 1.0, 1.0, 0.9),))

    assert rows_of(opened(transcript([yes]), Format.NVIVO))[1][0] == "00:00:01.0-00:00:01.1"


def test_nvivos_cells_hold_no_tabs_and_no_line_breaks():
    for case in ("odd characters", "interview"):
        for row in rows_of(opened(case, Format.NVIVO)):
            assert not any("\t" in cell or "\n" in cell for cell in row)


def test_headings_are_speakers_without_characters_that_nvivo_replaces():
    r"""NVivo 9 help, "Automatic coding": \ / : * ? " < > | in a heading become ~."""
    document = opened("odd characters", Format.HEADINGS)
    headings = [p.text for p in document.paragraphs if p.style.name == "Heading 1"]

    assert headings == ["P-07 -b-"]


def test_a_name_of_sixty_characters_is_written_in_full():
    assert len(LONG_NAME) == 60
    assert rows_of(opened("long name", Format.NVIVO))[1][1] == LONG_NAME


# --- LibreOffice ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
def test_libreoffice_turns_every_case_into_pages(tmp_path):
    for number, case in enumerate(set(CASES) - {"8-hour group"}):
        for format in DOCUMENTS:
            path = tmp_path / f"{number}.{format}.docx"
            path.write_bytes(render(CASES[case](), format, LABEL))
    command = ["soffice", "--headless", f"-env:UserInstallation=file://{tmp_path}/profile"]
    command += [
        "--convert-to",
        "pdf",
        "--outdir",
        str(tmp_path),
        *map(str, tmp_path.glob("*.docx")),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)

    for path in tmp_path.glob("*.docx"):
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
