"""Channels that are speakers: phone recorders, and interviews with a microphone for each person.

Such a recording needs no voices told apart. Each channel is freed of the others' bleed, and all are
laid one after the other on a *folded* timeline, which the models then see as one recording; what
they find is unfolded again.

Bleed: how much louder a channel is than the loudest other one, frame by frame, has two modes: high
where its own person speaks, low where it hears another. A frame near the low mode holds bleed alone
and is silenced. The levels of the microphones do not matter, and somebody who says "mm" into the
other's sentence is well above the bleed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from models.attribution import PAUSE, ends_sentence
from models.audio.recording import SAMPLE_RATE, Recording, join
from models.diarisation.segmentation import SpeechRegion
from models.options import Channels
from models.transcript import Flag, Segment, Turn, Word

FRAME = 320  # samples, 20 ms
SMOOTHED = 5  # frames; a voice's level is that of a syllable, not of a period
PAUSES = 0.05  # of the frames hold nothing but noise
AUDIBLE = 6.0  # dB above the pauses
ACTIVE = 15.0  # dB above the pauses: somebody speaks
FLOOR = -90.0  # dBFS
CONSTANT_EVERY = 101  # samples; a channel's constant is looked for in as few
SAME = 0.03  # of a channel's energy may differ from another's that it is a copy of
DEAD = 40.0  # dB; a channel so much below the loudest holds no voice
APART = 15.0  # dB between the modes, from which on channels are speakers
IN_BETWEEN = 0.2  # of the active frames may lie between the modes: overlap, and no third voice
SPREAD = 8.0  # dB above the mode of bleed: hardly any bleed
RARELY = 0.02  # of the active frames; somebody who speaks less is not there
SPURIOUS = 9  # frames; a shorter stretch of voice in bleed is chance
BLEED_AROUND = 5  # frames beside a voice that are kept from bleed: words begin and end softly
PAUSE_AROUND = 15  # frames beside a voice that are kept from pauses
SILENCED = 10 ** (-50 / 20)
PHRASE = 0.5  # s of pause, in which the other may have the word


@dataclass(frozen=True, eq=False)
class Timeline:
    """What the models hear: one recording, or the channels one after the other.

    `joints`: where one recording or channel ends and the next begins.
    """

    samples: np.ndarray  # float32, (n_samples,), 16 kHz
    starts: tuple[float, ...]  # of each recording, unfolded
    n_channels: int = 1  # more than 1: folded
    warning: str | None = None
    voices: tuple[SpeechRegion, ...] = ()  # folded: where a channel's own voice may be

    @property
    def duration(self) -> float:
        """Seconds, unfolded."""
        return len(self.samples) // self.n_channels / SAMPLE_RATE

    @property
    def is_split(self) -> bool:
        return self.n_channels > 1

    @property
    def joints(self) -> tuple[float, ...]:
        """Also the middle of each long pause of a channel: the other's turn.

        Whisper may end a window at the first of these, and lose what is said after it.
        """
        offsets = [channel * self.duration for channel in range(self.n_channels)]
        ends = [offset + start for offset in offsets for start in self.starts][1:]
        pauses = [
            (a.end + b.start) / 2 for a, b in pairwise(self.voices) if b.start - a.end > PAUSE
        ]
        return tuple(sorted({*ends, *pauses}))

    def own(self, regions: Sequence[SpeechRegion]) -> tuple[SpeechRegion, ...]:
        """What of the speech that was found is a channel's own, as far as levels tell."""
        return tuple(_intersections(regions, self.voices)) if self.is_split else tuple(regions)

    def channel_at(self, time: float) -> int:
        return min(int(time / self.duration), self.n_channels - 1)

    def turns(self, regions: Sequence[SpeechRegion]) -> tuple[Turn, ...]:
        """Unfolded: the speech of each channel is its speaker's."""
        turns = []
        for region in regions:
            for channel in range(self.channel_at(region.start), self.channel_at(region.end) + 1):
                begin = channel * self.duration
                start = max(region.start - begin, 0.0)
                end = min(region.end - begin, self.duration)
                if end > start:
                    turns.append(Turn(round(start, 3), round(end, 3), label(channel)))
        return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end)))

    @property
    def channels(self) -> tuple[Turn, ...]:
        """Folded: each channel as a turn of its speaker, for words to be attributed with."""
        begins = [channel * self.duration for channel in range(self.n_channels)]
        return tuple(Turn(b, b + self.duration, label(i)) for i, b in enumerate(begins))

    def unfold(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        if not self.is_split:
            return tuple(segments)
        return interleaved([self._unfolded(segment) for segment in segments])

    def _unfolded(self, segment: Segment) -> Segment:
        first = segment.words[0]  # a window begins up to 5 ms before its channel
        begin = self.channel_at((first.start + first.end) / 2) * self.duration

        def moved(time: float) -> float:
            return round(min(max(time - begin, 0.0), self.duration), 3)

        words = tuple(
            replace(word, start=moved(word.start), end=moved(word.end)) for word in segment.words
        )
        return Segment(segment.speaker, words[0].start, max(word.end for word in words), words)

    def unfold_flags(self, flags: Sequence[Flag]) -> tuple[Flag, ...]:
        """Each channel was checked alone: another's words do not fill its gaps."""
        if not self.is_split:
            return tuple(flags)
        unfolded = []
        for flag in flags:
            begin = self.channel_at((flag.start + flag.end) / 2) * self.duration
            start, end = max(flag.start - begin, 0.0), min(flag.end - begin, self.duration)
            unfolded.append(replace(flag, start=round(start, 3), end=round(end, 3)))
        return tuple(sorted(unfolded, key=lambda flag: (flag.start, flag.end, flag.kind)))


def label(channel: int) -> str:
    return f"SPEAKER_{channel:02d}"


def timeline_of(
    recordings: Sequence[Recording], wanted: Channels, n_speakers: tuple[int | None, int | None]
) -> Timeline:
    """
    Args:
        n_speakers: at least and at most, as far as anybody knows.
    """
    differ = len({len(recording.samples) for recording in recordings}) > 1
    if differ or wanted == Channels.MIX:
        recordings = mixed(recordings)
    channels, starts = join(recordings)
    if len(channels) == 1:
        asked = wanted == Channels.SPLIT
        warning = "There is only one channel" + TOLD_APART if asked else None
        return Timeline(channels[0], starts, warning=warning)
    distinct = channels[distinct_channels(channels)]
    if len(distinct) == 1:
        asked = wanted == Channels.SPLIT
        warning = "Only one channel holds a voice of its own" + TOLD_APART if asked else None
        return Timeline(distinct[0], starts, warning=warning)
    # What a sound card adds; the mean of speech is not zero, and would be left in its pauses.
    distinct -= np.median(distinct[:, ::CONSTANT_EVERY], axis=1, keepdims=True)
    dominance = Dominance.of(distinct)
    minimum, maximum = n_speakers
    plausible = (minimum or 1) <= len(distinct) <= (maximum or len(distinct))
    if wanted == Channels.AUTO and not (plausible and dominance.is_apart):
        return Timeline(join(mixed(recordings))[0][0], starts)
    folded = without_bleed(distinct, dominance)
    warning = f"Each of the {len(distinct)}" + TAKEN_APART
    if not dominance.is_apart:
        warning += PERHAPS_DOUBLED
    voices = tuple(voices_of(dominance.speaks, channels.shape[1] / SAMPLE_RATE))
    return Timeline(folded, starts, len(distinct), warning, voices)


TOLD_APART = ", so that speakers were told apart by their voices."
TAKEN_APART = " channels was taken for one speaker; no voices were compared."
PERHAPS_DOUBLED = (
    " Their levels do not show that each is one speaker's: what is said may stand there twice, "
    "once for each channel. If it does, transcribe again with the channels mixed."
)


def mixed(recordings: Sequence[Recording]) -> list[Recording]:
    """Each with one channel, the mean of its own that are no copies: inverted ones cancel out."""

    def mix(channels: np.ndarray) -> np.ndarray:
        is_distinct = np.isin(np.arange(len(channels)), distinct_channels(channels))
        return np.asarray(channels.mean(axis=0, keepdims=True, where=is_distinct[:, None]))

    return [
        recording
        if len(recording.samples) == 1
        else Recording(mix(recording.samples), recording.info)
        for recording in recordings
    ]


def distinct_channels(channels: np.ndarray) -> list[int]:
    """Those that hold a voice and are no copy of one before (dual mono), the loudest at least."""
    n_channels, n_samples = channels.shape
    products, sums = np.zeros((n_channels, n_channels)), np.zeros(n_channels)
    for i in range(0, n_samples, 60 * SAMPLE_RATE):
        block = channels[:, i : i + 60 * SAMPLE_RATE].astype(np.float64)
        products += block @ block.T
        sums += block.sum(axis=1)
    products -= np.outer(sums, sums) / n_samples  # of what is left without each channel's mean
    energies = np.diag(products)
    alive = [i for i, e in enumerate(energies) if e > energies.max() * 10 ** (-DEAD / 10)]
    distinct: list[int] = []
    for i in alive or [0]:
        # What of channel i the best multiple of channel j leaves over; a sign does not matter.
        copied = [1 - products[i, j] ** 2 / (energies[i] * energies[j]) for j in distinct]
        if all(left > SAME for left in copied):
            distinct.append(i)
    return distinct


@dataclass(frozen=True, eq=False)
class Dominance:
    """How much louder each channel is than the loudest other one: dB, (n_channels, n_frames)."""

    louder: np.ndarray
    active: np.ndarray  # bool, (n_frames,): somebody speaks
    low: np.ndarray  # (n_channels,): the mode of bleed
    high: np.ndarray  # (n_channels,): the mode of the channel's own voice
    audible: np.ndarray  # bool, (n_channels, n_frames): something is louder than the noise

    @classmethod
    def of(cls, channels: np.ndarray) -> "Dominance":
        levels = frame_levels(channels)
        others = np.stack([np.delete(levels, i, axis=0).max(axis=0) for i in range(len(levels))])
        loudest = levels.max(axis=0)
        active = loudest > np.quantile(loudest, PAUSES) + ACTIVE
        louder = levels - others
        modes = np.array([two_means(own[active]) for own in louder])
        audible = levels > np.quantile(levels, PAUSES, axis=1, keepdims=True) + AUDIBLE
        return cls(louder, active, modes[:, 0], modes[:, 1], audible)

    @property
    def is_apart(self) -> bool:
        """Whether each channel is one speaker's, all of the time."""
        gap = self.high - self.low
        if not self.active.any() or (gap < APART).any():
            return False
        active = self.louder[:, self.active]
        above = active > (self.low + gap * 2 / 3)[:, None]
        below = active < (self.low + gap / 3)[:, None]
        in_between = 1 - (above | below).mean(axis=1)
        return bool((in_between < IN_BETWEEN).all() and (above.mean(axis=1) > RARELY).all())

    @property
    def speaks(self) -> np.ndarray:
        """bool, (n_channels, n_frames): the channel's own voice and what belongs to it."""
        from scipy.ndimage import binary_dilation, median_filter

        def around(frames: np.ndarray, n: int) -> np.ndarray:
            return np.asarray(binary_dilation(frames, np.ones((1, 2 * n + 1), dtype=bool)))

        def lasting(frames: np.ndarray) -> np.ndarray:
            return np.asarray(median_filter(frames.astype(np.uint8), size=(1, SPURIOUS)) > 0)

        above_bleed = np.minimum((self.high - self.low) / 3, SPREAD)
        own = lasting(self.louder >= (self.low + above_bleed)[:, None])
        # Lasting again: where the other's voice dies away its bleed is no softer than the pauses.
        voice = around(lasting(own & self.audible), PAUSE_AROUND)
        return np.asarray(voice & around(own, BLEED_AROUND))


def frame_levels(channels: np.ndarray) -> np.ndarray:
    """dBFS, (n_channels, n_frames)."""
    from scipy.ndimage import uniform_filter1d

    n_frames = channels.shape[1] // FRAME
    frames = channels[:, : n_frames * FRAME].reshape(len(channels), n_frames, FRAME)
    power = np.einsum("cfs,cfs->cf", frames, frames) / FRAME
    power = uniform_filter1d(power, SMOOTHED, axis=1, mode="nearest")
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


def without_bleed(channels: np.ndarray, dominance: Dominance) -> np.ndarray:
    """The channels one after the other, float32, (n_channels * n_samples,).

    Pauses are silenced with the bleed: the return of their noise after silence would be taken for
    speech.
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


def voices_of(speaks: np.ndarray, duration: float) -> Iterator[SpeechRegion]:
    """On the folded timeline. speaks: bool, (n_channels, n_frames)."""
    seconds = FRAME / SAMPLE_RATE
    for channel, own in enumerate(speaks):
        edges = np.flatnonzero(np.diff(own.astype(np.int8), prepend=0, append=0))
        for start, end in edges.reshape(-1, 2).tolist():
            begin = channel * duration
            yield SpeechRegion(begin + start * seconds, begin + min(end * seconds, duration))


def _intersections(
    some: Sequence[SpeechRegion], others: Sequence[SpeechRegion]
) -> Iterator[SpeechRegion]:
    """Both in order, without overlap."""
    i = j = 0
    while i < len(some) and j < len(others):
        start, end = max(some[i].start, others[j].start), min(some[i].end, others[j].end)
        if end > start:
            yield SpeechRegion(start, end)
        if some[i].end < others[j].end:
            i += 1
        else:
            j += 1


def interleaved(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Segments of several channels in the order of their phrases.

    Every word once; words of a channel keep their order. What one person says between two phrases
    of another's comes between them, what they say at the same time after the phrase.
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
        if last or ends_sentence(word) or words[i + 1].start - word.end > PHRASE:
            yield words[start : i + 1]
            start = i + 1
