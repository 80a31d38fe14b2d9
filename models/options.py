"""The options of one job: what may be chosen for a transcript, from the request to the pipeline."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from models.errors import BadSpeakerCount
from models.languages import is_auto, language_code
from models.precision import Precision
from models.roster import RosterEntry, check_roster, speaker_bounds

MAX_SPEAKERS = 20


@dataclass(frozen=True)
class SpeakerCount:
    """How many people speak: an exact number, bounds, or (None, None) if it is unknown."""

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
        """Read `6` or `2-4`.

        Raises:
            BadSpeakerCount
        """
        low, dash, high = text.partition("-")
        try:
            return cls(int(low), int(high if dash else low))
        except ValueError:
            raise BadSpeakerCount("Write the number of speakers as 6, or a range as 2-4.") from None

    @property
    def is_exact(self) -> bool:
        return self.minimum is not None and self.minimum == self.maximum

    def __str__(self) -> str:
        if self.minimum == self.maximum:
            return "unknown" if self.minimum is None else str(self.minimum)
        return f"{self.minimum or 1}-{self.maximum or MAX_SPEAKERS}"


class Channels(StrEnum):
    """What the channels of a recording are; `auto` detects whether each is one speaker.

    `parallel`: each recording of the session is one speaker; they were made at the same time.
    """

    AUTO = "auto"
    MIX = "mix"
    SPLIT = "split"
    PARALLEL = "parallel"


@dataclass(frozen=True)
class JobOptions:
    """What can be chosen for one job, apart from the model weights.

    To add an option, add a field here and use it in models/pipeline.py; then
    - in the API, add it to `NewJob` (routes/jobs.py) and `OptionsView` (routes/job_views.py);
    - on the command line, declare it in commands/options.py and add it to `transcribe` (main.py)
      and `upload` (upload.py).
    The request, the job's row, the worker's messages and the transcript then carry it; a field that
    JSON cannot hold as it is also needs a line in `to_row` and `from_row`.

    Args:
        language: code or English name, kept as the code; None or `auto`: detected by vote.
        vocabulary: names and terms to expect. Content: never stored in the job's row.
        channels: all but MIX need recordings that were decoded with their channels apart.
        roster: the people of the session.
        translate: into English, whatever language is spoken.
        mixed_languages: a window may be decoded in another language than the session's.

    Raises:
        UnknownLanguage, BadRoster
    """

    language: str | None = None
    speakers: SpeakerCount = SpeakerCount()
    vocabulary: tuple[str, ...] = ()
    channels: Channels = Channels.AUTO
    roster: tuple[RosterEntry, ...] = ()
    translate: bool = False
    mixed_languages: bool = False

    def __post_init__(self) -> None:
        if self.language is not None:
            code = None if is_auto(self.language) else language_code(self.language)
            object.__setattr__(self, "language", code)
        check_roster(self.roster)

    @property
    def expected_speakers(self) -> SpeakerCount:
        """The chosen number, otherwise as many as are on the roster."""
        if self.by_roster:
            return SpeakerCount(*speaker_bounds(self.roster))
        return self.speakers

    @property
    def by_roster(self) -> bool:
        """Whether `expected_speakers` comes from the roster."""
        return self.speakers == SpeakerCount() and bool(self.roster)

    def to_row(self) -> dict[str, Any]:
        """JSON for the job's row and the worker's messages: everything but the vocabulary."""
        plain = asdict(self)
        del plain["vocabulary"], plain["speakers"]
        return {
            **plain,
            "speakers_min": self.speakers.minimum,
            "speakers_max": self.speakers.maximum,
            "channels": str(self.channels),
            "roster": list(plain["roster"]),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_row` wrote; options that are missing from an older row get the default."""
        plain = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        return cls(
            **{
                **plain,
                "speakers": SpeakerCount(row.get("speakers_min"), row.get("speakers_max")),
                "channels": Channels(row.get("channels", Channels.AUTO)),
                "roster": tuple(RosterEntry(**entry) for entry in row.get("roster", ())),
            }
        )

    def to_transcript(self, precision: Precision | None) -> dict[str, Any]:
        """JSON for a transcript's `made_with.options`.

        Args:
            precision: what the models were loaded with; None is the device's default.
        """
        plain = asdict(self)
        return {
            **plain,
            "speakers": str(self.speakers),
            "vocabulary": list(self.vocabulary),
            "channels": str(self.channels),
            "roster": list(plain["roster"]),
            "precision": precision,
        }
