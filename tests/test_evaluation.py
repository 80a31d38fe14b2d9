import json

import pytest

from models.error_rates import ErrorRate
from models.metrics import Spoken, TimedText, WordCounts
from models.transcript import Turn
from scripts.evaluation import (
    Measurement,
    Row,
    compare,
    compare_text,
    format_table,
    format_words,
    summarise,
)
from scripts.references import Annotation

REFERENCE = Annotation(
    utterances=(
        Spoken("I", 0.0, 2.0, "Where do you work?"),
        Spoken("P", 3.0, 5.0, "At the clinic."),
    ),
    words=(TimedText("Where", 0.0, 0.5), TimedText("clinic.", 4.0, 5.0)),
    turns=(Turn(0.0, 2.0, "I"), Turn(3.0, 5.0, "P")),
)


def row(group: str, errors: int, name: str = "a", speakers: int = 2) -> Row:
    rates = {
        "wer": ErrorRate(errors, 100),
        "der": ErrorRate(errors / 10, 50),
        "invented": ErrorRate(1, 9),
    }
    rates |= {f"der_{part}": ErrorRate(1, 50) for part in ("confusion", "false_alarm")}
    if not speakers:
        rates = {"invented": ErrorRate(3, 60)}
    return Row(group, name, Measurement(rates, speakers, speakers, "en", 60.0, 30.0))


def test_a_transcript_equal_to_the_reference_has_no_errors():
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")
    measured = compare(REFERENCE, REFERENCE, 60.0, "en", 1.0)

    assert {name: rate.errors for name, rate in measured.rates.items() if rate.errors} == {
        # only two of the seven words have times here, so the stretch between them is uncovered
        "speech_without_words": pytest.approx(1.5)
    }
    assert (measured.speakers, measured.speakers_found) == (2, 2)


def test_an_empty_transcript_misses_every_word_and_second():
    pytest.importorskip("meeteval", reason="comes with scripts/evaluate")
    measured = compare(REFERENCE, Annotation(), 60.0, "en", 1.0)

    assert measured.words == ErrorRate(7, 7)
    assert measured.rates["cpwer"] == ErrorRate(7, 7)
    assert measured.turns.rate == pytest.approx(1.0)
    assert measured.rates["invented"].errors == 0


def test_a_reference_with_only_turns_gives_only_the_figures_of_turns():
    measured = compare(Annotation(turns=REFERENCE.turns), REFERENCE, 60.0, "en", 1.0)

    assert "wer" not in measured.rates and "cpwer" not in measured.rates
    assert measured.turns.errors == 0


def test_words_with_the_wrong_speaker_are_found_by_turns_alone():
    words = (TimedText("Where", 0.0, 0.5, "S0"), TimedText("clinic.", 4.0, 5.0, "S0"))
    measured = compare(Annotation(turns=REFERENCE.turns), Annotation(words=words), 60, "en", 1)

    assert measured.rates["wrong_speaker"] == ErrorRate(1, 2)
    assert measured.rates["no_speaker"] == ErrorRate(0, 2)


def test_without_turns_in_the_reference_no_word_counts_as_invented():
    measured = compare(Annotation(words=REFERENCE.words), REFERENCE, 60.0, "en", 1.0)

    assert "invented" not in measured.rates and "der" not in measured.rates
    assert measured.speakers is None


def test_speakers_and_times_are_measured_in_the_recordings_language():
    reference = Annotation((Spoken("I", 0.0, 1.0, "你好"),), (TimedText("你好", 0.0, 1.0),))
    found = Annotation((Spoken("A", 0.0, 1.0, "你们好"),), (TimedText("你们好", 0.0, 1.0),))
    rates = compare(reference, found, 60.0, "zh", 1.0).rates

    assert rates["wrong_speaker"] == ErrorRate(0, 2)
    assert rates["times_off"].total == 2


def test_in_a_recording_without_speech_every_word_is_invented():
    words = Annotation(words=(TimedText("thanks", 10.0, 13.0),))
    measured = compare(Annotation(), words, 60.0, "en", 1.0)

    assert measured.rates == {"invented": ErrorRate(3.0, 60.0)}


def test_groups_are_summed_and_the_total_excludes_recordings_without_speech():
    rows = [row("clean", 10), row("noise", 30), row("hum", 0, speakers=0), row("clean", 20)]
    groups = {group["group"]: group for group in summarise(rows)}

    assert list(groups) == ["clean", "noise", "hum", "all with speech"]
    assert groups["clean"]["figures"]["wer"]["rate"] == pytest.approx(0.15)
    assert groups["all with speech"]["recordings"] == 3
    assert groups["all with speech"]["figures"]["wer"]["rate"] == pytest.approx(0.20)
    assert groups["clean"]["rtfx"] == pytest.approx(2.0)


def test_the_table_has_a_line_per_group_with_intervals_if_there_are_enough_recordings():
    lines = format_table(
        summarise([row("clean", n) for n in (10, 20, 30)] + [row("noise", 5)])
    ).splitlines()

    assert len(lines) == 5
    assert "| 20.0 (" in lines[2]
    assert "| 5.0 |" in lines[3]


def test_plots_are_drawn_and_the_document_is_json(tmp_path):
    pytest.importorskip("matplotlib", reason="comes with scripts/evaluate")
    from scripts.evaluation_plots import plot

    rows = [row("clean", n, str(n)) for n in (10, 20, 30)] + [row("hum", 0, speakers=0)]
    document = {
        "whisper": {"name": "demo"},
        "diarisation": {"name": "demo"},
        "groups": summarise(rows),
        "recordings": [
            {
                "group": r.group,
                "figures": {
                    name: {"errors": rate.errors, "total": rate.total}
                    for name, rate in r.measured.rates.items()
                },
            }
            for r in rows
        ],
    }
    plot(json.loads(json.dumps(document)), tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"words.png", "speakers.png", "speech.png"}
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())


def recording(name: str, ours: WordCounts | None, **peers: WordCounts) -> dict[str, object]:
    return {
        "name": name,
        "words": None if ours is None else vars(ours),
        "peers": {peer: vars(counts) for peer, counts in peers.items()},
    }


def test_the_table_of_words_tells_invented_words_from_lost_ones_and_sums_them():
    lines = format_words(
        [
            recording("a", WordCounts(3, 1, 0, 10), peer=WordCounts(0, 0, 2, 10)),
            recording("noise", WordCounts(0, 0, 0, 0), peer=WordCounts(0, 0, 4, 0)),
            recording("b", WordCounts(0, 0, 1, 30), peer=WordCounts(1, 0, 0, 30)),
            recording("turns only", None),
        ]
    ).splitlines()

    assert lines[2:] == [
        "| recording | words | fieldscribe | peer |",
        "|---|---|---|---|",
        "| a | 10 | 4, 40.0% (3 + 1 + 0) | 2, 20.0% (0 + 0 + 2) |",
        "| b | 30 | 1, 3.3% (0 + 0 + 1) | 1, 3.3% (1 + 0 + 0) |",
        "| all with speech | 40 | 5, 12.5% (3 + 1 + 1) | 3, 7.5% (1 + 0 + 2) |",
        "| noise | 0 | 0 (0 + 0 + 0) | 4 (0 + 0 + 4) |",
    ]


def test_every_word_is_invented_where_nobody_speaks():
    assert compare_text(Annotation(), "thank you", "en") == WordCounts(0, 0, 2, 0)
    assert compare_text(Annotation(text="thank"), "thank you", "en") == WordCounts(0, 0, 1, 1)
    assert compare_text(Annotation(turns=REFERENCE.turns), "thank you", "en") is None
