"""The lock, requirements/*.txt: it fits pyproject.toml, and any machine can install from it."""

import re
import tomllib

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.lock import CUDA, FOLDER, ROOT, build_requirements, fingerprint, read_lock

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13")
FILES = sorted(path.stem for path in FOLDER.glob("*.txt"))
# What the image holds, and every machine that scripts/setup prepared.
BASE = ("build", "cuda", "client", "worker")


def pins(file: str, python: str) -> dict[str, str]:
    """Name: version, of what this file installs on Linux with this Python."""
    environment = {
        "implementation_name": "cpython",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{python}.9",
        "python_version": python,
        "sys_platform": "linux",
    }
    found: dict[str, str] = {}
    text = (FOLDER / f"{file}.txt").read_text(encoding="utf-8")
    for name, version, marker in re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.*))? \\$", text, re.M):
        if not marker or Marker(marker).evaluate(environment):
            assert name not in found, f"{name} has two versions"
            found[name] = version
    return found


def test_it_was_renewed_when_pyproject_toml_changed():
    written_for = set(re.findall(r"^# Requirements of pyproject.toml: (\w+)$", read_lock(), re.M))

    assert written_for == {fingerprint(PROJECT)}, "run scripts/lock"


@pytest.mark.parametrize("change", ["dependencies", "optional-dependencies", "requires-python"])
def test_every_change_of_the_requirements_is_noticed(change):
    changed = {**PROJECT, "project": {**PROJECT["project"], change: "something else"}}

    assert fingerprint(changed) != fingerprint(PROJECT)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("extra", "files"),
    [
        ("client", ("build", "client")),
        ("server", BASE),
        ("worker", BASE),
        ("coding", (*BASE, "coding")),
        ("dev", (*BASE, "dev")),
        ("evaluate", (*BASE, "evaluate")),
        ("bench", (*BASE, "bench")),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(extra, files, python):
    metadata = PROJECT["project"]
    wanted = [*build_requirements(PROJECT), *metadata["dependencies"]]
    wanted += metadata["optional-dependencies"].get(extra, [])
    pinned = {name: version for file in files for name, version in pins(file, python).items()}
    pinned["fieldscribe"] = metadata["version"]  # extras may include each other

    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), requirement


def test_every_pin_has_a_checksum():
    for pin in re.findall(r"^[a-z0-9].*\n(?:    .*\n)*", read_lock(), re.M):
        assert re.search(r"^    --hash=sha256:[0-9a-f]{64}", pin, re.M), pin


def test_it_names_no_place_to_download_from():
    """Each machine has its own, in pip's configuration."""
    assert "://" not in read_lock()
    assert not re.findall(r"^\s*--(?!hash=)", read_lock(), re.M)


@pytest.mark.parametrize("file", [file for file in FILES if file != "cuda"])
def test_only_one_file_has_what_a_cpu_build_of_torch_does_without(file):
    assert not [name for name in pins(file, PYTHONS[0]) if CUDA.match(name)]


def test_a_machine_and_an_image_install_from_it():
    for script in ("scripts/setup", "Dockerfile.gpu"):
        text = (ROOT / script).read_text(encoding="utf-8")
        named = {file for file in FILES if f"-r requirements/{file}.txt" in text}
        assert named >= set(BASE), script
        installs = re.findall(r"pip install.*|\"\$\{pip\[@\]\}\".*", text)
        assert all("--require-hashes" in line for line in installs if "-r " in line), script
    setup = (ROOT / "scripts/setup").read_text(encoding="utf-8")
    assert "-r requirements/dev.txt" in setup


@pytest.mark.parametrize("script", ["evaluate", "bench"])
def test_a_script_that_needs_more_installs_it(script):
    assert f"scripts/setup {script}\n" in (ROOT / "scripts" / script).read_text(encoding="utf-8")
    assert script in FILES
