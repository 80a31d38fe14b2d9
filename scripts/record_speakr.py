"""Run Speakr's own code for whisper-asr-webservice, and record its requests for the tests.

    git clone https://github.com/murtaza-nasir/speakr
    .venv/bin/python -m scripts.record_speakr speakr
    .venv/bin/python -m scripts.record_speakr speakr --url http://asr:TOKEN@127.0.0.1:8321 \
        --audio demo/INT-07.flac

The first writes tests/recorded/speakr-*.http, as they were received. The second sends the request
to a running service instead, and prints what Speakr reads in the answer. Speakr's licence is the
AGPL: its code is run from a checkout and is no part of this repository.
"""

import argparse
import importlib
import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "tests" / "recorded"
AUDIO = b"THE BYTES OF THE RECORDING"  # the tests replace them
TOKEN = "THE-TOKEN"
ANSWER = {"text": "Hello.", "language": "en", "segments": []}
REQUESTS: dict[str, dict[str, Any]] = {
    "usual": {"diarize": True},  # nothing is filled in
    "full": {
        "diarize": True,
        "language": "en",
        "min_speakers": 2,
        "max_speakers": 3,
        "prompt": "An interview about peer work.",
        "hotwords": "Fieldscribe, Mirow",
        "model": "demo",
    },
}


def import_connector(speakr: Path) -> ModuleType:
    """Speakr's connector, without the packages around it, which import its whole application."""
    for name in ("src", "src.config", "src.services", "src.services.transcription"):
        package = ModuleType(name)
        package.__path__ = [str(speakr / name.replace(".", "/"))]
        sys.modules[name] = package
    settings: Any = ModuleType("src.config.app_config")
    settings.ASR_ENABLE_CHUNKING, settings.ASR_MAX_DURATION_SECONDS = False, 7200  # its defaults
    sys.modules[settings.__name__] = settings
    return importlib.import_module("src.services.transcription.connectors.asr_endpoint")


def transcribe(speakr: Path, url: str, audio: bytes, filename: str, options: dict[str, Any]) -> Any:
    """Let Speakr transcribe, as its src/tasks/processing.py does."""
    module = import_connector(speakr)
    connector = module.ASREndpointConnector({"base_url": url})
    request = module.TranscriptionRequest(
        audio_file=io.BytesIO(audio), filename=filename, mime_type="audio/mpeg", **options
    )
    return connector.transcribe(request)


class Recorder(HTTPServer):
    """Answers every request with the same transcript, and keeps the bytes of the last one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received = b""
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items())]
        self.server.received = "\r\n".join([*head, "", ""]).encode() + body
        content = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("speakr", type=Path, help="a checkout of Speakr")
    parser.add_argument("--url", help="a running service, with its token as the password")
    parser.add_argument("--audio", type=Path, default=ROOT / "demo" / "INT-07.flac")
    parser.add_argument("--model", help="Speakr's per-request model")
    options = parser.parse_args()
    version = (options.speakr / "VERSION").read_text().strip()
    if options.url:
        audio: Path = options.audio
        chosen = {"diarize": True, "max_speakers": 2, "model": options.model}
        found: SimpleNamespace = transcribe(
            options.speakr, options.url, audio.read_bytes(), audio.name, chosen
        )
        print(f"Speakr {version}: {len(found.segments)} segments of {', '.join(found.speakers)}")
        for segment in found.segments[:4]:
            print(f"{segment.start_time:7.2f} {segment.speaker}: {segment.text}")
        return
    recorder = Recorder()
    url = f"http://asr:{TOKEN}@127.0.0.1:{recorder.server_port}"
    RECORDED.mkdir(exist_ok=True)
    for name, chosen in REQUESTS.items():
        transcribe(options.speakr, url, AUDIO, "Eva Muster.mp3", chosen)
        path = RECORDED / f"speakr-{name}.http"
        path.write_bytes(recorder.received)
        print(f"{path.relative_to(ROOT)}: Speakr {version}, {len(recorder.received)} bytes")


if __name__ == "__main__":
    main()
