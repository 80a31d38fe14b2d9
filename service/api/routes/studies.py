"""Studies and the defaults of their jobs."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from models.errors import UnknownLanguage
from models.languages import AUTO, is_auto, language_code
from models.weights.errors import UnknownModel
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyCode, StudyName
from service.database.tables import Study
from service.domain import audit, studies
from service.domain.callers import STUDY_READERS, Caller
from service.domain.consent import Rule
from service.domain.erasure import erase_study
from service.domain.pages import BadCursor
from service.domain.roster import is_recipient
from service.domain.studies import find_study
from service.errors import RecordingInUse, StudyCodeTaken, StudyNotFound
from service.vault.errors import READ_ERRORS, DiskFull, Erased, UploadBusy

router = APIRouter(prefix="/v1/studies", tags=["studies"], route_class=GuardedRoute)
Administrator = Annotated[Caller, Depends(allow("admin"))]
Eraser = Annotated[Caller, Depends(allow("admin", sealed_too=True))]  # needs no root key
AnyRole = Annotated[Caller, Depends(allow(*STUDY_READERS))]
Researcher = Annotated[Caller, Depends(allow("researcher"))]

EXAMPLE: JsonDict = {"code": "PEER", "language": "de", "model": "large-v3-turbo"}


def _to_code(language: str) -> str:
    try:
        return AUTO if is_auto(language) else language_code(language)
    except UnknownLanguage:
        raise ValueError("not a language that Whisper knows") from None


Language = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z][A-Za-z ]{1,29}$"),
    AfterValidator(_to_code),
    Field(
        description="Code or English name of a language that Whisper knows: `de`, `German`.",
        examples=["de"],
    ),
]
LanguageDefault = Annotated[
    Language | Literal["auto"] | None,
    AfterValidator(lambda language: None if language == AUTO else language),
]
ModelName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$"),
    Field(description="Name of Whisper weights.", examples=["large-v3-turbo"]),
]


def _check_recipient(key: str) -> str:
    if not is_recipient(key):
        raise ValueError("not a public key of age")
    return key


AgeRecipient = Annotated[
    str,
    StringConstraints(pattern=r"^age1[02-9ac-hj-np-z]{58}$"),
    AfterValidator(_check_recipient),
    Field(examples=["age1vjw5s4kwgjgq6ffkh6nst4fgk0xpq49a6mcwg8kruk3a8hecn97qqyc3yy"]),
]
AttributeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_ -]{0,29}$")]
GrantedRole = Literal["researcher", "listener", "deidentifier", "custodian"]


class NewStudy(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    code: StudyCode
    language: LanguageDefault = Field(
        default=None, description="Default of its jobs; null or `auto`: detected."
    )
    model: ModelName | None = Field(
        default=None, description="Default of its jobs; null: the service's."
    )


class Deidentification(Strict):
    """How the study replaces what identifies people. Fields that are left out are not changed."""

    dates: Literal["keep_year", "shift", "generalise"] = Field(
        default="keep_year",
        description="`shift`: by a secret number of days for each participant. `generalise`: to "
        "`early 2010s`.",
    )
    names: Literal["codes", "chosen"] = Field(
        default="codes",
        description="`chosen`: people get names from a list that is not gender-specific. Names "
        "that occur in the study are left out. Who has been released under a code keeps it.",
    )
    custodian_keys: list[AgeRecipient] = Field(
        default=[],
        max_length=5,
        description="Public keys of age. The linkage table leaves the service only encrypted to "
        "them.",
    )


class StudyChange(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"language": "en"}]})

    language: LanguageDefault = None
    model: ModelName | None = None
    admins_may_create: list[GrantedRole] = Field(
        default=[],
        max_length=4,
        description="Roles that read content and that admins may give out for this study. Only an "
        "owner may change it.",
    )
    deidentification: Deidentification = Deidentification()
    attributes: list[AttributeName] = Field(
        default=[],
        max_length=20,
        description="Names of the participants' attributes, such as `role` and `sector`.",
    )
    consent_warnings: list[Rule] = Field(
        default=[],
        max_length=4,
        description="Rules of consent that only warn in this study; the others refuse.",
    )


class DeidentificationView(BaseModel):
    dates: Literal["keep_year", "shift", "generalise"]
    names: Literal["codes", "chosen"]
    custodian_keys: list[str]


class StudyView(BaseModel):
    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    **EXAMPLE,
                    "has_vocabulary": False,
                    "admins_may_create": [],
                    "deidentification": {
                        "dates": "keep_year",
                        "names": "codes",
                        "custodian_keys": [],
                    },
                    "attributes": ["role", "sector"],
                    "consent_warnings": [],
                    "created_at": "2031-01-07T09:12:00Z",
                }
            ]
        },
    )

    id: UUID
    code: str
    language: str | None
    model: str | None
    has_vocabulary: bool
    admins_may_create: list[GrantedRole]
    deidentification: DeidentificationView
    attributes: list[str]
    consent_warnings: list[Rule]
    created_at: datetime

    @classmethod
    def of(cls, study: Study) -> Self:
        known = {name: getattr(study, name) for name in cls.model_fields}
        policy = DeidentificationView.model_validate(asdict(studies.read_policy(study)))
        return cls.model_validate({**known, "deidentification": policy})


class Studies(BaseModel):
    items: list[StudyView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class Vocabulary(Strict):
    """Names and rare words to expect in the study's recordings. They are stored encrypted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"words": ["Birkenau", "Seroquel"]}]})

    words: list[
        Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\r\n\x00]+$")]
    ] = Field(max_length=500)


