"""Our own loop against stock pyannote.audio, which is slow: what is compared is kept short."""

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
    warn_of_roster_mismatch,
)
from models.diarisation.embedding import embed
from models.diarisation.segmentation import segment
from models.errors import BadSpeakerCount, OutOfMemory, Stopped
from models.metrics import diarisation_errors
from models.options import SpeakerCount
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


@pytest.fixture(scope="module")
def pipeline():
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
    """Segmentation, embeddings, clustering and turns: everything, from the samples on."""
    count, options = COUNTS[counts]
    found = diarise(pipeline, samples, segment(pipeline, samples), count)
    assert_same(found, stock_diarisation(stock_pipeline(pipeline), samples, **options))
    return found


def assert_same(found, stock):
    assert plain(found.turns) == stock.turns
    assert plain(found.exclusive_turns) == stock.exclusive_turns


def plain(turns):
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


# --- as stock -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_stock(pipeline, samples, segmentation):
    """What stock's models find, once for all the clusterings and counts."""
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


def test_what_the_models_find_is_what_they_find_in_stock_pyannote(
    segmentation, diarisation, of_stock
):
    assert np.array_equal(segmentation.activity, of_stock["segmentation"].activity)
    np.testing.assert_allclose(diarisation.embeddings, of_stock["embeddings"], atol=2e-4)


def test_classes_and_the_least_sound_are_those_of_stock_pyannote(pipeline):
    stock = stock_pipeline(pipeline)

    mapping = stock._segmentation.conversion.mapping.numpy()
    assert np.array_equal(pipeline.powerset, mapping.astype(np.uint8))
    assert pipeline.min_samples == stock._embedding.min_num_samples
    assert pipeline.chunk_duration == stock._segmentation.duration
    assert pipeline.chunk_step == stock._segmentation.step


def test_turns_of_the_demo_pipeline_as_it_is_are_those_of_stock_pyannote(pipeline, samples):
    found = assert_same_as_stock(pipeline, samples, counts="exact")

    assert {turn.speaker for turn in found.turns} == {"SPEAKER_00", "SPEAKER_01"}


@pytest.mark.parametrize("seconds", [0.4, 3.0, 10.0, 10.5])
def test_sound_of_less_than_two_chunks_is_diarised_as_by_stock_pyannote(
    pipeline, interview, seconds
):
    assert_same_as_stock(pipeline, interview[16_000 : 16_000 + round(seconds * 16_000)])


@pytest.mark.parametrize(
    "options",
    [
        {"min_duration_off": 0.4},
        {"exclude_overlap": False},
        {"segmentation_step": 0.0333},  # chunks begin between the frames of both models
        {"segmentation_step": 0.25},
    ],
    ids=str,
)
def test_a_pipeline_with_other_options_is_followed(pipeline, focus_group, options):
    assert_same_as_stock(variant(pipeline, **options), focus_group[: 13 * 16_000])


@pytest.mark.slow
@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_models_of_community_1_s_size_are_diarised_as_by_stock_pyannote(clustering):
    found = assert_same_as_stock(random_pipeline(clustering), loud_and_quiet(11.5))

    assert len(found.turns) > 3


@pytest.mark.slow
def test_a_real_conversation_is_diarised_as_by_stock_pyannote(pipeline):
    """pyannote.audio's 30 s of telephone."""
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
    """The same minutes over and over, but never on the same chunk."""
    parts = [interview, focus_group[:-3_000]] * 6
    samples = np.concatenate(parts)[: 600 * 16_000]

    assert_same_as_stock(pipeline, samples)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interview", "focus-group"])
def test_a_bf16_trunk_changes_the_error_rate_by_less_than_a_tenth_of_a_point(pipeline, name):
    """The gate for the option; against people's turns, with their number unknown and known."""
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


# --- what is computed -----------------------------------------------------------------------------


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


