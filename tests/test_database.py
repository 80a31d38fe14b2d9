"""The schema, its migrations, and programs of different versions on one database."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import procrastinate
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint, event, text

from service.database import SchemaTooNew, SchemaTooOld
from service.database.engine import (
    MIGRATIONS,
    create_database,
    known_revisions,
    migrate,
    newest_revision,
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


def test_the_migrations_create_the_tables_of_the_program(services):
    with services.engine.connect() as connection:
        options = {
            "include_name": lambda name, kind, _: kind != "table" or name in Table.metadata.tables
        }
        context = MigrationContext.configure(connection, opts=options)

        assert compare_metadata(context, Table.metadata) == []


def test_the_queues_tables_match_the_installed_procrastinate():
    """Procrastinate does not record its migrations: a new one must become a migration of ours."""
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


def test_a_program_that_does_not_migrate_refuses_an_older_schema(fresh):
    with pytest.raises(SchemaTooOld):
        require_schema(fresh)
    migrate(fresh)
    require_schema(fresh)


def test_a_token_that_ends_after_every_year_is_repaired(fresh):
    """It made the list of tokens fail, and could not be revoked."""
    migrate_to(fresh, "0002")
    with fresh.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO token (id, hash, role, all_studies, expires_at) VALUES"
                " (gen_random_uuid(), 'x', 'coder', false, '10000-01-01Z')"
            )
        )

    migrate(fresh)

    with fresh.connect() as connection:
        assert connection.scalar(text("SELECT expires_at FROM token")).year == 2200


def migrate_to(engine, revision):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_migrations_are_named_after_their_revisions():
    """Their names say which revisions exist, without importing Alembic."""
    scripts = ScriptDirectory(str(MIGRATIONS))

    assert known_revisions() == {script.revision for script in scripts.walk_revisions()}
    assert newest_revision() == scripts.get_current_head()


def test_programs_that_migrate_at_the_same_time_migrate_once(fresh):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate, fresh) for _ in range(4)]:
            done.result(60)
    require_schema(fresh)


def test_connections_stay_open_for_the_next_requests(fresh):
    opened = []
    event.listen(fresh, "connect", lambda *_: opened.append(1))
    all_connected = threading.Barrier(25)

    def ask(_):
        with fresh.connect() as connection:
            connection.execute(text("SELECT 1"))
            all_connected.wait(30)

    for _ in range(2):
        with ThreadPoolExecutor(25) as pool:
            list(pool.map(ask, range(25)))
    assert len(opened) == 25


def test_only_postgres_is_accepted():
    with pytest.raises(BadSettings):
        open_engine("sqlite:///x.db")


def test_every_reference_has_an_index():
    """`job_recording.recording_id` had none: an erasure of a recording read the whole table.

    Nothing is looked up by the token that made it, nor an idempotency key by its job or study, nor
    a token by its studies.
    """
    without = set()
    for table in Table.metadata.tables.values():
        leading = {next(iter(index.columns)).name for index in table.indexes}
        leading |= {
            next(iter(constraint.columns)).name
            for constraint in table.constraints
            if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint)
        }
        columns = {key.parent.name for key in table.foreign_keys}
        without |= {f"{table.name}.{name}" for name in columns - leading - {"token_id"}}
    assert without == {"idempotency.job_id", "idempotency.study_id", "token_study.study_id"}
