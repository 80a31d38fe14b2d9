"""Sound that is missing inside a track: gaps in its timestamps, frames that cannot be decoded.

Found by reading the packets without decoding them, which takes about a third as long as decoding.
If the decoder reported errors, the track is decoded once more to find where.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from models.audio.errors import DecodeFailed
from models.audio.ffmpeg_child import CODECS, output_of, run_sandboxed, words
from models.audio.ffmpeg_input import FfmpegInput
from models.audio.ogg_pages import find_missing_pages
from models.audio.recording import RecordingInfo, Track, duration_in_words

MAX_DAMAGE = 0.05  # share of a recording
MIN_GAP, MAX_GAP = 0.1, 3600.0  # s; a longer one means that the clock was reset
MIN_SILENT_GAP = 0.5  # s; a shorter gap may be left by a codec that sends nothing in silence
SAME_PLACE = 0.2  # s between the end of an Ogg page and the gap after it
MIN_LOST = 0.1  # s
N_PLACES = 5  # named in a warning
# Programs never leave out packets in these formats, so a gap is damage. In others, calls do.
WITHOUT_GAPS = ("aac", "asf", "flac", "mp3")
# One sample after another, without packets that could be missing.
WITHOUT_PACKETS = ("aiff", "au", "caf", "dss", "w64", "wav")
WITHOUT_CLOCK = ("aac", "mp3")  # frames without timestamps: a gap in them is not filled
AMR_SILENCE = {"amr_nb": (1, 6), "amr_wb": (1, 6)}  # bytes of frames that hold no speech


@dataclass(frozen=True)
class Packets:
    """The packets of a track, or its decoded frames: float64, (n,), on the file's clock."""

    start: np.ndarray  # s
    duration: np.ndarray  # s
    size: np.ndarray  # bytes; of frames, samples
    first_byte: int = 0  # its position in the file

    @property
    def ends(self) -> np.ndarray:
        return np.maximum.accumulate(self.start + self.duration)

    @property
    def end(self) -> float:
        return float(self.ends[-1]) if len(self.start) else 0.0

    def gaps(self, shortest: float = MIN_GAP) -> list[tuple[float, float]]:
        """Start and length of each gap."""
        lengths = self.start[1:] - self.ends[:-1]
        found = np.flatnonzero((lengths > shortest) & (lengths < MAX_GAP))
        return [(float(self.ends[i]), float(lengths[i])) for i in found]


@dataclass(frozen=True)
class Damage:
    """What is missing in a track: start and length of each place, in seconds."""

    lost: tuple[tuple[float, float], ...] = ()
    silent: tuple[tuple[float, float], ...] = ()  # perhaps left out on purpose
    hole: tuple[float, float] | None = None  # that the decoder left no time for
    joints: tuple[float, ...] = ()  # places where an unknown length may be missing
    pages: tuple[tuple[float, float], ...] = ()  # of an Ogg, as a stream over a network loses them

    @property
    def unfilled(self) -> float:
        """Seconds by which the decoder's times after the hole are too early."""
        return self.hole[1] if self.hole else 0.0


def has_packets(info: RecordingInfo) -> bool:
    return info.container not in WITHOUT_PACKETS


def read_packets(source: FfmpegInput, info: RecordingInfo, track: Track) -> Packets:
    """Read the packets of a track without decoding them."""
    rows = _read(source, info, track, "packet=pts_time,duration_time,size,pos")
    rows = rows[~np.isnan(rows[:, 0])]
    start, duration, size, position = rows.T
    if len(rows) > 1:
        typical = np.median(np.diff(start))
        # In an MP4 the packet before a gap lasts until its end.
        duration = np.fmin(np.where(np.isnan(duration), typical, duration), max(0.3, 3 * typical))
    first_byte = int(np.nan_to_num(position[0])) if len(rows) else 0
    return Packets(start - info.clock_start, np.nan_to_num(duration), size, first_byte)


