"""What the documentation says is what the program does."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import typer

import models
import service
from models.errors import AudioError, OptionError, SpeechError, WeightsError
from service.cli import app
from service.errors import Misused, ServiceError

ROOT = Path(__file__).parent.parent
DOCS = "\n".join(
    path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
)
GROUPS = (SpeechError, AudioError, OptionError, WeightsError, ServiceError, Misused)


def error_classes() -> list[type]:
    for package in (models, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations." not in module.name:  # Alembic's, and for it alone
                importlib.import_module(module.name)

    def children(parent: type) -> list[type]:
        found: list[type] = []
        child: type
        for child in parent.__subclasses__():
            found += [child, *children(child)]
        return found

    return [c for c in children(SpeechError) + children(ServiceError) if c not in GROUPS]


def test_every_error_code_is_in_the_documentation_and_the_other_way_round():
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/errors.md").read_text(), re.M))

    assert documented == {error.code for error in error_classes()}  # type: ignore[attr-defined]


def test_every_error_says_what_it_means():
    assert [error for error in error_classes() if not error.__doc__] == []


def test_codes_are_not_shared():
    codes = [error.code for error in error_classes()]  # type: ignore[attr-defined]

    assert sorted(codes) == sorted(set(codes))


def commands() -> list[tuple[str, object]]:
    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            found += [(f"{name} {sub}", c) for sub, c in command.commands.items()]
        else:
            found.append((name, command))
    return found


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: str(value))
def test_every_command_and_option_is_documented_and_has_help(name, command):
    assert f"fieldscribe {name}" in DOCS
    assert command.help
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert option in DOCS, f"{name} {option}"
                assert parameter.help, f"{name} {option}"
