"""Fixtures that every test shares."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from pydantic import SecretStr

from service.database.embedded import EmbeddedPostgres
from service.database.engine import conninfo, create_database, migrate, open_engine
from service.services import Services, create_root_keys, open_services
from service.settings import Settings
from service.vault import roots
from tests.api import Api
from tests.audio_files import NAME, MakeRecording
from tests.browser import Visitor, open_chromium, serve_api
from tests.s3 import S3Server, with_bucket

# One thread for each process, read when torch is loaded: the models of the tests are so small that
# more threads mostly wait for one another, and other test processes need the processor.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests are never timed: on a busy machine, any of them may take long.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")

TEMPLATE = "migrated"

# Files whose tests compare with all of pyannote.audio, whose import takes 5 s of processor time.
IMPORT_PYANNOTE = {
    "test_demo_weights",
    "test_diarisation",
    "test_hugging_face",  # transformers, which pyannote.audio imports
    "test_optional_detectors",  # transformers
    "test_reconstruction",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--storage",
        choices=("folder", "s3"),
        default="folder",
        help="where the vaults of services in the tests are; s3: in a bucket of a real server",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--storage") == "s3":
        for item in items:
            if item.get_closest_marker("folder"):
                item.add_marker(pytest.mark.skip(reason="looks at the vault's files"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to pytest-xdist's workers, and one worker those that import pyannote.

    Every worker must collect the same names, so parameters hold no random values.
    """
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    def group(test: str) -> str:
        file = test.partition("::")[0]
        return "pyannote" if Path(file).stem in IMPORT_PYANNOTE else file

    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = group
    return scheduler


@pytest.fixture(autouse=True)
def no_outbound_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection to anywhere but loopback fails the test."""
    connect = socket.socket.connect

    def loopback_only(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {host} was attempted")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", loopback_only)
    yield


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening any socket, even to this machine, fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.fixture(scope="session")
def real_recordings() -> Path:
    """A folder of real recordings, for tests marked `real`; none is in the repository."""
    return _named_folder("REAL_RECORDINGS")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """A folder with base.pt (Whisper) and seg/ (a pyannote pipeline), for tests marked `real`."""
    return _named_folder("REAL_WEIGHTS")


@pytest.fixture(scope="session")
def real_pipeline(real_weights: Path) -> Any:
    """A `Pipeline` with real weights."""
    import torch

    from models.pipeline import Pipeline
    from models.weights.catalogue import find_pipeline, find_whisper

    whisper = find_whisper(str(real_weights / "base.pt"), real_weights)
    diarisation = find_pipeline(str(real_weights / "seg"), real_weights)
    return Pipeline(whisper, diarisation, torch.device("cpu"))


def _named_folder(variable: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no folder")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def make_recording(tmp_path_factory: pytest.TempPathFactory) -> MakeRecording:
    """`make_recording(extension, *options, of=source)`: a file that ffmpeg writes, made once."""
    folder = tmp_path_factory.mktemp(NAME)
    made: dict[tuple[str, ...], Path] = {}

    def make(
        extension: str, *options: str, of: str = "sine=300:duration=5:sample_rate=16000"
    ) -> Path:
        if (extension, of, *options) not in made:
            path = folder / f"{NAME}-{len(made)}.{extension}"
            command = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", of, *options]
            subprocess.run([*command, "-threads", "1", str(path)], check=True)
            made[extension, of, *options] = path
        return made[extension, of, *options]

    return make


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """The file that a `Bomb` would create."""
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A folder for an embedded database: pytest's own are closed to the database's user."""
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The folder of a stopped embedded server with an up-to-date database, to copy.

    `initdb` and the migrations take more than a second of processor time.
    """
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "database")
    server.start()
    engine = open_engine(server.url())
    migrate(engine)
    engine.dispose()
    server.stop()
    yield server.folder
    shutil.rmtree(folder)


def copy_cluster(cluster: Path, folder: Path) -> None:
    """Make `folder` that of an embedded server that has been stopped."""
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["cp", "--archive", cluster / "data", cluster / "password", folder], check=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One embedded server for each process of tests, with a migrated database to copy.

    Without fsync. Sharing it between processes would save a second, but its cluster would have to
    outlive the process that started it.
    """
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "database")
    server.start()
    with psycopg.connect(conninfo(server.url("postgres")), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    create_database(server.url("postgres"), TEMPLATE)
    engine = open_engine(server.url(TEMPLATE))
    migrate(engine)
    engine.dispose()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def database_url(postgres: EmbeddedPostgres, request: pytest.FixtureRequest) -> str:
    """An empty, migrated database for the module."""
    name = request.module.__name__.rpartition(".")[2]
    create_database(postgres.url("postgres"), name, TEMPLATE)
    return postgres.url(name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for each process of tests, started by the first test that needs it."""
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def choose_storage(request: pytest.FixtureRequest) -> Callable[[Settings], Settings]:
    """Puts the vault where `--storage` says."""
    if request.config.getoption("--storage") == "folder":
        return lambda settings: settings
    server = request.getfixturevalue("s3_server")
    return lambda settings: with_bucket(settings, server.url)


@pytest.fixture
def settings(
    database_url: str, tmp_path: Path, choose_storage: Callable[[Settings], Settings]
) -> Settings:
    """A vault for the test, with the module's database."""
    return choose_storage(new_settings(database_url, tmp_path))


@pytest.fixture(scope="module")
def module_settings(
    database_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    choose_storage: Callable[[Settings], Settings],
) -> Settings:
    """A vault for all tests of the module."""
    return choose_storage(new_settings(database_url, tmp_path_factory.mktemp("module")))


def new_settings(database_url: str, tmp_path: Path) -> Settings:
    settings = Settings(
        data=tmp_path / "data",
        keys=tmp_path / "keys",
        weights=tmp_path / "weights",
        database_url=SecretStr(database_url),
        port=0,
    )
    create_root_keys(settings)
    return settings


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Chromium, for tests marked `browser`."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(module_settings: Settings) -> Iterator[Api]:
    """The API on a port, for all tests of the module."""
    with serve_api(module_settings) as api:
        yield api


@pytest.fixture
def visit(site: Api, chromium: Any) -> Iterator[Visitor]:
    """Opens pages in a new browser, signed in: see tests/browser.py."""
    visitor = Visitor(site, chromium)
    yield visitor
    visitor.close()


@pytest.fixture
def cheap_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys from passphrases with 64 KiB of memory instead of 256 MiB."""
    monkeypatch.setattr(roots, "ARGON2_MEMORY", 64)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    services = open_services(settings)
    yield services
    services.close()


@pytest.fixture
def empty(
    postgres: EmbeddedPostgres, tmp_path: Path, choose_storage: Callable[[Settings], Settings]
) -> Settings:
    """Settings of an empty machine."""
    name = f"empty_{uuid4().hex}"
    create_database(postgres.url("postgres"), name)
    settings = Settings(
        data=tmp_path / "new/data",
        keys=tmp_path / "new/keys",
        weights=tmp_path / "weights",
        database_url=SecretStr(postgres.url(name).render_as_string(hide_password=False)),
        port=0,
    )
    return choose_storage(settings)