@router.post("", status_code=201, responses=problems(StudyCodeTaken, UnknownModel, DiskFull))
def create_study(wanted: NewStudy, caller: Administrator, services: ServicesDep) -> StudyView:
    """Create a study and its keys."""
    with services.sessionmaker.begin() as session:
        made = studies.create_study(session, services, caller, **wanted.model_dump())
    return StudyView.of(made)


@router.get("", responses=problems(BadCursor))
def list_studies(
    caller: AnyRole,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> Studies:
    """The caller's studies, by code."""
    with services.sessionmaker() as session:
        page = studies.list_studies(session, caller, limit=limit, cursor=cursor)
        items = [StudyView.of(row) for row in page.rows]
        return Studies(items=items, next_cursor=page.next_cursor)


@router.get("/{study}", responses=problems(StudyNotFound, Erased))
def read_study(study: StudyName, caller: AnyRole, services: ServicesDep) -> StudyView:
    """One study, by id or code."""
    with services.sessionmaker() as session:
        return StudyView.of(find_study(session, caller, study))


@router.patch("/{study}", responses=problems(StudyNotFound, UnknownModel, Erased))
def change_study(
    study: StudyName, change: StudyChange, caller: Administrator, services: ServicesDep
) -> StudyView:
    """Change the defaults of future jobs, or what admins may create. Omitted fields stay."""
    with services.sessionmaker.begin() as session:
        values = change.model_dump(exclude_unset=True)
        changed = studies.change_study(session, caller, study, values)
    return StudyView.of(changed)


@router.get("/{study}/vocabulary", responses=problems(StudyNotFound, *READ_ERRORS, DiskFull))
def read_vocabulary(study: StudyName, caller: Researcher, services: ServicesDep) -> Vocabulary:
    """The words that jobs of the study expect unless they have a vocabulary of their own."""
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        words = studies.read_vocabulary(services, found)
        audit.record(session, caller, "vocabulary.read", found.id, {"study": found.id})
    return Vocabulary(words=words)


@router.put("/{study}/vocabulary", responses=problems(StudyNotFound, *READ_ERRORS, DiskFull))
def replace_vocabulary(
    study: StudyName, vocabulary: Vocabulary, caller: Researcher, services: ServicesDep
) -> Vocabulary:
    """Replace the whole vocabulary. Jobs that are already submitted keep theirs."""
    studies.replace_vocabulary(services, caller, study, vocabulary.words)
    return vocabulary


@router.delete(
    "/{study}",
    status_code=204,
    responses=problems(StudyNotFound, RecordingInUse, Erased, UploadBusy),
)
def delete_study(study: StudyName, caller: Eraser, services: ServicesDep) -> None:
    """Destroy all keys of a study: its recordings, everything made from them, its vocabulary."""
    erase_study(services, caller, study)
