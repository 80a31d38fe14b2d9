"""What differs between two deployments: `FIELDSCRIBE_...` variables or a command's options."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from platformdirs import user_config_path, user_data_path
from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.precision import Precision
from service.errors import ServiceError

PREFIX = "FIELDSCRIBE_"
# Read by others than Settings, each where it is used.
OTHER_VARIABLES = {"FIELDSCRIBE_TOKEN", "FIELDSCRIBE_URL"}

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class BadSettings(ServiceError):
    """A setting is unknown, or its value makes no sense: the service does not start."""

    code = "bad_settings"


def default_data() -> Path:
    """As root a folder that the database's unprivileged user can reach, which /root is not."""
    return Path("/var/lib/fieldscribe") if os.geteuid() == 0 else user_data_path("fieldscribe")


def default_keys() -> Path:
    return Path("/etc/fieldscribe") if os.geteuid() == 0 else user_config_path("fieldscribe")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    data: Path = Field(
        default_factory=default_data, description="Folder of the vault and the embedded database."
    )
    keys: Path = Field(
        default_factory=default_keys,
        description="Folder of root keys, wrapped keys, the ledger and the owner's token; "
        "never under `data`.",
    )
    weights: Path = Field(
        default_factory=lambda: user_data_path("fieldscribe") / "weights",
        description="Folder of fetched weights.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="A Postgres of your own; the embedded one by default."
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8321, ge=0, le=65535, description="Port the API listens on.")
    behind_proxy: bool = Field(
        default=False, description="A reverse proxy with TLS stands before the API."
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file.")
    tls_key: Path | None = Field(default=None, description="PEM file, mode 0600.")
    idle_unload_minutes: float = Field(
        default=10.0, gt=0, description="A worker without jobs lets go of its models after these."
    )
    precision: Precision | None = Field(
        default=None,
        description="What a worker computes in; below the default only with measured weights.",
    )
    max_upload_bytes: int = Field(
        default=32 * 2**30, gt=0, description="The longest recording that may be uploaded."
    )
    upload_expiry_hours: float = Field(
        default=48.0, gt=0, description="An upload that has stopped is deleted after these."
    )
    long_poll_limit: int = Field(
        default=1000, gt=0, description="Requests that may wait at the same time."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.keys.resolve().is_relative_to(self.data.resolve()):
            raise ValueError("the folder of keys must not lie in the data folder")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("a certificate and its key belong together")
        if self.host not in LOOPBACK and not (self.tls_certificate or self.behind_proxy):
            raise ValueError(
                "other machines reach the API with a certificate or behind a proxy only"
            )
        return self

    def as_environment(self) -> dict[str, str]:
        """For a child process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if self.database_url is not None:
            values["database_url"] = self.database_url.get_secret_value()
        return {
            f"{PREFIX}{name}".upper(): str(value)
            for name, value in values.items()
            if value is not None
        }

    @property
    def url(self) -> str:
        """Where programs on this machine reach the API."""
        scheme = "https" if self.tls_certificate else "http"
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return (
            f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"
        )

    @property
    def vault(self) -> Path:
        return self.data / "vault"

    @property
    def database(self) -> Path:
        """Folder of the embedded Postgres."""
        return self.data / "database"

    @property
    def owner_token(self) -> Path:
        """With the keys: whoever may read the data folder, such as a worker, is not its owner."""
        return self.keys / "owner.token"

    @property
    def worker_token(self) -> Path:
        return self.data / "worker.token"

    @property
    def root_keys(self) -> Path:
        return self.keys / "root"

    @property
    def wrapped_keys(self) -> Path:
        return self.keys / "wrapped"

    @property
    def ledger(self) -> Path:
        return self.keys / "ledger"


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """A misspelt variable must not be ignored: its owner believes that it is in force.

    Raises:
        BadSettings
    """
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | OTHER_VARIABLES
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise BadSettings(f"No setting is called {', '.join(unknown)}")


def read_settings(**arguments: object) -> Settings:
    """From the environment; arguments that are not None win.

    Raises:
        BadSettings
    """
    refuse_unknown(os.environ)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValueError as error:
        # Not chained: pydantic quotes the values, and a database URL holds a password.
        reasons = "; ".join(
            ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")])
            for item in error.errors(include_input=False)  # type: ignore[attr-defined]
        )
        raise BadSettings(reasons) from None
