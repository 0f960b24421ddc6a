"""Reading and writing: guarded readers, atomic writers, checkpoints, exchange with other libraries.

No file is ever unpickled or evaluated.
"""

from __future__ import annotations

from tnet.io.atomic import atomic_write, staged_directory
from tnet.io.checkpoints import Checkpoint, open_checkpoint
from tnet.io.npz_reader import read_array
from tnet.io.safetensors_header import Header, TensorEntry, read_header
from tnet.io.safetensors_reader import read_safetensors
from tnet.io.safetensors_writer import write_safetensors
from tnet.io.serial import load, save

__all__ = [
    "Checkpoint",
    "Header",
    "TensorEntry",
    "atomic_write",
    "load",
    "open_checkpoint",
    "read_array",
    "read_header",
    "read_safetensors",
    "save",
    "staged_directory",
    "write_safetensors",
]
