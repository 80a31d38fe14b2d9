"""The database: tables and queries, migrations, and the embedded Postgres.

ServiceError
├── DatabaseUnreachable
├── DataNotReachable, DatabaseInUse, DatabaseNotStarted   the embedded Postgres does not start
└── SchemaTooNew, SchemaTooOld
"""

from typing import ClassVar

from service.errors import ServiceError


class DatabaseUnreachable(ServiceError):
    """The database does not answer."""

    code = "database_unreachable"
    status: ClassVar[int] = 503


class DataNotReachable(ServiceError):
    """The user that a command or the embedded database runs as cannot reach the data folder."""

    code = "data_not_reachable"
    status: ClassVar[int] = 500


class DatabaseInUse(ServiceError):
    """Another `fieldscribe serve` looks after this data folder."""

    code = "database_in_use"
    status: ClassVar[int] = 500


class DatabaseNotStarted(ServiceError):
    """The embedded database did not start; its log says why."""

    code = "database_not_started"
    status: ClassVar[int] = 500


class SchemaTooNew(ServiceError):
    """A newer Fieldscribe has changed the database: this one would damage it."""

    code = "schema_too_new"
    status: ClassVar[int] = 500


class SchemaTooOld(ServiceError):
    """The database has not been migrated yet: `fieldscribe serve` or `fieldscribe api` does it."""

    code = "schema_too_old"
    status: ClassVar[int] = 500
