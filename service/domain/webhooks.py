"""Webhooks: endpoints that receive events about a study's jobs, and the deliveries to them.

Events follow Standard Webhooks 1.0 (https://www.standardwebhooks.com): signed, sent at least once,
and repeated over seven hours until the endpoint answers 2xx.

ServiceError
├── WebhookNotFound
└── WebhookNotAllowed
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as DbSession

from service.database.queries import read_clock
from service.database.tables import Study, WebhookDelivery, WebhookEndpoint
from service.domain import audit
from service.domain.callers import Caller
from service.domain.outbox import emit_ping
from service.domain.pages import Page, page_of
from service.domain.pinned_http import Undeliverable, post, split_list
from service.domain.studies import find_study
from service.errors import ServiceError
from service.services import Services
from service.settings import Settings
from service.vault import ArtefactClass
from service.vault.errors import Erased
from service.vault.store import Artefact

ENDPOINT = "webhook_endpoint"
SECRET_PREFIX = "whsec_"  # of Standard Webhooks
SECRET_BYTES = 32
RETRIES = tuple(timedelta(seconds=n) for n in (30, 120, 600, 3600, 6 * 3600))
LEASE = timedelta(seconds=60)  # longer than a delivery takes
POLL_EVERY = 2.0  # s
TIDY_EVERY = 3600.0  # s
KEEP_FOR = timedelta(days=30)
MAX_AT_ONCE, MAX_PER_ENDPOINT = 8, 2
MAX_ENDPOINTS = 10  # of a study

log = logging.getLogger(__name__)


class WebhookNotFound(ServiceError):
    """The study has no such webhook."""

    code: ClassVar[str] = "webhook_not_found"
    status: ClassVar[int] = 404


class WebhookNotAllowed(ServiceError):
    """Webhooks may not be sent to this address, or the study has too many."""

    code: ClassVar[str] = "webhook_not_allowed"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class Address:
    """Where to send, and the key of the signature. Kept in the vault."""

    url: str
    secret: str


# --- endpoints ------------------------------------------------------------------------------------


def create_endpoint(
    session: DbSession,
    services: Services,
    caller: Caller,
    study: str,
    url: str,
    events: Sequence[str],
) -> tuple[WebhookEndpoint, Address]:
    """
    Raises:
        StudyNotFound, WebhookNotAllowed, Erased, KeyMissing, KeyDamaged, DiskFull
    """
    found = find_study(session, caller, study)
    refuse_url(services.settings, url)
    session.refresh(found, with_for_update=True)
    own = select(WebhookEndpoint.id).where(WebhookEndpoint.study_id == found.id)
    if len(session.scalars(own).all()) >= MAX_ENDPOINTS:
        raise WebhookNotAllowed(f"A study has at most {MAX_ENDPOINTS} webhooks: delete one first")
    secret = SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()
    address = Address(url, secret)
    artefact = Artefact(found.id, found.id, ENDPOINT, uuid4())
    store = services.vault.stores[ArtefactClass.IDENTIFIED]
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(found.id, found.id)
    with store.write(artefact, key) as file:
        file.write(json.dumps(vars(address)).encode())
    endpoint = WebhookEndpoint(
        id=uuid4(),
        study_id=found.id,
        token_id=caller.token_id,
        endpoint_artefact_id=artefact.id,
        events=list(events),
    )
    session.add(endpoint)
    session.flush()
    audit.record(
        session,
        caller,
        "webhook.created",
        found.id,
        {"webhook": endpoint.id},
        detail={"events": list(events)},
    )
    log.info("webhook %s: created by token %s", endpoint.id, caller.token_id)
    return endpoint, address


def refuse_url(settings: Settings, url: str) -> None:
    """Check an address against the administrator's list. What it resolves to is checked later.

    Raises:
        WebhookNotAllowed
    """
    hosts = split_list(settings.webhook_hosts)
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise WebhookNotAllowed("The address is not a URL") from None
    schemes = ("https", "http") if settings.webhook_private_networks else ("https",)
    if parts.scheme not in schemes or parts.username or parts.password or parts.fragment:
        raise WebhookNotAllowed(
            "A webhook's address begins with https:// and has no user, password or #"
        )
    if (host if port is None else f"{host}:{port}") not in hosts:
        raise WebhookNotAllowed(
            "An administrator must first add this host to FIELDSCRIBE_WEBHOOK_HOSTS"
        )


def read_address(services: Services, endpoint: WebhookEndpoint) -> Address:
    """
    Raises:
        Sealed, Erased, KeyMissing, KeyDamaged, ArtefactMissing, ArtefactDamaged
    """
    key = services.vault.keyrings[ArtefactClass.IDENTIFIED].data_key(
        endpoint.study_id, endpoint.study_id
    )
    artefact = Artefact(
        endpoint.study_id, endpoint.study_id, ENDPOINT, endpoint.endpoint_artefact_id
    )
    with services.vault.stores[ArtefactClass.IDENTIFIED].open(artefact, key) as file:
        return Address(**json.loads(file.read()))


def list_endpoints(session: DbSession, caller: Caller, study: str) -> Sequence[WebhookEndpoint]:
    """
    Raises:
        StudyNotFound, Erased
    """
    found = find_study(session, caller, study)
    query = select(WebhookEndpoint).where(WebhookEndpoint.study_id == found.id)
    return session.scalars(query.order_by(WebhookEndpoint.created_at)).all()


def find_endpoint(
    session: DbSession, caller: Caller, study: str, endpoint_id: UUID
) -> WebhookEndpoint:
    """
    Raises:
        StudyNotFound, WebhookNotFound, Erased
    """
    found = find_study(session, caller, study)
    endpoint = session.get(WebhookEndpoint, endpoint_id)
    if endpoint is None or endpoint.study_id != found.id:
        raise WebhookNotFound("The study has no such webhook")
    return endpoint


def delete_endpoint(
    session: DbSession, services: Services, caller: Caller, study: str, endpoint_id: UUID
) -> None:
    """Delete an endpoint, its secret and its deliveries.

    Raises:
        StudyNotFound, WebhookNotFound, Erased
    """
    endpoint = find_endpoint(session, caller, study, endpoint_id)
    place = {"webhook": endpoint.id}
    audit.record(session, caller, "webhook.deleted", endpoint.study_id, place)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id))
    session.delete(endpoint)
    services.vault.stores[ArtefactClass.IDENTIFIED].delete(endpoint.endpoint_artefact_id)


def forget_study(session: DbSession, services: Services, study: Study) -> None:
    """Delete the endpoints of a study that is erased, with their deliveries."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.study_id == study.id)
    for endpoint in session.scalars(query).all():
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id))
        session.delete(endpoint)
        services.vault.stores[ArtefactClass.IDENTIFIED].delete(endpoint.endpoint_artefact_id)


