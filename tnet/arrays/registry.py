"""Hot kernels by name, library and kind of device.

A kernel registered for everything is the reference; faster ones for one library or device take
its place without the callers knowing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tnet.arrays.namespace import Array, device_kind, library_name

__all__ = ["lookup", "register"]

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_ANY = "*"
_KERNELS: dict[tuple[str, str, str], Callable[..., Any]] = {}


def register(name: str, library: str = _ANY, device: str = _ANY) -> Callable[[Kernel], Kernel]:
    """Register the decorated function as kernel ``name`` for a library and a kind of device.

    Parameters
    ----------
    name : str
    library : str
        "numpy", "torch", "cupy" ...; "*" for all.
    device : str
        "cpu", "cuda" ...; "*" for all.

    Returns
    -------
    callable
        A decorator that registers a function and returns it unchanged.
    """

    def keep(function: Kernel) -> Kernel:
        _KERNELS[name, library, device] = function
        return function

    return keep


def lookup(name: str, x: Array) -> Callable[..., Any]:
    """Return the most special kernel ``name`` for the library and device of ``x``.

    Raises
    ------
    KeyError
        If no kernel of this name is registered.
    """
    library, device = library_name(x), device_kind(x)
    for key in ((name, library, device), (name, library, _ANY), (name, _ANY, device), (name, _ANY, _ANY)):
        if key in _KERNELS:
            return _KERNELS[key]
    known = sorted({key[0] for key in _KERNELS})
    raise KeyError(f"no kernel {name!r}; registered are {', '.join(known)}")
