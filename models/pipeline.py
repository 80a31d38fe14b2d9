"""The pipeline: loads the models once and turns the recordings of a session into a transcript."""

import platform
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor

from models.attribution import Phrase, RecogniseSpeakers, attribute
from models.audio.errors import NoSpeech
from models.audio.recording import SAMPLE_RATE, DecodedRecording
from models.channels import Timeline, make_timeline, speaker_label
from models.device import HalvingCounter
from models.diarisation.diarisation import (
    Diarisation,
    RunningDiarisation,
    measure_speed,
    start_diarisation,
)
from models.diarisation.embedding import embed_stretches
from models.diarisation.segmentation import Segmentation, SpeechRegion, find_speech_regions, segment
from models.diarisation.voices import recognise_speakers
from models.gates import resolve_precision
from models.language_votes import find_language_changes, warn_of_other_language
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
from models.roster import speaker_bounds
from models.silent_words import move_words_into_speech
from models.stage_results import NoStageResults, StageResults
from models.transcript import (
    MadeWith,
    Segment,
    Source,
    Transcript,
    Word,
    number_speakers,
    speakers_in_order,
)
from models.weights.catalogue import PipelineWeights, WhisperWeights
from models.weights.pyannote import load_pipeline
from models.weights.whisper import load_whisper
from models.whisper_engine import (
    DecodingRequest,
    LanguageGuess,
    WhisperEngine,
    WhisperOptions,
)
from models.whisper_engine.engine import Task
from models.windows import MAX_WINDOW, Window, cut_windows

STAGES = ("segment", "transcribe", "align", "diarise", "attribute", "check")
COSTLY_STAGES = ("segment", "transcribe", "align", "diarise")  # the others take hardly any time

CLUSTERING_STARTS = 0.99  # fraction of diarisation
SLOT_FILLS = 4  # how often sessions that are transcribed together fill the decoder's slots
CHECKED_WINDOWS = 3  # the longest, from which a wrong given language is found out
UNSURE_OF_LANGUAGE = 0.8  # probability of the language below which the transcript has a warning
DEMO_WARNING = (
    "Made with the demo weights, which know a few hundred words and eight synthetic voices: "
    "for demonstration and tests, never for research."
)


@dataclass(frozen=True)
class StageProgress:
    """How far a job has got."""

    stage: str
    fraction: float  # of this stage, 0 to 1


OnProgress = Callable[[StageProgress], None]
"""Called between batches; raises `Stopped` to stop the job."""


@dataclass(frozen=True, eq=False)
class SegmentedSession:
    """A session in which speech was found."""

    options: JobOptions
    results: StageResults
    timeline: Timeline
    sources: tuple[Source, ...]
    segmentation: Segmentation
    regions: tuple[SpeechRegion, ...]
    windows: tuple[Window, ...]
    halvings: HalvingCounter  # of the pipeline
    halvings_before: int  # when work on the session started
    warnings: tuple[str, ...] = ()  # from reading the recordings
    language_changes: tuple[float, ...] = ()  # s; no window crosses one

    @property
    def memory_ran_out(self) -> bool:
        """Whether memory ran out since then; true for all sessions transcribed together."""
        return self.halvings.count > self.halvings_before

    @property
    def bounds(self) -> tuple[float, ...]:
        """The times that no window crosses."""
        return tuple(sorted((*self.timeline.joints, *self.language_changes)))

    def cut(self, regions: Sequence[SpeechRegion]) -> tuple[Window, ...]:
        return cut_windows(regions, self.timeline.samples, self.bounds)

    def request(self, windows: Sequence[Window], language: str, maximum: float) -> DecodingRequest:
        """Return a request to decode some of the session's windows."""
        whisper = replace(whisper_options(self.options), language=language)
        return DecodingRequest(
            self.timeline.samples,
            windows,
            whisper,
            maximum,
            self.regions,
            self.bounds,
            beams=True,
        )


@dataclass(frozen=True, eq=False)
class TranscribedSession:
    """A session with its words."""

    session: SegmentedSession
    decoded: DecodedSession
    words: tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class DiarisingSession(TranscribedSession):
    """A session whose diarisation may still be running in another process."""

    diarisation: Diarisation | RunningDiarisation


FindMaximum = Callable[[SegmentedSession], float]
"""Returns a session's loudest mel power, computed once."""


