"""Compression of language models: calibrate, choose under one budget, factorise, refine, measure, save.

Importing this package registers tnet's saved models with transformers.
"""

from __future__ import annotations

from tnet.compression.allocation import Allocation, Choice
from tnet.compression.pipeline import CalibrationWarning, compress, plan_compression
from tnet.compression.quality import CausalQuality, EncoderQuality
from tnet.compression.quantizer import TnetConfig, TnetQuantizer, attach, detach
from tnet.compression.result import CompressionResult
from tnet.compression.settings import Settings

__all__ = [
    "Allocation",
    "CalibrationWarning",
    "CausalQuality",
    "Choice",
    "CompressionResult",
    "EncoderQuality",
    "Settings",
    "TnetConfig",
    "TnetQuantizer",
    "attach",
    "compress",
    "detach",
    "plan_compression",
]
