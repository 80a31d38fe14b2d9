"""Commands that need packages of an extra say so where only the client is installed.

ServiceError
└── PackagesMissing
"""

from importlib.util import find_spec
from typing import ClassVar, Literal

from service.errors import ServiceError

# Modules that stand for the packages of each extra of pyproject.toml; `worker` includes `server`.
SERVER = ("fastapi", "sqlalchemy", "procrastinate")
EXTRAS = {"server": SERVER, "worker": (*SERVER, "torch", "whisper")}


class PackagesMissing(ServiceError):
    """The command needs packages that a plain `pip install fieldscribe` leaves out."""

    code: ClassVar[str] = "packages_missing"


def require_packages(command: str, extra: Literal["server", "worker"]) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Raises:
        PackagesMissing
    """
    if any(find_spec(module) is None for module in EXTRAS[extra]):
        raise PackagesMissing(
            f"`fieldscribe {command}` needs packages that are not installed. "
            f"Type: pip install 'fieldscribe[{extra}]'"
        )
