"""Random numbers: any kind of seed in, host draws out, the same on every library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tnet.arrays.namespace import Array, from_numpy_like, is_complex
from tnet.errors import InputError

__all__ = ["resolve_rng", "standard_normal"]


def resolve_rng(rng: object) -> tuple[np.random.Generator, int]:
    """Return a NumPy generator and the seed that makes it again.

    Parameters
    ----------
    rng : int, numpy.random.Generator, torch.Generator or None
        A generator gives one draw, which becomes the seed, and so advances;
        None takes fresh entropy from the operating system.

    Returns
    -------
    generator : numpy.random.Generator
    seed : int
        ``resolve_rng(seed)`` repeats the same stream.

    Raises
    ------
    InputError
        For anything else, ``numpy.random.RandomState``, bool and negative integers included.
    """
    seed = _seed(rng)
    return np.random.default_rng(seed), seed


def standard_normal(rng: np.random.Generator, shape: Sequence[int], like: Array) -> Array:
    """Return independent standard normal entries in the library, dtype and device of ``like``.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : sequence of int
    like : array
        Complex ``like``: real and imaginary part have variance 1/2 each.

    Notes
    -----
    Drawn on the host in float64, so that one seed gives the same start on every library.
    """
    draw = rng.standard_normal(tuple(shape))
    if is_complex(like):
        draw = (draw + 1j * rng.standard_normal(tuple(shape))) * np.sqrt(0.5)
    return from_numpy_like(draw, like)


def _seed(rng: Any) -> int:
    if rng is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> np.uint64(1))
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return int(rng)
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63 - 1))
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(rng, torch.Generator):
        generator: Any = rng
        return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    raise InputError(f"rng={rng!r}: give an integer >= 0, a numpy.random.Generator, a torch.Generator, or None.")
