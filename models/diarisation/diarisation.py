"""Segmentation to turns: who spoke when. Gives the results of stock pyannote.audio, much faster.

There are two outputs: full turns, which overlap where several people speak at once; and exclusive
turns, with at most one speaker at a time, which words are attributed with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.audio.recording import SAMPLE_RATE
from models.diarisation.clustering import (
    Clustering,
    Clusters,
    prepare_clustering,
    start_clustering,
)
from models.diarisation.embedding import embed
from models.diarisation.reconstruction import (
    build_turns,
    count_speakers,
    count_votes,
    select_active,
)
from models.diarisation.segmentation import Segmentation, segment
from models.diarisation.speaker_models import SpeakerModels
from models.diarisation.voices import find_similar_voice, find_voices
from models.options import SpeakerCount
from models.precision import TrunkPrecision
from models.progress import Progress, ignore, time_second_run
from models.statistics import sum_talk_times
from models.transcript import Turn

FEW_SECONDS, SMALL_SHARE = 3.0, 0.01
"""A speaker with less speech than both of these may be a cough or a laugh."""
SCATTERED_SHARE, SHORT_TURN = 0.02, 2.0
"""A speaker with less than this share of the speech, and no turn longer than this many seconds, may
be scraps of other voices. Source: noScribe, which measured that this was right in 83 % and 69 % of
two sets of its recordings."""
QUIET_SHARE = 0.1
"""A speaker with less than this share of the speech whose voice is nearly another speaker's may be
that speaker. docs/developer/experiments.md has the figures."""
NO_SECONDS = 0.05  # would be shown as 0.0 s: nobody who speaks for less is listed
CLEAR_SHARE = 0.05
"""A speaker with this share of the speech, and FEW_SECONDS of it, is no clustering error: those had
up to 4.5 % in rendered focus groups (docs/developer/experiments.md)."""
ENOUGH_SPEECH, ENOUGH_EACH = 30.0, 6.0
"""Seconds of speech before a missing speaker is reported: in all, and for each voice and one more.
With less, a person who is present may not have said enough to be found."""


@dataclass(frozen=True)
class Diarisation:
    """Turns in order, speakers `SPEAKER_00`, `SPEAKER_01`, ... in the order of pyannote's clusters.

    `embeddings`: float32, (n_chunks, n_local_speakers, n_dimensions), meaningless where a local
    speaker is silent. With them the diarisation can be repeated in a fraction of the time.
    """

    turns: tuple[Turn, ...]
    exclusive_turns: tuple[Turn, ...]
    embeddings: np.ndarray
    sampled: bool  # only a sample of MAX_CLUSTERED embeddings was clustered
    warnings: tuple[str, ...] = ()
    voices: Mapping[str, np.ndarray] = field(default_factory=dict)

    def within(self, duration: float) -> "Diarisation":
        """The same, without anything after the recording's end and without speakers of 0.0 s.

        The models see the last chunk padded with silence, and may hear something there.
        """
        cut = [
            replace(turn, end=min(turn.end, duration))
            for turn in self.turns
            if turn.start < duration
        ]
        seconds = sum_talk_times(cut)
        listed = {speaker for speaker, spoken in seconds.items() if spoken >= NO_SECONDS}
        return replace(
            self,
            turns=tuple(turn for turn in cut if turn.speaker in listed),
            exclusive_turns=tuple(
                replace(turn, end=min(turn.end, duration))
                for turn in self.exclusive_turns
                if turn.start < duration and turn.speaker in listed
            ),
            voices={name: voice for name, voice in self.voices.items() if name in listed},
        )

    def relabel(self, labels: Mapping[str, str]) -> "Diarisation":
        """The same with other labels, in the turns and in the warnings.

        Args:
            labels: the new label of each speaker.
        """

        def relabelled(turns: Sequence[Turn]) -> tuple[Turn, ...]:
            return tuple(replace(turn, speaker=labels[turn.speaker]) for turn in turns)

        return replace(
            self,
            turns=relabelled(self.turns),
            exclusive_turns=relabelled(self.exclusive_turns),
            warnings=tuple(
                re.sub(r"SPEAKER_\d+", lambda match: labels.get(match[0], match[0]), warning)
                for warning in self.warnings
            ),
            voices={labels[name]: voice for name, voice in self.voices.items() if name in labels},
        )


def start_diarisation(
    models: SpeakerModels,
    samples: np.ndarray,
    segmentation: Segmentation,
    speakers: SpeakerCount,
    progress: Progress = ignore,
    *,
    embeddings: np.ndarray | None = None,
    precision: TrunkPrecision = "fp32",
    by_roster: bool = False,
) -> "RunningDiarisation":
    """Embed the local speakers and start to cluster them.

    The device is free when this returns: clustering may continue in another process.

    Args:
        models: those that made `segmentation`.
        samples: float32, (n_samples,), 16 kHz.
        embeddings: of an earlier run on the same segmentation; None to compute them.
        precision: of the embedding model's convolutions; in fp32 the turns are those of stock
            pyannote.audio.
        by_roster: the number of speakers comes from a roster and was not requested as such, which
            the warnings then say.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    count = count_speakers(segmentation)
    if not count.any():
        empty = np.zeros((*segmentation.activity.shape[::2], 0), dtype=np.float32)
        return RunningDiarisation(models, segmentation, speakers, count, empty, None)
    if embeddings is None:
        prepare_clustering(models, len(segmentation.activity))
        embeddings = embed(models, samples, segmentation, progress, precision=precision)
    clustering = start_clustering(
        models,
        segmentation,
        embeddings,
        speakers.minimum,
        speakers.maximum,
        unbounded_too=speakers != SpeakerCount(),
    )
    return RunningDiarisation(
        models, segmentation, speakers, count, embeddings, clustering, by_roster
    )


