"""Pages of lists, newest first; a cursor says where the next page starts."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session as DbSession

from service.database.tables import Handoff, Job, Recording
from service.errors import ServiceError

Row = TypeVar("Row", Job, Handoff, Recording)


class BadCursor(ServiceError):
    """The cursor does not come from a list."""

    code: ClassVar[str] = "bad_cursor"
    status: ClassVar[int] = 422


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: Sequence[Row]
    next_cursor: str | None


def page_of(
    session: DbSession,
    table: type[Row],
    query: Select[Row],
    *,
    limit: int,
    cursor: str | None,
) -> Page[Row]:
    """
    Raises:
        BadCursor
    """
    if cursor is not None:
        query = query.where(tuple_(table.created_at, table.id) < read_cursor(cursor))
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    rows = session.scalars(query).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return Page(rows[:limit], make_cursor(last.created_at, last.id) if last else None)


def make_cursor(at: datetime, id: UUID) -> str:
    plain = f"{at.isoformat()} {id}".encode()
    return base64.urlsafe_b64encode(plain).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """
    Raises:
        BadCursor
    """
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, id = plain.partition(" ")
        time = datetime.fromisoformat(at)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return time, UUID(id)
    except (ValueError, binascii.Error):
        raise BadCursor("The cursor does not come from a list") from None
