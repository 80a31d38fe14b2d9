"""Tells the user which extra to install when a command's packages are missing.

ServiceError
└── PackagesMissing
"""

from importlib.util import find_spec
from typing import ClassVar, Literal

from service.errors import ServiceError

# The main modules of each extra in pyproject.toml; `worker` includes `server`.
SERVER = ("fastapi", "sqlalchemy", "procrastinate")
EXTRAS = {
    "server": SERVER,
    "worker": (*SERVER, "torch", "whisper"),
    "coding": ("nltk",),
}


class PackagesMissing(ServiceError):
    """The command needs packages that a plain `pip install fieldscribe` leaves out."""

    code: ClassVar[str] = "packages_missing"


def require_packages(command: str, extra: Literal["server", "worker", "coding"]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Raises:
        PackagesMissing
    """
    if any(find_spec(module) is None for module in EXTRAS[extra]):
        raise PackagesMissing(
            f"`fieldscribe {command}` needs packages that are not installed: "
            f"run `pip install 'fieldscribe[{extra}]'`."
        )
