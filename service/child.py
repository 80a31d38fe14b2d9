"""How `serve` starts its children: `python -m service.child PARENT_PID api | worker ENGINE`.

The settings come in the environment. A module of its own, so that theirs are not `__main__`.
"""

import os
import sys

from service.settings import read_settings


def main(parent: int, name: str, *arguments: str) -> int:
    os.umask(0o077)
    if name == "api":
        from service.api import process as api

        return api.main(read_settings(), parent=parent)
    from service.worker import process as worker

    return worker.main(read_settings(), engine_module=arguments[0], parent=parent)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
