"""Masked audio: which passages are masked, and what is left of them and beside them."""

import io
import math
import tracemalloc
import wave
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audio.decode import decode
from models.audio.masked_recording import write_masked
from models.audio.masking import (
    FADE,
    MAX_DRIFT,
    PADDING,
    REACH,
    MaskedSpan,
    Passage,
    TextSpan,
    Unplaceable,
    find_passages,
    find_untranscribed,
    mask_samples,
    plan_masks,
    tone_level,
    words_at,
)
from models.audio.memory_file import memory_file
from models.audio.recording import SAMPLE_RATE
from models.errors import AudioError, Stopped
from models.retiming import retime
from models.transcript import Flag, Segment, Source, Word
from tests.audio_files import noise, tones, wav
from tests.finished import conversation


def segment_of(text, start=0.0, speaker="SPEAKER_00", seconds=0.4, id=""):
    """A segment whose words last 0.4 s each, with 0.1 s between them."""
    step = seconds + 0.1
    words = tuple(
        Word(f" {text}", round(start + i * step, 3), round(start + i * step + seconds, 3), 0.9)
        for i, text in enumerate(text.split())
    )
    return Segment(speaker, words[0].start, words[-1].end, words, id)


def transcript_of(*segments, flags=(), duration=60.0):
    return replace(conversation(), duration=duration, segments=segments, flags=flags)


def span_of(segment, part, label="PERSON"):
    start = segment.text.index(part)
    return TextSpan(segment.id, start, start + len(part), label)


def passage_of(transcript, part, place=0):
    (found,) = find_passages(transcript, [span_of(transcript.segments[place], part)])
    return found


# --- passages -------------------------------------------------------------------------------------


def test_a_mention_is_masked_from_the_word_before_it_to_the_word_after_it():
    """Whisper ended "2021" 0.6 s too early, in the pause after it."""
    transcript = transcript_of(segment_of("my sister Eva Muster came too", start=10))
    found = passage_of(transcript, "Eva Muster")

    assert (found.start, found.end, found.reason, found.label) == (10.9, 12.0, "words", "PERSON")
    assert found.segment == "s0001"


def test_a_mention_reaches_into_a_long_pause_but_not_through_it():
    first, last = segment_of("my sister", start=2), segment_of("Eva", start=10)
    found = passage_of(transcript_of(first, last), "Eva", place=1)

    assert (found.start, found.end) == (10 - REACH, 10.4 + REACH)


def test_a_mention_of_part_of_a_word_masks_the_whole_word():
    transcript = transcript_of(segment_of("it was Eva's, really"))

    assert passage_of(transcript, "Eva").end == passage_of(transcript, "Eva's").end == 1.5


@pytest.mark.parametrize("start", range(12))
@pytest.mark.parametrize("length", range(1, 12))
def test_words_are_found_by_their_characters(start, length):
    """Compared with a list that says which word each character belongs to."""
    words = tuple(Word(text, 0, 1, 0.9) for text in ("  a", " bc", "d", "  e", " f "))
    owner = [None, None, 0, None, 1, 1, 2, None, None, 3, None, 4, None][2:]
    covered = [i for i in owner[start : start + length] if i is not None]
    expected = (covered[0], covered[-1] + 1) if covered else None

    assert words_at(Segment("A", 0, 1, words), start, start + length) == expected


def test_a_word_that_a_person_wrote_is_masked_from_certain_word_to_certain_word():
    heard = segment_of("we met with Alec Oster in town", start=5)
    words = retime(heard.words, "we met with Alexander Foster in town", heard.start, heard.end)
    transcript = transcript_of(replace(heard, words=words))
    found = passage_of(transcript, "Alexander")

    assert found.reason == "gap"
    assert (found.start, found.end) == (heard.words[2].end, heard.words[5].start)


def test_a_word_squeezed_between_two_others_widens_to_the_segment():
    heard = segment_of("she saw her there", start=5, seconds=0.49)
    text = "she saw Alexandra Papadopoulos her there"
    words = retime(heard.words, text, heard.start, heard.end)
    transcript = transcript_of(replace(heard, words=words))
    found = passage_of(transcript, "Alexandra Papadopoulos")

    assert found.reason == "segment"
    assert (found.start, found.end) == (heard.start, heard.end)


