"""The process's environment: variables that libraries read, and what child processes inherit.

The only module of models/ that touches it, except the sandbox, whose interpreter can import nothing
of ours. Settings of the service are read in service/settings.py.
"""

import os
from collections.abc import Collection

SETTINGS_PREFIX = "FIELDSCRIBE_"


def set_library_variables() -> None:
    """Set what libraries read when they are imported: call it before importing any of them."""
    # pyannote.audio reports every file it processes, and onnxruntime, which it imports where that
    # is installed, reports to Microsoft.
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # By default the threads of GNU's OpenMP, which torch loads, spin for 300,000 rounds when they
    # wait, and keep processors busy that other processes need: docs/developer/experiments.md.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def child_environment(
    variables: dict[str, str] | None = None, *, only: Collection[str] | None = None
) -> dict[str, str]:
    """The environment for a child process: this one's, without its settings, plus `variables`.

    Children need what the system and libraries read (PATH, TMPDIR, CUDA_VISIBLE_DEVICES). Settings
    hold secrets, such as a token or the database's password, so a child gets only those that it is
    given.

    Args:
        only: names to inherit; None: all but the settings.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(SETTINGS_PREFIX) and (only is None or name in only)
    }
    return {**inherited, **(variables or {})}
