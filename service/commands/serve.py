"""`fieldscribe serve | api | worker`: the processes of the service."""

from pathlib import Path
from typing import Annotated

import typer

from models.precision import Precision
from service.commands.access import read_passphrase
from service.commands.console import errors_as_sentences
from service.settings import read_settings

Data = Annotated[Path | None, typer.Option(help="Folder of the vault and the database.")]
Keys = Annotated[Path | None, typer.Option(help="Folder of the keys; never under the data.")]
Weights = Annotated[Path | None, typer.Option(help="Folder of the weights.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.")]
BehindProxy = Annotated[
    bool | None, typer.Option("--behind-proxy", help="A proxy with TLS stands before the API.")
]
WorkerPrecision = Annotated[
    Precision | None,
    typer.Option("--precision", help="A lower one only with weights it was measured with."),
]
Certificate = Annotated[Path | None, typer.Option("--tls-certificate", help="PEM file.")]
CertificateKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM file, mode 0600.")]


def serve_command(
    data: Data = None,
    keys: Keys = None,
    weights: Weights = None,
    host: Host = None,
    port: Port = None,
    behind_proxy: BehindProxy = None,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    precision: WorkerPrecision = None,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase", help="At the first start: keep the root keys under a passphrase."
        ),
    ] = False,
) -> None:
    """Run the API, its database and one worker on this machine, until Ctrl-C or SIGTERM."""
    with errors_as_sentences(as_json=False):
        settings = read_settings(
            data=data,
            keys=keys,
            weights=weights,
            host=host,
            port=port,
            behind_proxy=behind_proxy,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            precision=precision,
        )
        from service.services import has_root_keys
        from service.supervisor import serve

        asked = passphrase and not has_root_keys(settings)
        exit_code = serve(settings, passphrase=read_passphrase(confirm=True) if asked else None)
    raise typer.Exit(exit_code)


def api_command(
    data: Data = None,
    keys: Keys = None,
    weights: Weights = None,
    host: Host = None,
    port: Port = None,
    behind_proxy: BehindProxy = None,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
) -> None:
    """Run the API alone, with the database of FIELDSCRIBE_DATABASE_URL."""
    with errors_as_sentences(as_json=False):
        settings = read_settings(
            data=data,
            keys=keys,
            weights=weights,
            host=host,
            port=port,
            behind_proxy=behind_proxy,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
        )
        from service.api import process as api

        exit_code = api.main(settings)
    raise typer.Exit(exit_code)


def worker_command(
    data: Data = None,
    weights: Weights = None,
    idle_unload_minutes: Annotated[
        float | None, typer.Option(help="Without jobs the models are let go of after these.")
    ] = None,
    precision: WorkerPrecision = None,
) -> None:
    """Run one worker: it takes jobs from the queue. One for each GPU."""
    with errors_as_sentences(as_json=False):
        settings = read_settings(
            data=data,
            weights=weights,
            idle_unload_minutes=idle_unload_minutes,
            precision=precision,
        )
        from service.worker import process as worker

        exit_code = worker.main(settings)
    raise typer.Exit(exit_code)
