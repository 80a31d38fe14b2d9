"""Numbered lines for coding: their numbers stay in every version."""

import csv
import io
from dataclasses import replace

import docx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.transcript import Segment, Transcript
from service.exports import ExportOptions, Format, Label, render
from service.exports.captions import width_of
from service.exports.lines import MAX_WIDTH, NumberedLine, number_lines, read_lines
from service.exports.programs import find_earlier_lines
from tests.export_cases import CASES
from tests.fakes import segment, transcript, words

LABEL = Label(session="INT-07", study="PEER", version=2)
TEXTS = ["I was a nurse. I liked it.", "Why?", "It was hard. Then I left. Now I am here."]


def made(*texts: str, ids: list[str] | None = None) -> Transcript:
    segments = [segment(f"P{i % 2:02d}", text, 10.0 * i) for i, text in enumerate(texts)]
    names = ids or [f"s{i:04d}" for i in range(1, len(texts) + 1)]
    return transcript([replace(s, id=id) for s, id in zip(segments, names, strict=True)])


def shown(lines: list[NumberedLine]) -> list[tuple[str, str, str]]:
    return [(line.number, line.text, line.change) for line in lines]


FIRST = number_lines(made(*TEXTS))


def test_the_first_version_is_numbered_from_one_by_sentence():
    assert shown(FIRST) == [
        ("1", "I was a nurse.", ""),
        ("2", "I liked it.", ""),
        ("3", "Why?", ""),
        ("4", "It was hard.", ""),
        ("5", "Then I left.", ""),
        ("6", "Now I am here.", ""),
    ]


def test_a_corrected_line_keeps_its_number_and_is_marked():
    lines = number_lines(made(TEXTS[0], "But why?", TEXTS[2]), FIRST)

    assert shown(lines)[2] == ("3", "But why?", "changed")
    assert [line.number for line in lines] == [line.number for line in FIRST]


def test_a_new_line_gets_the_number_before_it_and_a_letter():
    text = "It was hard. I cried. I slept. Then I left. Now I am here."
    lines = number_lines(made(TEXTS[0], TEXTS[1], text), FIRST)

    assert shown(lines)[3:7] == [
        ("4", "It was hard.", ""),
        ("4a", "I cried.", "new"),
        ("4b", "I slept.", "new"),
        ("5", "Then I left.", ""),
    ]


def test_a_removed_line_is_listed_and_its_number_is_never_used_again():
    second = number_lines(made(TEXTS[0], TEXTS[1], "It was hard. Now I am here."), FIRST)
    third = number_lines(made(*TEXTS), second)

    assert ("5", "", "removed") in shown(second)
    assert ("4a", "Then I left.", "new") in shown(third)
    assert [line.number for line in third if line.change != "removed"].count("5") == 0


def test_the_letter_of_a_removed_line_is_not_used_again_either():
    with_cry = "It was hard. I cried. Then I left. Now I am here."
    second = number_lines(made(*TEXTS[:2], with_cry), FIRST)
    third = number_lines(made(*TEXTS), second)
    fourth = number_lines(made(*TEXTS[:2], with_cry.replace("cried", "slept")), third)

    assert ("4a", "I cried.", "new") in shown(second)
    assert ("4b", "I slept.", "new") in shown(fourth)


def test_an_inserted_segment_shifts_no_number():
    ids = ["s0001", "s0009", "s0002", "s0003"]
    lines = number_lines(made(TEXTS[0], "Mhm.", TEXTS[1], TEXTS[2], ids=ids), FIRST)

    assert [line.number for line in lines] == ["1", "2", "2a", "3", "4", "5", "6"]


def test_a_segment_that_is_split_takes_its_numbers_along():
    ids = ["s0001", "s0002", "s0003", "s0010"]
    lines = number_lines(made(TEXTS[0], TEXTS[1], "It was hard.", TEXTS[2][13:], ids=ids), FIRST)

    assert [line.number for line in lines] == ["1", "2", "3", "4", "5", "6"]
    assert {line.change for line in lines} == {""}


SENTENCES = st.lists(st.sampled_from(["Yes.", "No.", "I went home.", "Why?"]), max_size=5)


@given(st.lists(SENTENCES, max_size=5), st.lists(SENTENCES, max_size=5), SENTENCES)
def test_numbers_are_unique_and_unchanged_lines_keep_theirs(first, second, third):
    versions = [
        made(*(" ".join(texts) for texts in version if texts)) for version in (first, second)
    ]
    one = number_lines(versions[0])
    two = number_lines(versions[1], one)
    again = number_lines(versions[1], two)

    for lines in (one, two, again):
        assert len({line.number for line in lines}) == len(lines)
    kept = [line for line in two if line.change != "removed"]
    assert [line.number for line in again if line.change != "removed"] == [
        line.number for line in kept
    ]
    assert [line.text for line in kept] == [line[3] for line in _plain(versions[1])]


def _plain(version: Transcript) -> list[tuple[str, float, str, str]]:
    return [(x.segment, x.start, x.speaker, x.text) for x in number_lines(version)]


def test_long_sentences_take_several_lines_and_no_word_is_lost():
    said = "and then we talked about the hospital " * 40
    lines = number_lines(transcript([Segment("P07", 0.0, 84.0, words(said), id="s0001")]))

    assert len(lines) > 10 and all(width_of(line.text) <= MAX_WIDTH for line in lines)
    assert " ".join(line.text for line in lines).split() == said.split()


@pytest.mark.parametrize("case", [case for case in CASES if case != "8-hour group"])
def test_the_document_and_the_table_have_the_same_lines(case):
    written = CASES[case]()
    document = docx.Document(io.BytesIO(render(written, Format.LINES, LABEL)))
    rows = [[cell.text for cell in row.cells] for row in document.tables[0].rows]
    text = render(written, Format.LINES_CSV, LABEL).decode("utf-8-sig")
    table = list(csv.DictReader(io.StringIO(text)))

    assert rows[0] == ["Line", "Speaker", "Text", "Codes"]
    assert [row[0] for row in rows[1:]] == [row["line"] for row in table]
    assert [row[2] for row in rows[1:]] == [row["text"] for row in table]
    assert document.sections[0].header.paragraphs[0].text.endswith("IDENTIFIED")


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_the_table_is_read_back_also_after_a_spreadsheet_saved_it(tmp_path, delimiter):
    path = tmp_path / "INT-07.v1.identified.lines.csv"
    text = render(made(*TEXTS), Format.LINES_CSV, LABEL).decode("utf-8-sig")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(csv.reader(io.StringIO(text)))

    assert list(read_lines(path)) == FIRST


def test_the_numbers_come_from_the_version_before(tmp_path):
    for version, text in ((1, "Why?"), (2, "Why not?")):
        label = replace(LABEL, version=version)
        path = tmp_path / f"{label.stem}.lines.csv"
        options = ExportOptions(earlier_lines=find_earlier_lines(label, tmp_path))
        path.write_bytes(render(made(TEXTS[0], text), Format.LINES_CSV, label, options))
    again = ExportOptions(earlier_lines=find_earlier_lines(LABEL, tmp_path))

    second = (tmp_path / "INT-07.v2.identified.lines.csv").read_bytes()
    assert b"3,changed,s0002" in second
    assert render(made(TEXTS[0], "Why not?"), Format.LINES_CSV, LABEL, again) == second


def test_another_file_is_no_table_of_lines(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")

    with pytest.raises(ValueError, match="numbered lines"):
        read_lines(path)
