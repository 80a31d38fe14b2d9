"""`fieldscribe serve | api | worker`: start the processes of the service."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.access import read_passphrase
from service.commands.console import report_errors
from service.commands.extras import require_packages
from service.commands.options import DevicesOption, PrecisionOption
from service.commands.sign_in import announce_pages
from service.settings import read_settings, writes_to_journal

Data = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of the vault and the embedded database."),
]
Keys = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The keys folder; must not be inside the data folder."),
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of the model weights.")
]
Host = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Port to listen on.")]
BehindProxy = Annotated[
    bool | None,
    typer.Option("--behind-proxy", help="The API is behind a reverse proxy that terminates TLS."),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--tls-certificate", metavar="FILE", help="TLS certificate of the API, PEM."),
]
CertificateKey = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", help="Key of the certificate, PEM, mode 0600."),
]


def serve_command(
    data: Data = None,
    keys: Keys = None,
    weights: Weights = None,
    host: Host = None,
    port: Port = None,
    behind_proxy: BehindProxy = None,
    tls_certificate: Certificate = None,
    tls_key: CertificateKey = None,
    precision: PrecisionOption = None,
    devices: DevicesOption = None,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help="At the first start: protect the root keys with a passphrase.",
        ),
    ] = False,
) -> None:
    """Run the service on this machine.

    Starts the API, its database, a worker for each GPU and a de-identifier, and runs until Ctrl-C
    or SIGTERM.
    """
    with report_errors(as_json=False):
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
            devices=devices,
        )
        require_packages("serve", "worker")
        from service.services import has_root_keys
        from service.supervisor import serve

        asked = passphrase and not has_root_keys(settings)
        given = read_passphrase(confirm=True) if asked else None
        # Standard output may be the journal, which is kept: no link there.
        announce_pages(settings, with_link=not writes_to_journal())
        exit_code = serve(settings, passphrase=given)
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
    """Run only the API.

    Its database is the one that FIELDSCRIBE_DATABASE_URL names.
    """
    with report_errors(as_json=False):
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
        require_packages("api", "server")
        from service.api import process as api

        exit_code = api.main(settings)
    raise typer.Exit(exit_code)


def worker_command(
    data: Data = None,
    weights: Weights = None,
    idle_unload_minutes: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Minutes of idleness before the models are unloaded."),
    ] = None,
    precision: PrecisionOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="cuda:1, for example; by default the first GPU, or the CPU."
        ),
    ] = None,
) -> None:
    """Run one worker, which takes jobs from the queue.

    Start one worker per GPU.
    """
    with report_errors(as_json=False):
        settings = read_settings(
            data=data,
            weights=weights,
            idle_unload_minutes=idle_unload_minutes,
            precision=precision,
            devices=device,
        )
        require_packages("worker", "worker")
        from service.worker import process as worker

        exit_code = worker.main(settings, device=device)
    raise typer.Exit(exit_code)
