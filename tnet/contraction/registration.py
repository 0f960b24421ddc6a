"""tnet's planners by name in opt_einsum, and so in ``torch.einsum`` and JAX."""

from __future__ import annotations

import functools
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tnet.contraction.pairs import linear_path
from tnet.contraction.planning import Timing, find_pairs
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError

__all__ = ["register_with_opt_einsum"]

_DTYPE = "float64"  # opt_einsum does not tell


def register_with_opt_einsum(name: str = "tnet") -> None:
    """Make the planner ``"auto"`` known to opt_einsum under a name.

    Parameters
    ----------
    name : str
        For ``opt_einsum.contract(..., optimize=name)``, ``jax.numpy.einsum(..., optimize=name)`` and
        ``torch.backends.opt_einsum.strategy = name``, which ``torch.einsum`` then follows.

    Raises
    ------
    InputError
        ``name`` is no text, or opt_einsum has a planner of its own, or of another library, under it.

    Notes
    -----
    A second call changes nothing. A limit on memory given to opt_einsum is not followed: its paths have no slices;
    :func:`tnet.plan` has them.

    Examples
    --------
    >>> import numpy as np
    >>> import opt_einsum
    >>> from tnet.contraction import register_with_opt_einsum
    >>> register_with_opt_einsum()
    >>> float(opt_einsum.contract("ij,jk,ki->", np.eye(3), np.eye(3), np.eye(3), optimize="tnet"))
    3.0
    """
    from opt_einsum import paths

    if not isinstance(name, str):
        raise InputError(f"name={name!r}: give text, such as 'tnet'.")
    registered: Mapping[str, Any] = paths._PATH_OPTIONS
    key = name.lower()  # as opt_einsum keeps it
    if registered.get(key) is _path:
        return
    try:
        paths.register_path_fn(key, _path)
    except KeyError as error:
        raise InputError(f"name={name!r} is taken in opt_einsum: give another, such as 'tnet'.") from error


def _path(
    inputs: Sequence[Collection[str]],
    output: Collection[str],
    size_dict: Mapping[str, int],
    memory_limit: int | None = None,
) -> list[tuple[int, ...]]:
    """Return a path for opt_einsum, which asks anew at every call: the last ones are kept."""
    # Sets of strings are ordered by the process's hash seed; one network must give one path.
    labels = sorted(size_dict)
    number = {label: k for k, label in enumerate(labels)}
    terms = tuple(tuple(sorted(number[label] for label in term)) for term in inputs)
    kept = tuple(sorted(number[label] for label in output))
    return list(_known_path(terms, kept, tuple(int(size_dict[label]) for label in labels)))


@functools.lru_cache(maxsize=256)
def _known_path(
    inputs: tuple[tuple[int, ...], ...], output: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    spec = ContractionSpec(inputs, output, sizes, tuple(map(str, range(len(sizes)))))
    pairs = find_pairs(spec, "auto", Timing(time.perf_counter(), None, _DTYPE))
    return tuple(linear_path(pairs, len(inputs)))
