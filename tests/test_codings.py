"""`fieldscribe merge-codings`: codings of several people from REFI-QDA projects."""

import csv
import io
import json
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from models.transcript import Transcript
from service.commands.main import app
from service.exports import ExportOptions, Label
from service.exports.codings import ProjectUnreadable, TextsDiffer, compare, read_project
from service.exports.options import ProjectProfile
from service.exports.qdpx import NAMESPACE, Source, write_project
from tests.export_cases import interview
from tests.fakes import segment, transcript

LABEL = Label(session="INT-07", study="PEER", version=1)
TEN = transcript([segment("P07", f"Sentence number {i} 😀.", 5.0 * i) for i in range(10)])


def q(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def coded(
    path: Path,
    codings: dict[str, list[int]],
    made: Transcript = TEN,
    *,
    profile: ProjectProfile = ProjectProfile.ANY,
    origin: str = "QualCoder",
    audio: Path | None = None,
) -> Path:
    """A project in which somebody gave codes to paragraphs, as a program would export it.

    Args:
        codings: code (`Above > Below`): the indexes of its paragraphs.
    """
    file = io.BytesIO()
    write_project(
        file, [Source(made, LABEL, (audio,) if audio else ())], ExportOptions(project=profile)
    )
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = ElementTree.fromstring(members["project.qde"])
    root.set("origin", origin)
    for element in root.iter():  # programs give new GUIDs to sources
        if element.tag in (q("TextSource"), q("AudioSource")):
            element.set("guid", str(uuid.uuid4()))
    codes: Any = root.find(f"{q('CodeBook')}/{q('Codes')}")
    kind = "TranscriptSelection" if audio else "PlainTextSelection"
    selections = list(root.iter(q(kind)))
    for name, indexes in codings.items():
        parent = codes
        for part in name.split(" > "):
            attributes = {"guid": str(uuid.uuid4()), "name": part, "isCodable": "true"}
            parent = ElementTree.SubElement(parent, q("Code"), attributes)
        for i in indexes:
            coding = ElementTree.SubElement(selections[i], q("Coding"), guid=str(uuid.uuid4()))
            ElementTree.SubElement(coding, q("CodeRef"), targetGUID=parent.get("guid"))
    members["project.qde"] = ElementTree.tostring(root)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def three(tmp_path):
    return [
        coded(tmp_path / "anna.qdpx", {"Stigma": [0, 1, 2], "Work > Money": [5]}),
        coded(tmp_path / "ben.qdpx", {"Stigma": [0, 1, 3], "Work > Money": [5]}),
        coded(tmp_path / "cora.qdpx", {"Stigma": [0, 2, 3, 9]}),
    ]


def test_codings_are_lined_up_by_paragraph(three):
    comparison = compare(list(map(read_project, three)))

    assert comparison.coders == ("anna", "ben", "cora")
    assert len(comparison.units) == 10
    assert comparison.units[1].codes == {"anna": {"Stigma"}, "ben": {"Stigma"}, "cora": set()}
    assert comparison.units[5].codes["anna"] == {"Work > Money"}


def test_kappa_is_that_of_scikit_learn(three):
    (stigma, _) = compare(list(map(read_project, three))).agreements
    rows = [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0, 0, 0]]
    rows.append([1, 0, 1, 1, 0, 0, 0, 0, 0, 1])
    pairs = [(rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])]

    assert stigma.kappa == pytest.approx(sum(cohen_kappa_score(*pair) for pair in pairs) / 3)
    assert stigma.coded == {"anna": 3, "ben": 3, "cora": 4}


def test_alpha_is_that_of_krippendorffs_formula(three):
    """Nominal, two values, no missing data: 1 - (n - 1) * o01 / (n0 * n1); o01 over all pairs."""
    (stigma, _) = compare(list(map(read_project, three))).agreements
    ones_of_unit = [3, 2, 2, 2, 0, 0, 0, 0, 0, 1]
    n, n_ones = 30, sum(ones_of_unit)
    disagreeing = sum(ones * (3 - ones) / 2 for ones in ones_of_unit)

    assert stigma.alpha == pytest.approx(1 - (n - 1) * disagreeing / (n_ones * (n - n_ones)))


def test_a_code_that_everyone_gives_alike_has_full_agreement(tmp_path):
    projects = [coded(tmp_path / f"{name}.qdpx", {"A": [1, 4]}) for name in ("anna", "ben")]
    (agreement,) = compare(list(map(read_project, projects))).agreements

    assert (agreement.agreed, agreement.kappa, agreement.alpha) == (1.0, 1.0, 1.0)


def test_measures_are_left_out_where_nothing_varies(tmp_path):
    everything = list(range(10))
    projects = [coded(tmp_path / f"{name}.qdpx", {"A": everything}) for name in ("anna", "ben")]
    (agreement,) = compare(list(map(read_project, projects))).agreements

    assert (agreement.agreed, agreement.kappa, agreement.alpha) == (1.0, None, None)


@pytest.mark.parametrize(
    ("profile", "origin"),
    [
        (ProjectProfile.ANY, "QualCoder 3.8"),
        (ProjectProfile.NVIVO, "NVivo 14"),
        (ProjectProfile.MAXQDA, "MAXQDA 24"),
    ],
)
def test_offsets_are_read_as_the_program_counts_them(tmp_path, profile, origin):
    """An emoji in each paragraph before would shift a coding to another one."""
    path = coded(tmp_path / "anna.qdpx", {"A": [8]}, profile=profile, origin=origin)
    (text,) = read_project(path).texts
    (coding,) = text.codings

    assert text.text[coding.start : coding.end] == "[00:00:40] P07: Sentence number 8 😀."
    assert [i for i, codes in enumerate(text.codes_of_units) if codes] == [8]


