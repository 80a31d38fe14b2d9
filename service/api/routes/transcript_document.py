"""The transcript's JSON as the OpenAPI document describes it.

docs/reference/transcript.md explains the fields.

These models only describe: validating an eight-hour transcript on its way out would take seconds.
A test compares them with what `models.transcript_json` writes.
"""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema


class DocumentWord(BaseModel):
    text: str = Field(description="With the space before it, where the language writes one.")
    start: float = Field(description="Seconds from the start of the first recording.")
    end: float
    probability: float | None = Field(
        description="0 to 1, Whisper's estimate; null if a person wrote the word."
    )
    placed: bool = Field(
        default=False, description="A person wrote the word, and its times were interpolated."
    )


class DocumentName(BaseModel):
    """The names and role that people have given a speaker."""

    role: str | None
    code: str | None
    pseudonym: str | None = Field(description="Made up for the study; shown before the code.")


class DocumentSegment(BaseModel):
    """Consecutive words of one speaker."""

    id: str = Field(description="The same in every version.", examples=["s0001"])
    speaker: str | None = Field(description="A label or a name; null if no speaker was found.")
    start: float
    end: float
    text: str
    checked_by: str | None = Field(
        description="Code of the person who compared it with the recording."
    )
    words: list[DocumentWord]


class DocumentTurn(BaseModel):
    """Who spoke when. Turns of different speakers may overlap."""

    start: float
    end: float
    speaker: str
    certainty: float | None


class DocumentOverlap(BaseModel):
    start: float
    end: float
    speakers: list[str]
    unheard: list[str] = Field(description="Speakers whose words in the overlap are missing.")


class DocumentFlag(BaseModel):
    """A passage to check against the recording."""

    kind: str = Field(examples=["speech_without_words"])
    start: float
    end: float
    evidence: dict[str, float | str]


class DocumentSource(BaseModel):
    """One recording of the session."""

    start: float = Field(description="On the timeline of the transcript, in seconds.")
    duration: float
    container: str
    codec: str
    sample_rate: int = Field(description="Hz")
    channels: int
    n_bytes: int
    sha256: str | None = Field(default=None, description="Once written by batch mode.")
    identity: str | None = Field(default=None, description="Checksum of the file, keyed per study.")
    speaker: str | None = Field(
        default=None, description="Whose recording it is, if each speaker has their own."
    )


class DocumentMadeWith(BaseModel):
    """What is needed to make the same transcript again."""

    fieldscribe: str
    whisper_model: str
    whisper_sha256: str
    diarisation_pipeline: str
    diarisation_sha256: str
    device: str
    options: dict[str, Any]
    versions: dict[str, str]


class DocumentSpeakerStatistics(BaseModel):
    speaker: str
    talk_time: float = Field(description="Seconds.")
    talk_share: float
    turns: int
    words: int
    questions: int
    overlaps: int
    overlap_time: float


class DocumentSuggestion(BaseModel):
    """A speaker's possible role, and the evidence for it."""

    speaker: str
    role: str
    evidence: dict[str, float]


class DocumentStatistics(BaseModel):
    speakers: list[DocumentSpeakerStatistics]
    words_without_speaker: int
    suggestions: list[DocumentSuggestion]


class TranscriptDocument(BaseModel):
    """A transcript with its words, turns and flags. All times are seconds."""

    model_config = ConfigDict(populate_by_name=True)

    schema_name: Literal["fieldscribe.transcript/1"] = Field(alias="schema")
    version: int = Field(
        description="1 for the models' own transcript; each change by a person adds 1."
    )
    duration: float
    language: str = Field(examples=["en"])
    language_probability: float | None = Field(description="null if the language was given.")
    speakers: list[str]
    names: dict[str, DocumentName] = Field(description="By speaker; empty before they are named.")
    segments: list[DocumentSegment]
    turns: list[DocumentTurn]
    overlaps: list[DocumentOverlap]
    flags: list[DocumentFlag]
    sources: list[DocumentSource]
    made_with: DocumentMadeWith
    warnings: list[str]
    written: dict[str, str] = Field(description="In batch mode: SHA-256 of the files beside it.")
    statistics: DocumentStatistics


class DescribedAs:
    """Gives a plain field the JSON schema of a model, without validating it."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        described = handler.generate_schema(self.model)

        def describe(_: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
            return handler(described)

        return core_schema.no_info_before_validator_function(
            lambda value: value,
            handler(source),
            metadata={"pydantic_js_annotation_functions": [describe]},
        )
