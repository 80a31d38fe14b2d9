import os
from pathlib import Path
from typing import Any


class Bomb:
    """A pickle that runs a program when it is read: it would touch the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)
