"""How `serve` starts its children.

    python -m service.child PARENT_PID NAME [ENGINE_MODULE [DEVICE WORKER_ID]]

The environment holds their settings. This is a module apart from theirs, so that none of those runs
as `__main__`.
"""

import os
import sys
from uuid import UUID

from service.settings import read_settings

API, WORKER, DEIDENTIFIER = "api", "worker", "deidentifier"


def child_command(name: str, *arguments: str) -> list[str]:
    """The command line that starts a child of this process: `API`, `WORKER`, `DEIDENTIFIER`."""
    return [sys.executable, "-m", __name__, str(os.getpid()), name, *arguments]


def main(parent: int, name: str, *arguments: str) -> int:
    os.umask(0o077)
    if name == API:
        from service.api import process as api

        return api.main(read_settings(), parent=parent)
    if name == DEIDENTIFIER:
        from service.deidentifier import process as deidentifier

        return deidentifier.main(read_settings(), parent=parent)
    from service.worker import process as worker

    module, device, id = (*arguments, None, None)[:3]
    assert module is not None
    return worker.main(
        read_settings(),
        engine_module=module,
        parent=parent,
        device=device,
        worker_id=None if id is None else UUID(id),
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
