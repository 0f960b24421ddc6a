"""Starting factors of the canonical polyadic decomposition."""

from __future__ import annotations

from typing import Any

from tnet.arrays import Array, array_namespace, astype, check_finite, resolve_rng, standard_normal, truncated_eigh
from tnet.decompositions.cp_fit import normalised_columns
from tnet.decompositions.preparation import Prepared
from tnet.decompositions.tucker import mode_gram
from tnet.errors import InputError, ShapeError
from tnet.formats import CPTensor
from tnet.options import Truncation

__all__ = ["starting_factors"]


def starting_factors(prepared: Prepared, R: int, init: object, rng: Any) -> tuple[list[Array], int | None]:
    """Return starting factors with columns of norm 1, and the seed if anything was random."""
    x = prepared.array
    if isinstance(init, CPTensor):
        return _given_start(prepared, R, init), None
    if not isinstance(init, str) or init not in ("svd", "random"):
        raise InputError(f"init={init!r}: choose 'svd', 'random', or give a CPTensor.")
    xp = array_namespace(x)
    generator, seed = resolve_rng(rng)
    factors: list[Array] = []
    drawn = False
    for mode, n in enumerate(x.shape):
        columns: list[Array] = []
        if init == "svd":
            U, _, _ = truncated_eigh(mode_gram(x, mode), Truncation(rank=min(R, n)))
            columns.append(astype(U, x.dtype))
        missing = R - (min(R, n) if init == "svd" else 0)
        if missing:
            drawn = True
            columns.append(standard_normal(generator, (n, missing), x))
        factors.append(normalised_columns(xp.concat(columns, axis=1)))
    return factors, seed if drawn else None


def _given_start(prepared: Prepared, R: int, init: CPTensor) -> list[Array]:
    x = prepared.array
    if init.shape != tuple(x.shape) or init.rank != R:
        raise ShapeError(
            f"init has shape {init.shape} and rank {init.rank}; give one of shape {tuple(x.shape)} and rank {R}."
        )
    array_namespace(x, *init.arrays)  # refuses another library or device
    for k, part in enumerate(init.arrays):
        check_finite(part, f"array {k} of init")
    # Weights do not matter: the first update solves for them, whatever the scale of the others.
    return [normalised_columns(astype(factor, x.dtype)) for factor in init.factors]
