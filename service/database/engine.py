"""Database connections, and the migrations applied at every start."""

from pathlib import Path

import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as DbSession
from sqlalchemy.orm import sessionmaker

from service.database import DatabaseUnreachable, SchemaTooNew, SchemaTooOld
from service.settings import BadSettings

MIGRATIONS = Path(__file__).parent / "migrations"
MAX_CONNECTIONS = 40
LOCK = "hashtext('fieldscribe:migrations')"


def open_engine(url: str | URL) -> Engine:
    """
    Args:
        url: `postgresql://...`; the driver is psycopg, whichever one it names.

    Raises:
        BadSettings: it is not the URL of a Postgres database.
    """
    try:
        parsed = make_url(url)
    except ValueError as error:
        raise BadSettings("The database's address is not a valid URL") from error
    if parsed.get_backend_name() != "postgresql":
        raise BadSettings("The database's address must begin with postgresql://")
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        hide_parameters=True,  # otherwise errors quote the values being written
        pool_pre_ping=True,  # the database may have been restarted
        # Connections stay open: opening one takes longer than most queries, and after any delay
        # many requests arrive at once.
        pool_size=MAX_CONNECTIONS,
        max_overflow=0,
        connect_args={"connect_timeout": 5},
    )


def open_sessions(engine: Engine) -> sessionmaker[DbSession]:
    return sessionmaker(engine, expire_on_commit=False)


def conninfo(url: str | URL) -> str:
    """The same URL in the form that psycopg takes."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def migrate(engine: Engine) -> None:
    """Upgrade the schema to this program's version. Other processes that do so wait meanwhile.

    Raises:
        SchemaTooNew: a newer program has upgraded it further.
        DatabaseUnreachable
    """
    try:
        with engine.connect() as connection, connection.begin():
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            if (found := current_revision(connection)) == newest_revision():
                return
            _refuse_newer(found)
            _upgrade(connection)
    except OperationalError as error:
        raise DatabaseUnreachable("The database is not reachable") from error


def require_schema(engine: Engine) -> None:
    """Check the schema's version, in programs that do not migrate.

    Raises:
        SchemaTooOld, SchemaTooNew, DatabaseUnreachable
    """
    try:
        with engine.connect() as connection:
            found = current_revision(connection)
    except OperationalError as error:
        raise DatabaseUnreachable("The database is not reachable") from error
    if found != newest_revision():
        _refuse_newer(found)
        raise SchemaTooOld(
            "The database has not been upgraded to this version yet: start the API first"
        )


def current_revision(connection: Connection) -> str | None:
    """The schema's revision, or None in an empty database."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def newest_revision() -> str:
    return max(known_revisions())


def known_revisions() -> set[str]:
    """The revisions of this version, with which the names of the migrations begin."""
    return {path.name.partition("_")[0] for path in MIGRATIONS.glob("versions/[0-9]*.py")}


def create_database(url: str | URL, name: str, template: str | None = None) -> None:
    """Create a database unless it exists already."""
    with psycopg.connect(conninfo(url), autocommit=True) as connection:
        identifier = psycopg.sql.Identifier
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return
        statement = psycopg.sql.SQL("CREATE DATABASE {}").format(identifier(name))
        if template is not None:
            statement += psycopg.sql.SQL(" TEMPLATE {}").format(identifier(template))
        connection.execute(statement)


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(
            "A newer version of Fieldscribe has upgraded this database: install that version, or "
            "restore a backup made before the upgrade"
        )


def _upgrade(connection: Connection) -> None:
    # Alembic takes a quarter of the API's time to import, and most starts need no upgrade.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
