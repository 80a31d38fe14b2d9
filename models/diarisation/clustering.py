"""Which local speakers are the same person: pyannote.audio's own clustering classes.

They take the square of a session's length, in one thread. Long sessions are therefore clustered in
a process of its own, which gets arrays and gives arrays back, while this one goes on with the GPU.
Where no process can be started, as in a sandbox, this one does it.
"""

import atexit
import contextlib
import errno
import io
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

from models.diarisation.reconstruction import NOBODY
from models.diarisation.segmentation import Segmentation
from models.diarisation.speaker_models import SpeakerModels
from models.environment import child_environment
from models.errors import OutOfMemory
from models.progress import Progress, ignore
from models.pyannote_guard import pyannote_audio

MAX_CLUSTERED = 8_000
"""Embeddings that are clustered; of more, from about two hours on, an even sample is. Clustering
takes the square of their number in memory: 0.5 GB at this one, 3 GB at twenty thousand."""
APART_FROM = 1_000  # embeddings; fewer are clustered in less time than it takes to send them
MIN_ACTIVE_RATIO = 0.2  # of a chunk that a speaker has alone, to be clustered; pyannote's default
POLL_SECONDS = 0.2
OUT_OF_MEMORY = {-signal.SIGKILL, errno.ENOMEM}
"""What the other process ends with when memory runs out: killed by the kernel, or told by it."""

FREE = "free_"  # before the names of what was found without bounds
METRIC = "cosine"  # as pyannote has it for its own embeddings

Arrays = Mapping[str, np.ndarray]
_PARAMETERS = {
    "VBxClustering": ("threshold", "Fa", "Fb"),
    "AgglomerativeClustering": ("threshold", "method", "min_cluster_size"),
}


@dataclass(frozen=True)
class Clusters:
    """
    `labels`: int32, (n_chunks, n_local_speakers), from 0; NOBODY where a speaker is silent or was
    not assigned. `similarities`: float32, (n_chunks, n_local_speakers, n_clusters), cosine.
    `free`: the same without bounds, where that was asked for.
    """

    labels: np.ndarray
    similarities: np.ndarray
    sampled: bool  # MAX_CLUSTERED embeddings of more were clustered
    free: "Clusters | None" = None

    @property
    def margins(self) -> np.ndarray:
        """How much nearer each local speaker is to its own cluster than to any other one.

        Negative where it was assigned to another one than the nearest, because somebody else in
        its chunk is nearer to that. NaN where there is no other cluster; (n_chunks, n_speakers).
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
    """A clustering under way; `result` waits for it."""

    def __init__(self, answer: "Future[Arrays]", silent: np.ndarray, sampled: bool) -> None:
        self._answer, self._silent, self._sampled = answer, silent, sampled

    def result(self, progress: Progress = ignore) -> Clusters:
        """
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
        free = self._clusters(answer, FREE) if f"{FREE}labels" in answer else None
        return replace(self._clusters(answer), free=free)

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
    freely_too: bool = False,
) -> Clustering:
    """Begin to cluster the local speakers of a session; those of short ones are done at once.

    Args:
        models: for the clustering and its parameters.
        embeddings: float32, (n_chunks, n_local_speakers, n_dimensions).
        minimum, maximum: of speakers.
        freely_too: cluster without these bounds as well, in the same place.

    Raises:
        OutOfMemory
    """
    chunks, speakers = _clear_ones(segmentation, embeddings)
    sampled = len(chunks) > MAX_CLUSTERED
    if sampled:
        kept = np.linspace(0, len(chunks) - 1, MAX_CLUSTERED).astype(int)
        chunks, speakers = chunks[kept], speakers[kept]
    silent = ~segmentation.is_active  # (n_chunks, n_local_speakers)
    task: dict[str, np.ndarray] = {
        "class": np.array(models.clustering),
        "embeddings": embeddings,
        "silent": silent,
        "chunks": chunks,
        "speakers": speakers,
        "bounds": np.array([minimum or 1, maximum or 0]),
        "freely_too": np.array(freely_too),
    }
    for name in _PARAMETERS[models.clustering]:
        task[name] = np.array(models.parameters[name])
    if models.clustering == "VBxClustering" and len(chunks):
        task["plda"] = models.plda(embeddings[chunks, speakers])
        task["phi"] = models.plda.phi
    if len(chunks) < APART_FROM:
        return Clustering(_done(cluster(task)), silent, sampled)
    return Clustering(_apart(task), silent, sampled)


