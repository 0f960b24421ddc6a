"""Seconds that a structure takes as a layer: its network applied to a batch of inputs, measured here."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import numpy as np

from tnet.arrays import Array, from_numpy_like, to_numpy
from tnet.contraction import plan
from tnet.errors import InputError
from tnet.structure_search.structure import Structure

__all__ = ["LayerLatency"]


@dataclass(frozen=True, eq=False)
class LayerLatency:
    """Measure how long the network takes as a linear map: for :class:`LatencyAndError`.

    Parameters
    ----------
    n_columns : int
        So many modes at the end take the input, the others give the output.
    batch : int
        Inputs at once.
    like : array or None
        Library, device and dtype are its; None is NumPy in float32.
    repeats : int
        Calls, of which the median counts; one more before warms up.

    Notes
    -----
    Cores and inputs are random. Inputs are contracted with the cores in the order that :func:`tnet.plan` chooses for
    this batch. A structure is measured once, and its seconds are kept as long as this object lives.

    Examples
    --------
    >>> seconds = LayerLatency(n_columns=1, batch=8)
    >>> seconds(Structure((16, 32), ((0, 1, 4),))) > 0
    True
    """

    n_columns: int
    batch: int = 1
    like: Array | None = None
    repeats: int = 7
    _known: dict[Structure, float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("n_columns", "batch", "repeats"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give a positive integer.")

    def __call__(self, structure: Structure) -> float:
        """Return the median seconds of a call.

        Raises
        ------
        InputError
            There are not more modes than columns.
        """
        if structure.n_modes <= self.n_columns:
            raise InputError(f"n_columns={self.n_columns}: {structure!r} must have modes for the output as well.")
        canonical = structure.canonical()
        if canonical not in self._known:
            self._known[canonical] = self._measure(canonical)
        return self._known[canonical]

    def _measure(self, structure: Structure) -> float:
        rng = np.random.default_rng(0)
        n_rows = structure.n_modes - self.n_columns
        shapes = [*structure.core_shapes, (self.batch, *structure.shape[n_rows:])]
        arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
        if self.like is not None:
            arrays = [from_numpy_like(array, self.like, self.like.dtype) for array in arrays]
        modes = [f"i{k}" for k in range(structure.n_modes)]
        terms = [list(names) for names in structure.core_indices] + [["batch", *modes[n_rows:]]]
        operands = [item for pair in zip(arrays, terms, strict=True) for item in pair]
        chosen = plan(*operands, ["batch", *modes[:n_rows]])
        taken = []
        for _ in range(self.repeats + 1):
            began = time.perf_counter()
            result = chosen(*arrays)
            to_numpy(result[:1].reshape((-1,))[:1])  # waits for a GPU
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])
