"""Recordings of one session to one transcript: loads the models once, calls the steps in order."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version

import numpy as np
import torch

from models.attribution import attribute
from models.audio.channels import Timeline, timeline_of
from models.audio.errors import NoSpeech
from models.audio.recording import SAMPLE_RATE, Recording
from models.device import HalvingCounter
from models.diarisation.diarisation import (
    Diarisation,
    RunningDiarisation,
    measure_speed,
    start_diarisation,
)
from models.diarisation.segmentation import Segmentation, SpeechRegion, find_speech_regions, segment
from models.gates import resolve_precision
from models.options import JobOptions, SpeakerCount
from models.overlaps import find_overlaps
from models.precision import Precision
from models.progress import Progress
from models.quality import find_flags
from models.results import (
    DecodedSession,
    check_timeline,
    pack_decoded,
    pack_diarisation,
    pack_segmentation,
    pack_words,
    unpack_decoded,
    unpack_diarisation,
    unpack_segmentation,
    unpack_words,
)
from models.roster import expected
from models.stage_results import NoStageResults, StageResults
from models.transcript import MadeWith, Source, Transcript, Word, speakers_in_order
from models.weights.catalogue import PipelineWeights, WhisperWeights
from models.weights.pyannote import load_pipeline
from models.weights.whisper import load_whisper
from models.whisper_engine import (
    DecodedWindow,
    DecodingRequest,
    WhisperEngine,
    WhisperOptions,
)
from models.whisper_engine.coverage import add_recovered_words, find_missed_windows
from models.whisper_engine.engine import Task
from models.windows import MAX_WINDOW, Window, cut_windows

STAGES = ("segment", "transcribe", "align", "diarise", "attribute", "check")
COSTLY_STAGES = ("segment", "transcribe", "align", "diarise")  # the others take no time to speak of

CLUSTERING_BEGINS = 0.99  # of diarising
TIMES_FILLED = 4  # how often sessions that are heard together fill the decoder's slots
UNSURE_OF_LANGUAGE = 0.8  # below this probability the transcript carries a warning
DEMO_WARNING = (
    "Made with the demo weights, which know a few hundred words and eight synthetic voices: "
    "for demonstration and tests, never for research."
)


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


@dataclass(frozen=True, eq=False)
class Segmented:
    """A session in which speech was found, on the way to a transcript."""

    options: JobOptions
    results: StageResults
    timeline: Timeline
    sources: tuple[Source, ...]
    segmentation: Segmentation
    regions: tuple[SpeechRegion, ...]
    windows: tuple[Window, ...]
    halvings: HalvingCounter  # of the pipeline
    halvings_before: int  # when the session was begun

    @property
    def memory_ran_out(self) -> bool:
        """Since it was begun; of sessions that are heard together each says so."""
        return self.halvings.count > self.halvings_before

    def cut(self, stretch: Sequence[SpeechRegion]) -> tuple[Window, ...]:
        return cut_windows(stretch, self.timeline.samples, self.timeline.joints)

    def asked(self, windows: Sequence[Window], language: str, maximum: float) -> DecodingRequest:
        """Some of its windows, for the engine."""
        whisper = replace(whisper_options(self.options), language=language)
        return DecodingRequest(self.timeline.samples, windows, whisper, maximum)


@dataclass(frozen=True, eq=False)
class Transcribed:
    session: Segmented
    decoded: DecodedSession
    words: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class Diarising(Transcribed):
    """`diarisation` may still be under way in another process."""

    diarisation: Diarisation | RunningDiarisation


Maximum = Callable[[Segmented], float]
"""A session's loudest mel power, found once."""


