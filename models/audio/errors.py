"""Why a recording cannot be used: the leaves of AudioError."""

from models.errors import ASK_ADMINISTRATOR, AudioError

UPLOAD_AGAIN = "Copy the recording from the recorder again, upload it, and transcribe it."
CHECK_RECORDING = "Check that this is the right recording, then transcribe it again."


class EmptyFile(AudioError):
    """The file has no bytes."""

    code = "empty_file"
    user_action = UPLOAD_AGAIN


class UnreadableAudio(AudioError):
    """The file is not a recording, or not in a format that can be read."""

    code = "unreadable_audio"
    user_action = UPLOAD_AGAIN


class EncryptedAudio(AudioError):
    """The recording is password-protected, copy-protected, or in the closed DS2 format."""

    code = "encrypted_audio"
    user_action = "Unlock it in the program it comes from, export it as WAV and upload that."


class NoAudioStream(AudioError):
    """The file has pictures but no sound."""

    code = "no_audio_stream"
    user_action = CHECK_RECORDING


class TruncatedAudio(AudioError):
    """The file holds clearly less sound than it declares."""

    code = "truncated_audio"
    user_action = UPLOAD_AGAIN


class SilentAudio(AudioError):
    """No channel is ever louder than -60 dBFS."""

    code = "silent_audio"
    user_action = CHECK_RECORDING


class TooLong(AudioError):
    """The recording is longer than 24 hours, or its separate channels add up to more than 48."""

    code = "too_long"
    user_action = "Cut it into parts and put them into one session."


class TooManyChannels(AudioError):
    """The recording has more than eight channels."""

    code = "too_many_channels"
    user_action = "Export only the channels with voices."


class SampleRateTooLow(AudioError):
    """The sample rate is below 8 kHz, less than a telephone carries."""

    code = "sample_rate_too_low"
    user_action = CHECK_RECORDING


class AudioTooShort(AudioError):
    """The recording is shorter than a tenth of a second."""

    code = "audio_too_short"
    user_action = CHECK_RECORDING


class DecodeFailed(AudioError):
    """Decoding stopped early, or too much of the recording is damaged."""

    code = "decode_failed"
    user_action = UPLOAD_AGAIN


class DecoderKilled(AudioError):
    """ffmpeg was killed or took too long; either the machine or the recording may be at fault."""

    code = "decoder_killed"
    retryable = True
    user_action = "If it happens again, ask your administrator: the machine may be short of memory."


class FfmpegMissing(AudioError):
    """ffmpeg and ffprobe are not installed."""

    code = "ffmpeg_missing"
    user_action = ASK_ADMINISTRATOR


class EncoderMissing(AudioError):
    """ffmpeg cannot write MP3, which browsers play."""

    code = "encoder_missing"
    user_action = ASK_ADMINISTRATOR
    MESSAGE = (
        "This ffmpeg cannot write MP3, so browsers cannot play the recording: ask the administrator"
        " to install ffmpeg with libmp3lame."
    )


class SandboxUnavailable(AudioError):
    """This machine cannot keep ffmpeg from the network or from other files."""

    code = "sandbox_unavailable"
    user_action = ASK_ADMINISTRATOR


class NoSpeech(AudioError):
    """No speech was found in the recording, or no words in the speech."""

    code = "no_speech"
    user_action = CHECK_RECORDING
