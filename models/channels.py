"""Recordings in which each channel is one speaker: phone recorders, one microphone per person.

The same is done with recordings that were made at the same time, one for each speaker.

Such a recording needs no clustering of voices. Bleed from other speakers is removed from each
channel, and the channels are concatenated on a *folded* timeline, which the models process as one
recording; their results are unfolded again.

Bleed: frame by frame, the level of a channel relative to the loudest other channel has two modes:
high where its own speaker talks, low where it picks up another. A frame near the low mode holds
only bleed and is silenced. The gain of the microphones does not matter, and someone who says "mm"
during another's sentence is well above the bleed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from models.attribution import PAUSE, ends_sentence
from models.audio.recording import SAMPLE_RATE, DecodedRecording, join
from models.diarisation.segmentation import SpeechRegion
from models.options import Channels
from models.parallel import lay_parallel
from models.transcript import Flag, Segment, Turn, Word, is_continued

FRAME = 320  # samples, 20 ms
SMOOTHING = 5  # frames; about a syllable, so that levels do not follow single vibrations
NOISE_SHARE = 0.05  # share of the frames assumed to hold only noise
AUDIBLE = 6.0  # dB above the noise
ACTIVE = 15.0  # dB above the noise: someone speaks
FLOOR = -90.0  # dBFS
OFFSET_STEP = 101  # the DC offset of a channel is estimated from every 101st sample
SAME = 0.03  # share of its energy in which a copy may differ from the original channel
DEAD = 40.0  # dB below the loudest channel: no voice
SEPARATION = 15.0  # dB between the modes; with more, each channel is one speaker
IN_BETWEEN = 0.2  # share of active frames that may lie between the modes, as overlap does
SPREAD = 8.0  # dB above the mode of bleed: hardly any bleed is louder
MIN_SHARE = 0.02  # share of active frames; someone who speaks less does not count
SPURIOUS = 9  # frames; shorter stretches of voice in bleed are ignored
BLEED_MARGIN = 5  # frames of bleed kept around a voice: words begin and end softly
PAUSE_MARGIN = 15  # frames of silence kept around a voice
SILENCED = 10 ** (-50 / 20)  # gain
PHRASE_PAUSE = 0.5  # s; a phrase of another speaker may fit in


@dataclass(frozen=True, eq=False)
class Timeline:
    """The audio that the models process: recordings in order, or concatenated channels."""

    samples: np.ndarray  # float32, (n_samples,), 16 kHz
    starts: tuple[float, ...]  # of each recording, unfolded
    n_channels: int = 1  # more than 1: folded
    warning: str | None = None
    voices: tuple[SpeechRegion, ...] = ()  # folded: where a channel's own speaker may talk
    parallel: tuple[int, ...] = ()  # the recording, from 0, of each channel, if each has its own

    @property
    def duration(self) -> float:
        """Seconds, unfolded."""
        return len(self.samples) // self.n_channels / SAMPLE_RATE

    @property
    def is_split(self) -> bool:
        return self.n_channels > 1

    @property
    def joints(self) -> tuple[float, ...]:
        """Times that no window may cross: ends of recordings and channels, and long pauses.

        In a long pause of a channel the other person speaks; Whisper may stop there and lose the
        rest of the window. The time is the middle of the pause.
        """
        offsets = [channel * self.duration for channel in range(self.n_channels)]
        starts = (0.0,) if self.parallel else self.starts
        ends = [offset + start for offset in offsets for start in starts][1:]
        pauses = [
            (a.end + b.start) / 2 for a, b in pairwise(self.voices) if b.start - a.end > PAUSE
        ]
        return tuple(sorted({*ends, *pauses}))

    def own_speech(self, regions: Sequence[SpeechRegion]) -> tuple[SpeechRegion, ...]:
        """The parts of the speech that belong to a channel's own speaker, judged by level."""
        return tuple(_intersections(regions, self.voices)) if self.is_split else tuple(regions)

    def channel_at(self, time: float) -> int:
        return min(int(time / self.duration), self.n_channels - 1)

    def turns(self, regions: Sequence[SpeechRegion]) -> tuple[Turn, ...]:
        """Unfolded turns: the speech of each channel is its speaker's."""
        turns = []
        for region in regions:
            for channel in range(self.channel_at(region.start), self.channel_at(region.end) + 1):
                begin = channel * self.duration
                start = max(region.start - begin, 0.0)
                end = min(region.end - begin, self.duration)
                if end > start:
                    turns.append(Turn(round(start, 3), round(end, 3), speaker_label(channel)))
        return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end)))

    @property
    def channels(self) -> tuple[Turn, ...]:
        """Folded: each channel as one turn of its speaker, for attributing words."""
        begins = [channel * self.duration for channel in range(self.n_channels)]
        return tuple(Turn(b, b + self.duration, speaker_label(i)) for i, b in enumerate(begins))

    def unfold(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        if not self.is_split:
            return tuple(segments)
        return interleave([self._unfold_segment(segment) for segment in segments])

    def _unfold_segment(self, segment: Segment) -> Segment:
        first = segment.words[0]  # a window may begin up to 5 ms before its channel
        begin = self.channel_at((first.start + first.end) / 2) * self.duration

        def shift(time: float) -> float:
            return round(min(max(time - begin, 0.0), self.duration), 3)

        words = tuple(
            replace(word, start=shift(word.start), end=shift(word.end)) for word in segment.words
        )
        return Segment(segment.speaker, words[0].start, max(word.end for word in words), words)

    def unfold_flags(self, flags: Sequence[Flag]) -> tuple[Flag, ...]:
        """Each channel was checked alone: words of another channel do not fill its gaps."""
        if not self.is_split:
            return tuple(flags)
        unfolded = []
        for flag in flags:
            begin = self.channel_at((flag.start + flag.end) / 2) * self.duration
            start, end = max(flag.start - begin, 0.0), min(flag.end - begin, self.duration)
            unfolded.append(replace(flag, start=round(start, 3), end=round(end, 3)))
        return tuple(sorted(unfolded, key=lambda flag: (flag.start, flag.end, flag.kind)))


def speaker_label(channel: int) -> str:
    return f"SPEAKER_{channel:02d}"


def make_timeline(
    recordings: Sequence[DecodedRecording],
    wanted: Channels,
    n_speakers: tuple[int | None, int | None],
) -> Timeline:
    """Mix or split the channels of one session's recordings and join them.

    Args:
        n_speakers: minimum and maximum, None if unknown.
    """
    if wanted == Channels.PARALLEL and len(recordings) > 1:
        return _make_parallel_timeline(recordings)
    differ = len({len(recording.samples) for recording in recordings}) > 1
    if differ or wanted == Channels.MIX:
        recordings = mix_down(recordings)
    channels, starts = join(recordings)
    asked = wanted in (Channels.SPLIT, Channels.PARALLEL)
    if len(channels) == 1:
        warning = "There is only one channel" + VOICES_COMPARED if asked else None
        return Timeline(channels[0], starts, warning=warning)
    distinct = channels[distinct_channels(channels)]
    if len(distinct) == 1:
        warning = "Only one channel has its own voice" + VOICES_COMPARED if asked else None
        return Timeline(distinct[0], starts, warning=warning)
    dominance = _remove_offsets(distinct)
    minimum, maximum = n_speakers
    plausible = (minimum or 1) <= len(distinct) <= (maximum or len(distinct))
    if wanted == Channels.AUTO and not (plausible and dominance.is_separated):
        return Timeline(join(mix_down(recordings))[0][0], starts)
    warning = f"Each of the {len(distinct)}" + CHANNELS_ARE_SPEAKERS
    if not dominance.is_separated:
        warning += POSSIBLE_DUPLICATES
    return _fold(distinct, dominance, starts, warning)


def _make_parallel_timeline(recordings: Sequence[DecodedRecording]) -> Timeline:
    """Lay recordings beside each other, each as the channel of its speaker."""
    laid = lay_parallel(mix_down(recordings))
    starts = tuple(start for start, _ in laid.spans)
    kept = distinct_channels(laid.channels)
    left_out = [
        f"Recording {number + 1} was left out: it is silent, or a copy of another one."
        for number in range(len(recordings))
        if number not in kept
    ]
    told = [*laid.warnings, *left_out]
    if len(kept) == 1:
        told.append("Only one recording has its own voice" + VOICES_COMPARED)
        return Timeline(laid.channels[kept[0]], starts, warning=" ".join(told))
    distinct = laid.channels[kept]
    dominance = _remove_offsets(distinct, [laid.spans[number] for number in kept])
    told.insert(0, f"Each of the {len(kept)}" + RECORDINGS_ARE_SPEAKERS)
    if not dominance.is_separated:
        told.append(POSSIBLE_PARALLEL_DUPLICATES)
    made = _fold(distinct, dominance, starts, " ".join(told))
    return replace(made, parallel=tuple(kept))


def _remove_offsets(
    channels: np.ndarray, spans: Sequence[tuple[float, float]] | None = None
) -> "Dominance":
    """Remove the DC offsets of sound cards in place, and return which channel is louder when.

    The median, because the mean of speech is not zero and subtracting it would leave an offset in
    the pauses.

    Args:
        spans: see `Dominance.of`.
    """
    channels -= np.median(channels[:, ::OFFSET_STEP], axis=1, keepdims=True)
    return Dominance.of(channels, spans)


def _fold(
    channels: np.ndarray, dominance: "Dominance", starts: tuple[float, ...], warning: str
) -> Timeline:
    """Concatenate the channels without their bleed."""
    voices = tuple(voice_regions(dominance.speaks, channels.shape[1] / SAMPLE_RATE))
    folded = remove_bleed(channels, dominance)
    return Timeline(folded, starts, len(channels), warning, voices)


VOICES_COMPARED = ", so speakers were distinguished by their voices."
CHANNELS_ARE_SPEAKERS = " channels was treated as one speaker; voices were not compared."
RECORDINGS_ARE_SPEAKERS = " recordings was treated as one speaker; voices were not compared."
POSSIBLE_DUPLICATES = (
    " Their levels do not confirm that each channel is one speaker: speech may appear twice, "
    "once per channel. If it does, transcribe again with the channels mixed."
)
POSSIBLE_PARALLEL_DUPLICATES = (
    "Their levels do not confirm that each recording is one speaker: speech may appear twice, once "
    "per recording. If it does, transcribe the best recording alone."
)


def mix_down(recordings: Sequence[DecodedRecording]) -> list[DecodedRecording]:
    """Mix each recording to mono, leaving out copies: an inverted copy would cancel the sound."""

    def mix(channels: np.ndarray) -> np.ndarray:
        is_distinct = np.isin(np.arange(len(channels)), distinct_channels(channels))
        return np.asarray(channels.mean(axis=0, keepdims=True, where=is_distinct[:, None]))

    return [
        recording
        if len(recording.samples) == 1
        else replace(recording, samples=mix(recording.samples))
        for recording in recordings
    ]


def distinct_channels(channels: np.ndarray) -> list[int]:
    """Indices of channels that hold a voice and do not copy an earlier one (dual mono).

    Always at least one.
    """
    n_channels, n_samples = channels.shape
    products, sums = np.zeros((n_channels, n_channels)), np.zeros(n_channels)
    for i in range(0, n_samples, 60 * SAMPLE_RATE):
        block = channels[:, i : i + 60 * SAMPLE_RATE].astype(np.float64)
        products += block @ block.T
        sums += block.sum(axis=1)
    products -= np.outer(sums, sums) / n_samples  # as if each channel's mean had been subtracted
    energies = np.diag(products)
    alive = [i for i, e in enumerate(energies) if e > energies.max() * 10 ** (-DEAD / 10)]
    distinct: list[int] = []
    for i in alive or [0]:
        # Share of channel i that the best multiple of channel j, of either sign, does not explain.
        residuals = [1 - products[i, j] ** 2 / (energies[i] * energies[j]) for j in distinct]
        if all(residual > SAME for residual in residuals):
            distinct.append(i)
    return distinct


@dataclass(frozen=True, eq=False)
class Dominance:
    """The level of each channel relative to the loudest other one, and its two modes."""

    louder: np.ndarray  # dB, (n_channels, n_frames)
    active: np.ndarray  # bool, (n_frames,): someone speaks, and every recording is running
    low: np.ndarray  # dB, (n_channels,): the mode of bleed
    high: np.ndarray  # dB, (n_channels,): the mode of the channel's own voice
    audible: np.ndarray  # bool, (n_channels, n_frames): louder than the noise

    @classmethod
    def of(
        cls, channels: np.ndarray, spans: Sequence[tuple[float, float]] | None = None
    ) -> "Dominance":
        """
        Args:
            spans: [start, end) in seconds of the recording in each channel; None: everywhere.
        """
        levels = frame_levels(channels)
        others = np.stack([np.delete(levels, i, axis=0).max(axis=0) for i in range(len(levels))])
        loudest = levels.max(axis=0)
        active = loudest > np.quantile(loudest, NOISE_SHARE) + ACTIVE
        louder = levels - others
        running = np.ones(levels.shape, dtype=bool)
        if spans is not None:
            middles = (np.arange(levels.shape[1]) + 0.5) * FRAME / SAMPLE_RATE
            running = np.stack([(middles >= start) & (middles < end) for start, end in spans])
            # Nothing is as quiet as a recording that has not started: it would be a mode.
            if (active & running.all(axis=0)).any():
                active &= running.all(axis=0)
        modes = np.array([two_means(own[active]) for own in louder])
        noise = np.array(
            [
                np.quantile(level[on] if on.any() else level, NOISE_SHARE)
                for level, on in zip(levels, running, strict=True)
            ]
        )
        audible = running & (levels > noise[:, None] + AUDIBLE)
        return cls(louder, active, modes[:, 0], modes[:, 1], audible)

    @property
    def is_separated(self) -> bool:
        """Whether each channel belongs to one speaker throughout."""
        gap = self.high - self.low
        if not self.active.any() or (gap < SEPARATION).any():
            return False
        active = self.louder[:, self.active]
        above = active > (self.low + gap * 2 / 3)[:, None]
        below = active < (self.low + gap / 3)[:, None]
        in_between = 1 - (above | below).mean(axis=1)
        return bool((in_between < IN_BETWEEN).all() and (above.mean(axis=1) > MIN_SHARE).all())

    @property
    def speaks(self) -> np.ndarray:
        """bool, (n_channels, n_frames): the channel's own voice, with margins around it."""
        from scipy.ndimage import binary_dilation, median_filter

        def widen(frames: np.ndarray, n: int) -> np.ndarray:
            return np.asarray(binary_dilation(frames, np.ones((1, 2 * n + 1), dtype=bool)))

        def drop_short(frames: np.ndarray) -> np.ndarray:
            return np.asarray(median_filter(frames.astype(np.uint8), size=(1, SPURIOUS)) > 0)

        above_bleed = np.minimum((self.high - self.low) / 3, SPREAD)
        own = drop_short(self.louder >= (self.low + above_bleed)[:, None])
        # Drop short stretches again: where the other's voice fades, its bleed resembles a pause.
        voice = widen(drop_short(own & self.audible), PAUSE_MARGIN)
        return np.asarray(voice & widen(own, BLEED_MARGIN))


def frame_levels(channels: np.ndarray) -> np.ndarray:
    """Levels in dBFS, (n_channels, n_frames)."""
    from scipy.ndimage import uniform_filter1d

    n_frames = channels.shape[1] // FRAME
    frames = channels[:, : n_frames * FRAME].reshape(len(channels), n_frames, FRAME)
    power = np.einsum("cfs,cfs->cf", frames, frames) / FRAME
    power = uniform_filter1d(power, SMOOTHING, axis=1, mode="nearest")
    return np.asarray(10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10))))


