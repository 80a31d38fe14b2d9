"""Synthetic conversations and pipelines with random weights, for comparing diarisations.

For tests and benchmarks that need neither real speech nor trained weights.
"""

import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import torch

from models.audio.recording import SAMPLE_RATE
from models.diarisation.segmentation import Segmentation
from models.diarisation.speaker_models import SpeakerModels
from models.pyannote_guard import import_pyannote_models

PARAMETERS: dict[str, dict[str, Any]] = {
    "VBxClustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
    "AgglomerativeClustering": {"threshold": 0.7, "method": "centroid", "min_cluster_size": 12},
}
N_LOCAL = 3  # speakers that the segmentation model can tell apart in one chunk


@dataclass(frozen=True)
class StockTurns:
    """(start, end, speaker) in seconds, in pyannote's order."""

    turns: list[tuple[float, float, str]]
    exclusive_turns: list[tuple[float, float, str]]


def stock_diarisation(
    pipeline: Any,
    samples: np.ndarray,
    *,
    segmentation: Segmentation | None = None,
    embeddings: np.ndarray | None = None,
    **counts: int,
) -> StockTurns:
    """Diarise with stock pyannote.audio, starting from intermediate results if given.

    Args:
        pipeline: a `stock_pipeline`; it keeps the intermediate results.
        counts: num_speakers, min_speakers, max_speakers.
    """
    file = {"waveform": torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE, "uri": "audio"}
    _preset(pipeline, segmentation, embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sessions too short for the given number of speakers
        output = pipeline.apply(file, **counts)
    full, exclusive = (
        [
            (round(float(turn.start), 3), round(float(turn.end), 3), speaker)
            for turn, _, speaker in annotation.itertracks(yield_label=True)
        ]
        for annotation in (output.speaker_diarization, output.exclusive_speaker_diarization)
    )
    return StockTurns(full, exclusive)


def stock_pipeline(models: SpeakerModels) -> Any:
    """pyannote's `SpeakerDiarization` with the same models and parameters.

    `import_pyannote_audio` must have been called before the models were loaded.
    """
    from pyannote.audio.pipelines import SpeakerDiarization

    pipeline = SpeakerDiarization(
        segmentation=models.segmentation,
        segmentation_step=models.segmentation_step,
        embedding=models.embedding,
        embedding_exclude_overlap=models.exclude_overlap,
        plda=models.plda,
        clustering=models.clustering,
        segmentation_batch_size=32,
        embedding_batch_size=32,
    )
    segmentation = {"min_duration_off": models.min_duration_off}
    pipeline.instantiate({"clustering": dict(models.parameters), "segmentation": segmentation})
    pipeline.to(models.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about audio that is too short
        _ = pipeline._embedding.min_num_samples
    return pipeline


def _preset(
    pipeline: Any, segmentation: Segmentation | None, embeddings: np.ndarray | None
) -> None:
    """Replace the computation of the intermediate results by those given."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    if segmentation is not None:
        chunks = SlidingWindow(duration=segmentation.chunk_duration, step=segmentation.chunk_step)
        activity = SlidingWindowFeature(segmentation.activity.copy(), chunks)
        pipeline.get_segmentations = lambda file, hook=None: activity
    if embeddings is not None:
        pipeline.get_embeddings = lambda *args, **kwargs: embeddings.copy()


# --- a pipeline -----------------------------------------------------------------------------------


def random_pipeline(clustering: str = "VBxClustering", *, seed: int = 0) -> SpeakerModels:
    """community-1's models at their real size, with random weights that respond to the audio.

    With plain random weights every frame gets the same class and all voices sound alike.
    """
    import_pyannote_models()
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34
    from pyannote.audio.models.segmentation import PyanNet

    torch.manual_seed(seed)
    lstm = {"hidden_size": 128, "num_layers": 4, "bidirectional": True, "monolithic": True}
    segmentation: Any = PyanNet(lstm=lstm)
    segmentation.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=10.0,
        classes=["speaker1", "speaker2", "speaker3"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    segmentation.build()
    _make_responsive(segmentation.eval())
    embedding = WeSpeakerResNet34()
    for module in embedding.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, std=0.1)
    plda = PLDA(*_random_plda(256, 128))  # type: ignore[arg-type]  # np.load accepts them
    models = SpeakerModels(segmentation, embedding.eval(), plda, clustering, PARAMETERS[clustering])
    return variant(models, clustering)


def variant(
    models: SpeakerModels,
    clustering: str = "VBxClustering",
    *,
    min_duration_off: float = 0.0,
    segmentation_step: float = 0.1,
    exclude_overlap: bool = True,
) -> SpeakerModels:
    """Another pipeline with the same models."""
    return replace(
        models,
        clustering=clustering,
        parameters=PARAMETERS[clustering],
        min_duration_off=min_duration_off,
        segmentation_step=segmentation_step,
        exclude_overlap=exclude_overlap,
    )


@torch.inference_mode()
def _make_responsive(segmentation: Any) -> None:
    """Enlarge the recurrent weights and balance the classes of the classifier."""
    for name, weight in segmentation.lstm.named_parameters():
        if name.startswith("weight"):
            weight.mul_(2.5)
    noise = 0.1 * torch.randn(4, 1, 10 * SAMPLE_RATE)
    noise *= torch.rand(4, 1, 100).repeat_interleave(SAMPLE_RATE // 10, dim=2)
    weight, bias = segmentation.classifier.weight, segmentation.classifier.bias
    scores: list[torch.Tensor] = []
    hook = segmentation.classifier.register_forward_hook(lambda *call: scores.append(call[2]))
    segmentation(noise)
    hook.remove()
    found = scores[0].flatten(0, 1)
    scale = 3.0 / found.std(dim=0)
    weight.mul_(scale[:, None])
    bias.copy_((bias - found.mean(dim=0)) * scale)


def _random_plda(dimension: int, reduced: int) -> tuple[BytesIO, BytesIO]:
    rng = np.random.default_rng(0)
    files = BytesIO(), BytesIO()
    np.savez(
        files[0],
        mean1=0.01 * rng.normal(size=dimension),
        mean2=0.01 * rng.normal(size=reduced),
        lda=np.linalg.qr(rng.normal(size=(dimension, reduced)))[0],
    )
    np.savez(
        files[1],
        mu=0.01 * rng.normal(size=reduced),
        tr=np.linalg.qr(rng.normal(size=(reduced, reduced)))[0],
        psi=np.linspace(8, 0.5, reduced),
    )
    for file in files:
        file.seek(0)
    return files


def loud_and_quiet(seconds: float, seed: int = 0) -> np.ndarray:
    """16 kHz noise whose colour and level change every half second, with silences."""
    rng = np.random.default_rng(seed)
    n_samples, n_piece = round(seconds * SAMPLE_RATE), SAMPLE_RATE // 2
    sound = np.zeros(n_samples, dtype=np.float32)
    for begin in range(0, n_samples, n_piece):
        piece = rng.normal(size=min(n_piece, n_samples - begin))
        colour = rng.normal(size=16)
        level = rng.choice([0.0, 0.02, 0.1])
        sound[begin : begin + len(piece)] = level * np.convolve(piece, colour, mode="same")
    return np.clip(sound, -1, 1)


# --- a conversation -------------------------------------------------------------------------------


def conversation(
    seconds: float, n_speakers: int, dimension: int, seed: int = 0
) -> tuple[Segmentation, np.ndarray]:
    """A plausible model output for a conversation with overlaps, pauses and inexact edges.

    Returns:
        The segmentation, and embeddings (n_chunks, N_LOCAL, dimension).
    """
    rng = np.random.default_rng(seed)
    duration, step, frame_duration, frame_step, n_frames = 10.0, 1.0, 991 / 16_000, 0.016875, 589
    n_chunks = 1 + max(0, int(np.ceil(seconds - duration)))
    truth = _draw_activity(rng, round((n_chunks + duration) / frame_step), n_speakers)
    voices = rng.normal(size=(n_speakers, dimension))
    activity = np.zeros((n_chunks, n_frames, N_LOCAL), dtype=np.float32)
    embeddings = np.zeros((n_chunks, N_LOCAL, dimension), dtype=np.float32)
    for chunk in range(n_chunks):
        first = round(chunk * step / frame_step)
        chunk_activity = truth[:, first : first + n_frames]
        loudest = np.argsort(-chunk_activity.sum(axis=1))[:N_LOCAL]
        for local, speaker in enumerate(rng.permutation(loudest)):
            mask = np.roll(chunk_activity[speaker], rng.integers(-8, 9))
            activity[chunk, :, local] = mask
            noise_level = 0.5 + 3.0 * (mask.sum() < 0.2 * n_frames)
            embeddings[chunk, local] = voices[speaker] + noise_level * rng.normal(size=dimension)
    found = Segmentation(activity, duration, step, frame_duration, frame_step, seconds)
    embeddings[~activity.any(axis=1)] = 0.1  # a model's output for silence
    return found, embeddings


def _draw_activity(rng: np.random.Generator, n_frames: int, n_speakers: int) -> np.ndarray:
    """Who speaks when: bool, (n_speakers, n_frames)."""
    speaks = np.zeros((n_speakers, n_frames), dtype=bool)
    frame = 0
    while frame < n_frames:
        length = int(rng.gamma(2.0, 90.0)) + 5  # frames of 17 ms: 3 s on average
        speaks[rng.integers(n_speakers), frame : frame + length] = True
        frame = max(0, frame + length + int(rng.normal(10.0, 40.0)))
    return speaks
