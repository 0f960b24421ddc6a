"""The contraction as plain pairwise products, for compilers that trace Python and choose layouts themselves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tnet.arrays import (
    Array,
    Namespace,
    array_namespace,
    astype,
    contract_pair,
    dtype_name,
    is_torch,
    reduce_single,
    resolve_dtype,
)
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.pairs import Pair, result_indices
from tnet.contraction.slicing import Split, slice_keys
from tnet.contraction.spec import ContractionSpec

__all__ = ["contract_traced", "is_traced"]


def is_traced(arrays: Sequence[Array]) -> bool:
    """Return whether torch.compile is reading the Python code right now."""
    if not arrays or not is_torch(arrays[0]):
        return False
    torch: Any = sys.modules["torch"]
    return torch.compiler.is_compiling()


def contract_traced(
    spec: ContractionSpec, pairs: Sequence[Pair], splits: Sequence[Split], arrays: Sequence[Array]
) -> Array:
    """Contract in the planned order, slices included, without anything that is kept from call to call."""
    xp = array_namespace(*arrays)
    dtypes = dtype_plan([dtype_name(x) for x in arrays])
    compute, result = resolve_dtype(xp, dtypes.compute), resolve_dtype(xp, dtypes.result)
    kept = result_indices(spec, pairs)
    if not splits:
        return astype(_slice(xp, spec, pairs, kept, [astype(x, compute) for x in arrays]), result)
    total = xp.zeros(spec.output_shape, dtype=compute, device=arrays[0].device)
    for keys, place in slice_keys(spec, splits):
        pieces = [astype(x if key is None else x[key], compute) for x, key in zip(arrays, keys, strict=True)]
        total[(*place, ...)] += _slice(xp, spec, pairs, kept, pieces)
    return astype(total, result)


def _slice(
    xp: Namespace, spec: ContractionSpec, pairs: Sequence[Pair], kept: Sequence[tuple[int, ...]], pieces: list[Array]
) -> Array:
    labels: list[tuple[int, ...]] = list(spec.inputs)
    for k, (a, b) in enumerate(pairs):
        output = kept[len(spec.inputs) + k] if k < len(pairs) - 1 else spec.output
        pieces.append(contract_pair(xp, pieces[a], labels[a], pieces[b], labels[b], output))
        labels.append(output)
    last = pieces[-1]
    return last if pairs else xp.asarray(reduce_single(xp, last, labels[0], spec.output), copy=True)
