"""Transcripts as files: whole or not at all, readable by their owner only."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """A crash leaves the old file or the new one, never half of one. Mode 0600."""
    descriptor, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
