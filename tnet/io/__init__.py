"""Reading and writing: guarded readers, atomic writers, checkpoints, exchange with other libraries.

No file is ever unpickled or evaluated.
"""

from __future__ import annotations

from tnet.io.atomic import atomic_write, staged_directory

__all__ = ["atomic_write", "staged_directory"]
