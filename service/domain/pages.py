"""Pages of lists, most of them newest first; a cursor says where the next page starts."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session as DbSession

from service.database.tables import (
    Entity,
    Handoff,
    Job,
    MaskedAudio,
    Recording,
    Release,
    Study,
    Token,
    WebhookDelivery,
)
from service.errors import ServiceError

Row = TypeVar(
    "Row", Entity, Job, Handoff, MaskedAudio, Recording, Release, Study, Token, WebhookDelivery
)


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
    return encode_cursor(at.isoformat(), str(id))


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    """
    Raises:
        BadCursor
    """
    at, id = decode_cursor(cursor)
    try:
        time = datetime.fromisoformat(at)
        if time.tzinfo is None:
            raise ValueError("no time zone")
        return time.astimezone(UTC), UUID(id)
    except (ValueError, OverflowError):
        raise BadCursor("The cursor does not come from a list") from None


def encode_cursor(first: str, second: str) -> str:
    """
    Args:
        first, second: what the list is sorted by, of the last row of a page; without spaces.
    """
    return base64.urlsafe_b64encode(f"{first} {second}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[str, str]:
    """
    Raises:
        BadCursor
    """
    try:
        plain = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        plain = "\0"
    first, _, second = plain.partition(" ")
    if "\0" in plain:  # Postgres takes no text with it
        raise BadCursor("The cursor does not come from a list")
    return first, second


def parse_cursor_id(text: str) -> UUID:
    """
    Raises:
        BadCursor
    """
    try:
        return UUID(text)
    except ValueError:
        raise BadCursor("The cursor does not come from a list") from None
