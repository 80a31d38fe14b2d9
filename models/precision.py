"""The precisions that models compute in. Imports nothing: the API offers them without torch."""

from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]

TrunkPrecision = Literal["fp32", "bf16"]
"""Of the convolutions of diarisation's embedding model."""