class Pipeline:
    """Whisper and the diarisation models, loaded once for many sessions.

    Args:
        device: `cuda` or `cpu`.
        precision: None for the default. Before loading weights at a lower one, the caller must call
            `models.gates.check_gates`.

    Raises:
        UnavailablePrecision
        WeightsError: see models/weights/errors.py.
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
        precisions = resolve_precision(precision, device)
        self._trunk = precisions.trunk
        self._halvings = HalvingCounter()
        self.engine = WhisperEngine(
            load_whisper(whisper),
            precision=precisions.whisper,
            device=device,
            halvings=self._halvings,
        )
        self.diarisation = replace(load_pipeline(diarisation, device), halvings=self._halvings)

    @property
    def seconds_at_once(self) -> float:
        """Seconds of audio to transcribe together, so that the decoder's slots are rarely empty."""
        return SLOT_FILLS * self.engine.n_slots * MAX_WINDOW

    def transcribe(
        self,
        recordings: Sequence[DecodedRecording],
        options: JobOptions,
        on_progress: OnProgress = lambda progress: None,
        results: StageResults | None = None,
    ) -> Transcript:
        """Transcribe the recordings of one session, in order, on one timeline.

        Args:
            results: of an earlier attempt; stages that have one are not computed again.

        Raises:
            OptionError: before anything is computed.
            NoSpeech: instead of an empty transcript.
            OutOfMemory, Stopped
        """
        session = self.segment(recordings, options, on_progress, results)
        (transcribed,) = self.find_words([session], on_progress)
        return self.finish(self.diarise(transcribed, on_progress), on_progress)

    # --- the four parts of `transcribe`, for callers that interleave sessions ---

    def segment(
        self,
        recordings: Sequence[DecodedRecording],
        options: JobOptions,
        on_progress: OnProgress,
        results: StageResults | None = None,
    ) -> SegmentedSession:
        """Find the speech of a session and cut it into windows.

        Args, raises: see `transcribe`.
        """
        results, halvings_before = results or NoStageResults(), self._halvings.count
        self.engine.check(whisper_options(options))
        speakers = options.expected_speakers
        timeline = make_timeline(recordings, options.channels, (speakers.minimum, speakers.maximum))
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
            progress = report_stage(on_progress, "segment")
            segmentation = segment(self.diarisation, timeline.samples, progress)
            results.save("segment", pack_segmentation(segmentation))
        regions = timeline.own_speech(find_speech_regions(segmentation))
        windows = cut_windows(regions, timeline.samples, timeline.joints)
        if not windows:
            raise NoSpeech(no_speech_message(timeline.samples, 0.0, timeline.duration))
        return SegmentedSession(
            options,
            results,
            timeline,
            sources,
            segmentation,
            regions,
            windows,
            self._halvings,
            halvings_before,
            tuple(reading_warnings(recordings)),
        )

    def find_words(
        self, sessions: Sequence[SegmentedSession], on_progress: OnProgress
    ) -> list[TranscribedSession]:
        """Transcribe sessions together, with their windows side by side in the decoder's slots.

        Raises:
            OutOfMemory, Stopped
        """
        stored = [
            (session.results.load("transcribe"), session.results.load("align"))
            for session in sessions
        ]
        sessions = [
            self._cut_at_language_changes(session) if None in pair else session
            for session, pair in zip(sessions, stored, strict=True)
        ]
        find_maximum = cache(lambda session: self.engine.find_maximum(session.timeline.samples))
        texts = [None if text is None else unpack_decoded(text) for text, _ in stored]
        decoded = self._decode(sessions, texts, find_maximum, on_progress)
        missing = [i for i, pair in enumerate(stored) if None in pair]
        words = [() if data is None else unpack_words(data) for _, data in stored]
        if missing:
            pairs = [(sessions[i], decoded[i]) for i in missing]
            found = [
                move_words_into_speech(timed, session.regions)
                for timed, (session, _) in zip(
                    self._time_words(pairs, on_progress), pairs, strict=True
                )
            ]
            for i, words[i] in zip(missing, found, strict=True):
                sessions[i].results.save("align", pack_words(words[i]))
        return [TranscribedSession(*parts) for parts in zip(sessions, decoded, words, strict=True)]

    def _cut_at_language_changes(self, session: SegmentedSession) -> SegmentedSession:
        """End windows where the language changes, if pauses allow and languages may be mixed."""
        if not (session.options.mixed_languages and self.engine.is_multilingual):
            return session
        samples, joints = session.timeline.samples, session.timeline.joints
        maximum = self.engine.find_maximum(samples)

        def guess(stretches: Sequence[Sequence[SpeechRegion]]) -> Sequence[LanguageGuess]:
            windows = [cut_windows(stretch, samples, joints)[0] for stretch in stretches]
            return self.engine.guess_languages(samples, windows, maximum)

        changed = replace(session, language_changes=find_language_changes(session.regions, guess))
        return replace(changed, windows=changed.cut(session.regions))

    def _decode(
        self,
        sessions: Sequence[SegmentedSession],
        stored: Sequence[DecodedSession | None],
        find_maximum: FindMaximum,
        on_progress: OnProgress,
    ) -> list[DecodedSession]:
        """Decode the windows of sessions that have no stored result."""
        decoded = list(stored)
        missing = [i for i, text in enumerate(stored) if text is None]
        if missing:
            progress = report_stage(on_progress, "transcribe")
            guesses, requests, n_kept = [], [], 0
            for session in (sessions[i] for i in missing):
                encoded: dict[Window, Tensor] = {}
                guess = self._find_language(session, find_maximum, progress, encoded)
                guesses.append(guess)
                request = session.request(session.windows, guess[0], find_maximum(session))
                n_kept += len(encoded)
                if n_kept <= self.engine.n_slots:  # a window of large-v3 takes 8 MB
                    request = replace(request, encoded=encoded)
                requests.append(request)
            found = self.engine.decode(requests, progress)
            for i, guess, windows in zip(missing, guesses, found, strict=True):
                language, probability, heard = guess
                text = decoded[i] = DecodedSession(
                    language, probability, windows, sessions[i].memory_ran_out, heard
                )
                sessions[i].results.save("transcribe", pack_decoded(text))
        return [text for text in decoded if text is not None]

    def _find_language(
        self,
        session: SegmentedSession,
        find_maximum: FindMaximum,
        progress: Progress,
        encoded: dict[Window, Tensor],
    ) -> tuple[str, float | None, LanguageGuess | None]:
        """Return the given language and the one heard, or the detected one with its probability."""
        progress(0.0)
        given, samples, windows = (
            session.options.language,
            session.timeline.samples,
            session.windows,
        )
        if given is not None:
            longest = sorted(windows, key=lambda window: -window.duration)
            windows = tuple(longest[:CHECKED_WINDOWS])
        guess = self.engine.detect_language(samples, windows, find_maximum(session), encoded)
        if given is not None:
            return given, None, guess
        return guess.language, guess.probability, None

    def _time_words(
        self,
        decoded: Sequence[tuple[SegmentedSession, DecodedSession]],
        on_progress: OnProgress,
    ) -> list[tuple[Word, ...]]:
        """Time the words of sessions."""
        report_stage(on_progress, "align")
        return [
            self.engine.time_words(
                text.windows,
                replace(whisper_options(session.options), language=text.language),
                session.regions,
            )
            for session, text in decoded
        ]

    def diarise(self, transcribed: TranscribedSession, on_progress: OnProgress) -> DiarisingSession:
        """Start to find who spoke when; long sessions are clustered in parallel with other work.

        Raises:
            NoSpeech, OutOfMemory, Stopped
        """
        session, decoded, words = transcribed.session, transcribed.decoded, transcribed.words
        results, timeline, regions = session.results, session.timeline, session.regions
        if not words:
            seconds = sum(region.duration for region in regions)
            raise NoSpeech(no_speech_message(timeline.samples, seconds, timeline.duration))
        if timeline.is_split:
            report_stage(on_progress, "diarise")(1.0)
            turns, no_embeddings = timeline.turns(regions), np.empty((0, 0, 0), dtype=np.float32)
            diarisation = Diarisation(turns, timeline.channels, no_embeddings, sampled=False)
            results.save("diarise", pack_diarisation(diarisation))
            return DiarisingSession(session, decoded, words, diarisation)
        if (data := results.load("diarise")) is not None:
            return DiarisingSession(session, decoded, words, unpack_diarisation(data))
        earlier = results.load("embeddings")
        running = start_diarisation(
            self.diarisation,
            timeline.samples,
            session.segmentation,
            session.options.expected_speakers,
            report_stage(on_progress, "diarise", end=CLUSTERING_STARTS),
            embeddings=None if earlier is None else unpack_diarisation(earlier).embeddings,
            precision=self._trunk,
            by_roster=session.options.by_roster,
        )
        return DiarisingSession(session, decoded, words, running)

    def finish(self, diarising: DiarisingSession, on_progress: OnProgress) -> Transcript:
        """Wait for the diarisation and write the transcript.

        Raises:
            OutOfMemory, Stopped
        """
        session, diarisation = diarising.session, diarising.diarisation
        if isinstance(diarisation, RunningDiarisation):
            waiting = StageProgress("diarise", CLUSTERING_STARTS)
            diarisation = diarisation.result(lambda fraction: on_progress(waiting))
            on_progress(StageProgress("diarise", 1.0))
            session.results.save("diarise", pack_diarisation(diarisation))
        return self._write(diarising, diarisation, on_progress)

    def _write(
        self, transcribed: TranscribedSession, diarisation: Diarisation, on_progress: OnProgress
    ) -> Transcript:
        """Attribute the words, flag doubtful places and put the transcript together."""
        session, decoded = transcribed.session, transcribed.decoded
        timeline, regions = session.timeline, session.regions
        on_progress(StageProgress("attribute", 0.0))
        if not timeline.is_split:
            diarisation = diarisation.within(round(timeline.duration, 3))
        folded = attribute(
            transcribed.words,
            diarisation.exclusive_turns,
            regions,
            certain=timeline.is_split,
            recognise=self._recognise_by(diarisation.voices, timeline.samples, on_progress),
        )
        segments = timeline.unfold(folded)
        labels = number_speakers(segments, (*diarisation.turns, *diarisation.exclusive_turns))
        diarisation = diarisation.relabel(labels)
        segments = tuple(
            replace(segment, speaker=labels[segment.speaker] if segment.speaker else None)
            for segment in segments
        )
        sources = name_speakers(session.sources, timeline, labels)
        on_progress(StageProgress("check", 0.0))
        flags = find_flags(folded, regions, decoded.windows, decoded.language)
        turns = diarisation.turns
        transcript = Transcript(
            duration=round(timeline.duration, 3),
            language=decoded.language,
            language_probability=decoded.language_probability,
            speakers=tuple(sorted(speakers_in_order(turns))),
            segments=segments,
            turns=turns,
            overlaps=find_overlaps(turns, segments),
            flags=timeline.unfold_flags(flags),
            sources=sources,
            made_with=self._made_with(session.options),
            warnings=(
                *self._warnings(transcribed, diarisation),
                *warn_of_channel_order(timeline, labels),
                *warn_of_recordings_without_words(sources, segments, timeline.parallel),
            ),
        )
        on_progress(StageProgress("check", 1.0))
        return transcript

    def _recognise_by(
        self, voices: Mapping[str, np.ndarray], samples: np.ndarray, on_progress: OnProgress
    ) -> RecogniseSpeakers | None:
        """Return the function that compares phrases of a session with the speakers' voices."""
        if len(voices) < 2:
            return None

        def recognise(phrases: Sequence[Phrase]) -> Sequence[str]:
            embeddings = embed_stretches(
                self.diarisation,
                samples,
                [(phrase.start, phrase.end) for phrase in phrases],
                report_stage(on_progress, "attribute"),
                precision=self._trunk,
            )
            speakers = [phrase.speaker for phrase in phrases]
            is_alone = [phrase.is_alone for phrase in phrases]
            return recognise_speakers(embeddings, speakers, is_alone, voices)

        return recognise

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

    def _warnings(self, transcribed: TranscribedSession, diarisation: Diarisation) -> list[str]:
        session, decoded = transcribed.session, transcribed.decoded
        warnings = []
        requested = session.options.language
        if requested and decoded.heard and not session.options.mixed_languages:
            warnings += warn_of_other_language(requested, decoded.heard)
        if self.whisper_weights.demo or self.diarisation_weights.demo:
            warnings.append(DEMO_WARNING)
        n_speakers = len(speakers_in_order(diarisation.turns))
        warnings += warn_of_speaker_count(n_speakers, session.options)
        warnings += diarisation.warnings
        if (decoded.language_probability or 1.0) < UNSURE_OF_LANGUAGE:
            warnings.append(
                f"The language was detected as {decoded.language} with a probability of only "
                f"{decoded.language_probability:.2f}: if it is another one, name it and transcribe "
                "again."
            )
        warnings += session.warnings
        if session.timeline.warning:
            warnings.append(session.timeline.warning)
        if diarisation.sampled:
            warnings.append(
                "The session is long, so speakers were told apart by an even sample of it."
            )
        if decoded.memory_ran_out or session.memory_ran_out:
            warnings.append(
                "The device's memory ran out, so smaller batches were used. Nothing is missing."
            )
        return warnings

    def measure_speed(self) -> dict[str, float]:
        """Return each costly stage's seconds per second of audio, from a short trial.

        This is a first estimate: how long decoding takes depends on what is said.
        """
        segmenting, embedding = measure_speed(self.diarisation, self._trunk)
        aligning = 0.0  # the trial's transcription includes it
        stages = (segmenting, self.engine.measure_speed(), aligning, embedding)
        return dict(zip(COSTLY_STAGES, stages, strict=True))


