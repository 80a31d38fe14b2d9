from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import SpeechRegion
from models.windows import MAX_WINDOW, PADDING, Window, _pad, cut_windows


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


def test_a_short_recording_is_one_window_with_some_padding():
    windows = cut_windows([SpeechRegion(1.0, 4.0), SpeechRegion(5.0, 6.0)], silence(10))

    assert windows == (Window(0.8, 6.2),)


def test_silence_around_the_speech_is_left_out():
    windows = cut_windows([SpeechRegion(100.0, 110.0)], silence(300))

    assert windows == (Window(100 - PADDING, 110 + PADDING),)


def test_no_speech_gives_no_windows():
    assert cut_windows([], silence(10)) == ()


def test_a_full_window_ends_at_the_longest_pause_near_its_end():
    regions = [
        SpeechRegion(0.0, 15.0),
        SpeechRegion(15.5, 23.0),  # then the longest pause within the last ten seconds
        SpeechRegion(25.0, 27.0),
        SpeechRegion(27.5, 40.0),
    ]
    windows = cut_windows(regions, silence(60))

    assert windows == (Window(0.0, 23.2), Window(24.8, 40.2))


def test_windows_are_as_few_as_the_pauses_allow():
    """Ending each window at the longest pause near its end would leave half of the third empty."""
    regions = [SpeechRegion(10.0 * i, 10.0 * i + (8.0 if i % 3 == 1 else 9.5)) for i in range(9)]
    windows = cut_windows(regions, silence(90))

    assert len(windows) == 3
    assert all(window.duration > 29 for window in windows)


def test_a_cut_in_a_short_pause_is_avoided_if_that_takes_no_further_window():
    regions = [SpeechRegion(0.0, 18.0), SpeechRegion(18.6, 29.0), SpeechRegion(29.2, 40.0)]
    windows = cut_windows(regions, silence(60))

    assert [(window.start, window.end) for window in windows] == [(0.0, 18.2), (18.4, 40.2)]


def test_speech_without_a_pause_is_cut_where_it_is_quietest():
    samples = np.full(60 * SAMPLE_RATE, 0.5, dtype=np.float32)
    samples[round(24.0 * SAMPLE_RATE) : round(24.1 * SAMPLE_RATE)] = 0.001
    windows = cut_windows([SpeechRegion(0.0, 45.0)], samples)

    assert len(windows) == 2
    assert windows[0].end == windows[1].start == pytest.approx(24.0, abs=0.11)


def test_no_window_crosses_from_one_recording_into_the_next():
    windows = cut_windows([SpeechRegion(2.0, 8.0)], silence(10), joints=[5.0])

    assert windows == (Window(1.8, 5.0), Window(5.0, 8.2))


@given(
    lengths=st.lists(
        st.tuples(st.floats(0.5, 12.0), st.sampled_from([0.1, 0.5, 1.0, 4.0])),
        min_size=1,
        max_size=8,
    )
)
def test_no_other_grouping_needs_fewer_windows_or_has_better_cuts(lengths):
    regions = []
    position = 0.3
    for speech, pause in lengths:
        regions.append(SpeechRegion(round(position, 2), round(position + speech, 2)))
        position += speech + pause
    edges = _pad(regions, 0.0, position)
    best = min(
        cost
        for cuts in product([False, True], repeat=len(edges) - 1)
        if (cost := cost_of(edges, [i + 1 for i, cut in enumerate(cuts) if cut])) is not None
    )
    starts = [window.start for window in cut_windows(regions, silence(position))]
    found = cost_of(edges, [i for i, edge in enumerate(edges) if i and edge.start in starts])

    assert found == best


def cost_of(edges, begins):
    """Count windows, and half a window for each cut in a short pause; None if one is too long."""
    firsts, lasts = [0, *begins], [*(begin - 1 for begin in begins), len(edges) - 1]
    if any(edges[b].end - edges[a].start > 30 for a, b in zip(firsts, lasts, strict=True)):
        return None
    return len(firsts) + 0.5 * sum(edges[begin].pause < 0.3 for begin in begins)


@given(
    lengths=st.lists(
        st.tuples(st.floats(0.05, 50.0), st.floats(0.02, 40.0)), min_size=1, max_size=30
    ),
    joint=st.one_of(st.none(), st.floats(0.01, 0.99)),
)
def test_windows_hold_all_speech_in_order_and_fit_whisper(lengths, joint):
    regions = []
    position = 0.3
    for speech, pause in lengths:
        regions.append(SpeechRegion(position, position + speech))
        position += speech + pause
    samples = silence(position)
    joints = [] if joint is None else [joint * position]
    windows = cut_windows(regions, samples, joints)

    assert all(0 < window.duration <= MAX_WINDOW + 1e-6 for window in windows)
    assert all(len(window.cut(samples)) <= 30 * SAMPLE_RATE for window in windows)
    assert all(a.end <= b.start for a, b in zip(windows, windows[1:], strict=False))
    for region in regions:
        covered = sum(
            max(0.0, min(region.end, window.end) - max(region.start, window.start))
            for window in windows
        )
        # Windows start and end on multiples of 10 ms, so each edge may miss half of that.
        assert covered >= region.duration - 0.011 * (2 + region.duration // 20 + 2 * len(joints))