class Pipeline:
    """Both models, loaded once.

    Args:
        device: `cuda` or `cpu`.
        precision: None: the default. Whether the weights may be used at a lower one is for the
            caller to ask: models/gates.py, `check_gates`.

    Raises:
        UnavailablePrecision
        WeightsError: see whisper_checkpoints.py and pyannote_checkpoints.py.
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
        of_each = resolve_precision(precision, device)
        self._trunk = of_each.trunk
        self._halvings = HalvingCounter()
        self.engine = WhisperEngine(
            load_whisper(whisper),
            precision=of_each.whisper,
            device=device,
            halvings=self._halvings,
        )
        self.diarisation = replace(load_pipeline(diarisation, device), halvings=self._halvings)

    @property
    def seconds_at_once(self) -> float:
        """Sound of sessions to be heard together, so that the decoder's slots are rarely empty."""
        return TIMES_FILLED * self.engine.n_slots * MAX_WINDOW

    def transcribe(
        self,
        recordings: Sequence[Recording],
        options: JobOptions,
        on_progress: OnProgress = lambda progress: None,
        results: StageResults | None = None,
    ) -> Transcript:
        """One transcript on one timeline for the recordings of one session, in their order.

        Args:
            results: those of an earlier attempt, which are not computed again.

        Raises:
            OptionError: before anything is computed.
            NoSpeech: rather than an empty transcript.
            OutOfMemory, Stopped
        """
        session = self.segment(recordings, options, on_progress, results)
        (transcribed,) = self.hear([session], on_progress)
        return self.finish(self.diarise(transcribed, on_progress), on_progress)

    # --- its four parts; `hear` takes several sessions, `finish` may come after others ---

    def segment(
        self,
        recordings: Sequence[Recording],
        options: JobOptions,
        on_progress: OnProgress,
        results: StageResults | None = None,
    ) -> Segmented:
        """Args, raises: see `transcribe`."""
        results, halvings_before = results or NoStageResults(), self._halvings.count
        self.engine.check(whisper_options(options))
        speakers = options.expected_speakers
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
        check_timeline(results, len(timeline.samples) / SAMPLE_RATE)
        if (data := results.load("segment")) is not None:
            segmentation = unpack_segmentation(data)
        else:
            progress = reporting(on_progress, "segment")
            segmentation = segment(self.diarisation, timeline.samples, progress)
            results.save("segment", pack_segmentation(segmentation))
        regions = timeline.own(find_speech_regions(segmentation))
        windows = cut_windows(regions, timeline.samples, timeline.joints)
        if not windows:
            raise NoSpeech(no_speech(timeline.samples, 0.0))
        return Segmented(
            options,
            results,
            timeline,
            sources,
            segmentation,
            regions,
            windows,
            self._halvings,
            halvings_before,
        )

    def hear(self, sessions: Sequence[Segmented], on_progress: OnProgress) -> list[Transcribed]:
        """The words of some sessions, whose windows are decoded beside each other.

        Raises:
            OutOfMemory, Stopped
        """
        maximum = cache(lambda session: self.engine.find_maximum(session.timeline.samples))
        stored = [
            (session.results.load("transcribe"), session.results.load("align"))
            for session in sessions
        ]
        texts = [None if text is None else unpack_decoded(text) for text, _ in stored]
        decoded = self._decoded(sessions, texts, maximum, on_progress)
        missing = [i for i, pair in enumerate(stored) if None in pair]
        words = [() if data is None else unpack_words(data) for _, data in stored]
        if missing:
            found = self._words([(sessions[i], decoded[i]) for i in missing], maximum, on_progress)
            for i, words[i] in zip(missing, found, strict=True):
                sessions[i].results.save("align", pack_words(words[i]))
        return [
            Transcribed(*of_session) for of_session in zip(sessions, decoded, words, strict=True)
        ]

    def _decoded(
        self,
        sessions: Sequence[Segmented],
        stored: Sequence[DecodedSession | None],
        maximum: Maximum,
        on_progress: OnProgress,
    ) -> list[DecodedSession]:
        decoded = list(stored)
        missing = [i for i, text in enumerate(stored) if text is None]
        if missing:
            progress = reporting(on_progress, "transcribe")
            guesses = [self._language(sessions[i], maximum, progress) for i in missing]
            asked = [
                sessions[i].asked(sessions[i].windows, language, maximum(sessions[i]))
                for i, (language, _) in zip(missing, guesses, strict=True)
            ]
            found = self.engine.decode(asked, progress)
            for i, guess, windows in zip(missing, guesses, found, strict=True):
                text = decoded[i] = DecodedSession(*guess, windows, sessions[i].memory_ran_out)
                sessions[i].results.save("transcribe", pack_decoded(text))
        return [text for text in decoded if text is not None]

    def _language(
        self, session: Segmented, maximum: Maximum, progress: Progress
    ) -> tuple[str, float | None]:
        """As given, else as found with its probability."""
        if (given := session.options.language) is not None:
            return given, None
        progress(0.0)
        samples = session.timeline.samples
        guess = self.engine.detect_language(samples, session.windows, maximum(session))
        return guess.language, guess.probability

    def _words(
        self,
        decoded: Sequence[tuple[Segmented, DecodedSession]],
        maximum: Maximum,
        on_progress: OnProgress,
    ) -> list[tuple[Word, ...]]:
        progress = reporting(on_progress, "align")

        def place(
            session: Segmented, text: DecodedSession, windows: Sequence[DecodedWindow]
        ) -> tuple[Word, ...]:
            whisper = replace(whisper_options(session.options), language=text.language)
            return self.engine.time_words(windows, whisper, session.regions)

        words = [place(session, text, text.windows) for session, text in decoded]
        second = [
            session.asked(
                find_missed_windows(text.windows, found, session.regions, session.cut),
                text.language,
                maximum(session),
            )
            for (session, text), found in zip(decoded, words, strict=True)
        ]
        again = self.engine.decode(second, progress)
        return [
            add_recovered_words(found, windows, partial(place, session, text))
            for (session, text), found, windows in zip(decoded, words, again, strict=True)
        ]

    def diarise(self, transcribed: Transcribed, on_progress: OnProgress) -> Diarising:
        """Who spoke when; speakers are told apart beside whatever comes before `finish`.

        Raises:
            NoSpeech, OutOfMemory, Stopped
        """
        session, decoded, words = transcribed.session, transcribed.decoded, transcribed.words
        results, timeline, regions = session.results, session.timeline, session.regions
        if not words:
            seconds = sum(region.duration for region in regions)
            raise NoSpeech(no_speech(timeline.samples, seconds))
        if timeline.is_split:
            reporting(on_progress, "diarise")(1.0)
            turns, nothing = timeline.turns(regions), np.empty((0, 0, 0), dtype=np.float32)
            diarisation = Diarisation(turns, timeline.channels, nothing, sampled=False)
            results.save("diarise", pack_diarisation(diarisation))
            return Diarising(session, decoded, words, diarisation)
        if (data := results.load("diarise")) is not None:
            return Diarising(session, decoded, words, unpack_diarisation(data))
        earlier = results.load("embeddings")
        begun = start_diarisation(
            self.diarisation,
            timeline.samples,
            session.segmentation,
            session.options.expected_speakers,
            reporting(on_progress, "diarise", most=CLUSTERING_BEGINS),
            embeddings=None if earlier is None else unpack_diarisation(earlier).embeddings,
            precision=self._trunk,
            by_roster=session.options.by_roster,
        )
        return Diarising(session, decoded, words, begun)

    def finish(self, diarising: Diarising, on_progress: OnProgress) -> Transcript:
        """
        Raises:
            OutOfMemory, Stopped
        """
        session, diarisation = diarising.session, diarising.diarisation
        if isinstance(diarisation, RunningDiarisation):
            waiting = StageProgress("diarise", CLUSTERING_BEGINS)
            diarisation = diarisation.result(lambda fraction: on_progress(waiting))
            on_progress(StageProgress("diarise", 1.0))
            session.results.save("diarise", pack_diarisation(diarisation))
        decoded = diarising.decoded
        heard = Heard(
            session.segmentation,
            session.windows,
            decoded.language,
            decoded.language_probability,
            decoded.windows,
            diarising.words,
            diarisation,
            memory_ran_out=decoded.memory_ran_out or session.memory_ran_out,
        )
        return self._write(heard, session.sources, session.timeline, session.options, on_progress)

    def _write(
        self,
        heard: Heard,
        sources: tuple[Source, ...],
        timeline: Timeline,
        options: JobOptions,
        on_progress: OnProgress,
    ) -> Transcript:
        on_progress(StageProgress("attribute", 0.0))
        regions = timeline.own(find_speech_regions(heard.segmentation))
        turns_of_words = heard.diarisation.exclusive_turns
        folded = attribute(heard.words, turns_of_words, regions, certain=timeline.is_split)
        segments = timeline.unfold(folded)
        on_progress(StageProgress("check", 0.0))
        flags = timeline.unfold_flags(find_flags(folded, regions, heard.decoded, heard.language))
        turns = heard.diarisation.turns
        transcript = Transcript(
            duration=round(timeline.duration, 3),
            language=heard.language,
            language_probability=heard.language_probability,
            speakers=speakers_in_order(turns),
            segments=segments,
            turns=turns,
            overlaps=find_overlaps(turns, segments),
            flags=flags,
            sources=sources,
            made_with=self._made_with(options),
            warnings=tuple(self._warnings(heard, timeline, options)),
        )
        on_progress(StageProgress("check", 1.0))
        return transcript

    def _made_with(self, options: JobOptions) -> MadeWith:
        packages = ("openai-whisper", "pyannote.audio", "torch")
        return MadeWith(
            fieldscribe=version("fieldscribe"),
            whisper_model=self.whisper_weights.name,
            whisper_sha256=self.whisper_weights.sha256,
            diarisation_pipeline=self.diarisation_weights.name,
            diarisation_sha256=self.diarisation_weights.sha256,
            device=str(self.device),
            options=options.to_transcript(self.precision),
            versions={
                "python": platform.python_version(),
                **{package: version(package) for package in packages},
            },
        )

    def _warnings(self, heard: Heard, timeline: Timeline, options: JobOptions) -> list[str]:
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
                "The device's memory ran out, and work went on in smaller batches; nothing is "
                "missing."
            )
        return warnings

    def seconds_per_second(self) -> dict[str, float]:
        """Processing time per second of audio of each costly stage, from a few seconds' trial.

        A first guess: what people say decides how long decoding takes.
        """
        segmenting, embedding = measure_speed(self.diarisation, self._trunk)
        aligning = 0.0  # done while transcribing, with what the decoder has at hand
        stages = (segmenting, self.engine.measure_speed(), aligning, embedding)
        return dict(zip(COSTLY_STAGES, stages, strict=True))


def whisper_options(options: JobOptions) -> WhisperOptions:
    task: Task = "translate" if options.translate else "transcribe"
    return WhisperOptions(options.language, options.vocabulary, task, options.mixed_languages)


def reporting(on_progress: OnProgress, stage: str, most: float = 1.0) -> Progress:
    """The Progress of a stage, which begins; `most`: the fraction at its end."""
    on_progress(StageProgress(stage, 0.0))
    return lambda fraction: on_progress(StageProgress(stage, most * fraction))


def wrong_count(found: int, options: JobOptions) -> list[str]:
    """Also where as many were found as somebody asked for, but the roster has others."""
    asked = options.speakers
    by_roster = SpeakerCount(*expected(options.roster)) if options.roster else SpeakerCount()
    return [
        f"{found} speakers were found where {count} were expected{by}: somebody is missing, or "
        "one person's words stand under two names. Listen before you use who said what."
        for count, by in ((by_roster, " by the roster"), (asked, ""))
        if not (count.minimum or 1) <= found <= (count.maximum or found)
    ][:1]


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
