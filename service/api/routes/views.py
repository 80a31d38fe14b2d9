"""Types that requests and responses of several resources share."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.speaker_names import CODE, MAX_PSEUDONYM, is_pseudonym

# Codes are the only text from users that the database stores in the clear. Their patterns are too
# short and too strict for names.
STUDY_CODE = r"^[A-Z][A-Z0-9]{0,11}(-[A-Z0-9]{1,11}){0,2}$"
SESSION_CODE = r"^[A-Z]{1,8}-[0-9]{1,4}$"
SEGMENT_ID = r"^[a-z][0-9]{1,9}(\.[0-9]{1,6})?$"
MAX_FIELDS = 100  # more than any request has
UUID_PATTERN = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

StudyCode = Annotated[str, StringConstraints(pattern=STUDY_CODE), Field(examples=["PEER"])]
SessionCode = Annotated[str, StringConstraints(pattern=SESSION_CODE), Field(examples=["INT-07"])]
SpeakerCode = Annotated[str, StringConstraints(pattern=CODE), Field(examples=["P07"])]


def check_pseudonym(text: str) -> str:
    if not is_pseudonym(text):
        raise PydanticCustomError("pseudonym", "letters, digits, spaces and .'- only")
    return text


def check_text(text: str) -> str:
    """Refuse what no file can hold: unpaired surrogates, and control characters but white space."""
    if any(unicodedata.category(c) in ("Cc", "Cs") and not c.isspace() for c in text):
        raise PydanticCustomError("characters", "control characters are not allowed")
    return text


Pseudonym = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_PSEUDONYM),
    AfterValidator(check_pseudonym),
    Field(description="A name made up for the study, never the person's own."),
]
SegmentText = Annotated[
    str,
    StringConstraints(max_length=100_000),
    AfterValidator(check_text),
    Field(description="What is said. White space counts as one space."),
]
SpeakerRole = Literal["interviewer", "participant", "moderator", "observer", "other"]
StudyName = Annotated[
    str,
    StringConstraints(pattern=f"^({UUID_PATTERN}|{STUDY_CODE[1:-1]})$"),
    Field(description="Id or code of a study.", examples=["PEER"]),
]
SessionName = Annotated[
    str,
    StringConstraints(pattern=f"^({UUID_PATTERN}|{SESSION_CODE[1:-1]})$"),
    Field(description="Id or code of a session.", examples=["INT-07"]),
]
SegmentId = Annotated[
    str,
    StringConstraints(pattern=SEGMENT_ID),
    Field(description="Id of a segment, the same in every version.", examples=["s0004"]),
]


LATEST = datetime(2200, 1, 1, tzinfo=UTC)


def to_utc(time: datetime) -> datetime:
    """The same time in UTC. A zone can move a time out of the years that can be represented.

    Raises:
        ValueError
    """
    try:
        utc = time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None
    if utc > LATEST:
        raise ValueError("the time is after the year 2199")
    return utc


UtcTime = Annotated[
    AwareDatetime,
    AfterValidator(to_utc),
    Field(
        description="A time with its zone, before the year 2200.", examples=["2031-12-31T23:59:59Z"]
    ),
]


class Strict(BaseModel):
    """A request body that refuses unknown fields, so that misspelt ones are noticed."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        """One error for very many unknown fields: each error takes time and memory."""
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "too many fields")
        return value
