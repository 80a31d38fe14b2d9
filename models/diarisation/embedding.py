"""Speaker embeddings of the local speakers, from pyannote's embedding model.

Stock pyannote.audio runs the whole model for every pair of chunk and local speaker. But only the
last step, pooling over a speaker's frames, depends on the speaker; and the filter-bank features of
a frame are, up to their mean, the same in all chunks that contain it. So both are computed once.
"""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.audio.recording import SAMPLE_RATE
from models.device import exact_on, in_batches
from models.diarisation.segmentation import Segmentation, cut_padded
from models.diarisation.speaker_models import SpeakerModels
from models.precision import TrunkPrecision
from models.progress import Progress, ignore

BLOCK = {"cpu": 64, "cuda": 512}  # chunks whose features are computed together
BATCH = {"cpu": 1, "cuda": 64}
"""Chunks in the trunk at once. One takes 10 MB per layer, more than fits in a CPU's cache."""
CONTEXT = (
    1.0  # s before a stretch and after it that the convolutions see and the pooling leaves out
)
MIN_FRAMES = 2  # of the trunk; the pooling computes their standard deviation


@torch.inference_mode()
def embed(
    models: SpeakerModels,
    samples: np.ndarray,
    segmentation: Segmentation,
    progress: Progress = ignore,
    *,
    precision: TrunkPrecision = "fp32",
) -> np.ndarray:
    """Compute one embedding for each chunk and local speaker.

    Args:
        precision: of the trunk; features and pooling are always fp32. bf16 takes half the time on
            hardware that has it (AVX-512 BF16, AMX, CUDA from Ampere on), but its results are not
            exactly those of stock pyannote.audio.

    Returns:
        float32, (n_chunks, n_local_speakers, n_dimensions). A silent speaker gets the model's
        output for no input, as in stock pyannote.audio; clustering ignores it.

    Raises:
        OutOfMemory: not even one chunk fits on the device.

    Source: pyannote/audio/pipelines/speaker_diarization.py, `get_embeddings`.
    """
    model, device = models.embedding, models.device
    activity = segmentation.activity
    n_window = round(segmentation.chunk_duration * SAMPLE_RATE)
    begins = np.rint(segmentation.chunk_starts * SAMPLE_RATE).astype(int)
    min_frames = _min_clean_frames(models, activity.shape[1], n_window)
    has_speech: np.ndarray = segmentation.is_active.max(axis=1)  # (n_chunks,)
    block, batch_size = BLOCK[device.type], BATCH[device.type]
    with exact_on(device):
        trunk = _Trunk(model.resnet, torch.bfloat16 if precision == "bf16" else torch.float32)
        silent = model.resnet.seg_1.bias
        embeddings = silent.repeat(len(activity), activity.shape[2], 1)

        def step(
            chunks: np.ndarray, features: _Features, begin: int, first: int, last: int
        ) -> None:
            batch = chunks[first:last]
            frames = trunk(features.select([int(begins[chunk] - begin) for chunk in batch]))
            masks = torch.from_numpy(_masks(activity[batch], min_frames)).to(device)
            embeddings[batch] = model.resnet.forward_embedding(frames, weights=masks)[1]
            progress((batch[-1] + 1) / len(activity))

        for first in range(0, len(activity), block):
            chunks = first + np.flatnonzero(has_speech[first : first + block])
            if len(chunks) == 0:
                continue
            begin, end = begins[chunks[0]], begins[chunks[-1]] + n_window
            span = torch.from_numpy(cut_padded(samples, begin, end)).to(device)
            features = _Features(model, span, n_window)
            run = partial(step, chunks, features, begin)
            in_batches(len(chunks), batch_size, run, models.halvings)
        found: np.ndarray = embeddings.cpu().numpy()
    return found


@torch.inference_mode()
def embed_stretches(
    models: SpeakerModels,
    samples: np.ndarray,
    stretches: Sequence[tuple[float, float]],
    progress: Progress = ignore,
    *,
    precision: TrunkPrecision = "fp32",
) -> np.ndarray:
    """Compute one embedding for each of the given stretches of a session.

    The trunk sees windows as long as a chunk, each with all the stretches that fit into it, so that
    the embeddings can be compared with those of `embed`.

    Args:
        stretches: [start, end) in seconds, by start. Of a stretch that is longer than a window,
            only its beginning is used.

    Returns:
        float32, (len(stretches), n_dimensions).

    Raises:
        OutOfMemory
    """
    model, device = models.embedding, models.device
    n_window = round(models.chunk_duration * SAMPLE_RATE)
    windows = _share_windows(stretches, models.chunk_duration)
    embeddings = torch.empty(len(stretches), model.resnet.seg_1.out_features)
    with exact_on(device):
        trunk = _Trunk(model.resnet, torch.bfloat16 if precision == "bf16" else torch.float32)

        def step(first: int, last: int) -> None:
            begins = [round(begin * SAMPLE_RATE) for begin, _ in windows[first:last]]
            audio = np.stack([cut_padded(samples, begin, begin + n_window) for begin in begins])
            frames = trunk(model.compute_fbank(torch.from_numpy(audio)[:, None].to(device)))
            for row, (begin, numbers) in zip(frames, windows[first:last], strict=True):
                times = np.array([stretches[number] for number in numbers]) - begin
                weights = _stretch_weights(times / models.chunk_duration, row.shape[-1])
                masks = torch.from_numpy(weights[None]).to(device)
                pooled = model.resnet.forward_embedding(row[None], weights=masks)[1]
                embeddings[numbers] = pooled[0].float().cpu()
            progress(last / len(windows))

        in_batches(len(windows), BATCH[device.type], step, models.halvings)
    return np.asarray(embeddings.numpy())


