"""Loops compiled by Numba at their first call, kept on disk where there is a place for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["jit"]


def jit(function: Callable[..., Any], *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Return ``function`` compiled for the types of each first call, without the interpreter's lock.

    Parameters
    ----------
    function : callable
        A loop over arrays and numbers, in the subset of Python that Numba compiles.
    fastmath : frozenset of str
        Relaxations of IEEE arithmetic, named as LLVM names them; none by default.

    Notes
    -----
    Numba is imported here, so modules that call this at their top are imported only when their loops are needed.
    """
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep compiled code in: compile in every process
        return numba.njit(**options)(function)
