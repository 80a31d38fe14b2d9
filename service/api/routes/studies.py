"""Studies, with the defaults of their jobs."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict
from sqlalchemy import select

from models.languages import LANGUAGES
from models.weights.catalogue import DEMO, find_model
from models.weights.errors import UnknownModel
from service.api.access import ServicesDep, allow
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyCode, StudyName
from service.database.tables import Study, TokenStudy
from service.domain.callers import SEES_STUDIES, Caller
from service.domain.erasure import erase_study
from service.domain.studies import create_study_keys, find_study, store_vocabulary, study_vocabulary
from service.errors import RecordingInUse, StudyCodeTaken, StudyNotFound
from service.vault import ArtefactClass
from service.vault.errors import READ_ERRORS, DiskFull, Erased, UploadBusy

router = APIRouter(prefix="/v1/studies", tags=["studies"])
Administrator = Annotated[Caller, Depends(allow("admin"))]
Eraser = Annotated[Caller, Depends(allow("admin", sealed_too=True))]  # needs no root key
Anybody = Annotated[Caller, Depends(allow(*SEES_STUDIES))]
Researcher = Annotated[Caller, Depends(allow("researcher"))]

EXAMPLE: JsonDict = {"code": "PEER", "language": "de", "model": "large-v3-turbo"}


def _is_known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError("no language of Whisper")
    return language


Language = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z]{2,3}$"),
    AfterValidator(_is_known),
    Field(description="Code of a language that Whisper knows.", examples=["de"]),
]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$"),
    Field(description="Name of Whisper weights.", examples=["large-v3-turbo"]),
]


class NewStudy(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    code: StudyCode
    language: Language | None = Field(default=None, description="Of its jobs; null is found out.")
    model: ModelName | None = Field(default=None, description="Of its jobs; null is the service's.")


class StudyChange(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "en"}]})

    language: Language | None = None
    model: ModelName | None = None


class StudyView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    **EXAMPLE,
                    "has_vocabulary": False,
                    "created_at": "2031-01-07T09:12:00Z",
                }
            ]
        }
    )

    id: UUID
    code: str
    language: str | None
    model: str | None
    has_vocabulary: bool
    created_at: datetime

    @classmethod
    def of(cls, study: Study) -> Self:
        return cls(
            id=study.id,
            code=study.code,
            language=study.language,
            model=study.model,
            has_vocabulary=study.vocabulary_artefact_id is not None,
            created_at=study.created_at,
        )


class Studies(BaseModel):
    items: list[StudyView]


class Vocabulary(Strict):
    """Names and rare words that its recordings are likely to hold. Content: kept encrypted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"words": ["Birkenau", "Seroquel"]}]})

    words: list[
        Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\r\n\x00]+$")]
    ] = Field(max_length=500)


@router.post("", status_code=201, responses=problems(StudyCodeTaken, UnknownModel, DiskFull))
def create_study(wanted: NewStudy, caller: Administrator, services: ServicesDep) -> StudyView:
    """Make a study and its keys."""
    refuse_unknown_model(wanted.model)
    with services.sessionmaker.begin() as session:
        if session.scalar(select(Study.id).where(Study.code == wanted.code)) is not None:
            raise StudyCodeTaken("Another study has this code")
        study = Study(id=uuid4(), **wanted.model_dump())
        create_study_keys(services, study.id)
        session.add(study)
        session.flush()
        if not caller.all_studies:
            session.add(TokenStudy(token_id=caller.token_id, study_id=study.id))
    return StudyView.of(study)


@router.get("")
def list_studies(caller: Anybody, services: ServicesDep) -> Studies:
    """The caller's studies, by code."""
    query = caller.limit(select(Study).where(Study.erased_at.is_(None)), Study.id)
    with services.sessionmaker() as session:
        rows = session.scalars(query.order_by(Study.code))
        return Studies(items=[StudyView.of(study) for study in rows])


@router.get("/{study}", responses=problems(StudyNotFound, Erased))
def read_study(study: StudyName, caller: Anybody, services: ServicesDep) -> StudyView:
    """One study, by id or code."""
    with services.sessionmaker() as session:
        return StudyView.of(find_study(session, caller, study))


@router.patch("/{study}", responses=problems(StudyNotFound, UnknownModel, Erased))
def change_study(
    study: StudyName, change: StudyChange, caller: Administrator, services: ServicesDep
) -> StudyView:
    """Change the defaults of later jobs; what is not named stays."""
    refuse_unknown_model(change.model)
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        for name, value in change.model_dump(exclude_unset=True).items():
            setattr(found, name, value)
    return StudyView.of(found)


@router.get("/{study}/vocabulary", responses=problems(StudyNotFound, *READ_ERRORS, DiskFull))
def read_vocabulary(study: StudyName, caller: Researcher, services: ServicesDep) -> Vocabulary:
    """Words that jobs of the study listen for unless they bring their own."""
    with services.sessionmaker() as session:
        found = find_study(session, caller, study)
    return Vocabulary(words=study_vocabulary(services, found))


@router.put("/{study}/vocabulary", responses=problems(StudyNotFound, *READ_ERRORS, DiskFull))
def replace_vocabulary(
    study: StudyName, vocabulary: Vocabulary, caller: Researcher, services: ServicesDep
) -> Vocabulary:
    """Replace all of it. Jobs that were submitted already keep theirs."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        old = found.vocabulary_artefact_id
        new = store_vocabulary(services, found.id, vocabulary.words) if vocabulary.words else None
        found.vocabulary_artefact_id = new
    if old is not None:
        services.vault.stores[ArtefactClass.IDENTIFIED].delete(old)
    return vocabulary


@router.delete(
    "/{study}",
    status_code=204,
    responses=problems(StudyNotFound, RecordingInUse, Erased, UploadBusy),
)
def delete_study(study: StudyName, caller: Eraser, services: ServicesDep) -> None:
    """Destroy all keys of a study: its recordings, what was made of them, its vocabulary."""
    erase_study(services, caller, study)


def refuse_unknown_model(name: str | None) -> None:
    """A name that exists; whether it is installed is asked when a job is submitted.

    Raises:
        UnknownModel
    """
    if name is not None and name != DEMO:
        find_model(name, "whisper")
