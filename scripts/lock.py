"""Write the lock: requirements/*.txt, with one version and the checksums of every package.

docs/developer/dependencies.md describes the files. The pins of all files come from one
resolution (`uv pip compile --universal`), so they agree with each other and hold for Python 3.11
and newer.
"""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "requirements"
PROJECT = "pyproject.toml"

# File: the extra of pyproject.toml whose packages it holds. Those of `build`, `cuda`, `client` and
# `worker` are not repeated in the files after them.
EXTRAS: dict[str, list[str]] = {
    "client": [],
    "worker": ["--extra=worker"],
    "coding": ["--extra=coding"],
    "dev": ["--extra=dev"],
    "evaluate": ["--extra=evaluate"],
    "deid": ["--extra=deid"],
    "browser": ["--extra=browser"],
    "bench": ["--extra=bench"],
}
# torch and the packages that only its CUDA build needs. openai-whisper requires triton too, but
# uses it only on a GPU; elsewhere it would waste 1 GB.
CUDA = re.compile(r"torch$|triton$|nvidia-|cuda-")

HEADER = """\
# Written by scripts/lock; do not edit. docs/developer/dependencies.md explains it.
# Requirements of pyproject.toml: {fingerprint}
"""


def main() -> None:
    project = tomllib.loads((ROOT / PROJECT).read_text(encoding="utf-8"))
    build = build_requirements(project)
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder, "everything.txt")
        # uv keeps the versions that it finds in its output file.
        everything.write_text(read_lock(), encoding="utf-8")
        options = ["--generate-hashes", "--output-file", str(everything), *sys.argv[1:]]
        resolve([PROJECT, "--all-extras", *options], build)
        pins = pins_by_name(everything.read_text(encoding="utf-8"))

        pinned = ["--constraint", str(everything)]
        files = {
            "build": set(pins_by_name(resolve(pinned, build))),
            "cuda": {name for name in pins if CUDA.match(name)},
        }
        installed = files["build"] | files["cuda"]
        for file, extra in EXTRAS.items():
            names = set(pins_by_name(resolve([PROJECT, *extra, *pinned])))
            files[file] = names - installed
            if file in ("client", "worker"):
                installed |= names

    FOLDER.mkdir(exist_ok=True)
    header = HEADER.format(fingerprint=fingerprint(project))
    for file, names in files.items():
        text = header + "".join(pins[name] for name in sorted(names))
        (FOLDER / f"{file}.txt").write_text(text, encoding="utf-8")
        print(f"requirements/{file}.txt: {len(names)} packages", file=sys.stderr)


def build_requirements(project: dict[str, Any]) -> list[str]:
    """Packages that must be installed before the others: pip, and what builds source packages.

    Those are Fieldscribe itself, which hatchling installs as editable with editables, and
    openai-whisper, which is built with setuptools.
    """
    return [*project["build-system"]["requires"], "editables", "pip", "setuptools"]


def fingerprint(project: dict[str, Any]) -> str:
    """Checksum of everything in pyproject.toml that the lock depends on."""
    metadata = project["project"]
    parts = [
        build_requirements(project),
        metadata["requires-python"],
        metadata["dependencies"],
        metadata["optional-dependencies"],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_lock() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt")))


def resolve(arguments: list[str], requirements: list[str] | None = None) -> str:
    """Run `uv pip compile` on files and options, and on `requirements` if given."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11"]
    # One version for all Pythons where possible, so that tests run on the versions in use.
    command += ["--fork-strategy=fewest", "--no-annotate", "--no-header", *arguments]
    if requirements is not None:
        command.append("-")
    text = "\n".join(requirements or [])
    return subprocess.run(
        command, cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def pins_by_name(text: str) -> dict[str, str]:
    """The lines of each package: its pin with checksums, or several pins with markers."""
    pins: dict[str, str] = {}
    for pin in re.findall(r"^[a-z0-9].*\n(?:    .*\n)*", text, re.MULTILINE):
        name = pin.partition("==")[0]
        pins[name] = pins.get(name, "") + pin
    return pins


if __name__ == "__main__":
    main()
