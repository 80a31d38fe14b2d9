"""Papers about a study, and deposits for archives."""

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName, check_text
from service.domain import audit, study_facts
from service.domain.callers import Caller
from service.domain.consent import ConsentMissing
from service.domain.deposits import (
    Deposited,
    DepositOutdated,
    NothingToDeposit,
    read_deposit,
)
from service.domain.release_content import NamesLeft
from service.domain.releases import NothingReleased
from service.domain.studies import find_study
from service.errors import StudyNotFound
from service.exports import DOCX, Format
from service.exports.deposit import DepositedRelease, Description, deposit_zip
from service.exports.papers import Paper, PaperFormat, paper_docx, paper_text
from service.exports.releases import REPORT, release_file_name
from service.vault.errors import READ_ERRORS

router = APIRouter(prefix="/v1/studies", tags=["papers"], route_class=GuardedRoute)
Writer = Annotated[Caller, Depends(allow("researcher", "custodian"))]

CONTENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The paper, written from what is recorded about the study.",
        "content": {DOCX: {}, "text/plain": {}},
    }
}


@router.get(
    "/{study}/papers/{paper}",
    response_class=Response,
    responses={**CONTENT, **problems(StudyNotFound, *READ_ERRORS)},
)
def read_paper(
    study: StudyName,
    paper: Paper,
    caller: Writer,
    services: ServicesDep,
    format: Annotated[PaperFormat, Query()] = "docx",
) -> Response:
    """A methods or data-management paragraph, an ethics annex, or a text for participants."""
    is_text = format == "txt"
    with services.sessionmaker.begin() as session:
        found = find_study(session, caller, study)
        facts = study_facts.read_facts(session, services, found)
        content = (paper_text if is_text else paper_docx)(paper, facts)
        audit.record(
            session,
            caller,
            "paper.exported",
            found.id,
            {"study": found.id},
            detail={"paper": paper, "sha256": hashlib.sha256(content).hexdigest()},
        )
    return Response(
        content,
        media_type="text/plain; charset=utf-8" if is_text else DOCX,
        headers={"Content-Disposition": f'attachment; filename="{facts.study}.{paper}.{format}"'},
    )


Line = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(check_text)]


class DepositRequest(Strict):
    """What only the researcher knows about the data; the rest is recorded."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "Peer work in mental health: interviews and a focus group, 2031",
                    "creators": ["Doe, Jane"],
                    "abstract": "Twenty-five peer workers describe their work.",
                    "rights": "Access for registered users, for research only",
                }
            ]
        }
    )

    title: Line
    creators: list[Line] = Field(min_length=1, max_length=50)
    abstract: Annotated[
        str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(check_text)
    ]
    rights: Line = Field(description="A licence, or the archive's conditions of access.")
    keywords: list[Line] = Field(default=[], max_length=50)
    funders: list[Line] = Field(default=[], max_length=20)
    contact: Line | None = None
    formats: list[Format] = Field(default=[Format.DOCX, Format.TXT], min_length=1, max_length=30)


@router.post(
    "/{study}/deposit",
    response_class=Response,
    responses={
        200: {
            "description": "A bag (BagIt 1.0) in a zip file.",
            "content": {"application/zip": {}},
        },
        **problems(
            StudyNotFound,
            NothingReleased,
            NothingToDeposit,
            DepositOutdated,
            NamesLeft,
            ConsentMissing,
            *READ_ERRORS,
        ),
    },
)
def make_deposit(
    study: StudyName, wanted: DepositRequest, caller: Writer, services: ServicesDep
) -> Response:
    """The newest releases for outsiders, with metadata, reports and checksums, for an archive."""
    formats = [*dict.fromkeys([*map(str, wanted.formats), REPORT])]
    with services.sessionmaker.begin() as session:
        facts, found, cells = read_deposit(session, services, caller, study, formats)
        study_id = find_study(session, caller, study).id
    description = Description(
        wanted.title,
        tuple(wanted.creators),
        wanted.abstract,
        wanted.rights,
        tuple(wanted.keywords),
        tuple(wanted.funders),
        wanted.contact,
    )
    content = deposit_zip(description, facts, [_named(each) for each in found], cells)
    audit.record_now(
        services,
        caller,
        "deposit.exported",
        study_id,
        {},
        detail={
            "releases": [str(each.release_id) for each in found],
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    )
    return Response(
        content,
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{facts.study}.deposit.zip"'},
    )


def _named(each: Deposited) -> DepositedRelease:
    """The release with the names that its files have in the deposit."""
    names = {format: release_file_name(each.session, each.number, format) for format in each.files}
    return DepositedRelease(
        each.session,
        each.kind,
        each.created_on,
        {names[format]: file for format, file in each.files.items() if format != REPORT},
        names[REPORT],
        each.files[REPORT],
        each.language,
    )
