"""Our diarisation against stock pyannote.audio, which is slow: the recordings are short."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.audio.decode import decode
from models.diarisation.diarisation import (
    Diarisation,
    measure_speed,
    start_diarisation,
    warn_of_brief_speakers,
    warn_of_other_voices,
)
from models.diarisation.embedding import embed, embed_stretches
from models.diarisation.segmentation import segment
from models.diarisation.voices import recognise_speakers
from models.errors import BadSpeakerCount, OutOfMemory, Stopped
from models.metrics import diarisation_errors
from models.options import SpeakerCount
from models.pyannote_guard import import_pyannote_audio
from models.transcript import Turn
from models.weights.catalogue import find_pipeline
from models.weights.pyannote import load_pipeline
from scripts.synthetic_diarisation import (
    conversation,
    loud_and_quiet,
    random_pipeline,
    stock_diarisation,
    stock_pipeline,
    variant,
)
from tests.diarising import diarise

DEMO = Path(__file__).parents[1] / "demo"
TWO = SpeakerCount(2, 2)
NOTHING = np.zeros(160, dtype=np.float32)
COUNTS: dict[str, tuple[SpeakerCount, dict[str, Any]]] = {
    "unknown": (SpeakerCount(), {}),
    "exact": (TWO, {"num_speakers": 2}),
    "bounds": (SpeakerCount(3, 5), {"min_speakers": 3, "max_speakers": 5}),
    "one": (SpeakerCount(1, 1), {"num_speakers": 1}),
    "at_most": (SpeakerCount(None, 2), {"max_speakers": 2}),
}
CLUSTERINGS = ("VBxClustering", "AgglomerativeClustering")


@pytest.fixture(scope="module", autouse=True)
def stock_pyannote():
    """Import stock pyannote.audio before any models are loaded, because it gets them."""
    import_pyannote_audio()


@pytest.fixture(scope="module")
def pipeline(stock_pyannote):
    return load_pipeline(find_pipeline("demo", Path()), torch.device("cpu"))


def recording(name: str) -> np.ndarray:
    with (DEMO / f"{name}.flac").open("rb") as file:
        samples: np.ndarray = decode(file).samples[0]
    return samples


@pytest.fixture(scope="module")
def interview() -> np.ndarray:
    return recording("interview")


@pytest.fixture(scope="module")
def focus_group() -> np.ndarray:
    return recording("focus-group")


@pytest.fixture(scope="module")
def samples(interview):
    return interview[: 14 * 16_000]


@pytest.fixture(scope="module")
def segmentation(pipeline, samples):
    return segment(pipeline, samples)


@pytest.fixture(scope="module")
def diarisation(pipeline, samples, segmentation):
    return diarise(pipeline, samples, segmentation, TWO)


def assert_same_as_stock(pipeline, samples, *, counts="unknown"):
    """Compare the whole diarisation: segmentation, embeddings, clustering and turns."""
    count, options = COUNTS[counts]
    found = diarise(pipeline, samples, segment(pipeline, samples), count)
    assert_same(found, stock_diarisation(stock_pipeline(pipeline), samples, **options))
    return found


def assert_same(found, stock):
    assert plain(found.turns) == stock.turns
    assert plain(found.exclusive_turns) == stock.exclusive_turns


def plain(turns):
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


# --- against stock --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_stock(pipeline, samples, segmentation):
    """The output of stock's models, computed once for all clusterings and counts."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    pipeline = stock_pipeline(pipeline)
    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": 16_000}
    activity = pipeline.get_segmentations(file).data
    chunks = SlidingWindowFeature(activity, SlidingWindow(duration=10.0, step=1.0))
    embeddings = pipeline.get_embeddings(file, chunks, exclude_overlap=True)
    return {"segmentation": replace(segmentation, activity=activity), "embeddings": embeddings}


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_turns_are_those_of_stock_pyannote(
    pipeline, samples, segmentation, diarisation, of_stock, clustering, counts
):
    pipeline = variant(pipeline, clustering)
    count, options = COUNTS[counts]
    own = diarisation.embeddings
    found = diarise(pipeline, samples, segmentation, count, embeddings=own)

    assert_same(found, stock_diarisation(stock_pipeline(pipeline), samples, **of_stock, **options))
    assert len(found.turns) > 3


