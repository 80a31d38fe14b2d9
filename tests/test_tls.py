"""An API with a certificate, reached as 127.0.0.1 by programs on its own machine."""

import http.server
import json
import ssl
import threading
from contextlib import contextmanager
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from scripts.stand_in.installation import Installation, wait_until
from scripts.stand_in.jobs import make_job
from service.commands.client import ServiceUnreachable
from service.commands.connection import open_client
from service.commands.main import app
from service.services import open_services
from service.settings import BadSettings, Settings
from service.worker.keys import keys_from_api
from tests.certificates import make_certificate

HOST = "transcripts.example.org"


@pytest.fixture
def authority(tmp_path):
    return make_certificate(tmp_path, "authority.example.org")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("FIELDSCRIBE_TOKEN", "a token")
    monkeypatch.delenv("FIELDSCRIBE_URL", raising=False)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = json.dumps({"items": [], "keys": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def serving(certificate, port=0):
    """Serve with this certificate; the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path, certificate.key)
    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings_of(tmp_path, certificate, port):
    folders = {name: tmp_path / name for name in ("data", "keys")}
    key = certificate.key
    return Settings(**folders, port=port, tls_certificate=certificate.path, tls_key=key)


def studies(settings):
    with open_client(settings) as client:
        return client.request("GET", "/v1/studies", retry_for=0).json()["items"]


def keys(settings):
    return keys_from_api(settings)(uuid4(), 1)


@pytest.mark.parametrize("signed", ["by an authority", "by itself"])
def test_this_machines_certificate_is_trusted_whatever_its_host_name(authority, tmp_path, signed):
    """Commands on the service's own machine rejected its certificate."""
    by = authority if signed == "by an authority" else None
    certificate = make_certificate(tmp_path, HOST, by)
    with serving(certificate) as port:
        settings = settings_of(tmp_path, certificate, port)

        assert studies(settings) == []
        assert keys(settings) == {}


def test_another_certificate_of_the_same_authority_is_not_trusted(authority, tmp_path):
    """The authority's certificate, which is in the same file, was trusted too."""
    own = make_certificate(tmp_path, HOST, authority)
    with serving(make_certificate(tmp_path, "other.example.org", authority)) as port:
        settings = settings_of(tmp_path, own, port)

        with pytest.raises(ServiceUnreachable):
            studies(settings)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            keys(settings)


def test_a_remote_service_needs_a_certificate_that_this_machine_trusts(
    authority, tmp_path, monkeypatch
):
    certificate = make_certificate(tmp_path, HOST, authority)
    with serving(certificate) as port:
        monkeypatch.setenv("FIELDSCRIBE_URL", f"https://127.0.0.1:{port}")

        with pytest.raises(ServiceUnreachable):
            studies(settings_of(tmp_path, certificate, port))


def test_a_worker_keeps_working_when_the_certificate_is_renewed(authority, tmp_path):
    certificate = make_certificate(tmp_path, HOST, authority)
    with serving(certificate) as port:
        settings = settings_of(tmp_path, certificate, port)
        fetch = keys_from_api(settings)
        assert fetch(uuid4(), 1) == {}
    with serving(make_certificate(tmp_path, HOST, authority), port):
        assert fetch(uuid4(), 1) == {}


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_unreadable_certificate_is_reported(authority, tmp_path, content):
    settings = settings_of(tmp_path, authority, 1)
    authority.path.unlink()
    if content is not None:
        authority.path.write_text(content)

    with pytest.raises(BadSettings, match="tls_certificate"):
        studies(settings)


@pytest.mark.slow
def test_serve_with_a_certificate_runs_jobs_for_commands_on_its_machine(
    data_folder, tmp_path, monkeypatch
):
    monkeypatch.delenv("FIELDSCRIBE_TOKEN")
    certificate = make_certificate(tmp_path, HOST)
    site = Installation(
        data_folder, None, tls_certificate=certificate.path, tls_key=certificate.key
    )
    site.start_serve()
    try:
        wait_until(site.is_ready, 120, "the service to answer")
        site.services = open_services(site.settings)
        for name, value in site.settings.as_environment().items():
            monkeypatch.setenv(name, value)
        job_id = make_job(site.services)  # its worker asks the API for keys

        watched = CliRunner().invoke(app, ["watch", str(job_id)])
        assert watched.exit_code == 0, watched.output
        assert site.status(job_id) == "succeeded"
        site.services.close()
    finally:
        site.cut_power()
