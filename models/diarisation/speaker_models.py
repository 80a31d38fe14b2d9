"""The models and parameters of a pyannote pipeline."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, combinations
from typing import Any, Self

import numpy as np
import torch

from models.audio.recording import SAMPLE_RATE
from models.device import HalvingCounter
from models.diarisation.clustering_process import ClusteringProcesses

SHORTEST, LONGEST = 2, SAMPLE_RATE // 2  # samples; `min_samples` lies between them


@dataclass(frozen=True, eq=False)
class SpeakerModels:
    """The parts of a pyannote `SpeakerDiarization` pipeline; its loop is implemented here.

    Args:
        segmentation: pyannote's `PyanNet` with a powerset of local speakers.
        embedding: pyannote's `WeSpeakerResNet`.
        plda: pyannote's `PLDA`; None if the clustering is agglomerative and there is none.
        clustering: the name of pyannote's class.
        parameters: of the clustering.
        min_duration_off: s; a shorter silence does not end a turn.
        segmentation_step: from one chunk to the next, as a fraction of a chunk's length.
        exclude_overlap: embed a voice only where nobody else speaks, if there is enough of that.
        halvings: counts the batches that had to be halved.
        clustering_processes: for long sessions, reused from one to the next.
    """

    segmentation: Any
    embedding: Any
    plda: Any
    clustering: str
    parameters: Mapping[str, Any]
    min_duration_off: float = 0.0
    segmentation_step: float = 0.1
    exclude_overlap: bool = False
    halvings: HalvingCounter = field(default_factory=HalvingCounter)
    clustering_processes: ClusteringProcesses = field(default_factory=ClusteringProcesses)

    def to(self, device: torch.device) -> Self:
        self.segmentation.to(device)
        self.embedding.to(device)
        return self

    @property
    def device(self) -> torch.device:
        device: torch.device = self.segmentation.device
        return device

    @property
    def chunk_duration(self) -> float:
        """Seconds, as in training."""
        return float(self.segmentation.specifications.duration)

    @property
    def chunk_step(self) -> float:
        """Seconds."""
        return self.segmentation_step * self.chunk_duration

    @property
    def powerset(self) -> np.ndarray:
        """The speakers of each of the model's classes; uint8, (n_classes, n_local_speakers).

        Source: pyannote/audio/utils/powerset.py, `build_mapping`.
        """
        specifications = self.segmentation.specifications
        n_speakers, most = len(specifications.classes), specifications.powerset_max_classes
        sets = chain.from_iterable(combinations(range(n_speakers), n) for n in range(most + 1))
        return np.stack([np.isin(range(n_speakers), each) for each in sets]).astype(np.uint8)

    @cached_property
    def min_samples(self) -> int:
        """The fewest samples that the embedding model accepts, found by trial.

        Source: pyannote/audio/pipelines/speaker_verification.py, `min_num_samples`.
        """
        too_short, long_enough = SHORTEST, LONGEST
        while too_short + 1 < long_enough:
            middle = (too_short + long_enough) // 2
            if self._accepts(middle):
                long_enough = middle
            else:
                too_short = middle
        return long_enough

    @torch.inference_mode()
    def _accepts(self, n_samples: int) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the standard deviation of a single frame
                self.embedding(torch.zeros(1, 1, n_samples, device=self.device))
        except (AssertionError, RuntimeError, ValueError):  # depending on the layer
            return False
        return True