def test_the_models_outputs_are_those_of_stock_pyannote(segmentation, diarisation, of_stock):
    assert np.array_equal(segmentation.activity, of_stock["segmentation"].activity)
    np.testing.assert_allclose(diarisation.embeddings, of_stock["embeddings"], atol=2e-4)


def test_classes_and_the_fewest_samples_are_those_of_stock_pyannote(pipeline):
    stock = stock_pipeline(pipeline)

    mapping = stock._segmentation.conversion.mapping.numpy()
    assert np.array_equal(pipeline.powerset, mapping.astype(np.uint8))
    assert pipeline.min_samples == stock._embedding.min_num_samples
    assert pipeline.chunk_duration == stock._segmentation.duration
    assert pipeline.chunk_step == stock._segmentation.step


def test_turns_of_the_unchanged_demo_pipeline_are_those_of_stock_pyannote(pipeline, samples):
    found = assert_same_as_stock(pipeline, samples, counts="exact")

    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00", "SPEAKER_01"}


@pytest.mark.parametrize("seconds", [0.4, 3.0, 10.0, 10.5])
def test_audio_shorter_than_two_chunks_is_diarised_as_by_stock_pyannote(
    pipeline, interview, seconds
):
    assert_same_as_stock(pipeline, interview[16_000 : 16_000 + round(seconds * 16_000)])


@pytest.mark.parametrize(
    "options",
    [
        {"min_duration_off": 0.4},
        {"exclude_overlap": False},
        {"segmentation_step": 0.0333},  # chunks start between the frames of both models
        {"segmentation_step": 0.25},
    ],
    ids=str,
)
def test_a_pipelines_options_work_as_in_stock_pyannote(pipeline, focus_group, options):
    assert_same_as_stock(variant(pipeline, **options), focus_group[: 13 * 16_000])


@pytest.mark.slow
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_models_of_community_1_s_size_are_diarised_as_by_stock_pyannote(clustering):
    found = assert_same_as_stock(random_pipeline(clustering), loud_and_quiet(11.5))

    assert len(found.turns) > 3


@pytest.mark.slow
def test_a_real_conversation_is_diarised_as_by_stock_pyannote(pipeline):
    """pyannote.audio's 30 s telephone call."""
    import pyannote.audio

    path = Path(pyannote.audio.__file__).parent / "sample" / "sample.wav"
    with path.open("rb") as file:
        samples = decode(file).samples[0]

    for counts in ("unknown", "exact"):
        found = assert_same_as_stock(pipeline, samples, counts=counts)
    assert len(found.turns) > 5


@pytest.mark.slow
@pytest.mark.parametrize("counts", ["unknown", "exact", "bounds"])
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_a_minute_is_diarised_as_by_stock_pyannote(pipeline, focus_group, clustering, counts):
    assert_same_as_stock(variant(pipeline, clustering), focus_group[: 60 * 16_000], counts=counts)


@pytest.mark.slow
def test_ten_minutes_are_diarised_as_by_stock_pyannote(pipeline, interview, focus_group):
    """The same minutes repeated, but at different offsets from the chunks."""
    parts = [interview, focus_group[:-3_000]] * 6
    samples = np.concatenate(parts)[: 600 * 16_000]

    assert_same_as_stock(pipeline, samples)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interview", "focus-group"])
def test_a_bf16_trunk_changes_the_error_rate_by_less_than_a_tenth_of_a_point(pipeline, name):
    """Against the reference turns, with the number of speakers unknown and known."""
    samples = recording(name)
    reference = read_rttm(DEMO / f"{name}.rttm")
    heard = segment(pipeline, samples)
    embeddings = {
        precision: embed(pipeline, samples, heard, precision=precision)
        for precision in ("fp32", "bf16")
    }
    n_speakers = len({turn.speaker for turn in reference})
    for count in (SpeakerCount(), SpeakerCount(n_speakers, n_speakers)):
        rates = [
            diarisation_errors(
                reference,
                diarise(pipeline, samples, heard, count, embeddings=embeddings[precision]).turns,
            ).rate
            for precision in ("fp32", "bf16")
        ]
        assert abs(rates[1] - rates[0]) < 0.001


def read_rttm(path):
    lines = [line.split() for line in path.read_text().splitlines()]
    return [
        Turn(float(start), float(start) + float(seconds), speaker)
        for _, _, _, start, seconds, _, _, speaker, *_ in lines
    ]


