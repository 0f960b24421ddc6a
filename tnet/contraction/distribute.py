"""Sliced contractions over worker processes or a cluster, with the same bits whatever runs them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from tnet.arrays import (
    Array,
    array_namespace,
    astype,
    device_kind,
    dtype_name,
    from_numpy_like,
    is_torch,
    library_name,
    resolve_dtype,
    to_numpy,
)
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.execute import common_namespace
from tnet.contraction.grouping import SliceTasks, group_slices, keys_of_task
from tnet.contraction.operands import as_operands, require_shapes, require_within
from tnet.contraction.partial_sums import RunningSum, SumKeeper
from tnet.contraction.resume import keep_plan
from tnet.errors import BackendError, WorkerError
from tnet.io.strict_json import canonical_json
from tnet.parallel import ExecutorLike, run_tasks

if TYPE_CHECKING:
    from tnet.contraction.plan import ContractionPlan
    from tnet.contraction.spec import ContractionSpec

__all__ = ["ProgressCallback", "run_plan"]

ProgressCallback: TypeAlias = Callable[[int, int], object]
"""Called with the number of slices that are done and the number of all."""

_TRAVELS = 1 << 20  # bytes of operands that are sent with every task
_ALIGNMENT = 64


def run_plan(
    plan: ContractionPlan,
    arrays: Sequence[Array],
    *,
    executor: ExecutorLike = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callback: ProgressCallback | None = None,
    request: Mapping[str, Any] | None = None,
    deliver: Callable[[Array], object] | None = None,
) -> Array:
    """Run the slices of a plan as tasks; see :meth:`tnet.contraction.ContractionPlan.run`.

    With ``request``, what the plan was searched for, the checkpoint keeps the plan too. ``deliver`` gets the result
    before the checkpoint is removed, so that a delivery that fails can be repeated.
    """
    operands = _checked_operands(plan, arrays, stays_here=executor is None and checkpoint is None)
    plan = _for_dtypes(plan, [dtype_name(x) for x in operands])
    xp = array_namespace(*operands)
    result_dtype = resolve_dtype(xp, plan.dtypes.result)
    if plan.dtypes.result != plan.dtypes.compute:
        # Half precision is computed in float32: converted once here, not in every task.
        operands = [astype(x, resolve_dtype(xp, plan.dtypes.compute)) for x in operands]
    operands = [_in_order(x) for x in operands]
    tasks = group_slices(plan)
    total = RunningSum(plan.spec, tasks, operands[0])
    keeper = SumKeeper(checkpoint, {} if checkpoint is None else _key(plan, tasks, operands), total)
    if checkpoint is not None and request is not None:
        keep_plan(checkpoint, plan, request)

    def tell() -> None:
        if callback is not None:
            callback(total.n_done * (plan.n_slices // tasks.n_tasks), plan.n_slices)

    def take(number: int, box: list[Array]) -> None:
        total.add(number, box.pop())  # emptied, for run_tasks keeps whatever a task returns
        keeper.keep_up()
        tell()

    try:
        tell()
        _run_missing(_Job(plan.spec, tasks, operands), total.missing, executor, take)
        result = astype(total.result, result_dtype)
        if deliver is not None:
            deliver(result)
    except BaseException as error:
        if isinstance(error, WorkerError):
            error.partial.clear()  # of empty boxes
        keeper.save()
        raise
    keeper.end()
    return result


def _checked_operands(plan: ContractionPlan, arrays: Sequence[Array], *, stays_here: bool) -> list[Array]:
    operands = as_operands(arrays)
    require_shapes(plan.spec, [x.shape for x in operands])
    common_namespace(operands)  # names two operands that differ
    for k, x in enumerate(operands):
        if not stays_here and getattr(x, "requires_grad", False):
            raise BackendError(
                f"operand {k} records gradients, which end at an executor or checkpoint: detach it, or call the plan."
            )
    return operands


def _for_dtypes(plan: ContractionPlan, names: list[str]) -> ContractionPlan:
    """Return the plan with its bytes counted for these dtypes, which must stay within its limit."""
    dtypes = dtype_plan(names)
    if dtypes == plan.dtypes:
        return plan
    plan = dataclasses.replace(plan, dtypes=dtypes, layouts=None)
    if plan.memory_limit is not None:
        require_within(plan.memory_limit, plan.peak_bytes, names)
    return plan


def _in_order(x: Array) -> Array:
    """Return the array in C order: it travels so, and the order in memory decides the program and last bits."""
    if isinstance(x, np.ndarray):
        return np.asarray(x, order="C")
    return x.contiguous() if is_torch(x) else x


class _File(NamedTuple):
    """Operands in one file, which all processes of this host map into their memory."""

    path: str
    places: tuple[tuple[int, str, tuple[int, ...]], ...]
    """Offset, NumPy dtype and shape of each operand."""


@dataclass(frozen=True, eq=False)
class _Job:
    """What every task of a contraction needs."""

    spec: ContractionSpec
    tasks: SliceTasks
    operands: list[Array]


@dataclass(frozen=True, eq=False)
class _Parcel:
    """A job as it is sent to another process."""

    spec: ContractionSpec
    tasks: SliceTasks
    operands: list[np.ndarray] | _File
    like: Array
    """An array of the library that the operands are to be of."""

    @functools.cached_property
    def job(self) -> _Job:
        """The job, opened once where it has arrived."""
        arrays: list[Any] = _read_operands(self.operands) if isinstance(self.operands, _File) else self.operands
        xp = array_namespace(self.like)
        if is_torch(self.like):
            arrays = [xp.from_numpy(x) for x in arrays]
        else:
            arrays = [from_numpy_like(x, self.like, resolve_dtype(xp, x.dtype.name)) for x in arrays]
        return _Job(self.spec, self.tasks, arrays)


def _run_missing(
    job: _Job, missing: list[int], executor: ExecutorLike, take: Callable[[int, list[Array]], None]
) -> None:
    run_tasks(_run_task, {}, executor=executor)  # refuses what is no executor, also where one task needs none
    own_processes = executor == "processes" or type(executor) is int
    if executor is None or (own_processes and job.tasks.n_tasks == 1):
        for number in missing:  # errors come as they are
            take(number, _run_task(job, number))
        return
    if isinstance(executor, ThreadPoolExecutor):
        run_tasks(_run_task, {number: (job, number) for number in missing}, executor=executor, on_result=take)
        return
    operands = _on_host(job.operands)
    n_bytes = sum(x.nbytes for x in operands)
    first = job.operands[0]
    parcel = _Parcel(job.spec, job.tasks, operands, array_namespace(first).zeros((), dtype=first.dtype))
    with tempfile.TemporaryDirectory(prefix="tnet-contract-", ignore_cleanup_errors=True) as folder:
        if n_bytes > _TRAVELS and hasattr(executor, "scatter"):
            # Kept by every worker of the cluster, but lost with the last of them.
            (shipped,) = executor.scatter([parcel], broadcast=True, hash=False)  # pyright: ignore
        else:
            if n_bytes > _TRAVELS and (own_processes or isinstance(executor, ProcessPoolExecutor)):
                parcel = dataclasses.replace(parcel, operands=_write_operands(operands, Path(folder, "operands")))
            # Bytes: pickled once, and recognised by a worker that has seen them.
            shipped = pickle.dumps(parcel)
        run_tasks(_run_task, {number: (shipped, number) for number in missing}, executor=executor, on_result=take)


def _run_task(shipped: _Job | _Parcel | bytes, number: int) -> list[Array]:
    """Contract the slices of one task; pure, so that it may run again after its worker died."""
    parcel = _unpickled(shipped) if isinstance(shipped, bytes) else shipped
    job = parcel.job if isinstance(parcel, _Parcel) else parcel
    keys, _ = keys_of_task(job.spec, job.tasks.outer, number)
    pieces = [x if key is None else _in_order(x[key]) for x, key in zip(job.operands, keys, strict=True)]
    return [job.tasks.plan(*pieces)]


@functools.lru_cache(maxsize=1)
def _unpickled(parcel: bytes) -> _Parcel:
    return pickle.loads(parcel)


def _on_host(operands: Sequence[Array]) -> list[np.ndarray]:
    for k, x in enumerate(operands):
        if device_kind(x) != "cpu":
            raise BackendError(
                f"operand {k} lies on a {device_kind(x)} device, which worker processes do not share: use "
                "executor=None or a ThreadPoolExecutor, or move it to the CPU."
            )
    return [np.asarray(to_numpy(x), order="C") for x in operands]


def _write_operands(operands: Sequence[np.ndarray], path: Path) -> _File:
    places: list[tuple[int, str, tuple[int, ...]]] = []
    with path.open("xb") as file:
        for x in operands:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            places.append((file.tell(), x.dtype.str, x.shape))
            file.write(x.reshape(-1).view(np.uint8).data)
    return _File(str(path), tuple(places))


def _read_operands(file: _File) -> list[np.ndarray]:
    # Copy on write: the host holds one copy, and libraries see arrays that they may write to.
    mapped = np.asarray(np.memmap(file.path, dtype=np.uint8, mode="c"))
    arrays = []
    for offset, dtype, shape in file.places:
        n_bytes = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
        arrays.append(mapped[offset : offset + n_bytes].view(dtype).reshape(shape))
    return arrays


def _key(plan: ContractionPlan, tasks: SliceTasks, operands: Sequence[Array]) -> dict[str, Any]:
    """Return what the sums depend on. The labels do not matter, the grouping does."""
    spec = plan.spec
    content = [spec.inputs, spec.output, spec.sizes, plan.pairs, plan.splits, tasks.outer, plan.dtypes.operands]
    digest = hashlib.sha256()
    for x in operands:
        array = np.asarray(to_numpy(x), order="C")
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return {
        "job": "sliced contraction",
        "plan": hashlib.sha256(canonical_json(content)).hexdigest(),
        "library": library_name(operands[0]),
        "operands": digest.hexdigest(),
    }