def two_means(values: np.ndarray) -> tuple[float, float]:
    """The centres of two clusters, the lower first."""
    if not len(values):
        return 0.0, 0.0
    low, high = (float(edge) for edge in np.quantile(values, [0.01, 0.99]))
    for _ in range(50):
        middle = (low + high) / 2
        below, above = values[values <= middle], values[values > middle]
        if not len(below) or not len(above):
            break
        low, high = float(below.mean()), float(above.mean())
    return low, high


def remove_bleed(channels: np.ndarray, dominance: Dominance) -> np.ndarray:
    """Silence the bleed and concatenate the channels: float32, (n_channels * n_samples,).

    Pauses are silenced too: noise that returns after silence would be mistaken for speech.
    """
    n_samples = channels.shape[1]
    folded = np.empty((len(channels), n_samples), dtype=np.float32)
    gains = np.where(dominance.speaks, 1.0, SILENCED)
    centres = (np.arange(gains.shape[1]) + 0.5) * FRAME
    for i in range(0, n_samples, 60 * SAMPLE_RATE):
        block = slice(i, min(i + 60 * SAMPLE_RATE, n_samples))
        positions = np.arange(block.start, block.stop)
        for channel, gain in enumerate(gains):
            folded[channel, block] = channels[channel, block] * np.interp(positions, centres, gain)
    return folded.reshape(-1)


