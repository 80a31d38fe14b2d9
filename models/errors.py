"""What can go wrong between a recording and its transcript.

    SpeechError
    ├── AudioError           the recording cannot be used as it is
    ├── OptionError          a value somebody chose makes no sense
    ├── WeightsError         weights are missing, damaged or not to be trusted
    ├── OutOfMemory          a batch does not fit on the device
    └── Stopped              somebody asked for it

The leaves of the first three stand beside the code that raises them. Every leaf has a stable
`code`; docs/reference/errors.md lists them. A message is one sentence that is safe to store and
show: it holds numbers and remedies, never text, names or paths of a recording.
"""

from typing import ClassVar


class SpeechError(Exception):
    code: ClassVar[str] = "speech_error"
    retryable: ClassVar[bool] = False


class AudioError(SpeechError):
    pass


class OptionError(SpeechError):
    pass


class WeightsError(SpeechError):
    pass


class OutOfMemory(SpeechError):
    """A batch does not fit into the device's memory."""

    code = "out_of_memory"
    retryable = True


class Stopped(SpeechError):
    """Somebody asked for the job to stop."""

    code = "stopped"
