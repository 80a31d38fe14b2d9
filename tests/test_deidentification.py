"""The rules of the de-identifier: what they find in spoken text, and what they leave alone."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.deidentification.detect import REDUCED, UNCASED, detect
from models.deidentification.errors import BadEntityRoster, TranscriptUnreadable
from models.deidentification.numbers import (
    is_health_identifier,
    is_medicare,
    is_tax_file_number,
)
from models.deidentification.occurrences import KnownEntity, Span, SpokenSegment
from models.deidentification.phonetics import edits, may_be_spellings
from models.deidentification.reading import parse_entity_roster, parse_transcript
from service.commands.main import app

ROSTER = [
    KnownEntity("1", "person", "Siobhan Gallagher", ("Shiv",)),
    KnownEntity("2", "person", "Hope Abernathy"),
    KnownEntity("3", "person", "June Papadopoulos"),
    KnownEntity("4", "organisation", "Riverbend Peer Collective", ("the Collective",)),
    KnownEntity("5", "person", "Will Okonkwo"),
]


def found(text, roster=(), **conditions):
    """The spans found in one segment: (text, label, tier)."""
    findings = detect([SpokenSegment("s0001", "SPEAKER_00", text)], roster)
    return [
        (text[o.start : o.end], o.label, o.tier)
        for o in findings.occurrences
        if all(getattr(o, name) == value for name, value in conditions.items())
    ]


def rules(text, roster=()):
    return {o.rule for o in detect([SpokenSegment("1", None, text)], roster).occurrences}


@pytest.mark.parametrize(
    ("text", "identifier", "label"),
    [
        ("My number is oh four one two, double three eight oh nine six.",
         "oh four one two, double three eight oh nine six", "PHONE"),
        ("Ring 0412 338 096 after five.", "0412 338 096", "PHONE"),
        ("It was the third of March eighty-six.", "the third of March eighty-six", "DATE"),
        ("It was the twenty-third of the sixth, ninety-eight, I think.",
         "the twenty-third of the sixth, ninety-eight", "DATE"),
        ("That was back in ninety-one, before the kids.", "ninety-one", "DATE"),
        ("It was nineteen oh four when it was built.", "nineteen oh four", "DATE"),
        ("We married on Melbourne Cup day, ninety-eight.", "Melbourne Cup day, ninety-eight",
         "DATE"),
        ("My date of birth is twelve eleven sixty-four.", "twelve eleven sixty-four", "DATE"),
        ("It was dated seventeen slash four slash twenty twenty.",
         "seventeen slash four slash twenty twenty", "DATE"),
        ("I came in October '09.", "October '09", "DATE"),
        ("Dial one three hundred, six double five, five oh six.",
         "one three hundred, six double five, five oh six", "PHONE"),
        ("My plate's one ABC two three four.", "one ABC two three four", "ID"),
        ("Reference number C dash one one eight four nine.", "C dash one one eight four nine",
         "ID"),
        ("I was on ward seven by then.", "ward seven", "ORGANISATION"),
        ("Send it to PO Box 1172 please.", "PO Box 1172", "ADDRESS"),
        ("A forty-year-old man came in.", "forty-year-old", "AGE"),
        ("I was seventeen when it started.", "seventeen", "AGE"),
        ("She turned forty-one last week.", "forty-one", "AGE"),
        ("Write to kim dot lee at gmail dot com please.", "kim dot lee at gmail dot com", "EMAIL"),
        ("It's www dot walking with kaz dot com dot au.",
         "www dot walking with kaz dot com dot au", "WEB"),
        ("I follow @mad_in_maroondah on there.", "@mad_in_maroondah", "HANDLE"),
        ("We lived at twenty-two Gilmore Street then.", "twenty-two Gilmore Street", "ADDRESS"),
        ("My licence number is oh eight two, five five one, nine four oh.",
         "oh eight two, five five one, nine four oh", "ID"),
        ("His DVA number was N X three oh four seven eight one.",
         "N X three oh four seven eight one", "ID"),
        ("Her name is spelled N-G-U-Y-E-T.", "N-G-U-Y-E-T", "PERSON"),
        ("It's K, R, Z, Y, double S, they never get it.", "K, R, Z, Y, double S", "PERSON"),
        ("Then my brother Kieran came.", "Kieran", "PERSON"),
        ("I saw Doctor Ramanathan twice.", "Doctor Ramanathan", "PERSON"),
        ("We moved to Yackandandah in winter.", "Yackandandah", "PLACE"),
        ("They took me to Saint Vincent's that night.", "Saint Vincent's", "ORGANISATION"),
        ("I was in Ward 4B for a month.", "Ward 4B", "ORGANISATION"),
        ("I worked at Moreland Community Health then.", "Moreland Community Health",
         "ORGANISATION"),
    ],
)  # fmt: skip
def test_spoken_identifiers_are_found_whole_and_surely(text, identifier, label):
    assert (identifier, label, "sure") in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "I was on fifty milligrams of sertraline, and then a hundred.",
        "It was two or three times a week, for twenty minutes.",
        "There were nineteen people in the room.",
        "Centrelink was slow, and Medicare and the NDIS were no better.",
        "We'd go to Bunnings or Coles, and get Maccas on the way home.",
        "I rang Lifeline on thirteen eleven fourteen.",
        "She's a Virgo. The hospital rang Mum on Monday.",
        "Rome wasn't built in a day, and God knows every cloud has a silver lining.",
        "I did my Cert Four in Mental Health.",
        "Will you come? I hope so. It may rain, mark my words.",
        "The bill came to two hundred dollars.",
        "He is Lebanese and Catholic, and I speak Arabic.",
        "I've been on Seroquel and Epilim for twenty-six years.",
        "One two three four, testing.",
    ],
)
def test_what_identifies_nobody_is_left_alone(text):
    assert found(text) == []


def test_roster_names_are_found_by_name_alias_and_misspelling():
    text = "Siobhan rang, and then Shiv came, and Shavon stayed at the Collective."
    spans = {span[0]: span[1:] for span in found(text, ROSTER)}
    assert spans == {
        "Siobhan": ("PERSON", "sure"),
        "Shiv": ("PERSON", "sure"),
        "Shavon": ("PERSON", "sure"),
        "Collective": ("ORGANISATION", "sure"),
    }
    (segment,) = [SpokenSegment("1", None, text)]
    assert {o.entity for o in detect([segment], ROSTER).occurrences} == {"1", "4"}


def test_a_roster_name_heard_as_two_words_is_found():
    assert ("River Bend", "ORGANISATION", "sure") in found(
        "I went down to River Bend.", [KnownEntity("1", "organisation", "Riverbend")]
    )


def test_common_words_on_the_roster_are_names_only_where_they_are_used_as_names():
    text = "I said to Hope that June was hard. Will Will come? I hope so. In June it will."
    names = [span[0] for span in found(text, ROSTER, tier="sure")]
    assert names == ["Hope", "June", "Will"]
    assert found(text, ROSTER, label="DATE") == [("June", "DATE", "unsure")]


def test_two_people_of_one_name_share_the_first_ones_hint():
    roster = [KnownEntity("1", "person", "Ana Silva"), KnownEntity("2", "person", "Ana Costa")]
    (occurrence,) = detect([SpokenSegment("1", None, "Then Ana spoke.")], roster).occurrences
    assert (occurrence.tier, occurrence.entity) == ("sure", "1")


def test_possessives_keep_their_ending():
    assert ("Kieran", "PERSON", "sure") in found("It was my brother Kieran's birthday.")


def test_a_name_split_over_two_segments_becomes_two_occurrences_of_one_entity():
    segments = [
        SpokenSegment("s0001", "A", "So I went to see Doctor Anne-Marie"),
        SpokenSegment("s0002", "B", "Mm-hm."),
        SpokenSegment("s0003", "A", "Kowalski, and she listened."),
    ]
    occurrences = detect(segments).occurrences
    spans = [(o.segment_id, segments[o.segment].text[o.start : o.end]) for o in occurrences]
    assert spans == [("s0001", "Doctor Anne-Marie"), ("s0003", "Kowalski")]
    assert len({o.entity for o in occurrences}) == 1


def test_a_name_that_is_sure_once_is_sure_wherever_it_is_capitalised():
    text = "My mate Zbigwin came. Zbigwin. I liked him."
    assert [span for span in found(text) if span[0] == "Zbigwin"] == [
        ("Zbigwin", "PERSON", "sure")
    ] * 2


def test_offsets_count_code_points_and_words():
    text = "Yeah 😀 my brother Kieran came."
    words = ("Yeah", " 😀", " my", " brother", " Kieran", " came.")
    ends = tuple(len("".join(words[: i + 1])) for i in range(len(words)))
    (occurrence,) = detect([SpokenSegment("1", None, text, ends)]).occurrences
    assert text[occurrence.start : occurrence.end] == "Kieran"
    assert occurrence.words == (4, 5)


def test_text_without_capitals_lowers_every_promise_and_says_so():
    text = (
        "my brother kieran took me to yackandandah and then siobhan came over from the riverbend"
        " group, and we all sat there for a long time and nobody said anything at all"
    )
    findings = detect([SpokenSegment("1", None, text)], ROSTER)
    assert {text[o.start : o.end] for o in findings.occurrences} >= {
        "kieran",
        "yackandandah",
        "siobhan",
    }
    assert {o.tier for o in findings.occurrences} == {"unsure"}
    assert UNCASED in findings.notes


def test_without_a_model_the_assistance_is_reduced():
    assert REDUCED in detect([SpokenSegment("1", None, "Hello.")]).notes


class OneName:
    """A detector that suggests one word."""

    name = "fake"
    finds_names = True

    def __init__(self, word):
        self.word = word

    def find(self, texts):
        starts = [text.find(self.word) for text in texts]
        return [
            [Span(start, start + len(self.word), "PERSON", 0.5, "unsure", "fake")] * (start >= 0)
            for start in starts
        ]


def test_a_rule_and_a_model_that_agree_make_a_name_sure():
    segment = SpokenSegment("1", None, "We stayed at the Winsum and then we saw Brackish.")
    alone = {o.tier for o in detect([segment]).occurrences}
    assert alone == {"unsure"}
    findings = detect([segment], detectors=[OneName("Winsum")])
    assert [o.tier for o in findings.occurrences if "fake" in o.rule] == ["sure"]


@pytest.mark.parametrize("word", ["Monday", "Netflix", "Aussie", "Mum", "Seroquel"])
def test_a_model_cannot_suggest_what_identifies_nobody(word):
    segment = SpokenSegment("1", None, f"Then it was {word} again.")
    assert detect([segment], detectors=[OneName(word)]).occurrences == ()


def test_indirect_identifiers_are_flags_not_occurrences():
    text = "She's the only female GP in the whole shire."
    findings = detect([SpokenSegment("1", None, text)])
    assert [flag.cue for flag in findings.flags] == ["uniqueness"]
    assert findings.occurrences == ()


def test_checksums_prove_numbers():
    assert is_medicare("2123456701")
    assert not is_medicare("2123456711")
    assert is_tax_file_number("876543210")
    assert not is_tax_file_number("876543211")
    assert is_health_identifier("8003608166690503")
    assert not is_health_identifier("8003608166690504")
    assert "medicare_number" in rules("It's two one two three four five six seven oh one.")


@settings(max_examples=150)
@given(
    st.lists(st.text(alphabet=st.sampled_from("aA bB.é😀0 1-’'@Mr \n"), max_size=40), max_size=5)
)
def test_any_text_gives_spans_inside_it_in_order_without_overlap(texts):
    segments = [SpokenSegment(str(i), "A", text) for i, text in enumerate(texts)]
    last = (-1, 0)
    for occurrence in detect(segments, ROSTER).occurrences:
        assert 0 <= occurrence.start < occurrence.end <= len(texts[occurrence.segment])
        assert (occurrence.segment, occurrence.start) >= last
        last = (occurrence.segment, occurrence.end)


@given(st.text(alphabet="abc", max_size=6), st.text(alphabet="abc", max_size=6))
def test_edits_are_symmetric_and_capped(a, b):
    assert edits(a, b, 2) == edits(b, a, 2) <= 3


@pytest.mark.parametrize(
    ("name", "heard"),
    [("siobhan", "shavon"), ("caitlin", "kaitlyn"), ("kowalczyk", "kowalchick"),
     ("graeme", "graham"), ("zhang", "jang"), ("tjarra", "jarra"), ("phillips", "philips")],
)  # fmt: skip
def test_names_that_sound_alike_may_be_spellings(name, heard):
    assert may_be_spellings(name, heard) >= 0.5


def test_a_roster_of_thousands_is_looked_up_by_index():
    """A scan of all entries for each word would take minutes."""
    roster = [KnownEntity(str(i), "person", f"Xq{i:05d}ard Zv{i:05d}son") for i in range(5000)]
    text = "Then we met Margaret and Tjukurla and Brackish and others. " * 50
    started = time.process_time()
    detect([SpokenSegment("1", None, text)], roster)
    assert time.process_time() - started < 30


@pytest.mark.parametrize(
    "text", ["Aaron's ", "1/1/11 ", "A.", "www.", "dot com ", "underscore ", "at a dot com "]
)
def test_a_long_text_of_one_thing_takes_time_in_proportion(text):
    """Several of these took minutes: each match looked at all the others."""
    started = time.process_time()
    detect([SpokenSegment("1", None, text * 5000)], ROSTER)
    assert time.process_time() - started < 10


# --- reading ---


def test_a_roster_says_which_entry_is_wrong_and_repeats_none_of_it():
    with pytest.raises(BadEntityRoster) as caught:
        parse_entity_roster("kind,code,name,aliases\nperson,P01,Eva Muster,\nalien,,Canary,\n")
    assert "Entry 2" in str(caught.value)
    assert "Canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "name\nEva\n", "kind,code,name\nperson,P01,\n"])
def test_a_roster_without_kinds_or_names_is_refused(text):
    with pytest.raises(BadEntityRoster):
        parse_entity_roster(text)


def test_a_roster_may_come_from_a_spreadsheet():
    roster = parse_entity_roster("\ufeffKind,Code,Name,Aliases\r\nperson,,Eva Muster,Evi; E.\r\n")
    assert roster == [KnownEntity("1", "person", "Eva Muster", ("Evi", "E."))]


def test_a_roster_of_the_service_is_read_without_the_names_that_are_allowed():
    text = (
        "kind,code,name,aliases,always,descriptor,chosen_name\n"
        "participant,P07,Eva Muster,Evi,,,Rowan\nallowed,,Lifeline,,,,\nother,,Sunrise,,yes,,\n"
    )
    roster = parse_entity_roster(text)

    assert [(entity.id, entity.kind, entity.name) for entity in roster] == [
        ("1", "person", "Eva Muster"),
        ("3", "organisation", "Sunrise"),
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"segments": [{}]}', '{"segments": [{"text": 1}]}']
)
def test_a_file_that_is_no_transcript_is_refused(text):
    with pytest.raises(TranscriptUnreadable):
        parse_transcript(text)


# --- the command ---


@pytest.fixture
def files(tmp_path):
    transcript = tmp_path / "transcript.json"
    transcript.write_text(
        json.dumps({"segments": [{"id": "s0001", "text": "Mm."},
                                 {"id": "s0007", "text": "Then my brother Kieran rang Shavon."}]})
    )  # fmt: skip
    roster = tmp_path / "roster.csv"
    roster.write_text("kind,code,name,aliases\nperson,P01,Siobhan Gallagher,Shiv\n")
    return transcript, roster


def run(*arguments):
    return CliRunner().invoke(app, ["deidentify", *map(str, arguments)])


def test_deidentify_prints_the_occurrences_as_json(files):
    transcript, roster = files
    result = run(transcript, "--roster", roster, "--model", "none", "--json")
    assert result.exit_code == 0, result.output
    occurrences = json.loads(result.stdout)["occurrences"]
    assert [(o["segment"], o["segment_id"], o["start"], o["end"]) for o in occurrences] == [
        (1, "s0007", 16, 22),
        (1, "s0007", 28, 34),
    ]
    assert {"label": "PERSON", "tier": "sure", "rule": "roster_variant"}.items() <= occurrences[
        1
    ].items()
    assert "Reduced assistance" in result.stderr


def test_deidentify_prints_a_table_and_flags(files):
    transcript, _ = files
    transcript.write_text(json.dumps({"segments": [{"text": "The only nurse, my mate Kieran."}]}))
    result = run(transcript, "--model", "none", "--flags")
    assert "Kieran" in result.stdout
    assert "INDIRECT" in result.stdout


def test_deidentify_names_no_content_in_its_errors(files, tmp_path):
    transcript, roster = files
    roster.write_text("kind,name\nCanary,Canary\n")
    result = run(transcript, "--roster", roster, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["code"] == "bad_entity_roster"
    assert "Canary" not in result.output
    transcript.write_text('{"segments": ["Canary"]}')
    result = run(transcript)
    assert result.exit_code == 2
    assert "Canary" not in result.output
    assert run(tmp_path / "none.json").exit_code == 2
