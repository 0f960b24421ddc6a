"""Exchange with other tensor libraries, by explicit functions; they are imported on the first call."""

from __future__ import annotations

from tnet.io.interop.tensorly import from_tensorly, to_tensorly

__all__ = ["from_tensorly", "to_tensorly"]