def reading_warnings(recordings: Sequence[DecodedRecording]) -> list[str]:
    """Return what was left out, missing or doubtful in the recordings, by their numbers."""
    return [
        f"Recording {number}: {warning}" if len(recordings) > 1 else warning
        for number, recording in enumerate(recordings, 1)
        for warning in recording.warnings
    ]


def whisper_options(options: JobOptions) -> WhisperOptions:
    task: Task = "translate" if options.translate else "transcribe"
    return WhisperOptions(options.language, options.vocabulary, task, options.mixed_languages)


def report_stage(on_progress: OnProgress, stage: str, end: float = 1.0) -> Progress:
    """Report the start of a stage and return its Progress, which ends at the fraction `end`."""
    on_progress(StageProgress(stage, 0.0))
    return lambda fraction: on_progress(StageProgress(stage, end * fraction))


def warn_of_speaker_count(found: int, options: JobOptions) -> list[str]:
    """Return a warning if the number of speakers is not the roster's or not the requested one.

    The roster's number comes first: a requested number that differs from it is a warning too.
    """
    by_roster = SpeakerCount(*speaker_bounds(options.roster)) if options.roster else SpeakerCount()
    expected = [
        f"{found} speakers were found, but {count} were expected{by}: a person may be missing, or "
        "one person's words may be attributed to two speakers. Listen before you rely on who said "
        "what."
        for count, by in ((by_roster, " by the roster"), (options.speakers, ""))
        if count != SpeakerCount() and not (count.minimum or 1) <= found <= (count.maximum or found)
    ][:1]
    nobody = "No speakers could be told apart: the words have no speaker."
    return expected or ([nobody] if not found else [])