@pytest.mark.slow
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_a_minute_of_models_of_community_1_s_size_is_diarised_as_by_stock_pyannote(clustering):
    assert_same_as_stock(random_pipeline(clustering), loud_and_quiet(60, seed=1))


# --- computation ----------------------------------------------------------------------------------


def test_bf16_gives_nearly_the_same_embeddings(pipeline, samples, segmentation):
    exact = embed(pipeline, samples, segmentation)
    fast = embed(pipeline, samples, segmentation, precision="bf16")

    active = segmentation.activity.any(axis=1)
    one, other = exact[active], fast[active]
    cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    assert not np.array_equal(one, other)
    assert cosine.min() > 0.999


def test_the_trunk_runs_once_per_chunk_with_speech(pipeline, samples, segmentation, monkeypatch):
    from models.diarisation.embedding import _Trunk

    seen = []
    run = _Trunk.__call__

    def count(self, features):
        seen.append(len(features))
        return run(self, features)

    monkeypatch.setattr(_Trunk, "__call__", count)
    half = segmentation.activity.copy()
    half[2:] = 0
    embed(pipeline, samples, replace(segmentation, activity=half))

    assert sum(seen) == 2 < len(half)


def test_stored_embeddings_give_the_same_turns_without_being_computed(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    def never(*arguments, **options):
        raise AssertionError("embeddings were computed")

    monkeypatch.setattr("models.diarisation.diarisation.embed", never)
    again = diarise(pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings)

    assert again.turns == diarisation.turns
    assert again.exclusive_turns == diarisation.exclusive_turns


def test_stored_embeddings_give_another_number_of_speakers(
    pipeline, samples, segmentation, diarisation
):
    one = diarise(
        pipeline, samples, segmentation, SpeakerCount(1, 1), embeddings=diarisation.embeddings
    )

    assert {turn.speaker for turn in one.turns} == {"SPEAKER_00"}


def test_more_speakers_than_embeddings_are_limited_to_the_embeddings(
    pipeline, samples, segmentation, diarisation
):
    """scikit-learn refuses to make more clusters than there are points, so stock fails."""
    many = diarise(
        pipeline, samples, segmentation, SpeakerCount(20, 20), embeddings=diarisation.embeddings
    )

    assert 2 < len({turn.speaker for turn in many.turns}) < 20


def test_a_diarisation_can_be_started_and_waited_for_separately(
    pipeline, samples, segmentation, diarisation
):
    running = start_diarisation(
        pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings
    )

    kept: Any = {"embeddings": running.embeddings, "voices": {}}
    assert replace(running.result(), **kept) == replace(diarisation, **kept)


# --- results --------------------------------------------------------------------------------------


def test_exclusive_turns_never_overlap(diarisation):
    ordered = sorted(diarisation.exclusive_turns, key=lambda turn: turn.start)

    assert all(a.end <= b.start for a, b in zip(ordered, ordered[1:], strict=False))


def test_a_turns_certainty_is_higher_the_more_the_voices_differ(pipeline):
    segmentation, embeddings = conversation(60, 2, pipeline.embedding.dimension)
    samples = np.zeros(60 * 16_000, dtype=np.float32)
    clear = diarise(pipeline, samples, segmentation, TWO, embeddings=embeddings)
    mixed = embeddings + 1.5 * embeddings.mean(axis=(0, 1))  # all voices nearer to one another
    unclear = diarise(pipeline, samples, segmentation, TWO, embeddings=mixed)

    assert all(turn.certainty is not None and -2 <= turn.certainty <= 2 for turn in clear.turns)
    assert mean_certainty(clear.turns) > 0.7 > mean_certainty(unclear.turns) > 0


def mean_certainty(turns):
    seconds = [turn.end - turn.start for turn in turns]
    return np.average([turn.certainty for turn in turns], weights=seconds)


def test_turns_of_a_single_speaker_have_no_certainty(pipeline, samples, segmentation, diarisation):
    one = diarise(
        pipeline, samples, segmentation, SpeakerCount(1, 1), embeddings=diarisation.embeddings
    )

    assert {turn.certainty for turn in one.turns} == {None}


def test_stretches_given_to_the_wrong_speaker_are_recognised(pipeline, samples, diarisation):
    turns = [turn for turn in diarisation.exclusive_turns if turn.end - turn.start > 0.5]
    stretches = [(turn.start, turn.end) for turn in turns]
    embeddings = embed_stretches(pipeline, samples, stretches)
    right = [turn.speaker for turn in turns]
    wrong = [sorted(diarisation.voices)[speaker == "SPEAKER_00"] for speaker in right]

    inside = [False] * len(turns)

    assert len(turns) > 3
    assert recognise_speakers(embeddings, right, inside, diarisation.voices) == right
    assert recognise_speakers(embeddings, wrong, inside, diarisation.voices) == right


def test_a_stretch_of_a_moment_at_the_very_end_has_an_embedding(pipeline, samples):
    end = len(samples) / 16_000
    embeddings = embed_stretches(pipeline, samples, [(0.0, 0.02), (end - 0.02, end), (end, end)])

    assert embeddings.shape == (3, pipeline.embedding.dimension)
    assert np.isfinite(embeddings).all()
    assert embed_stretches(pipeline, samples, []).shape == (0, pipeline.embedding.dimension)


def test_a_speaker_who_hardly_speaks_gets_a_warning():
    turns = [Turn(0, 100, "SPEAKER_00"), Turn(100, 150, "SPEAKER_01"), Turn(150, 151, "SPEAKER_02")]

    (warning,) = warn_of_brief_speakers(turns)
    assert "SPEAKER_02 speaks for only 1.0 s" in warning
    assert warn_of_brief_speakers(turns[:2]) == []


def test_a_speaker_made_of_scraps_gets_a_warning_with_the_evidence():
    """24.8 s in 2,925 s, without a turn over 0.8 s, went unreported: more than three seconds."""
    turns = [
        *(Turn(90 * i, 90 * i + 60, "SPEAKER_00") for i in range(31)),
        *(Turn(90 * i + 60, 90 * i + 90, "SPEAKER_01") for i in range(31)),
        *(Turn(90 * i + 10, 90 * i + 10.8, "SPEAKER_02") for i in range(31)),
    ]

    (warning,) = warn_of_brief_speakers(turns)
    assert warning.startswith(
        "SPEAKER_02 speaks for only 24.8 s in all (0.9 % of the talk, in turns of 0.8 s at most)"
    )
    assert warn_of_brief_speakers([*turns, Turn(50, 53, "SPEAKER_02")]) == []  # a sentence


def test_a_quiet_speaker_with_nearly_another_speakers_voice_gets_a_warning():
    """One of four people was split: 13 s of 148, in turns of 1.8 s at most."""
    turns = [Turn(0, 70, "SPEAKER_00"), Turn(70, 135, "SPEAKER_01"), Turn(135, 148, "SPEAKER_02")]
    one, other, same = np.eye(3, dtype=np.float32)[[0, 1, 1]] + 0.2 * np.eye(3)[[0, 1, 2]]
    same /= np.linalg.norm(same)
    voices = {"SPEAKER_00": one / 1.2, "SPEAKER_01": other / 1.2, "SPEAKER_02": same}

    (warning,) = warn_of_brief_speakers(turns, voices)
    assert "has nearly the voice of SPEAKER_01, so they may be one person" in warning
    assert warn_of_brief_speakers(turns, {**voices, "SPEAKER_02": np.eye(3)[2]}) == []
    longer = [*turns, Turn(148, 170, "SPEAKER_02")]  # somebody who says so much may be like another
    assert warn_of_brief_speakers(longer, voices) == []


def make_everybody_brief(monkeypatch):
    monkeypatch.setattr("models.diarisation.diarisation.FEW_SECONDS", 1e6)
    monkeypatch.setattr("models.diarisation.diarisation.SMALL_SHARE", 1.0)


def test_brief_speakers_get_no_warning_if_their_number_was_requested(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    make_everybody_brief(monkeypatch)
    named = [
        diarise(pipeline, samples, segmentation, count, embeddings=diarisation.embeddings).warnings
        for count in (SpeakerCount(2, 3), TWO)
    ]

    assert len(named[0]) >= 2
    assert named[1] == ()


def test_brief_speakers_get_a_warning_if_their_number_came_from_a_roster(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    make_everybody_brief(monkeypatch)
    known = diarisation.embeddings
    found = diarise(pipeline, samples, segmentation, TWO, embeddings=known, by_roster=True)

    assert any(warning.startswith("SPEAKER_00 speaks for only") for warning in found.warnings)


def talking(*seconds: float) -> list[Turn]:
    """Turns of these lengths, each by another speaker."""
    return [Turn(0.0, length, f"SPEAKER_{i:02d}") for i, length in enumerate(seconds)]


@pytest.mark.parametrize(
    ("seconds", "roster", "begins"),
    [
        ((60.0, 30.0), TWO, None),
        ((60.0, 30.0, 20.0), TWO, "3 voices can be told apart, but the roster has 2 speakers:"),
        ((90.0,), TWO, "Only 1 of the 2 speakers"),
        ((60.0, 30.0, 4.0), TWO, None),  # a clustering error, or a person who came in
        ((60.0, 30.0, 4.0), SpeakerCount(3, 3), None),  # the third may be quiet
        ((60.0, 30.0, 0.5), SpeakerCount(3, 3), "Only 2 of the 3"),  # but a cough is not a person
        ((20.0, 9.0), SpeakerCount(3, 3), None),  # the third may not have spoken yet
        ((9.0, 8.0, 7.0, 6.0, 5.0), SpeakerCount(6, 6), None),  # nor the sixth
        ((9.0, 8.0, 7.0, 6.0, 6.0), SpeakerCount(6, 6), "Only 5 of the 6"),
        ((9.0, 8.0, 7.0, 6.0, 6.0), SpeakerCount(12, 12), "Only 5 of the 12"),
        ((4.0, 2.0, 2.0), TWO, None),
        ((60.0, 30.0), SpeakerCount(2, 3), None),  # an observer
        (
            (60.0, 30.0, 20.0, 20.0),
            SpeakerCount(2, 3),
            "4 voices can be told apart, but the roster has 2-3 speakers",
        ),
    ],
)
def test_a_warning_is_given_if_the_voices_do_not_match_the_roster(seconds, roster, begins):
    found = warn_of_other_voices(talking(*seconds), roster)

    assert [warning.startswith(begins) for warning in found] == ([] if begins is None else [True])


def test_a_wrong_roster_is_a_warning_and_changes_no_turn(pipeline):
    """The number of speakers found was forced to be the roster's, then compared with it."""
    segmentation, embeddings = conversation(120, 3, pipeline.embedding.dimension)

    def diarise_as(n: int, by_roster: bool) -> Diarisation:
        count = SpeakerCount(n, n)
        return diarise(
            pipeline, NOTHING, segmentation, count, embeddings=embeddings, by_roster=by_roster
        )

    assert diarise_as(3, by_roster=True).warnings == ()
    for n, begins in ((2, "3 voices"), (4, "Only 3 of the 4")):
        found = diarise_as(n, by_roster=True)
        assert found.warnings[0].startswith(begins)
        assert found.turns == diarise_as(n, by_roster=False).turns


def test_a_wrong_requested_number_is_a_warning_and_changes_no_turn(pipeline):
    """Two people told six were six speakers, three told two were two, without a word about it."""
    segmentation, embeddings = conversation(120, 3, pipeline.embedding.dimension)

    def diarise_as(low: int, high: int) -> Diarisation:
        count = SpeakerCount(low, high)
        return diarise(pipeline, NOTHING, segmentation, count, embeddings=embeddings)

    assert diarise_as(3, 3).warnings == ()
    assert diarise_as(2, 4).warnings == ()
    for n, begins in (
        (2, "3 voices can be told apart, but 2 speakers were requested:"),
        (4, "Only 3 of the 4 speakers that were requested"),
    ):
        (warning,) = diarise_as(n, n).warnings
        assert warning.startswith(begins)
        assert len({turn.speaker for turn in diarise_as(n, n).turns}) == n
    assert diarise_as(1, 2).warnings[0].startswith("3 voices can be told apart, but 1-2 ")


def test_turns_end_with_the_recording_and_nobody_is_listed_with_no_seconds():
    turns = (
        Turn(0.0, 3.0, "SPEAKER_00"),
        Turn(2.0, 2.04, "SPEAKER_01"),
        Turn(4.0, 6.5, "SPEAKER_02"),
        Turn(5.2, 6.0, "SPEAKER_03"),
    )
    found = Diarisation(turns, turns, np.empty((0, 0, 0)), sampled=False).within(5.0)

    expected = (Turn(0.0, 3.0, "SPEAKER_00"), Turn(4.0, 5.0, "SPEAKER_02"))
    assert found.turns == found.exclusive_turns == expected
    assert warn_of_brief_speakers([Turn(0.0, 60.0, "A"), Turn(60.0, 60.02, "B")]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_people"), [("interview", 2), ("focus-group", 6)])
def test_the_demo_recordings_match_only_their_own_roster(pipeline, name, n_people):
    samples = recording(name)
    heard = segment(pipeline, samples)
    embeddings = embed(pipeline, samples, heard)

    def warnings(n: int) -> tuple[str, ...]:
        count = SpeakerCount(n, n)
        return diarise(
            pipeline, samples, heard, count, embeddings=embeddings, by_roster=True
        ).warnings

    assert warnings(n_people) == ()
    assert any("the roster" in warning for warning in warnings(n_people - 1))
    assert any("the roster" in warning for warning in warnings(n_people + 1))


def test_without_speech_there_are_no_turns(pipeline, samples, segmentation):
    quiet = replace(segmentation, activity=np.zeros_like(segmentation.activity))
    nothing = diarise(pipeline, samples, quiet, SpeakerCount())
    again = diarise(pipeline, samples, quiet, SpeakerCount(), embeddings=nothing.embeddings)

    assert nothing.turns == nothing.exclusive_turns == again.turns == ()


# --- side effects ---------------------------------------------------------------------------------


def test_fp32_is_exact_and_global_settings_are_restored(pipeline, samples, segmentation):
    during = []

    def observe(fraction: float) -> None:
        during.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    random_state = torch.random.get_rng_state()
    vars(pipeline).pop("min_samples", None)
    try:
        segment(pipeline, samples, observe)
        embed(pipeline, samples, segmentation, observe)

        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.equal(torch.random.get_rng_state(), random_state)
        assert during and not any(during)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_it_can_be_stopped_between_batches(pipeline, samples, segmentation):
    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        diarise(pipeline, samples, segmentation, TWO, stop)
    with pytest.raises(Stopped):
        segment(pipeline, samples, stop)


def test_progress_rises_to_one(pipeline, samples, segmentation):
    reported: list[float] = []
    diarise(pipeline, samples, segmentation, TWO, reported.append)

    assert reported == sorted(reported)
    assert reported[-1] == 1.0


def test_a_batch_that_does_not_fit_is_a_named_error(pipeline, samples, segmentation, monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("models.diarisation.embedding._Trunk.__call__", too_much)
    monkeypatch.setattr("models.diarisation.segmentation._scores", too_much)
    with pytest.raises(OutOfMemory):
        diarise(pipeline, samples, segmentation, TWO)
    with pytest.raises(OutOfMemory):
        segment(pipeline, samples)


def test_a_trial_measures_how_long_both_stages_take(pipeline):
    segmenting, embedding = measure_speed(pipeline)

    assert 0 < segmenting < embedding * 10


@pytest.mark.parametrize(
    ("text", "count"), [("6", SpeakerCount(6, 6)), ("2-4", SpeakerCount(2, 4))]
)
def test_a_number_of_speakers_can_be_exact_or_a_range(text, count):
    assert SpeakerCount.parse(text) == count
    assert str(count) == text


@pytest.mark.parametrize("text", ["0", "-1", "3-2", "21", "two", "2-", "", "1-99"])
def test_an_impossible_number_of_speakers_is_refused(text):
    with pytest.raises(BadSpeakerCount):
        SpeakerCount.parse(text)


def test_new_labels_are_in_the_warnings_too():
    """A warning named SPEAKER_01 while the transcript called the same person SPEAKER_00."""
    turns = (Turn(0.0, 1.0, "SPEAKER_01"), Turn(1.0, 2.0, "SPEAKER_00"))
    warning = "SPEAKER_01 speaks for only 1.0 s in all and may not be a person."
    found = Diarisation(turns, turns, np.empty((0, 0, 0), np.float32), False, (warning,))
    made = found.relabel({"SPEAKER_01": "SPEAKER_00", "SPEAKER_00": "SPEAKER_01"})

    assert [turn.speaker for turn in made.turns] == ["SPEAKER_00", "SPEAKER_01"]
    assert made.exclusive_turns == made.turns
    assert made.warnings == ("SPEAKER_00 speaks for only 1.0 s in all and may not be a person.",)
