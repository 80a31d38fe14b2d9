"""The de-identifier's process: claims hand-offs one at a time and completes them.

If it is killed, the lease of its claim ends and the next de-identifier gets the hand-off.
"""

import logging
import signal
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from models.deidentification.detect import detect
from models.deidentification.occurrences import Detector, KnownEntity
from models.deidentification.optional_detectors import check_detectors, load_detectors
from models.deidentification.reading import read_segments
from models.errors import WeightsError
from service.deidentifier.handoff_client import (
    Claim,
    ClaimLost,
    HandoffClient,
    RequestRefused,
    Unavailable,
    open_http,
)
from service.errors import locate
from service.processes import disable_core_dumps, end_with_parent, log_to_stderr
from service.settings import Settings

POLL = 5.0  # s between claims while there is nothing to do
MAX_PAUSE = 60.0  # s between claims while the API cannot be reached
HEARTBEAT = 30.0  # s; the lease is two minutes
LANGUAGE = "en"  # the rules are for English
MAX_OCCURRENCES = 50_000  # the API takes no more

LoadDetectors = Callable[[], Sequence[Detector]]

log = logging.getLogger(__name__)


def main(settings: Settings, *, parent: int | None = None, until_idle: bool = False) -> int:
    """Run until a signal ends it.

    Args:
        parent: process id of the `serve` that started this process.
        until_idle: end when no hand-off is waiting.

    Raises:
        WeightsError, UnknownModel: the named-entity model cannot be used.
    """
    disable_core_dumps()
    if parent is not None:
        end_with_parent(signal.SIGTERM, parent)
    log_to_stderr()
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    check_detectors(settings.deidentifier_model, settings.weights)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loaded: list[Sequence[Detector]] = []

    def load() -> Sequence[Detector]:
        if not loaded:
            loaded.append(load_detectors(settings.deidentifier_model, settings.weights))
            names = ", ".join(detector.name for detector in loaded[0])
            log.info("detectors: rules%s", f", {names}" if names else " (reduced assistance)")
        return loaded[0]

    run(lambda: HandoffClient(open_http(settings)), load, stop, until_idle=until_idle)
    return 0


def run(
    connect: Callable[[], HandoffClient],
    load: LoadDetectors,
    stop: threading.Event,
    *,
    until_idle: bool = False,
) -> None:
    """Claim and complete until `stop` is set; after an error, connect again."""
    client: HandoffClient | None = None
    pause = POLL
    while not stop.is_set():
        try:
            client = client or connect()
            if process_next(client, load):
                pause = POLL
                continue
            if until_idle:
                return
            pause = POLL
        except (Unavailable, RequestRefused) as error:
            log.warning("no hand-off can be claimed: %s", error.code)
            client, pause = None, min(2 * pause, MAX_PAUSE)
        except OSError as error:  # the API writes our token when it starts
            log.warning("the token or the certificate cannot be read (%s)", error.strerror)
            client, pause = None, min(2 * pause, MAX_PAUSE)
        stop.wait(pause)


def process_next(client: HandoffClient, load: LoadDetectors) -> bool:
    """Claim one hand-off and end it; return whether there was one.

    Raises:
        Unavailable, RequestRefused: of the claim.
    """
    claim = client.claim()
    if claim is None:
        return False
    try:
        with KeptAlive(client, claim):
            failure = complete(client, claim, load)
        if failure is not None:
            client.fail(claim, failure)
            log.error("hand-off %s: failed, %s", claim.id, failure)
    except ClaimLost as error:
        log.warning("hand-off %s: lost, %s", claim.id, error)
    except (Unavailable, RequestRefused) as error:
        log.warning("hand-off %s: left to its lease, %s", claim.id, error.code)
    return True


def complete(client: HandoffClient, claim: Claim, load: LoadDetectors) -> str | None:
    """Complete a claim; return the code to fail it with if that is not possible.

    Raises:
        ClaimLost, Unavailable
    """
    if claim.language != LANGUAGE:
        return "unsupported_language"
    try:
        detectors = load()
        segments = read_segments(claim.segments)
        roster = [
            KnownEntity(str(e["id"]), e["kind"], e["name"], tuple(e.get("aliases") or ()))
            for e in claim.roster
        ]
        findings = detect(segments, roster, detectors)
    except WeightsError as error:
        log.error("hand-off %s: the named-entity model: %s", claim.id, error.code)
        return "model_missing"
    except MemoryError:
        return "out_of_memory"
    except Exception as error:  # noqa: BLE001
        # neither the message nor the traceback, which could quote the transcript
        log.error("hand-off %s: %s at %s", claim.id, type(error).__name__, locate(error))
        return "internal_error"
    if len(findings.occurrences) > MAX_OCCURRENCES:
        return "transcript_unusable"
    try:
        client.complete(claim, findings.occurrences)
    except RequestRefused as error:
        log.error("hand-off %s: the occurrences were refused, %s", claim.id, error.code)
        return "internal_error"
    log.info(
        "hand-off %s: completed, %d occurrences in %d segments",
        claim.id,
        len(findings.occurrences),
        len(segments),
    )
    return None


class KeptAlive:
    """Extends the lease of a claim, from a thread, for as long as the `with` block runs."""

    def __init__(self, client: HandoffClient, claim: Claim, interval: float = HEARTBEAT) -> None:
        self._client, self._claim, self._interval = client, claim, interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._interval):
            try:
                self._client.heartbeat(self._claim)
            except (ClaimLost, RequestRefused):
                return  # `complete` will be refused as well
            except Unavailable as error:
                log.warning("hand-off %s: no heartbeat, %s", self._claim.id, error.code)
