"""The environment: read in Settings, and otherwise touched only where it is passed on."""

import ast
from pathlib import Path

import pytest

from models.environment import child_environment

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "service/settings.py",
    "models/environment.py",
    "models/audio/sandbox.py",  # its interpreter can import nothing of ours
}
NAMES = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def touches_environment(source: str) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in NAMES)
        or (isinstance(node, ast.alias) and node.name in NAMES)
        for node in ast.walk(ast.parse(source))
    )


def test_only_settings_read_the_environment():
    paths = [path for room in ("service", "models") for path in (ROOT / room).rglob("*.py")]
    assert len(paths) > 100

    found = {str(p.relative_to(ROOT)) for p in paths if touches_environment(p.read_text())}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source", ["import os; os.environ['X']", "from os import getenv", "import os as o; o.getenv(1)"]
)
def test_a_module_that_reads_the_environment_would_be_found(source):
    assert touches_environment(source)


def test_a_child_process_gets_only_the_settings_it_is_given(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", "secret")
    monkeypatch.setenv("TMPDIR", "/tmp")

    environment = child_environment({"FIELDSCRIBE_PORT": "1"})
    assert environment["TMPDIR"] == "/tmp"
    assert environment["FIELDSCRIBE_PORT"] == "1"
    assert "FIELDSCRIBE_TOKEN" not in environment
    assert child_environment(only=["TMPDIR"]) == {"TMPDIR": "/tmp"}
