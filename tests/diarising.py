"""Diarises a recording from start to finish, for the tests."""

from typing import Any

import numpy as np

from models.diarisation.diarisation import Diarisation, start_diarisation
from models.diarisation.segmentation import Segmentation
from models.diarisation.speaker_models import SpeakerModels
from models.options import SpeakerCount
from models.progress import Progress, ignore


def diarise(
    models: SpeakerModels,
    samples: np.ndarray,
    segmentation: Segmentation,
    speakers: SpeakerCount,
    progress: Progress = ignore,
    **options: Any,
) -> Diarisation:
    """Embed the local speakers, cluster them and build the turns; see `start_diarisation`."""
    running = start_diarisation(
        models,
        samples,
        segmentation,
        speakers,
        lambda fraction: progress(0.99 * fraction),
        **options,
    )
    diarisation = running.result(lambda fraction: progress(0.99))
    progress(1.0)
    return diarisation
