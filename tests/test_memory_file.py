"""Sealed files in memory."""

import os

import pytest

from models.audio.memory_file import memory_file


def test_a_memory_file_cannot_be_changed() -> None:
    with memory_file([b"RIFF"]) as file, pytest.raises(PermissionError):
        os.pwrite(file.fileno(), b"x", 0)
