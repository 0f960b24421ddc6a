"""Random numbers for compiled planners: one word of state, the generator splitmix64."""

from __future__ import annotations

from typing import Any

import numpy as np

from tnet.arrays.compiled import jit

__all__ = ["mixed", "random_word", "uniform_of_word"]


@jit
def mixed(z: Any) -> Any:
    """Return 64 bits that each depend on all of ``z``: the output function of splitmix64, one to one."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def random_word(noise: Any) -> Any:
    """Return the next 64 random bits; ``noise`` is an array of one uint64, the state.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    noise[0] += np.uint64(0x9E3779B97F4A7C15)
    return mixed(noise[0])


@jit
def uniform_of_word(z: Any) -> float:
    """Return a number between 0 and 1, neither of them, from the upper 53 bits of a word."""
    return (np.float64(z >> np.uint64(11)) + 0.5) * 2.0**-53
