"""Run by Alembic, on the connection that `service.database.engine.migrate` passes in."""

from typing import Literal

from alembic import context

from service.database.tables import Table

Kind = Literal[
    "schema", "table", "column", "index", "unique_constraint", "foreign_key_constraint",
    "check_constraint",
]  # fmt: skip


def is_ours(name: str | None, kind: Kind, parents: object) -> bool:
    """Whether a table is ours: autogenerate would drop Procrastinate's, in the same database."""
    return kind != "table" or name in Table.metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    include_name=is_ours,
)
with context.begin_transaction():
    context.run_migrations()
