"""Each speaker's voice, and which speaker a short stretch of audio resembles most.

Where speakers change, turns flicker, and a short answer can end up in its neighbour's turn. The
voice of such a stretch, compared with the speakers' voices, shows whose it is.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from models.diarisation.segmentation import Segmentation

CLEARLY, CLEARLY_ALONE = 0.3, 0.2
"""A stretch belongs to another speaker if its voice lies that much nearer to theirs, as a share of
what separates the two voices; less is enough for a sentence between pauses, because its neighbours
do not say whose it is. docs/developer/experiments.md has the figures."""
DISTINCT = 0.25  # cosine distance between two voices; closer ones cannot be distinguished


def find_voices(
    segmentation: Segmentation,
    embeddings: np.ndarray,
    labels: np.ndarray,
    names: Mapping[int, str],
) -> dict[str, np.ndarray]:
    """Return each speaker's mean embedding, weighted by the frames in which they speak alone.

    Args:
        embeddings: float32, (n_chunks, n_local_speakers, n_dimensions).
        labels: int, (n_chunks, n_local_speakers), the clusters of the local speakers.
        names: of the clusters.

    Returns:
        float32, (n_dimensions,), of length 1; nothing for a speaker without local speakers.
    """
    alone = (segmentation.n_speaking == 1).astype(np.float32)  # (n_chunks, n_frames)
    n_clean = (alone[:, None] @ segmentation.activity)[:, 0]  # (n_chunks, n_local_speakers)
    directions = _normalise(np.nan_to_num(embeddings))
    voices = {}
    for cluster, name in names.items():
        own = labels == cluster
        if own.any():
            weights = n_clean[own] if n_clean[own].any() else np.ones_like(n_clean[own])
            voices[name] = _normalise(weights @ directions[own])
    return voices


def recognise_speakers(
    embeddings: np.ndarray,
    speakers: Sequence[str],
    is_alone: Sequence[bool],
    voices: Mapping[str, np.ndarray],
) -> list[str]:
    """Return whose voice each stretch has: the given speaker's unless it is clearly another's.

    Args:
        embeddings: of the stretches, float32, (n_stretches, n_dimensions).
        speakers: of the stretches, as found so far.
        is_alone: whether each stretch is a sentence between pauses.
        voices: by speaker, as `find_voices` returns them.
    """
    names = list(voices)
    known = np.stack([voices[name] for name in names])  # (n_voices, n_dimensions)
    between = 1.0 - known @ known.T  # (n_voices, n_voices), cosine distances
    similarities = _normalise(np.nan_to_num(embeddings)) @ known.T  # (n_stretches, n_voices)
    recognised = list(speakers)
    for i, speaker in enumerate(speakers):
        if speaker not in voices:
            continue
        own = names.index(speaker)
        nearer = np.where(between[own] < DISTINCT, -np.inf, similarities[i] - similarities[i, own])
        other = int(nearer.argmax())
        share = CLEARLY_ALONE if is_alone[i] else CLEARLY
        if nearer[other] > share * between[own, other]:
            recognised[i] = names[other]
    return recognised


def find_similar_voice(speaker: str, voices: Mapping[str, np.ndarray]) -> str | None:
    """Return the speaker with the most similar voice, if too similar to be distinguished."""
    if speaker not in voices:
        return None
    distances = {
        name: 1.0 - float(voices[speaker] @ voice)
        for name, voice in voices.items()
        if name != speaker
    }
    nearest = min(distances, key=lambda name: distances[name], default=None)
    return nearest if nearest is not None and distances[nearest] < DISTINCT else None


def _normalise(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1; (..., n_dimensions)."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)
