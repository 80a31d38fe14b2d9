"""The service's settings: fields read from `FIELDSCRIBE_...` variables or a command's options."""

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from platformdirs import user_config_path, user_data_path
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.environment import SETTINGS_PREFIX
from models.precision import Precision
from service.devices import AUTO, parse_devices
from service.errors import ServiceError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class BadSettings(ServiceError):
    """A setting is unknown or its value is invalid: the service does not start."""

    code = "bad_settings"


def default_data() -> Path:
    """For root, a folder that the database's unprivileged user can reach: /root is closed to it."""
    return Path("/var/lib/fieldscribe") if os.geteuid() == 0 else user_data_path("fieldscribe")


def default_keys() -> Path:
    return Path("/etc/fieldscribe") if os.geteuid() == 0 else user_config_path("fieldscribe")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=SETTINGS_PREFIX, extra="forbid", frozen=True)

    data: Path = Field(
        default_factory=default_data,
        description="Folder for the vault and the embedded database.",
    )
    keys: Path = Field(
        default_factory=default_keys,
        description="Folder for root keys, wrapped keys, the erasure ledger and the owner's token; "
        "never inside `data`.",
    )
    weights: Path = Field(
        default_factory=lambda: user_data_path("fieldscribe") / "weights",
        description="Folder for downloaded weights.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of an external Postgres server; by default the embedded one is used.",
    )
    postgres_programs: Path | None = Field(
        default=None,
        description="Folder with the programs of Postgres 18 (`initdb`, `pg_dump` and so on) to "
        "use instead of the installed ones.",
    )
    storage: Literal["folder", "s3"] = Field(
        default="folder",
        description="Where the encrypted artefacts of the vault are: in the data folder, or in a "
        "bucket of S3-compatible storage.",
    )
    s3_bucket: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9{][a-z0-9.{}-]+(/[A-Za-z0-9._{}-]+)*$",
        description="Bucket, and perhaps a prefix, such as `vault` or `vault/fieldscribe`. "
        "`{class}` in it becomes the class: `vault-{class}` names three buckets.",
    )
    s3_endpoint: str | None = Field(
        default=None,
        description="Address of the S3 server, such as `https://s3.example.org`; by default Amazon "
        "S3 in the region.",
    )
    s3_region: str = Field(default="us-east-1", description="Region of the bucket.")
    s3_key_id: SecretStr | None = Field(default=None, description="Access key id for the bucket.")
    s3_secret_key: SecretStr | None = Field(
        default=None, description="Secret access key for the bucket."
    )
    s3_certificate: Path | None = Field(
        default=None,
        description="PEM file of a certificate authority to trust for the S3 server, beside those "
        "that the system trusts.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8321, ge=0, le=65535, description="Port the API listens on.")
    behind_proxy: bool = Field(
        default=False, description="The API is behind a reverse proxy that terminates TLS."
    )
    tls_certificate: Path | None = Field(default=None, description="PEM file.")
    tls_key: Path | None = Field(default=None, description="PEM file, mode 0600.")
    url: str | None = Field(
        default=None,
        description="Address of the service that commands, or a worker on another machine, "
        "connect to; by default the one on this machine.",
    )
    token: SecretStr | None = Field(
        default=None,
        description="Token for commands and for a worker on another machine; by default read from "
        "a file on this machine.",
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+$",
        description="Address at which browsers reach the service, such as "
        "`https://transcripts.example.org`; by default that of the request.",
    )
    sign_in_idle_minutes: float = Field(
        default=60.0,
        ge=1,
        le=10**4,
        description="Minutes without activity before a browser is signed out.",
    )
    sign_in_hours: float = Field(
        default=12.0, gt=0, le=10**4, description="Hours before a browser has to sign in again."
    )
    sign_on_issuer: str | None = Field(
        default=None,
        description="Issuer of the OpenID Connect provider of single sign-on, such as "
        "`https://login.example.org/realms/staff`; by default there is none.",
    )
    sign_on_client_id: str | None = Field(
        default=None, description="Id that the provider knows the service by."
    )
    sign_on_secret_file: Path | None = Field(
        default=None,
        description="File with the client's secret, mode 0600; by default the client has none.",
    )
    sign_on_label: str = Field(
        default="your institution",
        min_length=1,
        max_length=60,
        description="Name of the provider on the sign-in button.",
    )
    idle_unload_minutes: float = Field(
        default=10.0,
        gt=0,
        le=10**6,
        description="Minutes without a job before a worker unloads its models.",
    )
    precision: Precision | None = Field(
        default=None,
        description="Number format the models compute in; one below the default needs weights that "
        "were evaluated at it.",
    )
    devices: str = Field(
        default=AUTO,
        description="Devices that `serve` starts a worker for, and that `transcribe` uses, such as "
        "`cuda:0,cuda:2` or `cpu,cpu`; by default every GPU, or the CPU.",
    )
    deidentifier: bool = Field(
        default=True, description="Whether `serve` starts a de-identifier beside the workers."
    )
    deidentifier_model: str | None = Field(
        default=None,
        description="Detectors of the de-identifier beside its rules, separated by commas: a spaCy "
        "pipeline by name or folder, hf:FOLDER, gliner:FOLDER, presidio; or none.",
    )
    max_upload_bytes: int = Field(
        default=32 * 2**30, gt=0, description="Largest recording that can be uploaded."
    )
    upload_expiry_hours: float = Field(
        default=48.0,
        gt=0,
        le=10**5,
        description="Hours without new data before an upload is deleted.",
    )
    refused_recording_days: float = Field(
        default=30.0,
        ge=0,
        le=10**4,
        description="Days that a refused recording is kept for a retry before it is deleted.",
    )
    backup_keep_days: float | None = Field(
        default=None,
        ge=0,
        le=10**5,
        description="Days after which the administrator deletes backups and key archives; "
        "certificates say so. By default nothing is said.",
    )
    audit_mail_to: str | None = Field(
        default=None,
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="E-mail address that the head of the audit trail is sent to once a day.",
    )
    audit_mail_from: str = Field(
        default="fieldscribe@localhost", description="Sender of these messages."
    )
    audit_mail_host: str = Field(default="localhost", description="SMTP server that sends them.")
    audit_mail_port: int = Field(default=25, gt=0, le=65535, description="Its port.")
    audit_mail_tls: Literal["none", "starttls", "tls"] = Field(
        default="none", description="How the connection to it is encrypted."
    )
    audit_mail_user: str | None = Field(
        default=None, description="User name at the SMTP server; by default there is none."
    )
    audit_mail_password_file: Path | None = Field(
        default=None, description="File with the user's password, mode 0600."
    )
    audit_head_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Address that the head of the audit trail is sent to once a day, as JSON.",
    )
    long_poll_limit: int = Field(
        default=1000, gt=0, description="Number of requests that can wait at the same time."
    )

    webhook_hosts: str = Field(
        default="",
        description="Hosts that webhooks may be sent to, separated by commas, such as "
        "`hooks.example.org` or `10.0.0.5:8080`; by default none.",
    )
    webhook_private_networks: str = Field(
        default="",
        description="Networks of private addresses that these hosts may have, separated by commas, "
        "such as `10.0.0.0/8`; by default none.",
    )
    allow_weak_sandbox: bool = Field(
        default=False,
        description="Decode recordings even where neither Landlock nor namespaces hide files from "
        "ffmpeg: a hostile recording could then read what the service's user can read.",
    )

    @field_validator("webhook_private_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in filter(None, map(str.strip, value.split(","))):
            ip_network(network)
        return value

    @field_validator("devices")
    @classmethod
    def _are_devices(cls, value: str) -> str:
        parse_devices(value)
        return value

    @field_validator("s3_endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise ValueError("must look like https://s3.example.org, without a user name")
            if parts.scheme == "http" and parts.hostname not in LOOPBACK:
                raise ValueError("must begin with https://, except on this machine")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.keys.resolve().is_relative_to(self.data.resolve()):
            raise ValueError("the keys folder must not be inside the data folder")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("set both tls_certificate and tls_key, or neither")
        if (self.sign_on_issuer is None) != (self.sign_on_client_id is None):
            raise ValueError("set both sign_on_issuer and sign_on_client_id, or neither")
        if self.sign_on_issuer is not None and not is_safe_url(
            self.sign_on_issuer, self.sign_on_issuer
        ):
            raise ValueError("sign_on_issuer must begin with https, except on this machine")
        if self.host not in LOOPBACK and not (self.tls_certificate or self.behind_proxy):
            raise ValueError(
                "to accept connections from other machines, set a certificate or behind_proxy"
            )
        bucket = (self.s3_bucket, self.s3_key_id, self.s3_secret_key)
        if self.storage == "s3" and None in bucket:
            raise ValueError("storage s3 needs s3_bucket, s3_key_id and s3_secret_key")
        return self

    def as_environment(self) -> dict[str, str]:
        """Variables that give a child process of this service the same settings.

        Without `url` and `token`: those in the environment of `serve` may be another service's
        address and a user's token, which its children must not use.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        del values["url"], values["token"]
        return {
            variable_name(name): value.get_secret_value()
            if isinstance(value, SecretStr)
            else str(value)
            for name, value in values.items()
            if value is not None
        }

    @property
    def local_url(self) -> str:
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
        """Among the keys, so that a worker, which can read the data folder, cannot read it."""
        return self.keys / "owner.token"

    @property
    def worker_token(self) -> Path:
        return self.data / "worker.token"

    @property
    def deidentifier_token(self) -> Path:
        """Among the keys, because it reads the transcripts of every study."""
        return self.keys / "deidentifier.token"

    @property
    def sign_on_key(self) -> Path:
        """Key of the hashes of people's identifiers at the single sign-on provider."""
        return self.keys / "sign-on.key"

    @property
    def certificate_key(self) -> Path:
        """Private key that signs certificates."""
        return self.keys / "certificate.key"

    @property
    def audit_heads(self) -> Path:
        """Heads of the audit trail, outside the database that holds it."""
        return self.keys / "audit-heads.jsonl"

    @property
    def root_keys(self) -> Path:
        return self.keys / "root"

    @property
    def wrapped_keys(self) -> Path:
        return self.keys / "wrapped"

    @property
    def ledger(self) -> Path:
        return self.keys / "ledger"


def is_safe_url(url: str, issuer: str) -> bool:
    """Whether an address of the provider of single sign-on has https.

    If the provider itself runs on this machine, without TLS, its other addresses may too.
    """
    try:
        parts, own = urlsplit(url), urlsplit(issuer)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return False
    local = own.scheme == parts.scheme == "http" and own.hostname in LOOPBACK and host in LOOPBACK
    plain = parts.username is None and not parts.fragment and (url != issuer or not parts.query)
    return bool(host) and plain and (parts.scheme == "https" or local)


def variable_name(field: str) -> str:
    return f"{SETTINGS_PREFIX}{field}".upper()


def writes_to_journal() -> bool:
    """Whether systemd keeps what this process prints in its journal."""
    return "JOURNAL_STREAM" in os.environ


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Refuse a misspelt variable: the administrator would believe that it has an effect.

    Raises:
        BadSettings
    """
    known = {variable_name(field) for field in Settings.model_fields}
    unknown = sorted(
        name for name in environment if name.startswith(SETTINGS_PREFIX) and name not in known
    )
    if unknown:
        raise BadSettings(f"Unknown settings: {', '.join(unknown)}")


def read_settings(**arguments: object) -> Settings:
    """Read the settings from the environment; arguments that are not None override it.

    Raises:
        BadSettings
    """
    refuse_unknown(os.environ)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValueError as error:
        # Not chained: pydantic quotes the values, and a database URL contains a password.
        reasons = "; ".join(
            ": ".join([*map(str, item["loc"]), item["msg"].removeprefix("Value error, ")])
            for item in error.errors(include_input=False)  # type: ignore[attr-defined]
        )
        raise BadSettings(reasons) from None