def read_frames(source: FfmpegInput, info: RecordingInfo, track: Track) -> Packets:
    """Decode a track and return its frames."""
    start, n_samples = _read(source, info, track, "frame=best_effort_timestamp_time,nb_samples").T
    # The second and further frames of a packet have no timestamp: they follow the one before.
    given = np.maximum.accumulate(np.where(np.isnan(start), 0, np.arange(len(start))))
    before = (np.cumsum(n_samples) - n_samples) / track.sample_rate
    start = np.nan_to_num(start)[given] + before - before[given]
    return Packets(start - info.clock_start, n_samples / track.sample_rate, n_samples)


def _read(source: FfmpegInput, info: RecordingInfo, track: Track, entries: str) -> np.ndarray:
    """What ffprobe says of each packet or frame of a track, (n, n_entries), without conversion."""
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(track.index)]
    command += ["-show_entries", entries, "-of", "csv=p=0", "-threads", "1"]
    command += [f"-codec_whitelist:{track.index}", CODECS, *words(source.options), source.url]
    with run_sandboxed(command, source.file, seconds=120 + (info.duration or 86_400) / 20) as child:
        numbers = np.fromiter(_numbers(output_of(child), entries.count(",") + 1), np.float64)
    return numbers.reshape(-1, entries.count(",") + 1)


def _numbers(lines: Iterable[bytes], n_columns: int) -> Iterator[float]:
    """The numbers of all rows, one after another; a missing one is NaN."""
    for line in lines:
        fields = line.split(b",")
        if len(fields) >= n_columns:
            for field in fields[:n_columns]:
                yield np.nan if b"N" in field else float(field)


def seconds_skipped(packets: Packets, source: FfmpegInput) -> float:
    """Seconds that the bytes outside all frames would last."""
    n_bytes = packets.size.sum()
    skipped = source.end - packets.first_byte - n_bytes
    return float(max(0.0, skipped) * packets.duration.sum() / max(n_bytes, 1))


def find_damage(
    packets: Packets,
    frames: Packets | None,
    source: FfmpegInput,
    info: RecordingInfo,
    track: Track,
    decoded: float,
) -> Damage:
    """
    Args:
        frames: if the decoder reported errors.
        decoded: seconds.
    """
    if len(packets.start) < 2:
        return Damage()
    gaps = packets.gaps()
    proven, has_clock = info.container in WITHOUT_GAPS, info.container not in WITHOUT_CLOCK
    lost = list(gaps) if proven else []
    hole = None
    if frames is not None:
        lost += _undecoded(packets, frames, track, has_clock=has_clock)
    if lost and not has_clock:
        slack = max(MIN_LOST, 4 * float(np.median(packets.duration)))  # what encoders add
        missing = [seconds_skipped(packets, source)]
        if info.duration is not None:
            missing.append(info.duration - packets.end)
        if info.duration is not None and abs(info.duration - decoded) < slack:
            lost = []  # all frames are there: what cannot be decoded is no sound
        elif max(missing) > slack / 2:
            # Nothing tells at which of several places it is missing.
            place, seconds = max(lost, key=lambda gap: gap[1])
            hole = (place, max(missing))
            lost[lost.index((place, seconds))] = (place, seconds + max(missing))
    pages = _lost_pages(gaps, source, info, track) if info.container == "ogg" else []
    silent = [gap for gap in gaps if gap[1] > MIN_SILENT_GAP and gap not in pages]
    lost += source.amr.lost
    return Damage(
        tuple(sorted(lost)),
        () if proven else tuple(silent),
        hole,
        source.amr.joints,
        tuple(pages),
    )


