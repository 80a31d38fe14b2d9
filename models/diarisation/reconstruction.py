"""Builds turns from chunks and the clusters of their local speakers, by pyannote's rules.

Stock pyannote.audio loops over chunks, clusters and frames twice, in 64-bit floats. A chunk's vote
on a frame is 0 or 1, so whole arrays of small integers are enough here.

Source: pyannote/audio/pipelines/speaker_diarization.py, `reconstruct`;
pipelines/utils/diarization.py, `speaker_count`, `to_diarization`, `to_annotation`;
core/inference.py, `aggregate`; utils/signal.py, `Binarize`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from models.diarisation.pyannote_clustering import NOBODY
from models.diarisation.segmentation import Segmentation
from models.transcript import Turn

MIN_SECONDS = 1e-6  # pyannote.core ignores shorter segments
BLOCK = 1 << 15  # frames at once, so that memory does not grow with the session


@dataclass(frozen=True)
class _Region:
    """A stretch in which a cluster is active: [start, end) in seconds, [first, last) in frames."""

    start: float
    end: float
    first: int
    last: int
    cluster: int
    track: str  # by which pyannote orders regions with the same times


def count_speakers(segmentation: Segmentation) -> np.ndarray:
    """Count the people who speak in each frame of the session; uint8, (n_session_frames,)."""
    n_frames = segmentation.activity.shape[1]
    starts = segmentation.first_frames
    total = np.zeros(max(segmentation.n_session_frames, starts[-1] + n_frames), dtype=np.float32)
    covering = np.zeros_like(total)
    for chunk, start in zip(segmentation.n_speaking, starts.tolist(), strict=True):
        total[start : start + n_frames] += chunk
        covering[start : start + n_frames] += 1
    mean = total / np.maximum(covering, 1e-12)
    return np.rint(mean[: segmentation.n_session_frames]).astype(np.uint8)


@dataclass(frozen=True)
class Votes:
    """The chunks' votes for each cluster, on the session's frames.

    `counts`: int16, (n_clusters, n_session_frames), how many chunks hear the cluster.
    `margins`: float32, the same shape, the sum of the margins over these chunks.
    """

    counts: np.ndarray
    margins: np.ndarray


def count_votes(segmentation: Segmentation, labels: np.ndarray, margins: np.ndarray) -> Votes:
    """Sum the chunks' votes for each cluster.

    Args:
        labels: int, (n_chunks, n_local_speakers), clusters from 0; NOBODY is left out.
        margins: float, the same shape: how much nearer the local speaker is to this cluster than to
            the next one. NaN counts as 0.
    """
    local, labels = _merge_local_speakers(segmentation.activity, labels)
    n_frames = local.shape[2]
    starts = segmentation.first_frames.tolist()
    n_clusters, n_total = labels.max() + 1, segmentation.n_session_frames
    shape = n_clusters, max(n_total, starts[-1] + n_frames)
    counts, sums = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.float32)
    margins = np.nan_to_num(margins).astype(np.float32)
    for chunk, speaker in np.argwhere(labels != NOBODY).tolist():
        start, cluster = starts[chunk], labels[chunk, speaker]
        mask = local[chunk, speaker]
        counts[cluster, start : start + n_frames] += mask
        sums[cluster, start : start + n_frames] += margins[chunk, speaker] * mask
    return Votes(counts[:, :n_total], sums[:, :n_total])


def _merge_local_speakers(
    activity: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the local speakers of one chunk who are in the same cluster.

    Returns:
        The activity, bool, (n_chunks, n_local_speakers, n_frames), and the labels, with NOBODY for
        local speakers who were merged into another one.
    """
    local = np.ascontiguousarray(activity.transpose(0, 2, 1) > 0.5)
    labels = labels.copy()
    n_local = labels.shape[1]
    for one in range(n_local):
        for other in range(one + 1, n_local):
            same = (labels[:, one] == labels[:, other]) & (labels[:, one] != NOBODY)
            local[same, one] |= local[same, other]
            labels[same, other] = NOBODY
    return local, labels


