"""Which local speakers are the same person, found by pyannote.audio's own clustering.

Its time grows with the square of a session's length, and it uses one thread. Long sessions are
therefore clustered in another process while this one continues to use the GPU.
"""

import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from models.diarisation.clustering_process import completed
from models.diarisation.pyannote_clustering import (
    NOBODY,
    PARAMETERS,
    UNBOUNDED,
    Arrays,
    cluster,
)
from models.diarisation.segmentation import Segmentation
from models.diarisation.speaker_models import SpeakerModels
from models.progress import Progress, ignore

MAX_CLUSTERED = 8_000
"""Embeddings that are clustered; if there are more, from about two hours on, an even sample of them
is. Memory grows with the square of their number: 0.5 GB at this one, 3 GB at twenty thousand."""
MIN_APART = 1_000  # embeddings; clustering fewer takes less time than sending them to a process
MIN_ACTIVE_RATIO = 0.2  # of a chunk, in which a speaker speaks alone; pyannote's default
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Clusters:
    """
    `labels`: int32, (n_chunks, n_local_speakers), from 0; NOBODY where a speaker is silent or was
    not assigned. `similarities`: float32, (n_chunks, n_local_speakers, n_clusters), cosine.
    `unbounded`: the clusters found without bounds, if requested.
    """

    labels: np.ndarray
    similarities: np.ndarray
    sampled: bool  # only a sample of MAX_CLUSTERED embeddings was clustered
    unbounded: "Clusters | None" = None

    @property
    def margins(self) -> np.ndarray:
        """How much nearer each local speaker is to its own cluster than to any other one.

        Negative where a speaker was not assigned to the nearest cluster, because somebody else in
        the chunk is nearer to that. NaN if there is no other cluster; (n_chunks, n_speakers).
        """
        n_clusters = self.similarities.shape[2]
        if n_clusters < 2:
            return np.full(self.labels.shape, np.nan)
        own = np.maximum(self.labels, 0)[:, :, None]
        similarity: np.ndarray = np.take_along_axis(self.similarities, own, axis=2)[:, :, 0]
        others = self.similarities.copy()
        np.put_along_axis(others, own, -np.inf, axis=2)
        margins: np.ndarray = similarity - others.max(axis=2)
        return margins


class Clustering:
    """A clustering in progress; `result` waits for it."""

    def __init__(self, answer: "Future[Arrays]", silent: np.ndarray, sampled: bool) -> None:
        self._answer, self._silent, self._sampled = answer, silent, sampled

    def result(self, progress: Progress = ignore) -> Clusters:
        """Wait for the clusters.

        Args:
            progress: called while waiting, so that it can stop the job.

        Raises:
            OutOfMemory
        """
        while True:
            progress(0.0)
            with contextlib.suppress(TimeoutError):
                answer = self._answer.result(timeout=POLL_SECONDS)
                break
        clusters = self._clusters(answer)
        if f"{UNBOUNDED}labels" not in answer:
            return clusters
        return replace(clusters, unbounded=self._clusters(answer, UNBOUNDED))

    def _clusters(self, answer: Arrays, prefix: str = "") -> Clusters:
        labels = np.where(self._silent, NOBODY, answer[f"{prefix}labels"]).astype(np.int32)
        return Clusters(labels, answer[f"{prefix}similarities"], self._sampled)


def start_clustering(
    models: SpeakerModels,
    segmentation: Segmentation,
    embeddings: np.ndarray,
    minimum: int | None,
    maximum: int | None,
    *,
    unbounded_too: bool = False,
) -> Clustering:
    """Start to cluster the local speakers of a session. Short sessions are clustered at once.

    Args:
        models: for the clustering's class, parameters and processes.
        embeddings: float32, (n_chunks, n_local_speakers, n_dimensions).
        minimum, maximum: of speakers.
        unbounded_too: also cluster without these bounds.

    Raises:
        OutOfMemory
    """
    chunks, speakers = _select_clear(segmentation, embeddings)
    sampled = len(chunks) > MAX_CLUSTERED
    if sampled:
        sample = np.linspace(0, len(chunks) - 1, MAX_CLUSTERED).astype(int)
        chunks, speakers = chunks[sample], speakers[sample]
    silent = ~segmentation.is_active  # (n_chunks, n_local_speakers)
    task: dict[str, np.ndarray] = {
        "class": np.array(models.clustering),
        "embeddings": embeddings,
        "silent": silent,
        "chunks": chunks,
        "speakers": speakers,
        "bounds": np.array([minimum or 1, maximum or 0]),
        "unbounded_too": np.array(unbounded_too),
    }
    for name in PARAMETERS[models.clustering]:
        task[name] = np.array(models.parameters[name])
    if models.clustering == "VBxClustering" and len(chunks):
        task["plda"] = models.plda(embeddings[chunks, speakers])
        task["phi"] = models.plda.phi
    if len(chunks) < MIN_APART:
        return Clustering(completed(cluster(task)), silent, sampled)
    return Clustering(models.clustering_processes.submit(task), silent, sampled)


def prepare_clustering(models: SpeakerModels, n_chunks: int) -> None:
    """Start the process that `start_clustering` will probably need for so many chunks."""
    if n_chunks >= MIN_APART:
        models.clustering_processes.prepare()


def _select_clear(
    segmentation: Segmentation, embeddings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Select local speakers who speak long enough while nobody else does.

    Returns:
        Their chunks and their numbers in them, each (n_selected,).

    Source: pyannote/audio/pipelines/clustering.py, `filter_embeddings`.
    """
    activity = segmentation.activity
    alone = (segmentation.n_speaking == 1).astype(np.float32)  # (n_chunks, n_frames)
    n_clean = (alone[:, None] @ activity)[:, 0]  # (n_chunks, n_local_speakers)
    active = n_clean >= MIN_ACTIVE_RATIO * activity.shape[1]
    chunks, speakers = np.nonzero(active & ~np.isnan(embeddings).any(axis=2))
    return chunks, speakers