def voice_regions(speaks: np.ndarray, duration: float) -> Iterator[SpeechRegion]:
    """The stretches of voice on the folded timeline.

    Args:
        speaks: bool, (n_channels, n_frames).
    """
    seconds = FRAME / SAMPLE_RATE
    for channel, own in enumerate(speaks):
        edges = np.flatnonzero(np.diff(own.astype(np.int8), prepend=0, append=0))
        for start, end in edges.reshape(-1, 2).tolist():
            begin = channel * duration
            yield SpeechRegion(begin + start * seconds, begin + min(end * seconds, duration))


def _intersections(
    some: Sequence[SpeechRegion], others: Sequence[SpeechRegion]
) -> Iterator[SpeechRegion]:
    """Both sequences must be in order and without overlap."""
    i = j = 0
    while i < len(some) and j < len(others):
        start, end = max(some[i].start, others[j].start), min(some[i].end, others[j].end)
        if end > start:
            yield SpeechRegion(start, end)
        if some[i].end < others[j].end:
            i += 1
        else:
            j += 1


def interleave(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Order the segments of several channels by phrase, splitting segments where necessary.

    Every word appears once, and the words of a channel keep their order. What one person says
    between two phrases of another goes between them; what they say at the same time follows the
    phrase.
    """
    phrases: list[tuple[float, int, Sequence[Word]]] = []
    latest: dict[str | None, float] = {}
    for number, segment in enumerate(segments):
        for words in _phrases(segment.words):
            latest[segment.speaker] = max(words[0].start, latest.get(segment.speaker, 0.0))
            phrases.append((latest[segment.speaker], number, words))
    phrases.sort(key=lambda phrase: phrase[:2])
    made = []
    for number, group in groupby(phrases, key=lambda phrase: phrase[1]):
        words = tuple(word for _, _, phrase in group for word in phrase)
        last = max(word.end for word in words)
        made.append(Segment(segments[number].speaker, words[0].start, last, words))
    return tuple(made)


def _phrases(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    start = 0
    for i, word in enumerate(words):
        last = i + 1 == len(words)
        if not last and is_continued(word, words[i + 1]):
            continue
        if last or ends_sentence(word) or words[i + 1].start - word.end > PHRASE_PAUSE:
            yield words[start : i + 1]
            start = i + 1
