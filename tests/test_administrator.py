"""The commands of docs/administrator/guide.md, run as written but without root and systemd.

Stand-ins replace what needs those or a network: sudo, runuser, useradd, install's owners, systemctl
(which starts the unit's command with the unit's environment), git and scripts/setup. Folders
outside the checkout are placed in a folder of the test.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripts.stand_in.installation import ROOT, find_free_port

pytestmark = pytest.mark.slow

OUTSIDE = re.compile(r"(?<![\w.])/(?:opt|var/lib|etc|usr/local|mnt)/")
BLOCK = re.compile(r"<!-- test: administrator(?:, )?(.*) -->\n((?:    .*\n|\n)+)")

STAND_INS = {
    "sudo": 'exec "$@"',
    "runuser": 'shift 3\nexec "$@"',
    "useradd": "umask 022\nmkdir -p SITE/var/lib/fieldscribe",
    "install": """
[ "$1" = -d ] || exec /usr/bin/install "$@"
[ "$4 $5 $6 $7" = "-o fieldscribe -g fieldscribe" ] || exit 1
mkdir -p "${@:8}"
""",
    "git": '[ "$1" != clone ] || cp -r SITE/repository "$3"',
    "journalctl": "cat SITE/journal",
    "systemctl": r"""
unit=SITE/etc/systemd/system/fieldscribe.service
value() { sed -n "s/^$1=-\?//p" "$unit"; }
case "$1" in
enable | start)
    [ "$1" = start ] || [ "$2" = --now ] || exit 1
    set -ae
    eval "$(value Environment)"
    . "$(value EnvironmentFile)"
    $(value ExecStart) </dev/null >>SITE/journal 2>&1 &
    echo $! >SITE/pid
    ;;
stop)
    kill -TERM "$(cat SITE/pid)"
    tail --pid "$(cat SITE/pid)" -f /dev/null
    ;;
esac
""",
}
SETUP = f"""#!/bin/sh
set -e
umask 022
mkdir -p .venv/bin
cat >.venv/bin/fieldscribe <<'END'
#!/bin/sh
[ "$1" != models ] || exit 0 # it would need a network
PYTHONPATH={ROOT} exec {sys.executable} -c 'from service.commands.main import main; main()' "$@"
END
chmod 755 .venv/bin/fieldscribe
"""


class Site:
    """A machine in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, find_free_port()
        for name, script in STAND_INS.items():
            self.write(f"bin/{name}", "#!/bin/bash\n" + script.replace("SITE", str(folder)))
        for name in ("as_service", "fieldscribe.service"):
            text = (ROOT / "scripts" / name).read_text()
            self.write(f"repository/scripts/{name}", self.within(text))
        self.write("repository/scripts/setup", SETUP)
        for name in ("opt", "usr/local/bin", "etc/systemd/system"):
            (folder / name).mkdir(parents=True)
        self.write("journal", "")
        self.write("etc/fieldscribe/environment", f"FIELDSCRIBE_PORT={self.port}\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def within(self, text: str) -> str:
        moved = OUTSIDE.sub(lambda found: f"{self.folder}{found[0]}", text)
        return moved.replace("127.0.0.1:8321", f"127.0.0.1:{self.port}")

    def run(self, script: str) -> tuple[str, list[str]]:
        """Run a script; its output and the commands that failed."""
        trap = "trap 'echo \"FAILED: $BASH_COMMAND\" >&2' ERR\n"
        checkout = self.folder / "opt/fieldscribe"
        done = subprocess.run(
            ["bash", "-c", trap + self.within(textwrap.dedent(script))],
            cwd=checkout if checkout.exists() else self.folder,
            env={"PATH": f"{self.folder}/bin:{self.folder}/usr/local/bin:/usr/bin:/bin"},
            umask=0o077,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout, re.findall(r"FAILED: (.*)", done.stderr)

    def wait(self) -> None:
        self.run(f"curl -s --retry 240 --retry-delay 1 --retry-connrefused {self.url}/readyz")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def site(data_folder):
    site = Site(data_folder)
    yield site
    if (data_folder / "pid").exists():
        site.run("systemctl stop")


def test_the_administrators_guide_runs_as_written(site):
    page = (ROOT / "docs/administrator/guide.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(page)
    names = [name for name, _ in blocks]
    restore = names.index("restore")
    assert names == ["", "", "", "", "restore", "move away", "", ""]
    install, start, tokens, backup, _, _, upgrade, monitoring = [text for _, text in blocks]

    assert only_the_doctor(site.run(install)[1])
    assert is_open_to_all(site.folder / "opt/fieldscribe")
    assert site.run(start)[1] == []
    site.wait()
    said, failed = site.run(tokens)
    assert failed == []
    assert re.search(r"^fieldscribe_\S{43}$", said, re.M)
    assert site.run(backup)[1] == []

    assert site.run(dict(blocks)["move away"])[1] == []
    assert site.run(with_names(blocks[restore][1], site.folder))[1] == []
    site.wait()
    assert "PEER" in site.run("sudo fieldscribe study list")[0]

    assert site.run(upgrade)[1] == []
    site.wait()
    said, failed = site.run(monitoring)
    assert only_the_doctor(failed)
    assert '{"status":"ok"}' in said
    assert 'fieldscribe_jobs{status="waiting"} 0' in said


def only_the_doctor(failed: list[str]) -> bool:
    """`fieldscribe doctor` fails because no weights are installed."""
    return len(failed) == 1 and "doctor" in failed[0]


def is_open_to_all(folder: Path) -> bool:
    """Whether the service's user can read what root installed under umask 077."""
    return all(path.stat().st_mode & 0o004 for path in (folder, *folder.rglob("*")))


def with_names(script: str, folder: Path) -> str:
    """The script with the archives just made in place of the example's."""
    (data,) = (folder / "mnt/backup").glob("*.tar")
    (keys,) = (folder / "mnt/elsewhere").glob("*.tar")
    script = re.sub(r"fieldscribe-\d\S+\.tar", data.name, script)
    return re.sub(r"fieldscribe-keys-\S+\.tar", keys.name, script)
