"""The drawings in docs/developer/architecture.md are true of the imports."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/developer/architecture.md").read_text(encoding="utf-8")
PACKAGES = ("models", "service")
FOR_ALL = ("basics", "common")


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    return {name: path for name, path in names.items() if ".migrations." not in name}


MODULES = modules()


def components() -> dict[str, str]:
    """Folder or file: the component that the page puts it in."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.M)
    return {
        place: component for component, places in rows for place in re.findall(r"`([^`]+)`", places)
    }


COMPONENTS = components()


def component_of(module: str) -> str:
    """The most exact entry counts: a file before its folder."""
    path = MODULES[module].relative_to(ROOT).as_posix()
    places = [place for place in COMPONENTS if path == place or path.startswith(place)]
    return COMPONENTS[max(places, key=len)]


def imported(path: Path) -> set[str]:
    """Our own modules that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found & MODULES.keys()


def arrows(package: str) -> set[tuple[str, str]]:
    """Between components, without those that every component may import.

    From `service`, all of `models` is one component.
    """
    found = set()
    for module, path in MODULES.items():
        if module.split(".")[0] != package or "." not in module:
            continue
        for other in imported(path):
            other_package = other.split(".")[0]
            target = component_of(other) if other_package == package else other_package
            if target not in (component_of(module), *FOR_ALL) and "." in other:
                found.add((component_of(module), target))
    return found


def drawing(title: str) -> set[tuple[str, str]]:
    section = PAGE.split(f"## {title}\n")[1]
    return set(re.findall(r"^ +(\w+) --> (\w+)$", section.split("```")[1], re.M))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_drawing_shows_the_imports(package):
    assert drawing(f"The components of `{package}/`") == arrows(package)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_in_a_circle(package):
    graph: dict[str, set[str]] = {}
    for source, target in arrows(package):
        graph.setdefault(source, set()).add(target)

    TopologicalSorter(graph).prepare()  # raises CycleError


def test_every_place_that_the_page_names_exists():
    assert [place for place in COMPONENTS if not (ROOT / place).exists()] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_room_and_says_what_it_is_for(module):
    if "." in module:
        assert component_of(module)
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8"))), module
