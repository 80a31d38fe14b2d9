"""Why a recording cannot be used: the leaves of AudioError."""

from models.errors import AudioError


class EmptyFile(AudioError):
    """The file has no bytes."""

    code = "empty_file"


class UnreadableAudio(AudioError):
    """The file is not a recording, or not in a format that can be read."""

    code = "unreadable_audio"


class EncryptedAudio(AudioError):
    """The recording is password-protected, copy-protected, or in the closed DS2 format."""

    code = "encrypted_audio"


class NoAudioStream(AudioError):
    """The file has pictures but no sound."""

    code = "no_audio_stream"


class TruncatedAudio(AudioError):
    """The file holds clearly less sound than it declares."""

    code = "truncated_audio"


class SilentAudio(AudioError):
    """No channel is ever louder than -60 dBFS."""

    code = "silent_audio"


class TooLong(AudioError):
    """The recording is longer than 24 hours, or its separate channels add up to more than 48."""

    code = "too_long"


class TooManyChannels(AudioError):
    """The recording has more than eight channels."""

    code = "too_many_channels"


class SampleRateTooLow(AudioError):
    """The sample rate is below 8 kHz, less than a telephone carries."""

    code = "sample_rate_too_low"


class AudioTooShort(AudioError):
    """The recording is shorter than a tenth of a second."""

    code = "audio_too_short"


class DecodeFailed(AudioError):
    """Decoding stopped early, or too much of the recording is damaged."""

    code = "decode_failed"


class DecoderKilled(AudioError):
    """ffmpeg was killed or took too long; either the machine or the recording may be at fault."""

    code = "decoder_killed"
    retryable = True


class FfmpegMissing(AudioError):
    """ffmpeg and ffprobe are not installed."""

    code = "ffmpeg_missing"


class SandboxUnavailable(AudioError):
    """This machine cannot run ffmpeg without network access."""

    code = "sandbox_unavailable"
