"""The embedded Postgres: private, adopted after a kill, restarted."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from scripts.stand_in.installation import wait_until
from service.database import DatabaseInUse, DatabaseNotStarted, DataNotReachable, embedded
from service.database.embedded import EmbeddedPostgres, is_reachable
from service.database.engine import conninfo
from tests.conftest import copy_cluster


@pytest.fixture(scope="module")
def server():
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    server = EmbeddedPostgres(folder / "database")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def without_initdb(cluster, monkeypatch):
    """A new database is a copy of an existing one, which takes less time than `initdb`."""

    def copy(self: EmbeddedPostgres) -> None:
        self.data.rmdir()
        copy_cluster(cluster, self.folder)

    monkeypatch.setattr(EmbeddedPostgres, "_init", copy)


def ask(server, question="SELECT 1"):
    with psycopg.connect(conninfo(server.url()), autocommit=True) as connection:
        return connection.execute(question).fetchone()


def test_the_server_has_a_private_socket_and_a_password(server):
    host = server.run
    assert ask(server, "SHOW listen_addresses") == ("",)
    assert host.stat().st_mode & 0o777 == 0o700
    assert embedded.password_file(server.folder).stat().st_mode & 0o777 == 0o600
    with pytest.raises(psycopg.OperationalError, match="no password"):
        psycopg.connect(f"host={host} user={embedded.USER} dbname=postgres")


def test_the_server_logs_no_statements_or_values(server):
    with pytest.raises(psycopg.Error):
        ask(server, "SELECT 'Eva Muster'::int")
    with pytest.raises(psycopg.Error):
        ask(server, "SELEKT 'Eva Muster'")

    assert "Muster" not in (server.folder / "postgres.log").read_text()


def test_a_folder_has_only_one_supervisor(server):
    with pytest.raises(DatabaseInUse):
        EmbeddedPostgres(server.folder).start()


def test_another_users_folder_is_refused_with_the_reason(data_folder, monkeypatch):
    def chmod(path, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(type(data_folder), "chmod", chmod)
    with pytest.raises(DataNotReachable, match="belongs to another user"):
        EmbeddedPostgres(data_folder / "database").start()


def test_a_killed_server_is_restarted(server):
    with psycopg.connect(conninfo(server.url()), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    assert not server.check()
    server.process.kill()
    wait_until(lambda: was_restarted(server), 30, "the server to be restarted")

    assert ask(server, "SELECT n FROM kept") == (7,)


def was_restarted(server):
    try:
        return server.check()
    except DatabaseNotStarted:  # the killed server's processes are still ending
        return False


SUPERVISOR = """
import sys, time; from pathlib import Path; from service.database.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); print(server.process.pid, flush=True)
time.sleep(60)
"""


def supervisor_of(folder: Path) -> tuple["subprocess.Popen[bytes]", int]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, folder],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    with process.stdout as output:
        return process, int(output.readline())


def test_a_server_whose_supervisor_was_killed_is_adopted(data_folder, cluster):
    folder = data_folder / "database"
    copy_cluster(cluster, folder)
    supervisor, pid = supervisor_of(folder)
    supervisor.kill()
    supervisor.wait()

    server = EmbeddedPostgres(folder)
    server.start()
    assert server.process is None
    assert ask(server, "SELECT 1") == (1,)
    server.stop()
    wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), 10, "the server to end")


def test_a_power_cut_leaves_a_database_that_starts(data_folder, cluster):
    """The file with the server's process id then names no process, or another one."""
    folder = data_folder / "database"
    copy_cluster(cluster, folder)
    supervisor, pid = supervisor_of(folder)
    supervisor.kill()
    supervisor.wait()
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.5)
    id_file = folder / "data" / "postmaster.pid"
    lines = id_file.read_text().splitlines()
    id_file.write_text("\n".join(["1", *lines[1:]]) + "\n")  # init: running, but not Postgres

    server = EmbeddedPostgres(folder)
    server.start()
    assert ask(server, "SELECT 1") == (1,)
    server.stop()


def test_an_interrupted_creation_of_the_database_starts_again(data_folder):
    folder = data_folder / "database"
    (folder / "data.partial").mkdir(parents=True)
    (folder / "data").mkdir()
    server = EmbeddedPostgres(folder)
    server.start()
    assert ask(server, "SELECT 1") == (1,)
    server.stop()


def test_a_database_of_another_version_is_refused(data_folder):
    folder = data_folder / "database"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("15\n")

    with pytest.raises(DatabaseNotStarted, match="Postgres 15"):
        EmbeddedPostgres(folder).start()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(DataNotReachable):
        EmbeddedPostgres(tmp_path / ("x" * 100)).start()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as another user")


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request):
    """The usual umask, and that of `serve` and of hardened servers."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@as_root
def test_root_starts_it_as_another_user_who_must_reach_the_folder(
    tmp_path, data_folder, without_initdb
):
    with pytest.raises(DataNotReachable):
        EmbeddedPostgres(tmp_path / "database").start()  # pytest's folders are closed

    server = EmbeddedPostgres(data_folder / "database")
    server.start()
    assert server.process is not None
    owner = Path(f"/proc/{server.process.pid}").stat().st_uid
    server.stop()
    assert owner != 0


@as_root
def test_root_lets_the_other_user_pass_every_new_folder_above_the_database(data_folder, umask):
    server = EmbeddedPostgres(data_folder / "new" / "data" / "database")
    server.start()
    assert ask(server, "SELECT 1") == (1,)
    server.stop()
    for folder in (data_folder / "new", data_folder / "new" / "data"):
        assert folder.stat().st_mode & 0o777 == 0o711


@as_root
def test_root_starts_a_copy_of_programs_that_the_other_user_cannot_reach(
    data_folder, umask, without_initdb, monkeypatch
):
    """`serve` sets umask 077, which closed the folder above the copy to the other user."""
    close_site_packages(monkeypatch)
    require_copy_that_runs(data_folder)


@as_root
def test_root_starts_a_copy_of_programs_that_only_root_can_read(
    data_folder, umask, without_initdb, monkeypatch
):
    """pip had installed them under umask 077."""
    wheel = embedded.wheel_folder()
    closed = data_folder / "site-packages" / wheel.name
    for folder in (wheel / f"pginstall{embedded.VERSION}", wheel.with_name(f"{wheel.name}.libs")):
        copy = closed.parent / folder.relative_to(wheel.parent)
        shutil.copytree(folder, copy, symlinks=True, ignore=embedded.FOR_COMPILERS)
        subprocess.run(["chmod", "-R", "go=", copy], check=True)
    monkeypatch.setattr(embedded, "wheel_folder", lambda: closed)
    require_copy_that_runs(data_folder / "data")


@as_root
def test_a_copy_that_the_other_user_cannot_reach_is_replaced(
    data_folder, without_initdb, monkeypatch
):
    close_site_packages(monkeypatch)
    require_copy_that_runs(data_folder)
    (data_folder / "database" / "postgres").chmod(0o700)
    require_copy_that_runs(data_folder)


def close_site_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        embedded,
        "is_reachable",
        lambda path, *ids: "site-packages" not in str(path) and is_reachable(path, *ids),
    )


def require_copy_that_runs(data: Path) -> None:
    server = EmbeddedPostgres(data / "database")
    server.start()
    assert ask(server, "SELECT 1") == (1,)
    assert server.binaries.is_relative_to(data)
    server.stop()
