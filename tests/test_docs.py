"""What the documentation says is what the program does."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import typer
from fastapi.routing import APIRoute
from typer.testing import CliRunner

import models
import service
from models.errors import AudioError, OptionError, SpeechError, WeightsError
from service.api.app import ROUTERS
from service.commands.main import app
from service.errors import Misused, ServiceError

ROOT = Path(__file__).parent.parent
DOCS = "\n".join(
    path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
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
    page = (ROOT / "docs/reference/errors.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|", page, re.M)

    assert sorted(documented) == sorted(error.code for error in error_classes())  # type: ignore[attr-defined]


def test_every_error_says_what_it_means():
    assert [error for error in error_classes() if not error.__doc__] == []


def test_codes_are_not_shared():
    codes = [error.code for error in error_classes()]  # type: ignore[attr-defined]

    assert sorted(codes) == sorted(set(codes))


def test_every_path_of_the_api_is_in_its_overview_and_the_other_way_round():
    page = (ROOT / "docs/developer/api.md").read_text()
    documented = re.findall(r"^\| `([A-Z]+ /\S+)` \|", page, re.M)
    routes = [
        f"{method} {route.path}"
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]

    assert sorted(documented) == sorted(routes)


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


@pytest.mark.parametrize(
    "group", ["", *sorted({name.split()[0] for name, _ in commands() if " " in name})]
)
def test_no_summary_of_a_command_is_cut_at_80_columns(group, monkeypatch):
    """`import`: "Import a transcript that was corrected or made..."."""
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, [*group.split(), "--help"]).stdout

    summaries = printed.partition("Commands:")[2]
    assert summaries
    assert "..." not in summaries


def tables_of(path: str) -> dict[str, dict[str, str]]:
    """Rows of the tables with a column `WER`, by their first cell: column and cell."""
    found: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif "WER" in cells[1:2]:
            columns = cells[1:]
        elif columns and not cells[0].startswith("---"):
            found[cells[0]] = dict(zip(columns, cells[1:], strict=True))
    return found


def test_the_accuracy_that_the_readme_shows_is_what_was_measured():
    shown, measured = tables_of("README.md"), tables_of("docs/researcher/accuracy.md")

    assert len(shown) >= 4
    for name, row in shown.items():
        assert row.items() <= measured[name].items(), name


def pages() -> list[Path]:
    return [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "models").rglob("*.md"),
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_the_commands_and_scripts_that_a_page_names_exist(page):
    known = {name.split()[0] for name, _ in commands()}
    named = re.findall(
        r"(?:`|^    |bin/|sudo )(fieldscribe [a-z][a-z-]*|scripts/[\w.]*\w)", page.read_text(), re.M
    )
    for name in named:
        program, _, verb = name.partition(" ")
        assert verb in known if verb else (ROOT / program).exists(), name


def test_no_page_looks_for_the_owners_token_where_workers_read():
    """It once lay in the data folder, and a page said so long after it had moved."""
    assert not re.findall(r"owner's[^.|;]*data folder", " ".join(DOCS.split()))


def test_every_test_that_the_ethics_page_names_exists():
    page = (ROOT / "docs/ethics/index.md").read_text()
    named = re.findall(r"tests/test_\w+\.py", page)

    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).is_file()] == []
