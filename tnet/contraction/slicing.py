"""Cutting indices into parts until a contraction fits into memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.layout import Layout
from tnet.contraction.lowering import Program, lower
from tnet.contraction.memory import Peak, format_bytes, peak_memory
from tnet.contraction.pairs import Pair, pairwise_macs, result_indices
from tnet.contraction.spec import ContractionSpec
from tnet.contraction.stacking import with_stacks
from tnet.errors import MemoryLimitError

__all__ = [
    "MOST_SLICES_ADVISED",
    "Reached",
    "Split",
    "cannot_be_met",
    "choose_splits",
    "slice_keys",
    "sliced_peak",
    "sliced_program",
    "sliced_sizes",
    "smallest_prime_factor",
    "unavoidable_bytes",
]

_LARGEST_PRIME = 2**16

Split = tuple[int, int]
"""An index and the number of equal parts that it is cut into."""

MOST_SLICES_ADVISED = 2**20
"""An error does not advise a limit that takes more slices than this."""


class Reached(NamedTuple):
    """A peak in bytes, and the number of slices that it takes."""

    n_bytes: int
    n_slices: int


def sliced_sizes(spec: ContractionSpec, splits: Sequence[Split]) -> tuple[int, ...]:
    """Return the size of each index within one slice."""
    sizes = list(spec.sizes)
    for index, parts in splits:
        sizes[index] //= parts
    return tuple(sizes)


def sliced_program(
    spec: ContractionSpec,
    pairs: Sequence[Pair],
    splits: Sequence[Split],
    dtypes: DtypePlan,
    *,
    layouts: Sequence[Layout] | None = None,
    hoisted: frozenset[int] = frozenset(),
    kernels: bool = False,
    stacked: bool = False,
) -> Program:
    """Return the program of one slice; with ``stacked``, small equal steps of a whole contraction run as one."""
    program = lower(
        spec,
        pairs,
        sliced_sizes(spec, splits),
        frozenset(index for index, _ in splits),
        layouts=layouts,
        converted=dtypes.converted,
        hoisted=hoisted,
        kernels=dtypes.compute if kernels else None,
    )
    return with_stacks(spec, program, dtypes) if stacked and not splits else program


def sliced_peak(
    spec: ContractionSpec,
    pairs: Sequence[Pair],
    splits: Sequence[Split],
    dtypes: DtypePlan,
    layouts: Sequence[Layout] | None = None,
) -> Peak:
    """Return the peak memory of the whole sliced contraction."""
    program = sliced_program(spec, pairs, splits, dtypes, layouts=layouts)
    return peak_memory(spec, program, dtypes, sliced=bool(splits))


def choose_splits(
    spec: ContractionSpec,
    pairs: Sequence[Pair],
    dtypes: DtypePlan,
    limit: int,
    layouts: Sequence[Layout] | None = None,
) -> tuple[Split, ...]:
    """Cut indices, one prime factor at a time, until the peak is within ``limit`` bytes.

    Parameters
    ----------
    spec : ContractionSpec
    pairs : sequence of pair of int
    dtypes : DtypePlan
    limit : int
        Bytes.
    layouts : sequence of (tuple of int or None), optional
        Memory layout of each input; C order by default.

    Returns
    -------
    tuple of (int, int)
        Indices and their numbers of parts; empty when the whole fits.

    Raises
    ------
    MemoryLimitError
        No choice of this greedy search fits; the message names the least peak that it found.

    Notes
    -----
    Each round looks at the indices of the arrays alive at the peak. Among the cuts that reach the limit
    it takes the one with the fewest multiply-adds, otherwise the one that buys memory most cheaply:
    least (bytes above what inputs and result need anyway) x (multiply-adds).
    """
    splits: dict[int, int] = {}
    peak = sliced_peak(spec, pairs, (), dtypes, layouts)
    if peak.n_bytes <= limit:
        return ()
    least = advised = Reached(peak.n_bytes, 1)
    floor = unavoidable_bytes(spec, dtypes)
    while peak.n_bytes > limit:
        best: tuple[tuple[float, float], dict[int, int], Peak] | None = None
        for index in _indices_alive(spec, pairs, peak, splits):
            trial = dict(splits)
            left = spec.sizes[index] // trial.get(index, 1)
            trial[index] = trial.get(index, 1) * smallest_prime_factor(left)
            found = sliced_peak(spec, pairs, tuple(trial.items()), dtypes, layouts)
            n_slices = math.prod(trial.values())
            macs = n_slices * pairwise_macs(spec, pairs, sliced_sizes(spec, tuple(trial.items())))
            fits = found.n_bytes <= limit
            price = math.log2(max(macs, 1)) + (0.0 if fits else math.log2(max(found.n_bytes - floor, 1)))
            key = (0.0 if fits else 1.0, price)
            if best is None or key < best[0]:
                best = (key, trial, found)
        if best is None:
            raise cannot_be_met(limit, floor, advised, least)
        _, splits, peak = best
        reached = Reached(peak.n_bytes, math.prod(splits.values()))
        least = min(least, reached)
        if reached.n_slices <= MOST_SLICES_ADVISED:
            advised = min(advised, reached)
    return tuple(sorted(splits.items()))


def cannot_be_met(limit: int, floor: int, advised: Reached, least: Reached) -> MemoryLimitError:
    """Return the error that names the least limit found feasible with a bearable number of slices."""
    n_bytes, n_slices = advised
    less = ""
    if least.n_bytes < n_bytes:
        less = f" ({format_bytes(least.n_bytes)} would take {least.n_slices} slices)"
    return MemoryLimitError(
        f"memory_limit={format_bytes(limit)} cannot be met: inputs and result alone take "
        f"{format_bytes(floor)}, and the least limit found feasible is {n_bytes} bytes "
        f"({format_bytes(n_bytes)}) with {n_slices} slice{'s' if n_slices > 1 else ''}; raise memory_limit to "
        f"that{less}."
    )


def slice_keys(
    spec: ContractionSpec, splits: Sequence[Split]
) -> Iterator[tuple[tuple[tuple[slice, ...] | None, ...], tuple[slice, ...]]]:
    """Yield, slice by slice, what to take of each input and where in the result the part belongs.

    Yields
    ------
    inputs : tuple of (tuple of slice) or None
        One key for each input; None for inputs that are not cut.
    output : tuple of slice

    Notes
    -----
    Holds the keys of one slice, however many there are. Tuples are made of lists: one made of a generator is cut to
    its length, and thousands of those stay with Python when they are freed.
    """
    sizes = sliced_sizes(spec, splits)
    cut = {index for index, _ in splits}
    touched = [not cut.isdisjoint(labels) for labels in spec.inputs]
    whole = slice(None)
    for number in range(math.prod([parts for _, parts in splits])):
        piece: dict[int, slice] = {}
        for index, parts in reversed(splits):  # the last index runs fastest
            number, part = divmod(number, parts)
            piece[index] = slice(part * sizes[index], (part + 1) * sizes[index])
        inputs = [
            tuple([piece.get(i, whole) for i in labels]) if is_cut else None
            for labels, is_cut in zip(spec.inputs, touched, strict=True)
        ]
        yield tuple(inputs), tuple([piece.get(i, whole) for i in spec.output])


def unavoidable_bytes(spec: ContractionSpec, dtypes: DtypePlan) -> int:
    """Return the bytes of inputs and result, which no cut makes smaller."""
    inputs = sum(
        math.prod(shape) * size for shape, size in zip(spec.input_shapes, dtypes.operand_itemsizes, strict=True)
    )
    return inputs + math.prod(spec.output_shape) * dtypes.result_itemsize


def _indices_alive(spec: ContractionSpec, pairs: Sequence[Pair], peak: Peak, splits: dict[int, int]) -> list[int]:
    """Return the indices, not yet cut to single entries, of the arrays alive at the peak."""
    sets = result_indices(spec, pairs)
    n = len(spec.inputs)
    alive = {i for s in peak.sources for i in (spec.inputs[s] if s < n else sets[s])}
    return sorted(i for i in alive if spec.sizes[i] > splits.get(i, 1))


def smallest_prime_factor(n: int) -> int:
    """Return the smallest prime that divides n, if it is below 2^16; else n itself, as for 0 and 1.

    An index without small factors is cut into single entries: parts of a larger prime would be as many slices.
    """
    for p in range(2, min(math.isqrt(n) + 1, _LARGEST_PRIME)):
        if n % p == 0:
            return p
    return n
