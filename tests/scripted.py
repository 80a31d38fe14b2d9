"""A fake pipeline for children of batch mode, which import it by name."""

import os
import signal
import time
from typing import Any

from tests.fakes import FakePipeline


class ScriptedPipeline(FakePipeline):
    """Kills its process at recordings that its device cannot do, which their length tells."""

    seconds_at_once = 1.5

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def finish(self, session: Any, on_progress: Any) -> Any:
        (recording,), _ = session
        time.sleep(0.05)
        if recording.duration > 4 or (recording.duration > 2 and self.device == "cpu:1"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().finish(session, on_progress)


def load_scripted(batch: Any, device: str) -> Any:
    return ScriptedPipeline(device)
