"""Certificates of withdrawals and destructions: listed, and read as signed JSON or PDF."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict

from service import signing
from service.api.access import ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import StudyName
from service.database.tables import Certificate
from service.domain import certificates
from service.domain.callers import Caller
from service.domain.certificates import CertificateNotFound
from service.errors import StudyNotFound
from service.exports.certificates import certificate_pdf
from service.vault.errors import Erased

router = APIRouter(prefix="/v1/certificates", tags=["withdrawals"], route_class=GuardedRoute)
Reader = Annotated[Caller, Depends(allow("researcher", "custodian", "admin", sealed_too=True))]

CERTIFICATE: dict[str, Any] = {
    "id": "7b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
    "kind": "withdrawal",
    "subject": "P07",
    "created_at": "2031-01-07T10:00:00Z",
    "complete": True,
}


class CertificateView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [CERTIFICATE]})

    id: UUID
    study_id: UUID
    kind: Literal["withdrawal", "destruction"]
    subject: str
    created_at: datetime
    complete: bool

    @classmethod
    def of(cls, row: Certificate) -> "CertificateView":
        return cls(
            id=row.id,
            study_id=row.study_id,
            kind=row.kind,  # type: ignore[arg-type]
            subject=row.subject,
            created_at=row.created_at,
            complete=certificates.content_of(row)["complete"],
        )


class CertificateList(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [CERTIFICATE]}]})

    items: list[CertificateView]


class PublicKeyView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "public_key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
                    "fingerprint": "21fe 31df a154 a261 626b f854 046f d227",
                }
            ]
        }
    )

    public_key: str
    fingerprint: str


@router.get("", responses=problems(StudyNotFound, Erased))
def list_certificates(
    caller: Reader, services: ServicesDep, study: Annotated[StudyName | None, Query()] = None
) -> CertificateList:
    """The certificates of your studies, newest first."""
    with services.sessionmaker() as session:
        rows = certificates.list_certificates(session, caller, study)
        return CertificateList(items=list(map(CertificateView.of, rows)))


@router.get("/public-key")
def read_public_key(caller: Reader, services: ServicesDep) -> PublicKeyView:
    """The key that this installation's certificates are checked with: Ed25519, in base64."""
    key = certificates.public_key(services.settings)
    return PublicKeyView(public_key=key, fingerprint=signing.fingerprint(key))


@router.get(
    "/{certificate_id}",
    response_class=Response,
    responses={
        200: {
            "description": "The signed certificate, or a reading copy as PDF.",
            "content": {"application/json": {}, "application/pdf": {}},
        },
        **problems(CertificateNotFound),
    },
)
def read_certificate(
    certificate_id: UUID,
    caller: Reader,
    services: ServicesDep,
    format: Annotated[Literal["json", "pdf"], Query()] = "json",
) -> Response:
    """The certificate as signed JSON, which `fieldscribe certificate verify` reads, or as PDF."""
    with services.sessionmaker() as session:
        row = certificates.find_certificate(session, caller, certificate_id)
    if format == "pdf":
        document = certificates.content_of(row)
        content = certificate_pdf(document, row.signature, row.public_key)
    else:
        content = certificates.signed_json(row)
    name = f"certificate-{row.subject}-{row.id.hex[:8]}.{format}"
    return Response(
        content,
        media_type=f"application/{format}",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
