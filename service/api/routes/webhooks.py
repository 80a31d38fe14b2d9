"""Webhooks of a study: where its events are sent, and how that went."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.access import LimitsDep, ServicesDep, allow
from service.api.guarded_route import GuardedRoute
from service.api.openapi import problems
from service.api.routes.views import Strict, StudyName
from service.database.tables import WebhookDelivery, WebhookEndpoint
from service.domain import webhooks
from service.domain.callers import Caller
from service.domain.pages import BadCursor
from service.domain.webhooks import WebhookNotAllowed, WebhookNotFound
from service.errors import StudyNotFound
from service.services import Services
from service.vault.errors import READ_ERRORS, DiskFull, Erased

router = APIRouter(
    prefix="/v1/studies/{study}/webhooks", tags=["webhooks"], route_class=GuardedRoute
)
Administrator = Annotated[Caller, Depends(allow("admin"))]

Event = Literal[
    "job.queued",
    "job.started",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "handoff.completed",
    "handoff.failed",
]
DEFAULT_EVENTS: tuple[Event, ...] = ("job.succeeded", "job.failed", "job.cancelled")

ID = "5b3a0d9a-7b10-4d3b-9a39-7c1e0198f2a6"
URL = "https://hooks.example.org/fieldscribe"


class NewWebhook(Strict):
    model_config = ConfigDict(json_schema_extra={"examples": [{"url": URL}]})

    url: Annotated[str, StringConstraints(min_length=9, max_length=1000)] = Field(
        description="On a host that an administrator has allowed: FIELDSCRIBE_WEBHOOK_HOSTS."
    )
    events: list[Event] = Field(default=list(DEFAULT_EVENTS), min_length=1, max_length=7)


class WebhookView(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": ID,
                    "study_id": "6a4c0f3e-3c0e-4f3b-9a39-5b3a0d9a7b10",
                    "url": URL,
                    "events": list(DEFAULT_EVENTS),
                    "enabled": True,
                    "created_at": "2031-01-07T09:12:00Z",
                }
            ]
        }
    )

    id: UUID
    study_id: UUID
    url: str
    events: list[Event]
    enabled: bool = Field(
        description="False after the endpoint answered 410, or its host is no longer allowed; a "
        "ping enables it again."
    )
    created_at: datetime

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, url: str) -> Self:
        return cls(
            id=endpoint.id,
            study_id=endpoint.study_id,
            url=url,
            events=endpoint.events,
            enabled=endpoint.enabled,
            created_at=endpoint.created_at,
        )


class MadeWebhook(WebhookView):
    secret: str = Field(
        description="Verifies signatures. Shown only here; stored encrypted.",
        examples=["whsec_..."],
    )


class Webhooks(BaseModel):
    items: list[WebhookView]


class DeliveryView(BaseModel):
    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "0b0f7a52-6f0f-4a52-8f5c-0c5f3f7a9f11",
                    "event": "job.succeeded",
                    "data": {"job_id": "0198f2a6-7c1e-4d3b-9a39-5b3a0d9a7b10", "study": "PEER"},
                    "state": "delivered",
                    "attempts": 1,
                    "last_status": 204,
                    "last_error": None,
                    "created_at": "2031-01-07T09:12:00Z",
                    "next_attempt_at": "2031-01-07T09:13:00Z",
                    "delivered_at": "2031-01-07T09:12:01Z",
                }
            ]
        },
    )

    id: UUID = Field(description="The header `webhook-id`, the same in every attempt.")
    event: Event | Literal["webhook.ping"]
    data: dict[str, Any]
    state: Literal["pending", "delivered", "failed"]
    attempts: int
    last_status: int | None = Field(description="Of the answer to the last attempt.")
    last_error: str | None = Field(
        description="refused, redirected, unreachable, timed_out, bad_certificate, "
        "address_not_allowed, or a code of the vault."
    )
    created_at: datetime
    next_attempt_at: datetime = Field(description="For a pending one.")
    delivered_at: datetime | None

    @classmethod
    def of(cls, row: WebhookDelivery) -> Self:
        return cls.model_validate(row)


class Deliveries(BaseModel):
    items: list[DeliveryView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.post(
    "",
    status_code=201,
    responses=problems(StudyNotFound, WebhookNotAllowed, *READ_ERRORS, DiskFull),
)
def create_webhook(
    study: StudyName, wanted: NewWebhook, caller: Administrator, services: ServicesDep
) -> MadeWebhook:
    """Send events of a study to an address. Payloads hold ids and codes only.

    They are signed as Standard Webhooks 1.0 says; the secret is shown once.
    """
    with services.sessionmaker.begin() as session:
        endpoint, address = webhooks.create_endpoint(
            session, services, caller, study, wanted.url, list(dict.fromkeys(wanted.events))
        )
        view = WebhookView.of(endpoint, address.url)
    return MadeWebhook(**view.model_dump(), secret=address.secret)


@router.get("", responses=problems(StudyNotFound, *READ_ERRORS))
def list_webhooks(study: StudyName, caller: Administrator, services: ServicesDep) -> Webhooks:
    """The webhooks of a study, without their secrets."""
    with services.sessionmaker() as session:
        rows = webhooks.list_endpoints(session, caller, study)
        return Webhooks(items=[_view(services, row) for row in rows])


@router.delete(
    "/{webhook_id}", status_code=204, responses=problems(StudyNotFound, WebhookNotFound, Erased)
)
def delete_webhook(
    study: StudyName, webhook_id: UUID, caller: Administrator, services: ServicesDep
) -> None:
    """Forget a webhook, its secret and its deliveries."""
    with services.sessionmaker.begin() as session:
        webhooks.delete_endpoint(session, services, caller, study, webhook_id)


@router.post(
    "/{webhook_id}/ping",
    status_code=202,
    responses=problems(StudyNotFound, WebhookNotFound, Erased),
)
def ping_webhook(
    study: StudyName,
    webhook_id: UUID,
    caller: Administrator,
    services: ServicesDep,
    limits: LimitsDep,
) -> DeliveryView:
    """Send `webhook.ping`, a test event. `deliveries` says how it went."""
    limits.uploads.require(str(caller.token_id))
    with services.sessionmaker.begin() as session:
        return DeliveryView.of(webhooks.ping(session, caller, study, webhook_id))


@router.get(
    "/{webhook_id}/deliveries",
    responses=problems(StudyNotFound, WebhookNotFound, BadCursor, Erased),
)
def list_webhook_deliveries(
    study: StudyName,
    webhook_id: UUID,
    caller: Administrator,
    services: ServicesDep,
    limits: LimitsDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="`next_cursor` of the previous page.")
    ] = None,
) -> Deliveries:
    """What was sent to a webhook and what is still to be sent, newest first. Kept for 30 days."""
    limits.polls.require(str(caller.token_id))
    with services.sessionmaker() as session:
        page = webhooks.list_deliveries(
            session, caller, study, webhook_id, limit=limit, cursor=cursor
        )
        items = [DeliveryView.of(row) for row in page.rows]
        return Deliveries(items=items, next_cursor=page.next_cursor)


def _view(services: Services, endpoint: WebhookEndpoint) -> WebhookView:
    return WebhookView.of(endpoint, webhooks.read_address(services, endpoint).url)
