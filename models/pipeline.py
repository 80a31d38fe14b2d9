"""Recordings of one session to one transcript: loads the models once, calls the steps in order."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version

import numpy as np
import torch

from models.attribution import attribute, overlaps
from models.audio import SAMPLE_RATE, Recording, join
from models.checkpoints import load_pipeline, load_whisper
from models.diarisation import Diarisation, SpeakerCount, diarise, try_diarisation
from models.errors import AudioError
from models.progress import Progress
from models.quality import check
from models.segmentation import Segmentation, segment, speech_regions
from models.transcript import MadeWith, Source, Transcript, Word, speakers_in_order
from models.weights import PipelineWeights, WhisperWeights
from models.whisper_engine import DecodedWindow, WhisperEngine, WhisperOptions, language_code
from models.whisper_engine.coverage import cover
from models.windows import Window, cut_windows

STAGES = ("segment", "transcribe", "align", "diarise", "attribute", "check")
COSTLY_STAGES = ("segment", "transcribe", "align", "diarise")  # the others take no time to speak of

UNSURE_OF_LANGUAGE = 0.8  # below this probability the transcript carries a warning
DEMO_WARNING = (
    "Made with the demo weights, which know a few hundred words and eight synthetic voices: "
    "for demonstration and tests, never for research."
)


class NoSpeech(AudioError):
    """There is sound, but no speech was found in it, or no words in the speech."""

    code = "no_speech"


@dataclass(frozen=True)
class TranscribeOptions:
    """What somebody may choose for one session."""

    language: str | None = None  # a code or an English name; None: found by vote
    speakers: SpeakerCount = field(default_factory=SpeakerCount)
    vocabulary: tuple[str, ...] = ()

    @property
    def whisper(self) -> WhisperOptions:
        language = None if self.language is None else language_code(self.language)
        return WhisperOptions(language, self.vocabulary)


@dataclass(frozen=True)
class StageProgress:
    stage: str
    fraction: float  # of this stage, 0 to 1


OnProgress = Callable[[StageProgress], None]
"""Called between batches. To stop the job it raises `Stopped`."""


@dataclass(frozen=True)
class Heard:
    """What the costly stages found, on the way to a transcript."""

    segmentation: Segmentation
    windows: tuple[Window, ...]
    language: str
    language_probability: float | None
    decoded: tuple[DecodedWindow, ...]
    words: tuple[Word, ...]
    diarisation: Diarisation
    memory_ran_out: bool = False


class Pipeline:
    """Both models, loaded once.

    Args:
        device: `cuda` or `cpu`.

    Raises:
        WeightsError: see models/checkpoints.py.
    """

    def __init__(
        self, whisper: WhisperWeights, diarisation: PipelineWeights, device: torch.device
    ) -> None:
        self.whisper_weights, self.diarisation_weights = whisper, diarisation
        self.device = device
        self.engine = WhisperEngine(load_whisper(whisper, device))
        self.diarisation = load_pipeline(diarisation, device)

    def transcribe(
        self,
        recordings: Sequence[Recording],
        options: TranscribeOptions,
        on_progress: OnProgress = lambda progress: None,
    ) -> Transcript:
        """One transcript on one timeline for the recordings of one session, in their order.

        Raises:
            OptionError: before anything is computed.
            NoSpeech: rather than an empty transcript.
            OutOfMemory, Stopped
        """
        self.engine.check(options.whisper)
        channels, starts = join(recordings)
        samples = channels[0]
        sources = tuple(
            Source(
                start=round(start, 3),
                duration=round(recording.duration, 3),
                container=recording.info.container,
                codec=recording.info.codec,
                sample_rate=recording.info.sample_rate,
                channels=recording.info.channels,
                n_bytes=recording.info.n_bytes,
            )
            for recording, start in zip(recordings, starts, strict=True)
        )
        heard = self._hear(samples, starts[1:], options, on_progress)
        return self._write(heard, sources, len(samples) / SAMPLE_RATE, options, on_progress)

    def _hear(
        self,
        samples: np.ndarray,
        joints: Sequence[float],
        options: TranscribeOptions,
        on_progress: OnProgress,
    ) -> Heard:
        def report(stage: str) -> Progress:
            on_progress(StageProgress(stage, 0.0))
            return lambda fraction: on_progress(StageProgress(stage, fraction))

        segmentation = segment(self.diarisation, samples, report("segment"))
        regions = speech_regions(segmentation)
        windows = cut_windows(regions, samples, joints)
        if not windows:
            raise NoSpeech(no_speech(samples, 0.0))

        progress = report("transcribe")
        whisper = options.whisper
        maximum = self.engine.maximum(samples)
        probability = None
        if whisper.language is None:
            guess = self.engine.detect_language(samples, windows, maximum)
            whisper = replace(whisper, language=guess.language)
            probability = guess.probability
        decoded = self.engine.decode(samples, windows, whisper, maximum, progress)
        halved = self.engine.halved
        progress = report("align")
        words = self.engine.word_times(decoded, whisper, regions)
        decoded, words = cover(
            decoded,
            words,
            regions,
            lambda stretch: cut_windows(stretch, samples, joints),
            lambda windows: self.engine.decode(samples, windows, whisper, maximum, progress),
            lambda results: self.engine.word_times(results, whisper, regions),
        )
        if not words:
            raise NoSpeech(no_speech(samples, sum(region.duration for region in regions)))

        diarisation = diarise(
            self.diarisation, samples, segmentation, options.speakers, report("diarise")
        )
        assert whisper.language is not None
        return Heard(
            segmentation,
            windows,
            whisper.language,
            probability,
            decoded,
            words,
            diarisation,
            memory_ran_out=max(halved, self.engine.halved) > 0,
        )

    def _write(
        self,
        heard: Heard,
        sources: tuple[Source, ...],
        duration: float,
        options: TranscribeOptions,
        on_progress: OnProgress,
    ) -> Transcript:
        on_progress(StageProgress("attribute", 0.0))
        segments = attribute(heard.words, heard.diarisation.exclusive_turns)
        on_progress(StageProgress("check", 0.0))
        flags = check(segments, speech_regions(heard.segmentation), heard.decoded)
        turns = heard.diarisation.turns
        transcript = Transcript(
            duration=round(duration, 3),
            language=heard.language,
            language_probability=heard.language_probability,
            speakers=speakers_in_order(turns),
            segments=segments,
            turns=turns,
            overlaps=overlaps(turns),
            flags=flags,
            sources=sources,
            made_with=self._made_with(options),
            warnings=tuple(self._warnings(heard, options)),
        )
        on_progress(StageProgress("check", 1.0))
        return transcript

    def _made_with(self, options: TranscribeOptions) -> MadeWith:
        packages = ("openai-whisper", "pyannote.audio", "torch")
        return MadeWith(
            fieldscribe=version("fieldscribe"),
            whisper_model=self.whisper_weights.name,
            whisper_sha256=self.whisper_weights.sha256,
            diarisation_pipeline=self.diarisation_weights.name,
            diarisation_sha256=self.diarisation_weights.sha256,
            device=str(self.device),
            options={**asdict(options), "speakers": str(options.speakers)},
            versions={
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
        )

    def _warnings(self, heard: Heard, options: TranscribeOptions) -> list[str]:
        warnings = []
        if self.whisper_weights.demo or self.diarisation_weights.demo:
            warnings.append(DEMO_WARNING)
        if (heard.language_probability or 1.0) < UNSURE_OF_LANGUAGE:
            warnings.append(
                f"The language was taken for {heard.language} with a probability of only "
                f"{heard.language_probability:.2f}; say which it is and transcribe again."
            )
        found = len(speakers_in_order(heard.diarisation.turns))
        asked = options.speakers
        if found < (asked.minimum or 1) or found > (asked.maximum or found):
            warnings.append(f"{found} speakers were found where {asked} were expected.")
        if heard.diarisation.sampled:
            warnings.append(
                "The session is so long that speakers were told apart by an even sample of it."
            )
        if heard.memory_ran_out:
            warnings.append(
                "The device's memory ran out, and transcription went on with fewer windows at a "
                "time; nothing is missing."
            )
        return warnings

    def seconds_per_second(self) -> dict[str, float]:
        """Processing time per second of audio of each costly stage, from a few seconds' trial.

        A first guess: what people say decides how long decoding takes.
        """
        segmenting, embedding = try_diarisation(self.diarisation)
        aligning = 0.0  # done while transcribing, with what the decoder has at hand
        stages = (segmenting, self.engine.try_speed(), aligning, embedding)
        return dict(zip(COSTLY_STAGES, stages, strict=True))


def no_speech(samples: np.ndarray, speech_seconds: float) -> str:
    """A sentence with what was measured, in place of an empty transcript."""
    peak, mean = (
        20 * np.log10(max(level, 1e-10))
        for level in (np.abs(samples).max(), np.sqrt(np.square(samples).mean()))
    )
    found = (
        f"{speech_seconds:.1f} s of speech were found but no words"
        if speech_seconds
        else "no speech was found"
    )
    return (
        f"In {len(samples) / SAMPLE_RATE:.0f} s of sound {found} (peak {peak:.0f} dBFS, mean "
        f"{mean:.0f} dBFS); check that this is the right recording, channel and language."
    )