def test_an_inserted_segment_too_short_for_its_words_widens_to_its_neighbours():
    first, last = segment_of("good morning", start=0), segment_of("and then", start=0.95)
    squeezed = retime((), "Alexandra Papadopoulos", 0.93, 0.95)
    inserted = Segment("SPEAKER_01", 0.93, 0.95, squeezed)
    transcript = transcript_of(first, inserted, last)
    found = passage_of(transcript, "Alexandra Papadopoulos", place=1)

    assert found.reason == "neighbours"
    assert (found.start, found.end) == (first.start, last.end)


def test_a_mention_with_no_room_anywhere_is_refused():
    words = (Word(" Alexandra Papadopoulos", 0.2, 0.2, None, placed=True),)
    only = Segment("SPEAKER_00", 0.2, 0.2, words)
    transcript = transcript_of(only, duration=0.5)

    with pytest.raises(Unplaceable) as caught:
        find_passages(transcript, [TextSpan("s0001", 0, 5, "PERSON")])
    assert caught.value.segments == ("s0001",)


@pytest.mark.parametrize("kind", ["crammed_words", "few_words", "words_without_speech"])
def test_flags_on_word_times_widen_a_passage(kind):
    segment = segment_of("my sister Eva came too", start=10)
    transcript = transcript_of(segment, flags=(Flag(kind, 10.5, 11.4, {}),))
    found = passage_of(transcript, "Eva")

    assert (found.reason, found.start, found.end) == ("gap", 10.4, 11.5)


def test_a_word_too_short_for_its_letters_widens_a_passage():
    segment = segment_of("my sister Alexandra came", start=10)
    short = replace(segment.words[2], end=segment.words[2].start + 0.1)
    words = (*segment.words[:2], short, segment.words[3])
    found = passage_of(transcript_of(replace(segment, words=words)), "Alexandra")

    assert (found.reason, found.start, found.end) == ("gap", 10.9, 11.5)


def test_digits_in_too_short_a_word_widen_a_passage():
    """Whisper timed "043167290", spoken in 3.3 s, in 0.6 s."""
    segment = segment_of("yeah 043167290 lean", start=10, seconds=0.5)
    number, lean = replace(segment.words[1], start=12.4, end=13.0), Word(" lean", 13.4, 13.8, 0.9)
    words = (segment.words[0], number, lean)
    found = passage_of(transcript_of(replace(segment, words=words, end=13.8)), "043167290")

    assert (found.reason, found.start, found.end) == ("gap", 10.5, 13.4)


def test_speech_without_words_is_found_unless_somebody_has_transcribed_it():
    flags = (Flag("speech_without_words", 20, 23, {}), Flag("speech_without_words", 30, 33, {}))
    transcript = transcript_of(segment_of("later", start=31), flags=flags)

    assert find_untranscribed(transcript) == [Passage(20, 23, "untranscribed")]


words_of_any_time = st.builds(
    Word,
    st.sampled_from([" Eva", " Muster", " a", "-led", " Alexandra"]),
    st.floats(0, 50),
    st.floats(0, 50),
    st.none(),
    placed=st.booleans(),
)


