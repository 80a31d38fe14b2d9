"""pyannote.audio's own clustering classes: arrays in, arrays out, in this process or another."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from models.errors import OutOfMemory
from models.pyannote_guard import import_pyannote_models

NOBODY = -2  # pyannote's label of a local speaker who is in no cluster
METRIC = "cosine"  # pyannote's choice for its own embeddings
UNBOUNDED = "unbounded_"  # prefix of the arrays that were found without bounds

PARAMETERS = {
    "VBxClustering": ("threshold", "Fa", "Fb"),
    "AgglomerativeClustering": ("threshold", "method", "min_cluster_size"),
}

Arrays = Mapping[str, np.ndarray]


def cluster(task: Arrays) -> Arrays:
    """Run pyannote's clustering on one session's embeddings.

    Args:
        task: `class` (the name of pyannote's class) and its PARAMETERS; `embeddings`, float32,
            (n_chunks, n_local_speakers, n_dimensions); `silent`, bool, (n_chunks,
            n_local_speakers); `chunks`, `speakers`: indices of the embeddings to cluster; `bounds`:
            at least and at most so many speakers, 0 for no maximum; `unbounded_too`: whether to
            cluster without bounds as well; `plda`, `phi`: what the PLDA computed, for VBx.

    Returns:
        `labels`, int32, and `similarities`, float32; the same with the prefix UNBOUNDED if asked.

    Raises:
        OutOfMemory
    """
    minimum, maximum = (int(bound) for bound in task["bounds"])
    found = _cluster_within(task, minimum, maximum)
    if task["unbounded_too"]:
        unbounded = _cluster_within(task, 1, 0)
        found |= {f"{UNBOUNDED}{name}": array for name, array in unbounded.items()}
    return found


def _cluster_within(task: Arrays, minimum: int, maximum: int) -> dict[str, np.ndarray]:
    """
    Args:
        maximum: 0 for none.
    """
    import_pyannote_models()
    from pyannote.audio.pipelines import clustering

    classes: Any = clustering  # its annotations do not allow for plain arrays
    embeddings, selected = task["embeddings"], (task["chunks"], task["speakers"])
    name = str(task["class"])
    if name == "VBxClustering":
        plda = _ComputedPlda(task["plda"], task["phi"]) if "plda" in task else None
        clusterer = classes.VBxClustering(plda, metric=METRIC)
        # scikit-learn's k-means, which forces the number, refuses more clusters than points.
        minimum = max(1, min(minimum, len(selected[0])))
    else:
        clusterer = classes.AgglomerativeClustering(metric=METRIC)
    clusterer.instantiate({parameter: task[parameter].item() for parameter in PARAMETERS[name]})
    clusterer.filter_embeddings = lambda *args, **kwargs: (embeddings[selected], *selected)
    clusterer.constrained_argmax = _constrained_argmax
    # pyannote only looks at whether a local speaker is silent.
    activity = SimpleNamespace(data=~task["silent"][:, None, :])
    try:
        with _silence():
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


class _ComputedPlda:
    """A PLDA that returns what has been computed already."""

    def __init__(self, transformed: np.ndarray, phi: np.ndarray) -> None:
        self._transformed, self.phi = transformed, phi

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        return self._transformed


def _constrained_argmax(soft: np.ndarray) -> np.ndarray:
    """Replace pyannote's own, whose int8 labels overflow at 128 clusters."""
    from scipy.optimize import linear_sum_assignment

    soft = np.nan_to_num(soft, nan=np.nanmin(soft))
    labels = np.full(soft.shape[:2], NOBODY, dtype=np.int32)
    for chunk, scores in enumerate(soft):
        speakers, clusters = linear_sum_assignment(scores, maximize=True)
        labels[chunk, speakers] = clusters
    return labels


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress pyannote's prints, and numpy's and scikit-learn's warnings about small sessions."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