@dataclass(frozen=True)
class RunningDiarisation:
    """A diarisation whose clustering may still be in progress; `result` waits for it."""

    models: SpeakerModels
    segmentation: Segmentation
    speakers: SpeakerCount
    count: np.ndarray  # of people who speak in each frame
    embeddings: np.ndarray
    clustering: Clustering | None  # None if nobody speaks
    by_roster: bool = False  # where the number of speakers comes from

    def result(self, progress: Progress = ignore) -> Diarisation:
        """Wait for the clusters and build the turns.

        Args:
            progress: called while waiting, so that it can stop the job.

        Raises:
            OutOfMemory
        """
        if self.clustering is None:
            return Diarisation((), (), self.embeddings, sampled=False)
        clusters = self.clustering.result(progress)
        turns, exclusive_turns, names = self._build_turns(clusters, self.speakers)
        voices = find_voices(self.segmentation, self.embeddings, clusters.labels, names)
        warnings: list[str] = []
        if clusters.unbounded is not None:
            unbounded_turns, *_ = self._build_turns(clusters.unbounded, SpeakerCount())
            warnings += warn_of_other_voices(unbounded_turns, self.speakers, self.by_roster)
        if self.by_roster or not self.speakers.is_exact:
            warnings += warn_of_brief_speakers(turns, voices)
        return Diarisation(
            turns,
            exclusive_turns,
            self.embeddings,
            sampled=clusters.sampled,
            warnings=tuple(warnings),
            voices=voices,
        )

    def _build_turns(
        self, clusters: Clusters, speakers: SpeakerCount
    ) -> tuple[tuple[Turn, ...], tuple[Turn, ...], dict[int, str]]:
        """Return the full turns, the exclusive ones and the names of the clusters."""
        votes = count_votes(self.segmentation, clusters.labels, clusters.margins)
        min_duration_off = self.models.min_duration_off
        names = None
        outputs = []
        # There cannot be more people at once than there are people.
        for at_most in (speakers.maximum or self.count.max(), 1):
            active = select_active(votes.counts, np.minimum(self.count, at_most))
            turns, names = build_turns(active, names, votes, self.segmentation, min_duration_off)
            outputs.append(turns)
        return outputs[0], outputs[1], names or {}


