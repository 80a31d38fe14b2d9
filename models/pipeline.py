"""Recordings of one session to one transcript: loads the models once, calls the steps in order."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from models.attribution import attribute, overlaps
from models.audio import SAMPLE_RATE, Recording
from models.channels import Channels, Timeline, timeline_of
from models.checkpoints import load_pipeline, load_whisper
from models.diarisation import Diarisation, SpeakerCount, diarise, try_diarisation
from models.errors import AudioError
from models.precision import precisions
from models.progress import Progress
from models.quality import check
from models.results import (
    Decoded,
    Kept,
    Nothing,
    pack_decoded,
    pack_diarisation,
    pack_segmentation,
    pack_words,
    unpack_decoded,
    unpack_diarisation,
    unpack_segmentation,
    unpack_words,
)
from models.roster import BadRoster, RosterEntry, check_roster
from models.segmentation import Segmentation, SpeechRegion, segment, speech_regions
from models.transcript import MadeWith, Source, Transcript, Word, speakers_in_order
from models.weights import PipelineWeights, WhisperWeights
from models.whisper_engine import DecodedWindow, WhisperEngine, WhisperOptions, language_code
from models.whisper_engine.coverage import cover
from models.whisper_engine.linear import Precision
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
    channels: Channels = Channels.AUTO  # needs recordings that were decoded with channels apart
    roster: tuple[RosterEntry, ...] = ()
    precision: Precision | None = None  # that the pipeline was loaded with; None: the device's own

    def __post_init__(self) -> None:
        """
        Raises:
            BadRoster
        """
        check_roster(self.roster)
        n, asked = len(self.roster), self.speakers
        if self.roster and not (asked.minimum or n) <= n <= (asked.maximum or n):
            raise BadRoster(f"The roster has {n} people where {asked} speakers are expected.")

    @property
    def expected(self) -> SpeakerCount:
        """As asked for, else as many as are on the roster."""
        if self.speakers == SpeakerCount() and self.roster:
            return SpeakerCount(len(self.roster), len(self.roster))
        return self.speakers

    @property
    def whisper(self) -> WhisperOptions:
        language = None if self.language is None else language_code(self.language)
        return WhisperOptions(language, self.vocabulary)

    def as_dict(self) -> dict[str, Any]:
        """As a transcript's JSON keeps them."""
        chosen = {**asdict(self), "speakers": str(self.speakers)}
        lists = {"vocabulary": list(self.vocabulary), "roster": list(chosen["roster"])}
        return {**chosen, **lists, "channels": str(self.channels)}


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
        precision: None: the default. Whether the weights may be used at a lower one is for the
            caller to ask: models/precision.py, `check_gates`.

    Raises:
        UnavailablePrecision
        WeightsError: see models/checkpoints.py.
    """

    def __init__(
        self,
        whisper: WhisperWeights,
        diarisation: PipelineWeights,
        device: torch.device,
        precision: Precision | None = None,
    ) -> None:
        self.whisper_weights, self.diarisation_weights = whisper, diarisation
        self.device, self.precision = device, precision
        of_each = precisions(precision, device)
        self._trunk = of_each.trunk
        self.engine = WhisperEngine(load_whisper(whisper, device), precision=of_each.whisper)
        self.diarisation = load_pipeline(diarisation, device)

    def transcribe(
        self,
        recordings: Sequence[Recording],
        options: TranscribeOptions,
        on_progress: OnProgress = lambda progress: None,
        kept: Kept | None = None,
    ) -> Transcript:
        """One transcript on one timeline for the recordings of one session, in their order.

        Args:
            kept: results of an earlier attempt, which are not computed again.

        Raises:
            OptionError: before anything is computed.
            NoSpeech: rather than an empty transcript.
            OutOfMemory, Stopped
        """
        if options.precision != self.precision:
            raise ValueError("the pipeline was loaded with another precision")
        self.engine.check(options.whisper)
        speakers = options.expected
        timeline = timeline_of(recordings, options.channels, (speakers.minimum, speakers.maximum))
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
            for recording, start in zip(recordings, timeline.starts, strict=True)
        )
        heard = self._hear(timeline, options, on_progress, kept or Nothing())
        return self._write(heard, sources, timeline, options, on_progress)

    def _hear(
        self,
        timeline: Timeline,
        options: TranscribeOptions,
        on_progress: OnProgress,
        kept: Kept,
    ) -> Heard:
        samples, joints = timeline.samples, timeline.joints

        def report(stage: str) -> Progress:
            on_progress(StageProgress(stage, 0.0))
            return lambda fraction: on_progress(StageProgress(stage, fraction))

        if (data := kept.load("segment")) is not None:
            segmentation = unpack_segmentation(data)
        else:
            segmentation = segment(self.diarisation, samples, report("segment"))
            kept.save("segment", pack_segmentation(segmentation))
        regions = timeline.own(speech_regions(segmentation))
        windows = cut_windows(regions, samples, joints)
        if not windows:
            raise NoSpeech(no_speech(samples, 0.0))

        decoded, words = self._words(timeline, windows, regions, options, report, kept)
        if not words:
            raise NoSpeech(no_speech(samples, sum(region.duration for region in regions)))

        if timeline.is_split:
            report("diarise")(1.0)
            turns, nothing = timeline.turns(regions), np.empty((0, 0, 0), dtype=np.float32)
            diarisation = Diarisation(turns, timeline.channels, nothing, sampled=False)
            kept.save("diarise", pack_diarisation(diarisation))
        elif (data := kept.load("diarise")) is not None:
            diarisation = unpack_diarisation(data)
        else:
            earlier = kept.load("embeddings")
            diarisation = diarise(
                self.diarisation,
                samples,
                segmentation,
                options.expected,
                report("diarise"),
                embeddings=None if earlier is None else unpack_diarisation(earlier).embeddings,
                precision=self._trunk,
            )
            kept.save("diarise", pack_diarisation(diarisation))
        return Heard(
            segmentation,
            windows,
            decoded.language,
            decoded.language_probability,
            decoded.windows,
            words,
            diarisation,
            memory_ran_out=decoded.memory_ran_out,
        )

    def _words(
        self,
        timeline: Timeline,
        windows: tuple[Window, ...],
        regions: tuple[SpeechRegion, ...],
        options: TranscribeOptions,
        report: Callable[[str], Progress],
        kept: Kept,
    ) -> tuple[Decoded, tuple[Word, ...]]:
        whisper = options.whisper
        decoded_before, words_before = kept.load("transcribe"), kept.load("align")
        if decoded_before is not None and words_before is not None:
            return unpack_decoded(decoded_before), unpack_words(words_before)

        samples = timeline.samples
        maximum = self.engine.maximum(samples)
        if decoded_before is not None:
            decoded = unpack_decoded(decoded_before)
        else:
            progress = report("transcribe")
            probability = None
            if whisper.language is None:
                guess = self.engine.detect_language(samples, windows, maximum)
                whisper = replace(whisper, language=guess.language)
                probability = guess.probability
            assert whisper.language is not None
            found = self.engine.decode(samples, windows, whisper, maximum, progress)
            decoded = Decoded(whisper.language, probability, found, self.engine.halved > 0)
            kept.save("transcribe", pack_decoded(decoded))
        whisper = replace(whisper, language=decoded.language)
        progress = report("align")
        words = self.engine.word_times(decoded.windows, whisper, regions)
        _, words = cover(
            decoded.windows,
            words,
            regions,
            lambda stretch: cut_windows(stretch, samples, timeline.joints),
            lambda windows: self.engine.decode(samples, windows, whisper, maximum, progress),
            lambda results: self.engine.word_times(results, whisper, regions),
        )
        kept.save("align", pack_words(words))
        return decoded, words

    def _write(
        self,
        heard: Heard,
        sources: tuple[Source, ...],
        timeline: Timeline,
        options: TranscribeOptions,
        on_progress: OnProgress,
    ) -> Transcript:
        on_progress(StageProgress("attribute", 0.0))
        regions = timeline.own(speech_regions(heard.segmentation))
        folded = attribute(heard.words, heard.diarisation.exclusive_turns, regions)
        segments = timeline.unfold(folded)
        on_progress(StageProgress("check", 0.0))
        flags = timeline.unfold_flags(check(folded, regions, heard.decoded))
        turns = heard.diarisation.turns
        transcript = Transcript(
            duration=round(timeline.duration, 3),
            language=heard.language,
            language_probability=heard.language_probability,
            speakers=speakers_in_order(turns),
            segments=segments,
            turns=turns,
            overlaps=overlaps(turns, segments),
            flags=flags,
            sources=sources,
            made_with=self._made_with(options),
            warnings=tuple(self._warnings(heard, timeline, options)),
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
            options=options.as_dict(),
            versions={
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
        )

    def _warnings(self, heard: Heard, timeline: Timeline, options: TranscribeOptions) -> list[str]:
        warnings = []
        if self.whisper_weights.demo or self.diarisation_weights.demo:
            warnings.append(DEMO_WARNING)
        if (heard.language_probability or 1.0) < UNSURE_OF_LANGUAGE:
            warnings.append(
                f"The language was taken for {heard.language} with a probability of only "
                f"{heard.language_probability:.2f}; say which it is and transcribe again."
            )
        if timeline.warning:
            warnings.append(timeline.warning)
        warnings += wrong_count(len(speakers_in_order(heard.diarisation.turns)), options)
        warnings += heard.diarisation.warnings
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
        segmenting, embedding = try_diarisation(self.diarisation, self._trunk)
        aligning = 0.0  # done while transcribing, with what the decoder has at hand
        stages = (segmenting, self.engine.try_speed(), aligning, embedding)
        return dict(zip(COSTLY_STAGES, stages, strict=True))


def wrong_count(found: int, options: TranscribeOptions) -> list[str]:
    expected = options.expected
    if (expected.minimum or 1) <= found <= (expected.maximum or found):
        return []
    by = " by the roster" if options.roster else ""
    return [
        f"{found} speakers were found where {expected} were expected{by}: somebody is missing, or "
        "one person's words stand under two names. Listen before you use who said what."
    ]


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
