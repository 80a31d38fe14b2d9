"""What can go wrong around the models.

    ServiceError
    ├── RecordingNotFound
    └── Misused               nothing was begun
        ├── OutputNotWritable
        ├── SameName
        └── VocabularyNotReadable

Every leaf has a stable `code`; docs/errors.md lists them. Messages are one sentence and never hold
text, names or paths of recordings.
"""

from typing import ClassVar


class ServiceError(Exception):
    code: ClassVar[str] = "service_error"


class RecordingNotFound(ServiceError):
    """A recording is not there or may not be read."""

    code = "recording_not_found"


class Misused(ServiceError):
    pass


class OutputNotWritable(Misused):
    """Results cannot be written where they should go."""

    code = "output_not_writable"


class SameName(Misused):
    """Two recordings would have the same result."""

    code = "same_name"


class VocabularyNotReadable(Misused):
    """The vocabulary file is not there or is not UTF-8 text."""

    code = "vocabulary_not_readable"