def prepare(n_chunks: int) -> None:
    """Start the process that `start_clustering` will probably want: it takes seconds to import."""
    if n_chunks >= APART_FROM:
        with contextlib.suppress(OSError):
            _give_back(_take())


def _clear_ones(
    segmentation: Segmentation, embeddings: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Chunk and local speaker of the embeddings that tell a person: much speech, nobody else's.

    Source: pyannote/audio/pipelines/clustering.py, `filter_embeddings`.
    """
    activity = segmentation.activity
    alone = (segmentation.n_speaking == 1).astype(np.float32)  # (n_chunks, n_frames)
    n_clean = (alone[:, None] @ activity)[:, 0]  # (n_chunks, n_local_speakers)
    active = n_clean >= MIN_ACTIVE_RATIO * activity.shape[1]
    chunks, speakers = np.nonzero(active & ~np.isnan(embeddings).any(axis=2))
    return chunks, speakers


# --- the clustering itself, here or in the other process ------------------------------------------


def cluster(task: Arrays) -> Arrays:
    """What pyannote's class makes of the embeddings: `labels` and `similarities`.

    Raises:
        OutOfMemory
    """
    minimum, maximum = (int(bound) for bound in task["bounds"])
    found = _clustered(task, minimum, maximum)
    if task["freely_too"]:
        found |= {f"{FREE}{name}": array for name, array in _clustered(task, 1, 0).items()}
    return found


def _clustered(task: Arrays, minimum: int, maximum: int) -> dict[str, np.ndarray]:
    """
    Args:
        maximum: 0 for none.
    """
    pyannote_audio()
    from pyannote.audio.pipelines import clustering

    classes: Any = clustering  # whose annotations know no array of one's own
    embeddings, clear = task["embeddings"], (task["chunks"], task["speakers"])
    name = str(task["class"])
    if name == "VBxClustering":
        # What the PLDA makes of the embeddings has been computed already.
        plda = _Answers(task["plda"], task["phi"]) if "plda" in task else None
        clusterer = classes.VBxClustering(plda, metric=METRIC)
        # scikit-learn's k-means, which forces the number, refuses more clusters than points.
        minimum = max(1, min(minimum, len(clear[0])))
    else:
        clusterer = classes.AgglomerativeClustering(metric=METRIC)
    clusterer.instantiate({parameter: task[parameter].item() for parameter in _PARAMETERS[name]})
    clusterer.filter_embeddings = lambda *args, **kwargs: (embeddings[clear], *clear)
    clusterer.constrained_argmax = _constrained_argmax
    activity = SimpleNamespace(
        data=~task["silent"][:, None, :]
    )  # all that is asked: is one silent?
    try:
        with _quiet():
            labels, soft, _ = clusterer(
                embeddings=embeddings,
                segmentations=activity,
                num_clusters=minimum if minimum == maximum else None,
                min_clusters=minimum,
                max_clusters=maximum or np.inf,
            )
    except MemoryError as error:
        raise OutOfMemory("Telling the speakers apart does not fit into memory.") from error
    similarities = (soft - 1.0).astype(np.float32)  # soft is 2 - cosine distance
    return {"labels": labels.astype(np.int32), "similarities": similarities}


class _Answers:
    """A PLDA that has been asked already."""

    def __init__(self, transformed: np.ndarray, phi: np.ndarray) -> None:
        self._transformed, self.phi = transformed, phi

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        return self._transformed


def _constrained_argmax(soft: np.ndarray) -> np.ndarray:
    """pyannote's own, whose int8 labels overflow at 128 clusters."""
    from scipy.optimize import linear_sum_assignment

    soft = np.nan_to_num(soft, nan=np.nanmin(soft))
    labels = np.full(soft.shape[:2], NOBODY, dtype=np.int32)
    for chunk, scores in enumerate(soft):
        speakers, clusters = linear_sum_assignment(scores, maximize=True)
        labels[chunk, speakers] = clusters
    return labels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pyannote prints to the standard output, and numpy and scikit-learn warn of small sessions."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# --- a process of its own -------------------------------------------------------------------------


class _Helper:
    """A process that clusters, one task after the other, for as long as this one lives."""

    def __init__(self) -> None:
        here = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from models.diarisation.clustering import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(
                {
                    "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]),
                    "OMP_NUM_THREADS": "1",  # it is beside a process that wants the other cores
                    "OPENBLAS_NUM_THREADS": "1",
                }
            ),
        )

    def ask(self, task: Arrays) -> Arrays:
        """
        Raises:
            EOFError, OSError: it has died.
        """
        assert self._process.stdin and self._process.stdout
        _send(self._process.stdin, task)
        return _receive(self._process.stdout)

    def close(self) -> int:
        """Its exit status."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]  # it was asked for
        try:
            status = self._process.wait(timeout=1)  # it ends with its input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = 0  # it lived
        self._process.stdout.close()  # type: ignore[union-attr]  # it was asked for
        return status


_idle: list[_Helper] = []
_lock = threading.Lock()


def _take() -> _Helper:
    """
    Raises:
        OSError: no process can be started here.
    """
    with _lock:
        return _idle.pop() if _idle else _Helper()


def _give_back(helper: _Helper) -> None:
    with _lock:
        _idle.append(helper)


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()


def _apart(task: Arrays) -> "Future[Arrays]":
    try:
        helper = _take()
    except OSError:  # a sandbox, or no process is left
        return _done(cluster(task))
    answer: Future[Arrays] = Future()
    # A daemon: a job that was stopped does not keep the program from ending.
    threading.Thread(target=_ask, args=(helper, task, answer), daemon=True).start()
    return answer


def _ask(helper: _Helper, task: Arrays, answer: "Future[Arrays]") -> None:
    try:
        try:
            found = helper.ask(task)
        except (EOFError, OSError):
            out_of_memory = helper.close() in OUT_OF_MEMORY
            if out_of_memory:
                raise OutOfMemory("Telling the speakers apart does not fit into memory.") from None
            found = cluster(task)
        else:
            _give_back(helper)
        answer.set_result(found)
    except BaseException as error:  # noqa: BLE001  # whoever waits has to hear of it
        answer.set_exception(error)


def _done(found: Arrays) -> "Future[Arrays]":
    answer: Future[Arrays] = Future()
    answer.set_result(found)
    return answer


def serve() -> None:
    """What the process does: tasks from its standard input, answers to its standard output."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not end up between the answers
    pyannote_audio()
    while True:
        try:
            task = _receive(source)
        except EOFError:
            return
        try:
            _send(sink, cluster(task))
        except OutOfMemory:
            sys.exit(errno.ENOMEM)


def _send(pipe: IO[bytes], arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # mypy takes them for its option
    pipe.write(len(buffer.getbuffer()).to_bytes(8, "big"))
    pipe.write(buffer.getbuffer())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Arrays:
    """
    Raises:
        EOFError: whoever was to write is gone.
    """
    n_bytes = int.from_bytes(pipe.read(8), "big")
    message = pipe.read(n_bytes)
    if not n_bytes or len(message) < n_bytes:
        raise EOFError
    with np.load(io.BytesIO(message), allow_pickle=False) as arrays:
        return dict(arrays)
