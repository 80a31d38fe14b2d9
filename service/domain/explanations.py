"""What an error that was kept on a job means, and what its owner can do.

Only codes are kept. Many belong to errors that stand beside code with torch, which the API process
never imports, so their sentences are here; a test compares the codes.
"""

from dataclasses import dataclass

NOTHING = "Nothing to do: it is tried again by itself."
UPLOAD_AGAIN = "Copy the recording from the recorder once more, upload it, and submit a new job."
OTHER_RECORDING = "Check that this is the right recording, then submit a new job."
ADMINISTRATOR = "Tell whoever looks after this Fieldscribe; the log of the worker says more."


@dataclass(frozen=True)
class Explanation:
    title: str
    user_action: str


_EXPLANATIONS = {
    # the recording
    "empty_file": ("The recording has no bytes.", UPLOAD_AGAIN),
    "unreadable_audio": ("It is not a recording, or its index is missing.", UPLOAD_AGAIN),
    "encrypted_audio": ("The recording is locked.", "Unlock it with the recorder's own program."),
    "no_audio_stream": ("There is no sound in it.", OTHER_RECORDING),
    "truncated_audio": ("The recording is shorter than it says it is.", UPLOAD_AGAIN),
    "silent_audio": ("The recording is silent.", OTHER_RECORDING),
    "no_speech": ("No speech was found in the recording.", OTHER_RECORDING),
    "audio_too_short": ("The recording is shorter than a tenth of a second.", OTHER_RECORDING),
    "too_long": ("The recording is too long.", "Cut it into parts of one session."),
    "too_many_channels": ("The recording has too many channels.", "Mix some of them."),
    "sample_rate_too_low": ("The recording has too few samples a second.", OTHER_RECORDING),
    "decode_failed": ("Too much of the recording is damaged.", UPLOAD_AGAIN),
    "decoder_killed": (
        "ffmpeg was killed, or took too long.",
        "If it happens again, the machine is short of memory: tell whoever looks after it.",
    ),
    "ffmpeg_missing": ("ffmpeg is not installed.", ADMINISTRATOR),
    "sandbox_unavailable": ("Recordings cannot be decoded safely here.", ADMINISTRATOR),
    # what was asked for
    "unknown_language": ("The model does not know the language.", "Choose another language."),
    "cannot_translate": ("The model cannot translate.", "Choose a multilingual model."),
    "bad_roster": ("The roster makes no sense.", "Give one to twelve people, each with a code."),
    "bad_speaker_count": ("The number of speakers makes no sense.", "Give 1 to 20."),
    "vocabulary_too_long": ("The vocabulary does not fit.", "Give fewer or shorter words."),
    "unavailable_precision": ("The worker's device has no such numbers.", ADMINISTRATOR),
    "unmeasured_precision": ("What the worker's precision costs is not known.", ADMINISTRATOR),
    # the weights
    "unknown_model": ("There are no weights of this name.", "Submit a job with another model."),
    "model_missing": ("The weights are not installed any more.", ADMINISTRATOR),
    "weights_corrupt": ("The weights are damaged.", ADMINISTRATOR),
    "unsafe_checkpoint": ("The weights would run code.", ADMINISTRATOR),
    "unsupported_checkpoint": ("The weights are of a kind that is not known.", ADMINISTRATOR),
    "unsupported_pipeline": ("The pipeline asks for what is not reproduced.", ADMINISTRATOR),
    "weights_changed": (
        "Other weights are installed than when the job was submitted.",
        "Run the job again: it then uses those that are installed.",
    ),
    # computing
    "out_of_memory": (
        "The memory of the card is too small, or full.",
        "Nothing, if another program lets go of the card; else cancel and take a smaller model.",
    ),
    "stopped": ("Somebody asked for it to stop.", "Run the job again if that was a mistake."),
    "worker_died": ("The worker was killed, or its machine failed.", NOTHING),
    "engine_died": ("The process with the models was killed.", NOTHING),
    "gave_up": ("The job crashed three times in the same stage.", ADMINISTRATOR),
    "internal_error": ("There is a mistake in Fieldscribe.", ADMINISTRATOR),
    # the vault
    "sealed": ("The vault is sealed.", "Somebody with the passphrase: `fieldscribe unseal`."),
    "disk_full": ("The disk is full.", ADMINISTRATOR),
    "erased": ("The recording was erased.", "Nothing: it cannot be brought back."),
    "key_missing": ("The key of the recording is gone.", ADMINISTRATOR),
    "key_damaged": ("The key of the recording is damaged.", ADMINISTRATOR),
    "artefact_missing": ("An encrypted file is gone.", ADMINISTRATOR),
    "artefact_damaged": ("An encrypted file is damaged.", ADMINISTRATOR),
}
EXPLANATIONS = {code: Explanation(*words) for code, words in _EXPLANATIONS.items()}

WAITING_FOR = {"out_of_memory": "card"}  # everything else waits for a person


def explain(code: str) -> Explanation:
    return EXPLANATIONS.get(code, Explanation(f"The job ended with {code}.", ADMINISTRATOR))
