"""A loopback server that publishes small stand-ins for the real weights."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from models.weights import catalogue
from models.weights.catalogue import KnownFile, KnownModel

WHISPER = b"a Whisper checkpoint " * 1000
CONFIG, SEGMENTATION = b"pipeline: {}", b"a segmentation model " * 100


@dataclass
class Server:
    """Serves files on loopback and records the requests."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    status: int = 200
    supports_ranges: bool = True
    drop_after: int | None = None
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def request_headers(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, headers in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append((handler.path, dict(handler.headers)))
        if handler.path in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[handler.path])
            handler.end_headers()
            return
        content, status, start = self.files.get(handler.path, b""), self.status, 0
        asked = handler.headers.get("Range")
        if status == 200 and self.supports_ranges and asked is not None:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(content) else 416
        handler.send_response(status)
        if status == 206:
            last = len(content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][: self.drop_after])


def serve() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def known_model(
    name: str, kind: catalogue.Kind, url: str, files: dict[str, bytes], *, gated: bool = False
) -> KnownModel:
    known = tuple(
        KnownFile(path, hashlib.sha256(content).hexdigest(), len(content), f"{url}/{path}")
        for path, content in files.items()
    )
    return KnownModel(name, kind, known, "https://model.page", "abc", "MIT", gated)


def publish(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, KnownModel]:
    """Replace the catalogue by a Whisper model and a gated pipeline on the loopback server."""
    whisper = {"whisper/small.pt": WHISPER}
    folder = f"pyannote/{catalogue.DEFAULT_PIPELINE}"
    pipeline = {f"{folder}/config.yaml": CONFIG, f"{folder}/segmentation/a.bin": SEGMENTATION}
    server.files = {f"/{path}": content for path, content in {**whisper, **pipeline}.items()}
    known = {
        "small": known_model("small", "whisper", server.url, whisper),
        catalogue.DEFAULT_PIPELINE: known_model(
            catalogue.DEFAULT_PIPELINE, "pyannote", server.url, pipeline, gated=True
        ),
    }
    monkeypatch.setattr(catalogue, "KNOWN", known)
    return known
