"""The database: tables and queries, migrations, and the embedded Postgres.

ServiceError
├── DatabaseUnreachable
├── DataNotReachable, DatabaseInUse, DatabaseNotStarted   the embedded Postgres does not start
└── SchemaTooNew, SchemaTooOld
"""

from typing import ClassVar

from service.errors import ServiceError


class DatabaseUnreachable(ServiceError):
    """The database is not reachable."""

    code = "database_unreachable"
    status: ClassVar[int] = 503


class DataNotReachable(ServiceError):
    """The user that runs the command or the embedded database cannot reach the data folder."""

    code = "data_not_reachable"
    status: ClassVar[int] = 500


class DatabaseInUse(ServiceError):
    """Another `fieldscribe serve` is using this data folder."""

    code = "database_in_use"
    status: ClassVar[int] = 500


class DatabaseNotStarted(ServiceError):
    """The embedded database did not start; its log says why."""

    code = "database_not_started"
    status: ClassVar[int] = 500


class SchemaTooNew(ServiceError):
    """A newer version of Fieldscribe has upgraded the database, and this one would damage it."""

    code = "schema_too_new"
    status: ClassVar[int] = 500


class SchemaTooOld(ServiceError):
    """The database is older than this program: start `fieldscribe serve` or `fieldscribe api`."""

    code = "schema_too_old"
    status: ClassVar[int] = 500
