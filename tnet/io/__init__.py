"""Reading and writing: guarded readers, atomic writers, checkpoints, exchange with other libraries.

No file is ever unpickled or evaluated.
"""

from __future__ import annotations

from tnet.io.atomic import atomic_write, staged_directory
from tnet.io.safetensors_header import Header, TensorEntry, read_header
from tnet.io.safetensors_reader import read_safetensors
from tnet.io.safetensors_writer import write_safetensors

__all__ = [
    "Header",
    "TensorEntry",
    "atomic_write",
    "read_header",
    "read_safetensors",
    "staged_directory",
    "write_safetensors",
]