def ping(session: DbSession, caller: Caller, study: str, endpoint_id: UUID) -> WebhookDelivery:
    """Send a test event; an endpoint that was disabled is enabled again.

    Raises:
        StudyNotFound, WebhookNotFound, Erased
    """
    endpoint = find_endpoint(session, caller, study, endpoint_id)
    endpoint.enabled = True
    place = {"webhook": endpoint.id}
    audit.record(session, caller, "webhook.tested", endpoint.study_id, place)
    return emit_ping(session, endpoint)


def list_deliveries(
    session: DbSession,
    caller: Caller,
    study: str,
    endpoint_id: UUID,
    *,
    limit: int,
    cursor: str | None,
) -> Page[WebhookDelivery]:
    """The deliveries to an endpoint, newest first.

    Raises:
        StudyNotFound, WebhookNotFound, Erased, BadCursor
    """
    endpoint = find_endpoint(session, caller, study, endpoint_id)
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id)
    return page_of(session, WebhookDelivery, query, limit=limit, cursor=cursor)


# --- sending --------------------------------------------------------------------------------------


async def send_events(services: Services) -> None:
    """Send the events in the outbox until cancelled. A slow receiver does not delay others."""
    loop, tidied = asyncio.get_running_loop(), time.monotonic()
    threads = ThreadPoolExecutor(MAX_AT_ONCE)
    try:
        while True:
            claimed: list[UUID] = []
            try:
                if not services.vault.sealed:
                    claimed = await asyncio.to_thread(claim_due, services)
                    await asyncio.gather(
                        *(loop.run_in_executor(threads, send, services, id) for id in claimed)
                    )
                if time.monotonic() > tidied + TIDY_EVERY:
                    await asyncio.to_thread(forget_old, services)
                    tidied = time.monotonic()
            except (SQLAlchemyError, ServiceError, OSError) as error:
                log.warning("webhooks cannot be sent: %s", type(error).__name__)
            if not claimed:
                await asyncio.sleep(POLL_EVERY)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def claim_due(services: Services) -> list[UUID]:
    """Claim deliveries that are due, a few for each endpoint; no other process gets them."""
    with services.sessionmaker.begin() as session:
        now = read_clock(session)
        due = session.scalars(
            select(WebhookDelivery)
            .where(WebhookDelivery.state == "pending", WebhookDelivery.next_attempt_at <= now)
            .order_by(WebhookDelivery.next_attempt_at)
            .limit(200)
            .with_for_update(skip_locked=True)
        ).all()
        chosen: list[UUID] = []
        n_of_endpoint: Counter[UUID] = Counter()
        for delivery in due:
            if len(chosen) == MAX_AT_ONCE:
                break
            if n_of_endpoint[delivery.endpoint_id] < MAX_PER_ENDPOINT:
                n_of_endpoint[delivery.endpoint_id] += 1
                delivery.attempts += 1
                delivery.next_attempt_at = now + LEASE
                chosen.append(delivery.id)
        return chosen


