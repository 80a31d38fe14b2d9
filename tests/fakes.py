"""Fakes and small data, so that nearly everything can be tested without weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.audio.recording import DecodedRecording
from models.diarisation.segmentation import Segmentation
from models.options import JobOptions
from models.pipeline import OnProgress, StageProgress
from models.precision import Precision
from models.transcript import MadeWith, Segment, Source, Transcript, Turn, Word


def words(text: str, start: float = 0.0, length: float = 0.3, gap: float = 0.0) -> tuple[Word, ...]:
    """A word every `length` + `gap` seconds, each with the space before it."""
    return tuple(
        Word(
            f" {word}",
            round(start + i * (length + gap), 3),
            round(start + i * (length + gap) + length, 3),
            0.9,
        )
        for i, word in enumerate(text.split())
    )


def segment(speaker: str | None, text: str, start: float = 0.0) -> Segment:
    own = words(text, start)
    return Segment(speaker, own[0].start, own[-1].end, own)


def made_with(**changes: Any) -> MadeWith:
    values: dict[str, Any] = {
        "fieldscribe": "0.1.0",
        "whisper_model": "fake",
        "whisper_sha256": "a" * 64,
        "diarisation_pipeline": "fake",
        "diarisation_sha256": "b" * 64,
        "device": "cpu",
        "options": {"language": None, "speakers": "unknown", "vocabulary": []},
        "versions": {},
    }
    return MadeWith(**{**values, **changes})


def transcript(segments: Sequence[Segment], **changes: Any) -> Transcript:
    speakers = tuple(dict.fromkeys(s.speaker for s in segments if s.speaker))
    values: dict[str, Any] = {
        "duration": 60.0,
        "language": "en",
        "language_probability": None,
        "speakers": speakers,
        "segments": tuple(segments),
        "turns": tuple(Turn(s.start, s.end, s.speaker) for s in segments if s.speaker),
        "overlaps": (),
        "flags": (),
        "sources": (Source(0.0, 60.0, "wav", "pcm_s16le", 16_000, 1, 1000),),
        "made_with": made_with(),
    }
    return Transcript(**{**values, **changes})


class FakePipeline:
    """Returns the same text for every recording, at once."""

    def __init__(
        self, text: str = "my name is Eva Muster", precision: Precision | None = None
    ) -> None:
        self.text, self.precision = text, precision
        self.transcribed: list[Sequence[DecodedRecording]] = []
        self.transcribed_together: list[int] = []  # sessions in each call of find_words

    def transcribe(
        self,
        recordings: Sequence[DecodedRecording],
        options: JobOptions,
        on_progress: OnProgress = lambda progress: None,
    ) -> Transcript:
        self.transcribed.append(recordings)
        for stage in ("segment", "transcribe", "align", "diarise", "check"):
            on_progress(StageProgress(stage, 1.0))
        sources = tuple(
            Source(0.0, r.duration, "wav", "pcm_s16le", 16_000, 1, r.info.n_bytes)
            for r in recordings
        )
        return transcript(
            [segment("SPEAKER_00", self.text)],
            sources=sources,
            made_with=made_with(options=options.to_transcript(self.precision)),
        )

    seconds_at_once = 3600.0

    def segment(
        self, recordings: Sequence[DecodedRecording], options: JobOptions, on_progress: OnProgress
    ) -> Any:
        return recordings, options

    def find_words(self, sessions: Sequence[Any], on_progress: OnProgress) -> Sequence[Any]:
        self.transcribed_together.append(len(sessions))
        return sessions

    def diarise(self, session: Any, on_progress: OnProgress) -> Any:
        return session

    def finish(self, session: Any, on_progress: OnProgress) -> Transcript:
        recordings, options = session
        return self.transcribe(recordings, options, on_progress)

    def measure_speed(self) -> dict[str, float]:
        return dict.fromkeys(("segment", "transcribe", "align", "diarise"), 0.1)


def random_whisper(
    n_mels: int = 80,
    n_vocab: int = 51865,
    seed: int = 0,
    *,
    n_state: int = 64,
    n_head: int = 2,
    n_layer: int = 2,
) -> Any:
    """A Whisper, small by default, whose text depends on the audio.

    With plain random weights it would not (and the decoder's positional embedding would be
    uninitialised memory): every window would have the same text, and comparing texts would prove
    nothing.
    """
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(seed)
    width = (n_state, n_head, n_layer)
    model = Whisper(ModelDimensions(n_mels, 1500, *width, n_vocab, 448, *width))
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.1)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.05)
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.cross_attn.out.weight.mul_(30)
            block.cross_attn.value.weight.mul_(3)
        for block in model.encoder.blocks:
            block.attn.out.weight.mul_(3)
    return model.eval()


def segmentation(activity: np.ndarray, step: float = 1.0) -> Segmentation:
    """Chunks of 10 s; activity: (n_chunks, n_frames, n_local_speakers)."""
    n_chunks, n_frames, _ = activity.shape
    frame = 10.0 / n_frames
    return Segmentation(
        activity.astype(np.float32), 10.0, step, frame, frame, (n_chunks - 1) * step + 10.0
    )