def test_atlas_counts_a_line_end_of_two_characters_as_one(tmp_path):
    """QualCoder, refi.py:2117-2127 at c3204641."""
    path = coded(tmp_path / "anna.qdpx", {"A": [8]}, origin="ATLAS.ti 23")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            is_text = name.endswith(".txt")
            archive.writestr(name, content.replace(b"\n", b"\r\n") if is_text else content)
    (text,) = read_project(path).texts

    assert [i for i, codes in enumerate(text.codes_of_units) if codes] == [8]


def test_codings_of_a_transcript_with_sync_points_are_read(tmp_path):
    recording = tmp_path / "recording.wav"
    recording.write_bytes(b"RIFF")
    path = coded(tmp_path / "anna.qdpx", {"A": [3]}, audio=recording)
    (text,) = read_project(path).texts

    assert [i for i, codes in enumerate(text.codes_of_units) if codes] == [3]


def test_a_coding_within_a_paragraph_counts_and_one_that_touches_it_does_not(tmp_path):
    (text,) = read_project(coded(tmp_path / "anna.qdpx", {"A": [2]})).texts
    (coding,) = text.codings
    within = replace(text, codings=(replace(coding, start=coding.start + 5, end=coding.start + 9),))
    touching = replace(text, codings=(replace(coding, end=coding.end + 2),))

    for changed in (within, touching):
        assert [i for i, codes in enumerate(changed.codes_of_units) if codes] == [2]


def test_different_versions_of_a_text_are_refused(tmp_path):
    other = replace(TEN, segments=TEN.segments[:-1])
    paths = [coded(tmp_path / "anna.qdpx", {}), coded(tmp_path / "ben.qdpx", {}, other)]

    with pytest.raises(TextsDiffer, match="INT-07"):
        compare(list(map(read_project, paths)))


def test_a_coder_without_a_text_is_not_compared_on_it(tmp_path):
    other = replace(interview(), warnings=())
    first = coded(tmp_path / "anna.qdpx", {"A": [1]})
    second = coded(tmp_path / "ben.qdpx", {"A": [1]})
    second_texts = read_project(coded(tmp_path / "more.qdpx", {"A": [0]}, other)).texts
    renamed = tuple(replace(text, name="INT-08") for text in second_texts)
    ben = read_project(second)
    ben = replace(ben, texts=(*ben.texts, *renamed))
    (agreement,) = compare([read_project(first), ben]).agreements

    assert agreement.units == 10 and agreement.coded == {"anna": 1, "ben": 2}
    assert agreement.kappa == 1.0


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip"])
def test_what_is_no_project_is_named(tmp_path, content):
    path = tmp_path / "anna.qdpx"
    path.write_bytes(content)

    with pytest.raises(ProjectUnreadable, match=r"anna\.qdpx"):
        read_project(path)


def test_a_text_outside_the_archive_is_not_opened(tmp_path):
    path = coded(tmp_path / "anna.qdpx", {"A": [1]})
    with zipfile.ZipFile(path) as archive:
        project = archive.read("project.qde").replace(b"internal://", b"absolute:///etc/")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("project.qde", project)

    with pytest.raises(ProjectUnreadable):
        read_project(path)


# --- the command ----------------------------------------------------------------------------------


def run(*arguments, code=0, input=None):
    result = CliRunner().invoke(app, ["merge-codings", *map(str, arguments)], input=input)
    assert result.exit_code == code, result.output
    return result


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))


def test_the_command_writes_both_tables_and_shows_the_agreement(three, tmp_path):
    out = tmp_path / "agreement"
    result = run(*three, "--out", out)
    side_by_side, agreement = rows_of(out / "codings.csv"), rows_of(out / "agreement.csv")

    first = side_by_side[0]
    assert (first["source"], first["paragraph"], first["code"]) == (
        "INT-07.v1.identified",
        "1",
        "Stigma",
    )
    assert (first["anna"], first["ben"], first["cora"], first["agreed"]) == ("1", "1", "1", "1")
    assert [row["code"] for row in agreement] == ["Stigma", "Work > Money"]
    assert float(agreement[0]["cohens_kappa"]) == pytest.approx(0.42, abs=0.2)
    assert "Stigma" in result.stdout and "10 paragraphs" in result.stderr


def test_json_holds_the_agreement(three, tmp_path):
    found = json.loads(run(*three, "--out", tmp_path / "agreement", "--json").stdout)

    assert [each["code"] for each in found] == ["Stigma", "Work > Money"]
    assert found[1]["coded"] == {"anna": 1, "ben": 1, "cora": 0}


def test_tables_are_overwritten_only_after_a_yes(three, tmp_path):
    run(*three, "--out", tmp_path / "agreement")
    run(*three, "--out", tmp_path / "agreement", input="n\n", code=1)
    run(*three, "--out", tmp_path / "agreement", "--yes")


def test_one_project_is_not_enough(three, tmp_path):
    run(three[0], "--out", tmp_path, code=2)
    run(three[0], three[0], "--out", tmp_path, code=2)
