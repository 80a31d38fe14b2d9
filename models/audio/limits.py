"""Which recordings are accepted: limits on length, channels, sample rate and level."""

import math
from collections.abc import Sequence

from models.audio.errors import (
    AudioTooShort,
    SampleRateTooLow,
    SilentAudio,
    TooLong,
    TooManyChannels,
    UnreadableAudio,
)
from models.audio.recording import RecordingInfo, duration_in_words

MAX_SECONDS = 24 * 3600
MAX_CHANNEL_SECONDS = 2 * MAX_SECONDS  # of separate channels: six hours of eight take 11 GB
MAX_CHANNELS = 8
MIN_SAMPLE_RATE = 8_000  # Hz, as on the telephone
MIN_SECONDS = 0.1
SILENCE_DBFS = -60.0
LOUDEST_DBFS = 40.0  # Whisper hears 80 dB below the loudest sound; speech must lie in that range


def refuse_out_of_range(info: RecordingInfo) -> None:
    """
    Raises:
        UnreadableAudio, TooManyChannels, SampleRateTooLow, TooLong.
    """
    if not info.channels or not info.sample_rate:
        raise UnreadableAudio(unreadable_codec(info.codec))
    if info.channels > MAX_CHANNELS:
        raise TooManyChannels(
            f"The recording has {info.channels} channels and at most {MAX_CHANNELS} can be read:"
            " export only the channels with voices."
        )
    sample_rate = min((track.sample_rate for track in info.tracks), default=info.sample_rate)
    if sample_rate < MIN_SAMPLE_RATE:
        raise SampleRateTooLow(
            f"The sample rate of the recording is {sample_rate} Hz and speech needs at least"
            f" {MIN_SAMPLE_RATE} Hz: look for the original, as this may be a reduced copy."
        )
    if info.duration is not None:
        refuse_too_long(info.duration)


def unreadable_codec(codec: str) -> str:
    """The message for a recording whose only track is in an unknown or forbidden codec."""
    return (
        f"The audio format of the file ({codec}) cannot be read:"
        " export the recording as WAV, FLAC, MP3 or M4A and use that file."
    )


def refuse_too_long(seconds: float, n_channels: int = 1) -> None:
    """
    Args:
        n_channels: number of channels whose samples are kept in memory.

    Raises:
        TooLong.
    """
    limit = max_seconds(n_channels)
    if seconds <= limit:
        return
    separate = f" for {n_channels} channels kept separate" if n_channels > 1 else ""
    raise TooLong(
        f"The recording lasts {duration_in_words(seconds)} or more and the limit is"
        f" {duration_in_words(limit)}{separate}: cut it into parts and put them into one session,"
        " in order."
    )


def max_seconds(n_channels: int) -> int:
    return min(MAX_SECONDS, MAX_CHANNEL_SECONDS // n_channels)


def refuse_too_short(duration: float) -> None:
    """Call this before `refuse_bad_levels`: an empty recording has no levels.

    Raises:
        AudioTooShort.
    """
    if duration < MIN_SECONDS:
        raise AudioTooShort(
            f"The recording lasts {duration:.2f} s and the minimum is {MIN_SECONDS} s:"
            " check that it is the right file."
        )


def is_silent(peaks: Sequence[float]) -> bool:
    """
    Args:
        peaks: peak of each channel in dBFS.
    """
    return max(peaks, default=-math.inf) < SILENCE_DBFS


def refuse_bad_levels(info: RecordingInfo, peaks: tuple[float, ...]) -> None:
    """
    Args:
        peaks: peak of each channel in dBFS.

    Raises:
        UnreadableAudio, SilentAudio.
    """
    if not all(peak < LOUDEST_DBFS for peak in peaks):  # NaN fails this comparison too
        raise UnreadableAudio(
            "The recording holds impossible sample values, far above full scale or not numbers:"
            " export it again as 16-bit WAV."
        )
    if is_silent(peaks):
        cancelled = " and that its channels do not cancel each other out"
        found = (
            "The recording is silent"
            if max(peaks) == -math.inf
            else f"The loudest sound in the recording is at {max(peaks):.1f} dBFS, but speech is"
            f" louder than {SILENCE_DBFS:.0f} dBFS"
        )
        raise SilentAudio(
            f"{found}: check in a player that the right microphone was recorded"
            f"{cancelled if len(peaks) < info.channels else ''}."
        )