def _lost_pages(
    gaps: Sequence[tuple[float, float]], source: FfmpegInput, info: RecordingInfo, track: Track
) -> list[tuple[float, float]]:
    """The gaps at which the numbers of an Ogg file's pages say that some are missing."""
    rate = 48_000 if track.codec == "opus" else track.sample_rate
    ends = [position / rate - info.clock_start for position in find_missing_pages(source.file)]
    return [gap for gap in gaps if any(abs(gap[0] - end) < SAME_PLACE for end in ends)]


def _undecoded(
    packets: Packets,
    frames: Packets,
    track: Track,
    *,
    has_clock: bool,
) -> list[tuple[float, float]]:
    """Places whose packets exist but yielded no sound."""
    if not len(frames.start):
        return [(0.0, packets.end)]
    typical = float(np.median(packets.duration))
    has_sound = ~np.isin(packets.size, AMR_SILENCE.get(track.codec, ()))
    sound = np.concatenate([[0.0], np.cumsum(packets.duration * has_sound)])

    def sound_between(start: float, end: float) -> float:
        first, last = np.searchsorted(packets.start, [start - typical / 2, end - typical / 2])
        return float(sound[last] - sound[first])

    places = [(start, start + length) for start, length in frames.gaps(0.6 * typical)]
    if has_clock:  # else it may be a tag; and decoders keep the last frames back
        places.append((frames.end + 3 * typical, packets.end))
    found = [(start, sound_between(start, end)) for start, end in places if end > start]
    return [(start, seconds) for start, seconds in found if seconds > 0.6 * typical]


def damage_warnings(damage: Damage, info: RecordingInfo, track: Track, total: float) -> list[str]:
    """
    Args:
        total: seconds of the track.

    Raises:
        DecodeFailed: too much is missing.
    """
    warnings = []
    seconds = sum(length for _, length in damage.lost)
    places = _in_words(damage.lost)
    if seconds > MAX_DAMAGE * (total + damage.unfilled):
        raise DecodeFailed(
            f"{seconds / (total + damage.unfilled):.0%} of the recording is missing or damaged and"
            f" cannot be decoded, at {places}: copy it from the recorder again. At most"
            f" {MAX_DAMAGE:.0%} may be damaged."
        )
    name = f"Audio track {track.number}: " if len(info.tracks) > 1 else ""
    has_clock = info.container not in WITHOUT_CLOCK
    later = "" if has_clock or damage.hole else " Later times may be too early."
    if seconds >= MIN_LOST:
        warnings.append(
            f"{name}The recording is damaged: sound is missing at {places}.{later} Listen to these"
            " places, or copy the recording from the recorder again."
        )
    elif damage.lost and not has_clock:
        warnings.append(
            f"{name}The recording was joined or is damaged at {places}: sound may be missing"
            f" there.{later}"
        )
    if damage.joints:
        places = _list(map(clock, damage.joints))
        warnings.append(
            f"{name}The recording was joined or is damaged at {places}: sound may be missing there,"
            " and later times may be too early. AMR cannot say how much."
        )
    if damage.pages:
        warnings.append(
            f"{name}Parts of the file are missing at {_in_words(damage.pages)}: its pages are"
            " numbered, and some are not there. These places are silent."
        )
    if damage.silent:
        warnings.append(
            f"{name}The file has no sound at {_in_words(damage.silent)}, as in a call while nobody"
            " speaks, or because a part was lost. These places are silent."
        )
    return warnings


def _in_words(places: Sequence[tuple[float, float]]) -> str:
    """1:05 (2.0 s), 2:00:07 (1 min 3 s) and 4 more places."""
    places = [place for place in places if place[1] >= MIN_LOST] or places[:1]
    return _list(f"{clock(start)} ({duration_in_words(length)})" for start, length in places)


def _list(places: Iterable[str]) -> str:
    shown = list(places)
    left = len(shown) - N_PLACES
    return ", ".join(shown[:N_PLACES]) + (f" and {left} more places" if left > 0 else "")


def clock(seconds: float) -> str:
    """0:07, 12:03, 1:00:00."""
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{left:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"
