"""The tables, and how programs of different ages share them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import procrastinate
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text

from service.database import SchemaTooNew, SchemaTooOld
from service.database.engine import (
    MIGRATIONS,
    create_database,
    migrate,
    open_engine,
    require_schema,
)
from service.database.tables import Table
from service.settings import BadSettings


@pytest.fixture
def fresh(postgres, request):
    name = f"fresh_{request.node.name}"[:60]
    create_database(postgres.url("postgres"), name)
    engine = open_engine(postgres.url(name))
    yield engine
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_program_has(services):
    with services.engine.connect() as connection:
        options = {
            "include_name": lambda name, kind, _: kind != "table" or name in Table.metadata.tables
        }
        context = MigrationContext.configure(connection, opts=options)

        assert compare_metadata(context, Table.metadata) == []


def test_the_queue_s_tables_are_those_of_the_installed_procrastinate():
    """It keeps no record of its migrations: a new one is to become a migration of ours."""
    shipped = Path(procrastinate.__file__).parent / "sql"
    ours = next((MIGRATIONS / "versions").glob("procrastinate_*.sql"))
    newest = max(path.name for path in (shipped / "migrations").glob("*.sql"))

    assert newest == "03.04.00_50_post_add_retry_failed_job_procedure.sql"
    assert ours.read_text() == (shipped / "schema.sql").read_text()


def test_an_older_program_refuses_a_newer_schema(fresh):
    migrate(fresh)
    with fresh.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(SchemaTooNew):
        migrate(fresh)
    with pytest.raises(SchemaTooNew):
        require_schema(fresh)


def test_a_program_that_does_not_migrate_waits_for_one_that_does(fresh):
    with pytest.raises(SchemaTooOld):
        require_schema(fresh)
    migrate(fresh)
    require_schema(fresh)


def test_two_programs_that_migrate_at_once_do_it_once(fresh):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate, fresh) for _ in range(4)]:
            done.result(60)
    require_schema(fresh)


def test_connections_stay_open_for_the_next_crowd(fresh):
    opened = []
    event.listen(fresh, "connect", lambda *_: opened.append(1))
    everybody = threading.Barrier(25)

    def ask(_):
        with fresh.connect() as connection:
            connection.execute(text("SELECT 1"))
            everybody.wait(30)

    for _ in range(2):
        with ThreadPoolExecutor(25) as crowd:
            list(crowd.map(ask, range(25)))
    assert len(opened) == 25


def test_only_a_postgres_will_do():
    with pytest.raises(BadSettings):
        open_engine("sqlite:///x.db")