def select_active(votes: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Select the `count` clusters with the most votes in each frame.

    Ties are broken as in pyannote, by the same sort of the same numbers.

    Args:
        votes: int, (n_clusters, n_frames).
        count: int, (n_frames,).

    Returns:
        bool, (n_clusters or, if that is more, the highest count, n_frames).
    """
    n_clusters, n_frames = max(len(votes), int(count.max())), len(count)
    active = np.zeros((n_clusters, n_frames), dtype=bool)
    for begin in range(0, n_frames, BLOCK):
        frames = begin + np.flatnonzero(count[begin : begin + BLOCK])
        scores = np.zeros((len(frames), n_clusters), dtype=np.float32)
        scores[:, : len(votes)] = votes[:, frames].T
        ranked = np.argsort(-scores, axis=-1)
        chosen = np.arange(n_clusters) < count[frames, None]
        rows, ranks = np.nonzero(chosen)
        active[ranked[rows, ranks], frames[rows]] = True
    return active


def build_turns(
    active: np.ndarray,
    names: dict[int, str] | None,
    votes: Votes,
    segmentation: Segmentation,
    min_duration_off: float,
) -> tuple[tuple[Turn, ...], dict[int, str]]:
    """Build turns in pyannote's order.

    Args:
        active: bool, (n_clusters, n_session_frames).
        names: of the clusters, from the full turns; None to name them `SPEAKER_00` and so on.
        votes: for the turns' certainty.
        min_duration_off: seconds; a speaker's shorter pauses are filled.

    Returns:
        The turns, and the names of the clusters that have any.
    """
    middles = np.arange(active.shape[1]) * segmentation.frame_step
    middles = 0.5 * (middles + (middles + segmentation.frame_duration))
    regions = _find_regions(active, middles)
    if min_duration_off > 0.0:
        regions = _fill_short_pauses(regions, min_duration_off)
    regions.sort(key=lambda region: (region.start, region.end, region.track))
    if names is None:
        # pyannote orders speakers by their clusters' numbers as text: 0, 1, 10, 11, 2
        clusters = sorted({region.cluster for region in regions}, key=str)
        names = {cluster: f"SPEAKER_{i:02d}" for i, cluster in enumerate(clusters)}
    turns = tuple(
        Turn(
            round(region.start, 3),
            round(region.end, 3),
            names[region.cluster],
            _certainty(region, votes),
        )
        for region in regions
    )
    return turns, names


def _find_regions(active: np.ndarray, middles: np.ndarray) -> list[_Region]:
    """Find the stretches in which each cluster is active.

    A region begins and ends in the middle of a frame, at the latest in that of the last one.
    """
    regions = []
    for cluster, (row, track) in enumerate(zip(active, _track_names(), strict=False)):
        padded = np.concatenate([[False], row, [False]])
        edges = np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
        times = middles[np.minimum(edges, len(middles) - 1)]
        for (first, last), (start, end) in zip(edges.tolist(), times.tolist(), strict=True):
            if end - start > MIN_SECONDS:
                regions.append(_Region(start, end, first, last, cluster, track))
    return regions


def _fill_short_pauses(regions: Iterable[_Region], shorter_than: float) -> list[_Region]:
    """Join a cluster's regions across short pauses.

    Source: pyannote.core, `Annotation.support`.
    """
    by_cluster: dict[int, list[_Region]] = {}
    for region in regions:
        so_far = by_cluster.setdefault(region.cluster, [])
        gap = region.start - so_far[-1].end if so_far else np.inf
        if gap <= MIN_SECONDS or gap < shorter_than:
            before = so_far.pop()
            region = _Region(
                before.start, region.end, before.first, region.last, region.cluster, ""
            )
        so_far.append(region)
    tracks = _track_names()
    return [
        _Region(region.start, region.end, region.first, region.last, cluster, next(tracks))
        for cluster in sorted(by_cluster, key=str)
        for region in by_cluster[cluster]
    ]


def _track_names() -> Iterator[str]:
    """Yield A to Z, AA to ZZ and so on."""
    number = 0
    while True:
        number, rest, name = number + 1, number + 1, ""
        while rest:
            rest, letter = divmod(rest - 1, 26)
            name = chr(ord("A") + letter) + name
        yield name


def _certainty(region: _Region, votes: Votes) -> float | None:
    """Return the mean margin of the chunks' votes for the region, None if there is none."""
    n_clusters = len(votes.counts)
    if n_clusters < 2 or region.cluster >= n_clusters:
        return None  # there is no other cluster, or no chunk heard this one
    of_region = region.cluster, slice(region.first, region.last)
    n_votes = int(votes.counts[of_region].sum())
    return round(float(votes.margins[of_region].sum()) / n_votes, 3) if n_votes else None
