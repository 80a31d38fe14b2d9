"""The precisions that models compute in. Loads no torch, so that the API can import it."""

from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]

TrunkPrecision = Literal["fp32", "bf16"]
"""Of the convolutions of diarisation's embedding model."""