def send(services: Services, delivery_id: UUID) -> None:
    """Send one delivery and record the outcome."""
    with services.sessionmaker() as session:
        delivery = session.get(WebhookDelivery, delivery_id)
        if delivery is None:
            return  # its endpoint was deleted just now
        endpoint = session.get_one(WebhookEndpoint, delivery.endpoint_id)
    status: int | None = None
    error: str | None = None
    try:
        address = read_address(services, endpoint)
        refuse_url(services.settings, address.url)  # the list may have changed
        body = body_of(delivery)
        headers = headers_of(delivery, address.secret, body, datetime.now(UTC))
        networks = split_list(services.settings.webhook_private_networks)
        status = post(address.url, body, headers, networks)
    except (Undeliverable, ServiceError) as failure:
        error = failure.code
    _record(services, delivery_id, status, error)


def body_of(delivery: WebhookDelivery) -> bytes:
    payload = {
        "type": delivery.event,
        "timestamp": delivery.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": delivery.data,
    }
    return json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()


def headers_of(
    delivery: WebhookDelivery, secret: str, body: bytes, now: datetime
) -> dict[str, str]:
    """Source: Standard Webhooks 1.0, "Signature scheme"."""
    at = str(int(now.timestamp()))
    signed = f"{delivery.id}.{at}.".encode() + body
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "fieldscribe",
        "webhook-id": str(delivery.id),
        "webhook-timestamp": at,
        "webhook-signature": f"v1,{signature}",
    }


def _record(services: Services, delivery_id: UUID, status: int | None, error: str | None) -> None:
    with services.sessionmaker.begin() as session:
        delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True)
        if delivery is None:
            return
        now = read_clock(session)
        delivery.last_status, delivery.last_error = status, error
        if status is not None and 200 <= status < 300:
            delivery.state, delivery.delivered_at = "delivered", now
            return
        if status is not None:
            delivery.last_error = "redirected" if 300 <= status < 400 else "refused"
        gone = status == 410 or error in (Erased.code, WebhookNotAllowed.code)
        if gone:
            session.get_one(WebhookEndpoint, delivery.endpoint_id).enabled = False
        if gone or delivery.attempts > len(RETRIES):
            delivery.state = "failed"
        else:
            delivery.next_attempt_at = now + RETRIES[delivery.attempts - 1]
    log.warning("webhook delivery %s: %s %s", delivery_id, delivery.last_error, status or "")


def forget_old(services: Services) -> None:
    """Delete deliveries from the log after a month."""
    with services.sessionmaker.begin() as session:
        before = read_clock(session) - KEEP_FOR
        session.execute(
            delete(WebhookDelivery).where(
                WebhookDelivery.created_at < before, WebhookDelivery.state != "pending"
            )
        )
