"""The audit trail's chain."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from service import audit_chain
from service.database.tables import AuditEntry
from service.domain import audit
from service.services import Services

OBJECTS: dict[str, UUID | str] = {"participant": "P07"}


def add(services: Services, number: int) -> None:
    detail: dict[str, audit.Value] = {"n": number}
    audit.record_now(services, None, "participant.created", None, OBJECTS, detail=detail)


def verify(services: Services) -> tuple[audit_chain.Finding, ...]:
    with services.sessionmaker() as session:
        return audit.verify(session).findings


def last_position(services: Services) -> int:
    with services.sessionmaker() as session:
        return session.scalar(sa.select(sa.func.max(AuditEntry.position))) or 0


def test_entries_of_requests_at_the_same_time_form_one_chain(services: Services) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: add(services, n), range(40)))
    with services.sessionmaker() as session:
        entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.position)).all()
    numbers = [entry.detail["n"] for entry in entries if "n" in entry.detail]
    assert sorted(numbers) == list(range(40))
    assert verify(services) == ()


def test_an_action_that_is_rolled_back_leaves_no_entry(services: Services) -> None:
    before = last_position(services)
    with pytest.raises(ZeroDivisionError), services.sessionmaker.begin() as session:
        audit.record(session, None, "participant.created", None, OBJECTS)
        1 / 0  # noqa: B018
    assert last_position(services) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET role = 'owner'",
        "DELETE FROM audit_entry",
        "TRUNCATE audit_entry",
    ],
)
def test_the_database_refuses_to_change_the_trail(services: Services, statement: str) -> None:
    add(services, 1)
    refused: Any = pytest.raises(sa.exc.DBAPIError, match="append-only")
    with refused, services.sessionmaker.begin() as session:
        session.execute(sa.text(statement))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit_entry SET detail = '{}' WHERE position = :position",
        "UPDATE audit_entry SET at = at - interval '1 day' WHERE position = :position",
        "DELETE FROM audit_entry WHERE position = :position",
    ],
)
def test_an_entry_that_was_changed_or_removed_is_found(services: Services, tampering: str) -> None:
    for number in range(3):
        add(services, number)
    position = last_position(services) - 1
    with services.sessionmaker() as session:  # rolled back, so that other tests find it whole
        assert audit.verify(session).findings == ()
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        session.execute(sa.text(tampering), {"position": position})
        session.expire_all()
        assert audit.verify(session).findings[0].position == position
