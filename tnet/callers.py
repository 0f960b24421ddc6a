"""Warnings that point at the line which called into tnet."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called into tnet, from however deep."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tnet."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