def name_speakers(
    sources: Sequence[Source], timeline: Timeline, labels: Mapping[str, str]
) -> tuple[Source, ...]:
    """Name the speaker of each recording, if each recording is one speaker's.

    Args:
        labels: the speaker of each channel.
    """
    speakers = {
        number: labels.get(speaker_label(channel))
        for channel, number in enumerate(timeline.parallel)
    }
    return tuple(
        replace(source, speaker=speakers.get(number)) for number, source in enumerate(sources)
    )


def warn_of_channel_order(timeline: Timeline, labels: Mapping[str, str]) -> list[str]:
    """Return a note on each speaker's channel or recording, if their order differs."""
    if not timeline.is_split or all(label == channel for channel, label in labels.items()):
        return []
    kind, numbers = "channel", tuple(range(timeline.n_channels))
    if timeline.parallel:
        kind, numbers = "recording", timeline.parallel
    channels = [
        f"{kind} {number + 1} is {labels[speaker_label(channel)]}"
        for channel, number in enumerate(numbers)
        if speaker_label(channel) in labels
    ]
    return [f"The speakers are in the order in which they first speak: {', '.join(channels)}."]


def warn_of_recordings_without_words(
    sources: Sequence[Source], segments: Sequence[Segment], parallel: Sequence[int] = ()
) -> list[str]:
    """Return a warning for each of a session's recordings in which nothing was transcribed.

    Args:
        parallel: the recordings, from 0, that are one speaker's each.
    """
    speaking = {segment.speaker for segment in segments}
    middles = sorted((word.start + word.end) / 2 for segment in segments for word in segment.words)

    def has_words(source: Source) -> bool:
        end = source.start + source.duration
        return bisect_left(middles, source.start) < bisect_left(middles, end)

    silent = (
        [number for number in parallel if sources[number].speaker not in speaking]
        if parallel
        else [number for number, source in enumerate(sources) if not has_words(source)]
    )
    return [
        f"Recording {number + 1} of {len(sources)} has no words: check whether anything is said "
        "in it."
        for number in silent
        if len(sources) > 1
    ]


def no_speech_message(
    samples: np.ndarray, speech_seconds: float, duration: float | None = None
) -> str:
    """Return the message of a NoSpeech error, with the levels that were measured.

    Args:
        duration: seconds; None: of the samples, which may be channels one after another.
    """
    peak, mean = (
        20 * np.log10(max(level, 1e-10))
        for level in (np.abs(samples).max(), np.sqrt(np.square(samples).mean()))
    )
    found = (
        f"{speech_seconds:.1f} s of speech were found, but no words"
        if speech_seconds
        else "no speech was found"
    )
    seconds = duration or len(samples) / SAMPLE_RATE
    return (
        f"In {seconds:.0f} s of audio {found} (peak {peak:.0f} dBFS, mean "
        f"{mean:.0f} dBFS): check that this is the right recording, channel and language."
    )