@given(st.lists(st.lists(words_of_any_time, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_passage_always_holds_the_times_of_its_words(groups):
    segments = []
    for group in groups:
        words = tuple(replace(w, start=min(w.start, w.end), end=max(w.start, w.end)) for w in group)
        start, end = min(w.start for w in words), max(w.end for w in words)
        segments.append(Segment("A", start, end, words))
    transcript = transcript_of(*segments)
    for segment in transcript.segments:
        span = TextSpan(segment.id, 0, len(segment.text), "PERSON")
        try:
            (found,) = find_passages(transcript, [span])
        except Unplaceable:
            continue
        assert 0 <= found.start <= segment.start <= segment.end <= found.end


# --- masked spans ---------------------------------------------------------------------------------


def source_of(start, duration):
    return Source(start, duration, "wav", "pcm_s16le", 16_000, 1, 1000)


def test_passages_are_padded_and_near_ones_become_one():
    passages = [
        Passage(10.0, 10.5, "words", "s0002", "PERSON"),
        Passage(10.8, 11.0, "gap", "s0002", "PLACE"),
        Passage(14.0, 14.2, "words", "s0003", "PERSON"),
    ]
    ((first, second),) = plan_masks(passages, [source_of(0, 60)])

    assert first.start == pytest.approx(10 - PADDING, abs=1 / SAMPLE_RATE)
    assert first.end == pytest.approx(11 + PADDING, abs=1 / SAMPLE_RATE)
    assert (first.reasons, first.labels) == (("words", "gap"), ("PERSON", "PLACE"))
    assert (first.n_mentions, second.n_mentions, first.segments) == (2, 1, ("s0002",))


def test_a_passage_is_masked_in_each_recording_that_was_running():
    one_after_another = [source_of(0, 30), source_of(30, 30)]
    at_once = [source_of(0, 60), source_of(0, 60)]
    passages = [Passage(29.9, 30.4, "words", "s0001", "PERSON")]

    first, second = plan_masks(passages, one_after_another)
    assert (first[0].end, second[0].start) == (30, 0)
    assert second[0].end == pytest.approx(0.55, abs=1e-3)
    left, right = plan_masks(passages, at_once)
    assert left[0].start == pytest.approx(29.75, abs=1e-3)
    assert right[0].start == pytest.approx(29.75, abs=0.01)


def test_masks_of_a_second_recorder_widen_as_its_clock_may_drift():
    passages = [Passage(7200, 7201, "words", "s0001", "PERSON")]
    first, second = plan_masks(passages, [source_of(0, 9000), source_of(0.5, 9000)])
    drift = 7200.5 * MAX_DRIFT

    assert first[0].end - first[0].start == pytest.approx(1 + 2 * PADDING, abs=1e-3)
    assert second[0].start == pytest.approx(7199.5 - PADDING - drift, abs=1e-3)
    assert second[0].end == pytest.approx(7200.5 + PADDING + drift, abs=1e-3)


times = st.tuples(st.floats(-5, 70), st.floats(0, 5)).map(lambda t: (t[0], t[0] + t[1]))


@given(st.lists(times, max_size=20))
def test_every_passage_is_covered_and_spans_are_apart(intervals):
    passages = [Passage(start, end, "words", "s0001", "PERSON") for start, end in intervals]
    (spans,) = plan_masks(passages, [source_of(0, 60)])

    assert all(a.end < b.start for a, b in zip(spans, spans[1:], strict=False))
    assert all(0 <= span.start < span.end <= 60 for span in spans)
    for start, end in intervals:
        start, end = max(0, start), min(60, end)
        if start < end:
            assert any(span.start <= start and end <= span.end for span in spans)


# --- samples --------------------------------------------------------------------------------------

SPANS = (MaskedSpan(0.5, 1.0, ("words",), (), (), 1), MaskedSpan(1.5, 1.8, ("words",), (), (), 1))


def inside(n_samples):
    at = np.arange(n_samples) / SAMPLE_RATE
    return ((at >= 0.5) & (at < 1.0)) | ((at >= 1.5) & (at < 1.8))


@pytest.mark.parametrize("block", [32_000, 4096, 7])
@pytest.mark.parametrize("level", [None, -30.0])
def test_samples_outside_the_spans_stay_and_blocks_make_no_difference(block, level):
    original = noise(32_000)[:, 0]
    masked = original.copy()
    for first in range(0, len(masked), block):
        mask_samples(masked[first : first + block], first, SPANS, level)
    whole = original.copy()
    mask_samples(whole, 0, SPANS, level)

    assert np.array_equal(masked, whole)
    assert np.array_equal(masked[~inside(32_000)], original[~inside(32_000)])


def test_silence_holds_nothing_and_a_tone_nothing_but_itself():
    quiet, loud = noise(32_000)[:, 0], tones(300, seconds=2)[:, 0]
    masked = [samples.copy() for samples in (quiet, loud)]
    for samples in masked:
        mask_samples(samples, 0, SPANS, None)
        assert not samples[inside(32_000)].any()
        mask_samples(samples, 0, SPANS, -30.0)

    assert np.array_equal(masked[0][inside(32_000)], masked[1][inside(32_000)])


def test_the_tone_has_its_level_and_begins_and_ends_softly():
    samples = np.zeros(32_000, dtype=np.float32)
    mask_samples(samples, 0, SPANS, -30.0)
    tone = samples[8000:16_000]
    fade = round(FADE * SAMPLE_RATE)

    assert 20 * math.log10(np.sqrt(np.mean(tone[fade:-fade] ** 2))) == pytest.approx(-30, abs=0.1)
    assert np.abs(tone[:4]).max() < 0.001 > np.abs(tone[-4:]).max()
    assert [tone_level(rms) for rms in (-80, -31, -3, -math.inf)] == [-40, -31, -20, -40]


# --- recordings -----------------------------------------------------------------------------------


def masked_of(content, style="silence", spans=SPANS, **options):
    parts = list[bytes]()
    with memory_file([content]) as file:
        n_samples = write_masked(file, spans, style, parts.append, **options)
    written = b"".join(parts)
    with wave.open(io.BytesIO(written)) as reader:
        assert reader.getnframes() == n_samples
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (
            1,
            2,
            16000,
        )
        return np.frombuffer(reader.readframes(n_samples), "<i2"), written


@pytest.mark.parametrize("style", ["silence", "tone"])
def test_a_masked_recording_is_the_recording_outside_the_spans(style):
    samples = (noise(100_001) * 32767).astype("<i2")
    masked, _ = masked_of(wav(samples), style)
    outside = ~inside(len(samples))

    assert len(masked) == len(samples)
    assert np.array_equal(masked[outside], samples[outside, 0])
    if style == "silence":
        assert not masked[~outside].any()


def test_a_masked_recording_has_the_timeline_of_the_decoded_one(make_recording):
    """Stereo, another rate, a lossy codec and tags."""
    tags = ("-metadata", "title=Eva Muster", "-ac", "2", "-b:a", "96k")
    source = "sine=300:duration=3:sample_rate=44100"
    content = make_recording("mp3", *tags, of=source).read_bytes()
    masked, written = masked_of(content)
    with memory_file([content]) as file:
        decoded = decode(file).samples[0]
    outside = ~inside(len(decoded))

    assert len(masked) == len(decoded)
    assert np.abs(masked[outside] / 32768 - decoded[outside]).max() <= 0.5 / 32768
    assert not masked[~outside].any()
    assert b"Eva" not in written and len(written) == 44 + 2 * len(masked)


def test_audio_tracks_are_mixed_as_for_the_transcript(make_recording):
    two = ("-f", "lavfi", "-i", "sine=700:duration=2:sample_rate=16000", "-map", "0", "-map", "1")
    content = make_recording("mka", *two, of="sine=300:duration=3:sample_rate=16000").read_bytes()
    masked, _ = masked_of(content)
    with memory_file([content]) as file:
        decoded = decode(file).samples[0]

    assert len(masked) == len(decoded)
    outside = ~inside(len(decoded))
    assert np.abs(masked[outside] / 32768 - decoded[outside]).max() <= 1 / 32768


def test_masking_stops_when_asked_and_reports_its_progress():
    shares = []

    def stop(share):
        shares.append(share)
        if share > 0.6:
            raise Stopped("cancelled")

    with pytest.raises(Stopped):
        masked_of(wav(noise(1_000_000)), on_progress=stop)
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.1


def test_samples_are_not_kept_in_memory():
    """Five minutes are 19 MB of decoded samples."""
    content = wav(np.resize((noise(16_000) * 32767).astype("<i2"), (300 * SAMPLE_RATE, 1)))
    with memory_file([content]) as file:
        tracemalloc.start()
        write_masked(file, SPANS, "tone", lambda part: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 4 * 2**20


def test_a_damaged_recording_is_refused_as_elsewhere():
    with pytest.raises(AudioError):
        masked_of(b"RIFF" + bytes(100))
