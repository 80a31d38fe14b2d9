"""Segmentation to turns: who spoke when, as stock pyannote.audio finds it and much faster.

Two outputs: the full turns, which may overlap, say when several people spoke at once; the exclusive
turns, with at most one speaker at a time, are the ones that words are attributed with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from models.audio.recording import SAMPLE_RATE
from models.diarisation.clustering import Clustering, Clusters, prepare, start_clustering
from models.diarisation.embedding import embed
from models.diarisation.reconstruction import activations, discretise, speaker_count, to_turns
from models.diarisation.segmentation import Segmentation, segment
from models.diarisation.speaker_models import SpeakerModels
from models.errors import OptionError
from models.precision import TrunkPrecision
from models.progress import Progress, ignore, seconds_of
from models.statistics import talk_times
from models.transcript import Turn

MAX_SPEAKERS = 20
FEW_SECONDS, SMALL_SHARE = 3.0, 0.01
"""Somebody with less speech in all than both of these is perhaps nobody: a cough, a laugh."""
CLEAR_SHARE = 0.05
"""Somebody with this share of the speech and FEW_SECONDS of it is no slip of the clustering, whose
slips had up to 4.5 % in rendered focus groups: docs/developer/experiments.md."""
ENOUGH_SPEECH, ENOUGH_EACH = 30.0, 6.0
"""s in all, and for each voice and one more; in less, somebody who is there need not be found."""


class BadSpeakerCount(OptionError):
    """A number of speakers below 1 or above 20, or a minimum above the maximum."""

    code = "bad_speaker_count"


@dataclass(frozen=True)
class SpeakerCount:
    """How many people speak: an exact number, bounds, or (None, None) where nobody knows."""

    minimum: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        for bound in (self.minimum, self.maximum):
            if bound is not None and not 1 <= bound <= MAX_SPEAKERS:
                raise BadSpeakerCount(f"There can be 1 to {MAX_SPEAKERS} speakers, not {bound}.")
        if self.minimum and self.maximum and self.minimum > self.maximum:
            raise BadSpeakerCount(
                f"At least {self.minimum} and at most {self.maximum} speakers cannot both be true."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """`6` or `2-4`."""
        low, dash, high = text.partition("-")
        try:
            return cls(int(low), int(high if dash else low))
        except ValueError:
            raise BadSpeakerCount("A number of speakers is written 6, a range 2-4.") from None

    @property
    def is_exact(self) -> bool:
        return self.minimum is not None and self.minimum == self.maximum

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return "unknown" if self.minimum is None else str(self.minimum)
        return f"{self.minimum or 1}-{self.maximum or MAX_SPEAKERS}"


@dataclass(frozen=True)
class Diarisation:
    """Turns in order, speakers `SPEAKER_00`, `SPEAKER_01`, ... in the order of pyannote's clusters.

    `embeddings`: float32, (n_chunks, n_local_speakers, n_dimensions), meaningless where a local
    speaker is silent. With them `diarise` can be repeated in a fraction of the time.
    """

    turns: tuple[Turn, ...]
    exclusive_turns: tuple[Turn, ...]
    embeddings: np.ndarray
    sampled: bool  # the clustering saw MAX_CLUSTERED embeddings of more
    warnings: tuple[str, ...] = ()


def diarise(
    models: SpeakerModels,
    samples: np.ndarray,
    segmentation: Segmentation,
    speakers: SpeakerCount,
    progress: Progress = ignore,
    *,
    embeddings: np.ndarray | None = None,
    precision: TrunkPrecision = "fp32",
    by_roster: bool = False,
) -> Diarisation:
    """Embed the local speakers, cluster them, and put the chunks together to turns.

    Args:
        models: of which the segmentation model made `segmentation`.
        samples: float32, (n_samples,), 16 kHz.
        embeddings: of an earlier run on the same segmentation; None to compute them.
        precision: of the embedding model's convolutions; in fp32 the turns are those of stock
            pyannote.audio.
        by_roster: nobody has asked for this number, it comes from a roster: warn where there are
            other voices without it.

    Raises:
        OutOfMemory: a batch does not fit on the device.
    """
    begun = start_diarisation(
        models,
        samples,
        segmentation,
        speakers,
        lambda fraction: progress(0.99 * fraction),
        embeddings=embeddings,
        precision=precision,
        by_roster=by_roster,
    )
    found = begun.result(lambda fraction: progress(0.99))
    progress(1.0)
    return found


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
) -> "DiarisationBegun":
    """The part of `diarise` that needs the device; clustering goes on beside whatever comes next.

    Args, raises: see `diarise`.
    """
    count = speaker_count(segmentation)
    if not count.any():
        nothing = np.zeros((*segmentation.activity.shape[::2], 0), dtype=np.float32)
        return DiarisationBegun(models, segmentation, speakers, count, nothing, None)
    if embeddings is None:
        prepare(len(segmentation.activity))
        embeddings = embed(models, samples, segmentation, progress, precision=precision)
    clustering = start_clustering(
        models,
        segmentation,
        embeddings,
        speakers.minimum,
        speakers.maximum,
        freely_too=by_roster,
    )
    return DiarisationBegun(models, segmentation, speakers, count, embeddings, clustering)


@dataclass(frozen=True)
class DiarisationBegun:
    """A diarisation whose clustering is under way; None where nobody speaks."""

    models: SpeakerModels
    segmentation: Segmentation
    speakers: SpeakerCount
    count: np.ndarray  # of people who speak in each frame
    embeddings: np.ndarray
    clustering: Clustering | None

    def result(self, progress: Progress = ignore) -> Diarisation:
        """
        Args:
            progress: called while waiting, so that it can stop the job.

        Raises:
            OutOfMemory
        """
        if self.clustering is None:
            return Diarisation((), (), self.embeddings, sampled=False)
        clusters = self.clustering.result(progress)
        turns, exclusive_turns = self._turns(clusters, self.speakers)
        warnings: list[str] = []
        if clusters.free is not None:
            freely, _ = self._turns(clusters.free, SpeakerCount())
            warnings += doubtful_roster(freely, self.speakers)
        if clusters.free is not None or not self.speakers.is_exact:
            warnings += doubtful_speakers(turns)
        return Diarisation(
            turns,
            exclusive_turns,
            self.embeddings,
            sampled=clusters.sampled,
            warnings=tuple(warnings),
        )

    def _turns(
        self, clusters: Clusters, speakers: SpeakerCount
    ) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
        """In full, and exclusive."""
        found = activations(self.segmentation, clusters.labels, clusters.margins)
        min_duration_off = self.models.min_duration_off
        names = None
        outputs = []
        # There cannot be more people at once than there are people.
        for at_most in (speakers.maximum or self.count.max(), 1):
            active = discretise(found.votes, np.minimum(self.count, at_most))
            turns, names = to_turns(active, names, found, self.segmentation, min_duration_off)
            outputs.append(turns)
        return outputs[0], outputs[1]


def doubtful_roster(turns: Sequence[Turn], roster: SpeakerCount) -> list[str]:
    """A sentence where a roster's number cannot be that of the voices.

    Between the voices that are clearly somebody's and all that are more than a cough, the roster is
    believed: quiet people and slips of the clustering look the same.

    Args:
        turns: as found without being told a number.
    """
    seconds = talk_times(turns)
    total = sum(seconds.values())
    n_clear = sum(spoken >= max(FEW_SECONDS, CLEAR_SHARE * total) for spoken in seconds.values())
    n_voices = sum(spoken >= _little(seconds) for spoken in seconds.values())
    if n_clear > (roster.maximum or n_clear):
        return [
            f"{n_clear} voices can be told apart where the roster expects {roster}: words of two "
            "people stand under one name. Listen before you use who said what."
        ]
    enough = max(ENOUGH_SPEECH, ENOUGH_EACH * (n_voices + 1))
    if n_voices < (roster.minimum or 1) and total >= enough:
        return [
            f"Only {n_voices} of the {roster} speakers that the roster expects can be told apart: "
            "somebody is missing or hardly speaks, and one person's words may stand under two "
            "names. Listen before you use who said what."
        ]
    return []


def doubtful_speakers(turns: Sequence[Turn]) -> list[str]:
    """A sentence about each speaker who hardly says anything.

    They are not merged with anybody: it would not be pyannote's result any more, and an
    interviewee's partner who says one sentence is no mistake. Giving the number of speakers is the
    way to be rid of them.
    """
    seconds = talk_times(turns)
    return [
        f"{speaker} speaks for only {spoken:.1f} s in all and may be nobody; "
        "give the number of speakers if there are fewer."
        for speaker, spoken in sorted(seconds.items())
        if spoken < _little(seconds)
    ]


def _little(seconds: Mapping[str, float]) -> float:
    return min(FEW_SECONDS, SMALL_SHARE * sum(seconds.values()))


def try_diarisation(
    models: SpeakerModels, precision: TrunkPrecision = "fp32"
) -> tuple[float, float]:
    """Seconds of segmentation and of embedding per second of audio, from a few chunks of noise."""
    n_samples = round((models.chunk_duration + 3 * models.chunk_step) * SAMPLE_RATE)
    noise = 0.01 * np.random.default_rng(0).standard_normal(n_samples, dtype=np.float32)
    found = segment(models, noise)
    everybody = replace(found, activity=np.ones_like(found.activity))
    seconds = len(found.activity) * models.chunk_step
    segmenting = seconds_of(lambda: segment(models, noise))
    embedding = seconds_of(lambda: embed(models, noise, everybody, precision=precision))
    return segmenting / seconds, embedding / seconds