def warn_of_other_voices(
    turns: Sequence[Turn], count: SpeakerCount, by_roster: bool = True
) -> list[str]:
    """Return a warning if the voices cannot be as many as the roster or the request says.

    Any number between the voices that clearly belong to somebody and all voices longer than a cough
    is accepted: quiet people and clustering errors look the same.

    Args:
        turns: as found without bounds on the number of speakers.
    """
    seconds = sum_talk_times(turns)
    total = sum(seconds.values())
    n_clear = sum(spoken >= max(FEW_SECONDS, CLEAR_SHARE * total) for spoken in seconds.values())
    n_voices = sum(spoken >= _brief(seconds) for spoken in seconds.values())
    if n_clear > (count.maximum or n_clear):
        one = count.maximum == 1
        speakers = f"{count} speaker" if one else f"{count} speakers"
        requested = f"{speakers} {'was' if one else 'were'} requested"
        says = f"the roster has {speakers}" if by_roster else requested
        return [
            f"{n_clear} voices can be told apart, but {says}: the words of different people are "
            "attributed to one speaker. Listen before you rely on who said what."
        ]
    enough = max(ENOUGH_SPEECH, ENOUGH_EACH * (n_voices + 1))
    if n_voices < (count.minimum or 1) and total >= enough:
        of = "on the roster" if by_roster else "that were requested"
        return [
            f"Only {n_voices} of the {count} speakers {of} can be told apart: "
            "one is missing or hardly speaks, and one person's words may be attributed to two "
            "speakers. Listen before you rely on who said what."
        ]
    return []


def warn_of_brief_speakers(
    turns: Sequence[Turn], voices: Mapping[str, np.ndarray] | None = None
) -> list[str]:
    """Return a warning, with the evidence, for each speaker who may not be a person.

    They hardly speak, or only in scraps, or with nearly the voice of somebody else. They are not
    merged with other speakers: the result would not be pyannote's any more, and an interviewee's
    partner who says one sentence is no error. If such a speaker does not exist, giving the number
    of speakers removes it.

    Args:
        voices: of the speakers, as `find_voices` returns them.
    """
    seconds = sum_talk_times(turns)
    total = sum(seconds.values())
    warnings = []
    for speaker, spoken in sorted(seconds.items()):
        longest = max(turn.end - turn.start for turn in turns if turn.speaker == speaker)
        scattered = spoken < SCATTERED_SHARE * total and longest <= SHORT_TURN
        if spoken < NO_SECONDS:
            continue
        similar = find_similar_voice(speaker, voices or {})
        if spoken < _brief(seconds) or scattered:
            doubt = "may not be a person"
        elif spoken < QUIET_SHARE * total and similar:
            doubt = f"has nearly the voice of {similar}, so they may be one person"
        else:
            continue
        warnings.append(
            f"{speaker} speaks for only {spoken:.1f} s in all ({100 * spoken / total:.1f} % of the "
            f"talk, in turns of {longest:.1f} s at most) and {doubt}: give the number of speakers "
            "if there are fewer."
        )
    return warnings


def _brief(seconds: Mapping[str, float]) -> float:
    """Seconds of speech below which a speaker may not be a person."""
    return min(FEW_SECONDS, SMALL_SHARE * sum(seconds.values()))


def measure_speed(models: SpeakerModels, precision: TrunkPrecision = "fp32") -> tuple[float, float]:
    """Time segmentation and embedding on a few chunks of noise.

    Returns:
        Seconds of each per second of audio.
    """
    n_samples = round((models.chunk_duration + 3 * models.chunk_step) * SAMPLE_RATE)
    noise = 0.01 * np.random.default_rng(0).standard_normal(n_samples, dtype=np.float32)
    found = segment(models, noise)
    all_active = replace(found, activity=np.ones_like(found.activity))
    seconds = len(found.activity) * models.chunk_step
    segmenting = time_second_run(lambda: segment(models, noise))
    embedding = time_second_run(lambda: embed(models, noise, all_active, precision=precision))
    return segmenting / seconds, embedding / seconds
