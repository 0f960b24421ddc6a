"""The networks of a stack that are under way, on the device, swept tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tnet.arrays import Array, array_namespace, from_numpy_like, to_numpy
from tnet.structure_search.evaluate.stacks import Stack, from_stack, to_stack
from tnet.structure_search.evaluate.sweep_tables import SweepTables, sweep_tables
from tnet.structure_search.evaluate.sweeps import SHIFT, dense, swept
from tnet.structure_search.evaluate.targets import Data, Target, target_of

__all__ = ["Pool"]


class Pool:
    """Cores (n, R_k, n_k) of n networks, and the best cores so far of each structure.

    Parameters
    ----------
    data : Data
    stack : Stack
    tile : int
        Networks that are swept together.
    n_dense : int
        Whole approximations made at a time.
    compiled : bool
        Sweep by compiled loops, one network after the other; x is then a NumPy array of float64.
    """

    def __init__(self, data: Data, stack: Stack, tile: int, n_dense: int, *, compiled: bool) -> None:
        self.xp = array_namespace(data.x)
        self._data = data
        self._stack = stack
        self._tile = tile
        self._n_dense = n_dense
        self._compiled = compiled
        self._tables: SweepTables | None = None
        self._owners: list[int] = []
        self._cores: list[Array] | None = None
        self._waiting: list[list[np.ndarray]] = []
        self._best: list[Array] | None = None
        self._targets: dict[tuple, Target] = {}

    def add(self, structure: int, cores: Sequence[np.ndarray], warm: Sequence[Array] | None) -> None:
        """Add starts (n, *core shape) of a structure; a warm one comes first."""
        member, program = self._stack.members[structure], self._stack.program
        if warm is not None:
            cores = [np.concatenate([to_numpy(a)[None, ...], b]) for a, b in zip(warm, cores, strict=True)]
        self._waiting.append(to_stack(program, member, cores))
        self._owners += [structure] * len(cores[0])

    def advance(self, n_sweeps: int) -> np.ndarray:
        """Sweep over all networks, and return their squared relative errors."""
        xp, program = self.xp, self._stack.program
        self._take_in()
        assert self._cores is not None
        if self._compiled:
            return self._advance_compiled(self._cores, n_sweeps)
        n, parts, errors = len(self._owners), [], []
        for start in range(0, n, self._tile):
            items = slice(start, min(start + self._tile, n))
            target = self._target(items)
            cores = swept(xp, program, target, [core[items, ...] for core in self._cores], n_sweeps)
            parts.append(cores)
            for first in range(0, items.stop - start, self._n_dense):
                few = slice(first, min(first + self._n_dense, items.stop - start))
                y = dense(xp, program, [core[few, ...] for core in cores])
                errors.append(target.errors(xp.reshape(y, (few.stop - first, -1)), few))
        self._cores = [_joined(xp, [part[k] for part in parts]) for k in range(len(program.core_labels))]
        return to_numpy(_joined(xp, errors)).astype(np.float64)  # here the host waits for the device

    def _advance_compiled(self, cores: list[Array], n_sweeps: int) -> np.ndarray:
        from tnet.structure_search.evaluate.compiled_sweeps import sweep_each

        if self._tables is None:
            self._tables = sweep_tables(self._stack.program, is_complex=False)
        n, tables = len(self._owners), self._tables
        stacks, places = self._target(slice(0, n)).different_stacks()
        packed = np.concatenate([core.reshape(n, -1) for core in cores], axis=1)
        errors = np.empty(n)
        sweep_each(
            *(tables.up, tables.down, tables.join, tables.orders, tables.n_work, tables.n_scratch),
            np.require(stacks, requirements=["C", "W"]),
            np.broadcast_to(places, (n,)).copy(),
            packed,
            errors,
            n_sweeps,
            SHIFT * float(np.finfo(np.float64).eps),
            float(np.finfo(np.float64).smallest_normal),
        )
        ends = np.cumsum([core.shape[1] * core.shape[2] for core in cores])[:-1]
        parts = np.split(packed, ends, axis=1)
        self._cores = [part.reshape(core.shape) for part, core in zip(parts, cores, strict=True)]
        return errors / self._data.squared_norm

    def remember(self, bests: np.ndarray) -> None:
        """Keep the cores at the place named for each structure as its best; -1 keeps those from before."""
        xp = self.xp
        assert self._cores is not None
        places = from_numpy_like(np.maximum(bests, 0), self._cores[0], xp.int64)
        found = [xp.take(core, places, axis=0) for core in self._cores]
        if self._best is not None:
            better = from_numpy_like(bests >= 0, self._cores[0], xp.bool)[:, None, None]
            found = [xp.where(better, new, old) for new, old in zip(found, self._best, strict=True)]
        self._best = found

    def keep(self, places: np.ndarray) -> None:
        """Drop all networks but those at these places."""
        if len(places) == len(self._owners):
            return
        assert self._cores is not None
        index = from_numpy_like(places, self._cores[0], self.xp.int64)
        self._cores = [self.xp.take(core, index, axis=0) for core in self._cores] if len(places) else None
        self._owners = [self._owners[k] for k in places.tolist()]

    def best_cores(self, structure: int) -> tuple[Array, ...]:
        """Return the best cores of a structure in its own shapes."""
        assert self._best is not None
        item = [core[structure, ...] for core in self._best]
        return from_stack(self.xp, self._stack.program, self._stack.members[structure], item)

    def _take_in(self) -> None:
        """Bring the starts that wait to the device."""
        if not self._waiting:
            return
        fresh = []
        for k in range(len(self._stack.program.core_labels)):
            core = np.concatenate([cores[k] for cores in self._waiting])
            fresh.append(from_numpy_like(core.reshape(len(core), -1, core.shape[-1]), self._data.x))
        self._waiting = []
        old = self._cores
        self._cores = (
            fresh if old is None else [self.xp.concat(pair, axis=0) for pair in zip(old, fresh, strict=True)]
        )

    def _target(self, items: slice) -> Target:
        """Return the target of a tile; tiles of the same orders of modes share it."""
        orders = tuple(self._stack.members[k].form.order for k in self._owners[items])
        key = orders if len(set(orders)) > 1 else orders[:1]
        if key not in self._targets:
            self._targets = {key: target_of(self._data, self._stack.program, key)}
        return self._targets[key]


def _joined(xp, parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(list(parts), axis=0)
