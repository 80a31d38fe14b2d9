"""Sealed files in memory, which ffmpeg can seek in without plaintext on disk."""

import fcntl
import mmap
import os
from collections.abc import Iterable
from typing import BinaryIO


def memory_file(parts: Iterable[bytes]) -> BinaryIO:
    """Write the parts to a memfd, seal it against changes, and rewind it."""
    descriptor = os.memfd_create("recording", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    file = open(descriptor, "w+b")
    for part in parts:
        file.write(part)
    file.seek(0)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return file


def private_map(file: BinaryIO) -> mmap.mmap:
    """A file that is not empty, mapped for reading; a sealed one allows no shared mapping."""
    return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
