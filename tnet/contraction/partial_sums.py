"""The result of a sliced contraction as it grows, in memory and in a checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tnet.arrays import Array, array_namespace, from_numpy_like, resolve_dtype, to_numpy
from tnet.contraction.grouping import SliceTasks, keys_of_task
from tnet.errors import FormatError
from tnet.io import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from tnet.contraction.spec import ContractionSpec

__all__ = ["RunningSum", "SumKeeper"]

_PART = "sum"
_SECONDS_BETWEEN_SAVES = 5.0
_SHARE_OF_SAVING = 0.05  # of the wall time, at most, where the result is so large that a save takes long


class RunningSum:
    """Partial results, placed and added in the order of the tasks, whichever ends first.

    Parameters
    ----------
    spec : ContractionSpec
        Of the whole contraction.
    tasks : SliceTasks
    like : array
        Whose library and device the result has.
    """

    def __init__(self, spec: ContractionSpec, tasks: SliceTasks, like: Array) -> None:
        xp = array_namespace(like)
        self._spec = spec
        self._tasks = tasks
        self._dtype = tasks.plan.dtypes.compute
        self._waiting: dict[int, Array] = {}
        self._n_merged = 0
        self.result: Array = xp.zeros(spec.output_shape, dtype=resolve_dtype(xp, self._dtype), device=like.device)
        self.is_whole = True
        """False while an addition is under way, as an interrupt may leave it."""

    @property
    def n_done(self) -> int:
        """Tasks that are merged, or wait for an earlier one."""
        return self._n_merged + len(self._waiting)

    @property
    def missing(self) -> list[int]:
        """Tasks to do."""
        return [number for number in range(self._n_merged, self._tasks.n_tasks) if number not in self._waiting]

    def add(self, number: int, partial: Array) -> None:
        """Take the partial result of a task, and merge all whose turn it is."""
        self._waiting[number] = partial
        while self._n_merged in self._waiting:
            _, place = keys_of_task(self._spec, self._tasks.outer, self._n_merged)
            self.is_whole = False
            self.result[(*place, ...)] += self._waiting.pop(self._n_merged)
            self._n_merged += 1
            self.is_whole = True

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return all that is known as tensors and text for a file."""
        tensors = {"merged": _as_reals(self.result)}
        tensors |= {f"waiting.{number}": _as_reals(partial) for number, partial in self._waiting.items()}
        return tensors, {"n_merged": str(self._n_merged)}

    def restore(self, tensors: Mapping[str, Array], metadata: Mapping[str, str], source: str) -> None:
        """Go on from what :meth:`state` returned; raises FormatError where it is of no such sum."""
        shapes = {"merged": self._spec.output_shape}
        try:
            n_merged = int(metadata["n_merged"])
            numbers = {name: int(name.removeprefix("waiting.")) for name in tensors if name != "merged"}
            if not 0 <= n_merged <= self._tasks.n_tasks or not all(
                n_merged < number < self._tasks.n_tasks for number in numbers.values()
            ):
                raise ValueError("its tasks are none of this contraction")
            arrays = {
                name: x.view(self._dtype).reshape(shapes.get(name, self._tasks.plan.output_shape))
                for name, x in tensors.items()
            }
            merged = arrays.pop("merged")
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(f"{source} does not hold the sums of this contraction: {error}.") from error
        self._n_merged = n_merged
        self._waiting = {numbers[name]: from_numpy_like(x, self.result) for name, x in arrays.items()}
        self.result = from_numpy_like(merged, self.result)


class SumKeeper:
    """Keeps a running sum in a checkpoint: every few seconds, and when a run breaks off.

    Parameters
    ----------
    directory : str, path or None
        None keeps nothing.
    key : mapping
        What the sum depends on; see :func:`tnet.io.open_checkpoint`.
    total : RunningSum
        Takes over what an earlier run left.

    Raises
    ------
    InputError
        The folder belongs to another job.
    FormatError
        What lies there is damaged.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, key: Mapping[str, Any], total: RunningSum) -> None:
        self._store: Checkpoint | None = None if directory is None else open_checkpoint(directory, key)
        self._total = total
        self._cost = 0.0
        if self._store is not None and _PART in self._store.names:
            total.restore(*self._store.load_tensors(_PART), f"checkpoint {str(self._store.directory)!r}")
        self._last = time.perf_counter()

    def keep_up(self) -> None:
        """Save if the last time is long enough ago."""
        since = time.perf_counter() - self._last
        if since >= max(_SECONDS_BETWEEN_SAVES, self._cost / _SHARE_OF_SAVING):
            self.save()

    def save(self) -> None:
        """Save, unless an interrupt left the sum between two states: then the last file is better."""
        if self._store is None or self._total.n_done == 0 or not self._total.is_whole:
            return
        started = time.perf_counter()
        self._store.save_tensors(_PART, *self._total.state())
        self._last = time.perf_counter()
        self._cost = self._last - started

    def end(self) -> None:
        """Remove the checkpoint of a finished run."""
        if self._store is not None:
            self._store.remove()


def _as_reals(x: Array) -> np.ndarray:
    """Return the entries in a row, complex ones as two reals each: files know no complex128."""
    flat = np.asarray(to_numpy(x), order="C").reshape(-1)
    return flat.view(f"f{flat.itemsize // 2}") if np.iscomplexobj(flat) else flat
