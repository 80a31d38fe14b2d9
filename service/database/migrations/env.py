"""Run by Alembic with the connection that `service.database.engine.migrate` hands over."""

from typing import Literal

from alembic import context

from service.database.tables import Table

Kind = Literal[
    "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint",
    "check_constraint",
]  # fmt: skip


def ours(name: str | None, kind: Kind, parents: object) -> bool:
    """Procrastinate's tables are in the same database; autogenerate would drop them."""
    return kind != "table" or name in Table.metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    include_name=ours,
)
with context.begin_transaction():
    context.run_migrations()