def _share_windows(
    stretches: Sequence[tuple[float, float]], duration: float
) -> list[tuple[float, list[int]]]:
    """Return windows of `duration` seconds: their start and the numbers of their stretches."""
    windows: list[tuple[float, list[int]]] = []
    for number, (start, end) in enumerate(stretches):
        if not windows or end + CONTEXT > windows[-1][0] + duration:
            windows.append((max(0.0, start - CONTEXT), []))
        windows[-1][1].append(number)
    return windows


def _stretch_weights(shares: np.ndarray, n_frames: int) -> np.ndarray:
    """Return 1 for the trunk's frames of each stretch, at least MIN_FRAMES of them, otherwise 0.

    Args:
        shares: (n_stretches, 2), starts and ends as fractions of the window.

    Returns:
        float32, (n_stretches, n_frames).
    """
    middles = (np.arange(n_frames) + 0.5) / n_frames
    inside = (middles >= shares[:, :1]) & (middles < shares[:, 1:])
    nearest = np.argsort(np.abs(middles - shares.mean(axis=1, keepdims=True)), axis=1)
    np.put_along_axis(inside, nearest[:, :MIN_FRAMES], True, axis=1)
    return inside.astype(np.float32)


def _min_clean_frames(models: SpeakerModels, n_frames: int, n_window: int) -> int:
    """Return how many frames without overlap are enough to leave overlap out; -1 for never."""
    if not models.exclude_overlap:
        return -1
    return math.ceil(n_frames * models.min_samples / n_window)


def _masks(activity: np.ndarray, min_frames: int) -> np.ndarray:
    """Select the frames that each embedding is made from.

    Args:
        activity: (batch, n_frames, n_local_speakers).
        min_frames: with more frames without overlap than this, only those; -1: all frames.

    Returns:
        float32, (batch, n_local_speakers, n_frames).
    """
    masks = activity.transpose(0, 2, 1).astype(np.float32)
    if min_frames < 0:
        return np.ascontiguousarray(masks)
    clean = masks * (masks.sum(axis=1, keepdims=True) < 2)
    enough = clean.sum(axis=2, keepdims=True) > min_frames
    return np.where(enough, clean, masks)


class _Features:
    """Filter-bank features of a span of audio, computed once if the chunks begin on its frames.

    Args:
        span: float32, (n_samples,), 16 kHz.

    Source: pyannote/audio/models/embedding/wespeaker/__init__.py, `compute_fbank`.
    """

    def __init__(self, model: Any, span: Tensor, n_window: int) -> None:
        self.model, self.span, self.n_window = model, span, n_window
        self.n_shift = int(SAMPLE_RATE * model.hparams.frame_shift * 0.001)
        n_frame = int(SAMPLE_RATE * model.hparams.frame_length * 0.001)
        self.n_frames = 1 + (n_window - n_frame) // self.n_shift
        self.whole = model._fbank(span[None] * (1 << 15))  # (n_span_frames, n_mels)

    def select(self, begins: list[int]) -> Tensor:
        """Return (batch, n_frames, n_mels) of the chunks that begin at these samples."""
        if any(begin % self.n_shift for begin in begins):
            chunks = torch.stack([self.span[b : b + self.n_window] for b in begins])
            features: Tensor = self.model.compute_fbank(chunks[:, None])
            return features
        starts = [begin // self.n_shift for begin in begins]
        features = torch.stack([self.whole[start : start + self.n_frames] for start in starts])
        return features - features.mean(dim=1, keepdim=True)


class _Trunk:
    """The convolutions of a WeSpeaker ResNet, with batch normalisation folded into them.

    Source: pyannote/audio/models/embedding/wespeaker/resnet.py, `ResNet.forward_frames`.
    """

    def __init__(self, resnet: Any, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.first = self._fold(resnet.conv1, resnet.bn1)
        self.blocks = []
        for block in (*resnet.layer1, *resnet.layer2, *resnet.layer3, *resnet.layer4):
            convolutions = [self._fold(block.conv1, block.bn1)]
            convolutions.append(self._fold(block.conv2, block.bn2))
            if hasattr(block, "conv3"):
                convolutions.append(self._fold(block.conv3, block.bn3))
            shortcut = self._fold(*block.shortcut) if len(block.shortcut) else None
            self.blocks.append((convolutions, shortcut))

    def _fold(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
        folded = fuse_conv_bn_eval(copy.deepcopy(convolution), norm)
        # mypy does not know this signature of Module.to.
        return folded.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def __call__(self, features: Tensor) -> Tensor:
        """Map (batch, n_frames, n_mels) to fp32 (batch, n_channels, n_mels / 8, n_frames / 8)."""
        x = features.to(self.dtype).transpose(1, 2)[:, None]
        x = self.first(x.contiguous(memory_format=torch.channels_last)).relu_()
        for (*inner, last), shortcut in self.blocks:
            y = x
            for convolution in inner:
                y = F.relu_(convolution(y))
            y = last(y)
            y += x if shortcut is None else shortcut(x)
            x = y.relu_()
        frames: Tensor = x.float()
        return frames