def test_embeddings_given_back_give_the_same_turns_without_computing_them(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    def never(*arguments, **options):
        raise AssertionError("embeddings were computed")

    monkeypatch.setattr("models.diarisation.diarisation.embed", never)
    again = diarise(pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings)

    assert again.turns == diarisation.turns
    assert again.exclusive_turns == diarisation.exclusive_turns


def test_another_number_of_speakers_from_the_same_embeddings(
    pipeline, samples, segmentation, diarisation
):
    one = diarise(
        pipeline, samples, segmentation, SpeakerCount(1, 1), embeddings=diarisation.embeddings
    )

    assert {turn.speaker for turn in one.turns} == {"SPEAKER_00"}


def test_more_speakers_than_there_is_speech_of_are_as_many_as_there_can_be(
    pipeline, samples, segmentation, diarisation
):
    """scikit-learn refuses to make more clusters than there are points, and stock fails."""
    many = diarise(
        pipeline, samples, segmentation, SpeakerCount(20, 20), embeddings=diarisation.embeddings
    )

    assert 2 < len({turn.speaker for turn in many.turns}) < 20


def test_the_device_is_free_again_before_the_speakers_are_told_apart(
    pipeline, samples, segmentation, diarisation
):
    begun = start_diarisation(
        pipeline, samples, segmentation, TWO, embeddings=diarisation.embeddings
    )

    assert begun.result() == replace(diarisation, embeddings=begun.embeddings)


# --- what is found --------------------------------------------------------------------------------


def test_exclusive_turns_never_overlap(diarisation):
    ordered = sorted(diarisation.exclusive_turns, key=lambda turn: turn.start)

    assert all(a.end <= b.start for a, b in zip(ordered, ordered[1:], strict=False))


def test_a_turn_s_certainty_is_how_much_nearer_it_is_to_its_speaker(pipeline):
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


def test_with_one_speaker_there_is_no_certainty(pipeline, samples, segmentation, diarisation):
    one = diarise(
        pipeline, samples, segmentation, SpeakerCount(1, 1), embeddings=diarisation.embeddings
    )

    assert {turn.certainty for turn in one.turns} == {None}


def test_somebody_who_hardly_speaks_is_named_but_not_merged():
    turns = [Turn(0, 100, "SPEAKER_00"), Turn(100, 150, "SPEAKER_01"), Turn(150, 151, "SPEAKER_02")]

    (warning,) = warn_of_brief_speakers(turns)
    assert "SPEAKER_02 speaks for only 1.0 s" in warning
    assert warn_of_brief_speakers(turns[:2]) == []


def test_somebody_who_hardly_speaks_is_no_surprise_where_the_number_was_given(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    monkeypatch.setattr("models.diarisation.diarisation.FEW_SECONDS", 1e6)
    monkeypatch.setattr(
        "models.diarisation.diarisation.SMALL_SHARE", 1.0
    )  # everybody hardly speaks
    named = [
        diarise(pipeline, samples, segmentation, count, embeddings=diarisation.embeddings).warnings
        for count in (SpeakerCount(2, 3), TWO)
    ]

    assert len(named[0]) >= 2
    assert named[1] == ()


def test_somebody_who_hardly_speaks_is_a_surprise_where_the_number_came_from_a_roster(
    pipeline, samples, segmentation, diarisation, monkeypatch
):
    monkeypatch.setattr("models.diarisation.diarisation.FEW_SECONDS", 1e6)
    monkeypatch.setattr(
        "models.diarisation.diarisation.SMALL_SHARE", 1.0
    )  # everybody hardly speaks
    known = diarisation.embeddings
    found = diarise(pipeline, samples, segmentation, TWO, embeddings=known, by_roster=True)

    assert any(warning.startswith("SPEAKER_00 speaks for only") for warning in found.warnings)


def talking(*seconds: float) -> list[Turn]:
    """A turn of each length, each of somebody else."""
    return [Turn(0.0, length, f"SPEAKER_{i:02d}") for i, length in enumerate(seconds)]


@pytest.mark.parametrize(
    ("seconds", "roster", "begins"),
    [
        ((60.0, 30.0), TWO, None),
        ((60.0, 30.0, 20.0), TWO, "3 voices can be told apart, but the roster has 2 speakers:"),
        ((90.0,), TWO, "Only 1 of the 2 speakers"),
        ((60.0, 30.0, 4.0), TWO, None),  # a slip of the clustering, or somebody who came in
        ((60.0, 30.0, 4.0), SpeakerCount(3, 3), None),  # who may be the one who is quiet
        ((60.0, 30.0, 0.5), SpeakerCount(3, 3), "Only 2 of the 3"),  # but a cough is nobody
        ((20.0, 9.0), SpeakerCount(3, 3), None),  # the third need not have said anything yet
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
def test_a_roster_is_doubted_where_the_voices_contradict_it(seconds, roster, begins):
    found = warn_of_roster_mismatch(talking(*seconds), roster)

    assert [warning.startswith(begins) for warning in found] == ([] if begins is None else [True])


def test_a_wrong_roster_is_a_warning_and_changes_no_turn(pipeline):
    """As many speakers as it has were made, and the number then compared with itself."""
    segmentation, embeddings = conversation(120, 3, pipeline.embedding.dimension)

    def told(n: int, by_roster: bool) -> Diarisation:
        count = SpeakerCount(n, n)
        return diarise(
            pipeline, NOTHING, segmentation, count, embeddings=embeddings, by_roster=by_roster
        )

    assert told(3, by_roster=True).warnings == ()
    for n, begins in ((2, "3 voices"), (4, "Only 3 of the 4")):
        assert told(n, by_roster=False).warnings == ()
        found = told(n, by_roster=True)
        assert found.warnings[0].startswith(begins)
        assert found.turns == told(n, by_roster=False).turns


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_people"), [("interview", 2), ("focus-group", 6)])
def test_the_demo_recordings_agree_with_their_own_roster_only(pipeline, name, n_people):
    samples = recording(name)
    heard = segment(pipeline, samples)
    embeddings = embed(pipeline, samples, heard)

    def doubts(n: int) -> tuple[str, ...]:
        count = SpeakerCount(n, n)
        return diarise(
            pipeline, samples, heard, count, embeddings=embeddings, by_roster=True
        ).warnings

    assert doubts(n_people) == ()
    assert any("the roster" in warning for warning in doubts(n_people - 1))
    assert any("the roster" in warning for warning in doubts(n_people + 1))


def test_where_nobody_speaks_there_are_no_turns(pipeline, samples, segmentation):
    quiet = replace(segmentation, activity=np.zeros_like(segmentation.activity))
    nothing = diarise(pipeline, samples, quiet, SpeakerCount())
    again = diarise(pipeline, samples, quiet, SpeakerCount(), embeddings=nothing.embeddings)

    assert nothing.turns == nothing.exclusive_turns == again.turns == ()


# --- manners --------------------------------------------------------------------------------------


def test_fp32_means_fp32_and_global_switches_are_left_as_they_were(pipeline, samples, segmentation):
    during = []

    def look(fraction: float) -> None:
        during.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    random_state = torch.random.get_rng_state()
    vars(pipeline).pop("min_samples", None)
    try:
        segment(pipeline, samples, look)
        embed(pipeline, samples, segmentation, look)

        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.equal(torch.random.get_rng_state(), random_state)
        assert during and not any(during)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def test_it_stops_between_batches_when_told(pipeline, samples, segmentation):
    def stop(fraction: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        diarise(pipeline, samples, segmentation, TWO, stop)
    with pytest.raises(Stopped):
        segment(pipeline, samples, stop)


def test_progress_goes_from_nothing_to_one(pipeline, samples, segmentation):
    told: list[float] = []
    diarise(pipeline, samples, segmentation, TWO, told.append)

    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_batch_that_does_not_fit_is_a_named_error(pipeline, samples, segmentation, monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("models.diarisation.embedding._Trunk.__call__", too_much)
    monkeypatch.setattr("models.diarisation.segmentation._scores", too_much)
    with pytest.raises(OutOfMemory):
        diarise(pipeline, samples, segmentation, TWO)
    with pytest.raises(OutOfMemory):
        segment(pipeline, samples)


def test_a_trial_tells_how_long_both_stages_take(pipeline):
    segmenting, embedding = measure_speed(pipeline)

    assert 0 < segmenting < embedding * 10


@pytest.mark.parametrize(
    ("text", "count"), [("6", SpeakerCount(6, 6)), ("2-4", SpeakerCount(2, 4))]
)
def test_a_number_of_speakers_is_exact_or_a_range(text, count):
    assert SpeakerCount.parse(text) == count
    assert str(count) == text


@pytest.mark.parametrize("text", ["0", "-1", "3-2", "21", "two", "2-", "", "1-99"])
def test_an_impossible_number_of_speakers_is_refused(text):
    with pytest.raises(BadSpeakerCount):
        SpeakerCount.parse(text)
