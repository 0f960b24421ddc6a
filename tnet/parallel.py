"""Run independent tasks in this process, in worker processes, or on an executor of the caller's.

One argument, ``executor=``, serves everywhere: None, a number of processes, ``"processes"``, a
``concurrent.futures.Executor`` or a Dask client. Results do not depend on it, nor on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Mapping
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from tnet.errors import InputError, WorkerError

__all__ = ["ExecutorLike", "SupportsGetExecutor", "WorkerPool", "held_workers", "run_tasks"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class SupportsGetExecutor(Protocol):
    """What is asked of a Dask client: that it gives an executor."""

    def get_executor(self) -> Any:
        """Return a ``concurrent.futures.Executor`` that submits to the cluster."""
        ...


class WorkerPool:
    """Worker processes that outlast one call of :func:`run_tasks`; new ones take the place of those that died.

    Parameters
    ----------
    n_workers : int
    """

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._pool: ProcessPoolExecutor | None = None

    def processes(self) -> ProcessPoolExecutor:
        """Return the pool, begun at the first call."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.n_workers, mp_context=context, initializer=_start_worker)
        return self._pool

    def close(self) -> None:
        """Let the workers finish what they are at, and end them."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def terminate(self) -> None:
        """End the workers at once."""
        pool, self._pool = self._pool, None
        if pool is not None:
            _terminate(pool)


ExecutorLike: TypeAlias = int | Literal["processes"] | Executor | SupportsGetExecutor | WorkerPool | None
"""What ``executor=`` takes."""


@contextmanager
def held_workers(executor: ExecutorLike) -> Generator[ExecutorLike]:
    """Start the worker processes that an executor asks for once, for all calls within the block.

    Parameters
    ----------
    executor : None, int, "processes", concurrent.futures.Executor or dask Client

    Yields
    ------
    ExecutorLike
        What to pass to :func:`run_tasks` in the block: a :class:`WorkerPool` for a number or ``"processes"``, else
        what was given.
    """
    n_workers = _worker_count(executor)
    if n_workers is None or isinstance(executor, WorkerPool):
        yield executor
        return
    pool = WorkerPool(n_workers)
    try:
        yield pool
    except BaseException:
        pool.terminate()
        raise
    pool.close()


def run_tasks(
    fn: Callable[..., R],
    items: Mapping[K, tuple[Any, ...]],
    *,
    executor: ExecutorLike = None,
    retries: int = 2,
    on_result: Callable[[K, R], object] | None = None,
) -> dict[K, R]:
    """Call ``fn(*args)`` for every item and return the results by item.

    Parameters
    ----------
    fn : callable
        A pure function: it may run again after a worker died, so its seed belongs into the arguments.
        For processes it must be importable (defined at the top of a module), and so must its arguments
        and results be picklable.
    items : mapping of id to tuple
        The arguments of each task.
    executor : None, int, "processes", concurrent.futures.Executor or dask Client
        None runs in this process, an integer in that many worker processes, ``"processes"`` in one for
        each processor that this process may use. An executor or client of the caller's is used as it is
        and left open.
    retries : int, default 2
        How often a task may kill its worker and run again. Only worker processes that are
        started here can be replaced.
    on_result : callable, optional
        ``on_result(id, result)`` is called in this process as each task ends, once for each, in the order
        in which they end: the place to checkpoint.

    Returns
    -------
    dict
        Results by id, in the order of ``items``.

    Raises
    ------
    InputError
        An unusable ``executor``, ``items`` or ``retries``.
    WorkerError
        A task raised, or killed its worker more than ``retries`` times, or the caller's executor broke.
        Tasks already at work are finished first, no new one begins; ``.partial`` holds all results.

    Notes
    -----
    Workers are spawned, never forked, and run with one BLAS and one Numba thread. They ignore Ctrl-C: this
    process ends them and raises ``KeyboardInterrupt``. As many tasks as workers are in flight, so tasks
    should carry 0.2-2 s of work; one submission costs about 0.2 ms.

    When a worker dies, its pool is lost and every task in flight is a suspect. The suspects run again one
    at a time in a pool of one worker, and only a task that breaks that pool is charged; a task that was
    merely beside a killer is never charged. A script that asks for processes must start its work under
    ``if __name__ == "__main__":``, since each worker imports the script.

    Examples
    --------
    >>> from tnet.parallel import run_tasks
    >>> run_tasks(pow, {"a": (2, 3), "b": (3, 2)})
    {'a': 8, 'b': 9}
    """
    _check_arguments(items, retries)
    n_workers = _worker_count(executor)
    run: _Run[K, R] = _Run(fn, dict(items), on_result)
    if executor is None:
        _run_here(run)
    elif isinstance(executor, WorkerPool):
        _run_in_processes(run, executor, retries)
    elif n_workers is not None:
        pool = WorkerPool(min(n_workers, max(len(run.items), 1)))
        _run_in_processes(run, pool, retries)
        pool.close()
    else:
        _run_on(run, executor)
    return {key: run.results[key] for key in run.items}


@dataclass(frozen=True)
class _Failure:
    """An exception as text: not every exception survives the way between processes."""

    summary: str
    trace: str
    cause: BaseException | None = None


class _Run(Generic[K, R]):
    """The tasks, and what has come of them."""

    def __init__(
        self,
        fn: Callable[..., R],
        items: dict[K, tuple[Any, ...]],
        on_result: Callable[[K, R], object] | None,
    ) -> None:
        self.fn = fn
        self.items = items
        self.on_result = on_result
        self.results: dict[K, R] = {}
        self.failures: dict[K, _Failure] = {}

    def record(self, key: K, outcome: R | _Failure) -> None:
        if isinstance(outcome, _Failure):
            self.failures[key] = outcome
            return
        self.results[key] = outcome
        if self.on_result is not None:
            self.on_result(key, outcome)

    def raise_failure(self) -> None:
        """Raise for the failed task that stands first in ``items``, whichever failed first."""
        key = next((key for key in self.items if key in self.failures), None)
        if key is None:
            return
        failure = self.failures[key]
        others = f" ({len(self.failures) - 1} more failed)" if len(self.failures) > 1 else ""
        error = self.error(f"task {key!r} failed: {failure.summary}{others}\n\n{failure.trace}".rstrip())
        raise error from failure.cause

    def error(self, message: str) -> WorkerError:
        partial: dict[object, object] = {**self.results}
        return WorkerError(message, partial)


def _run_here(run: _Run[Any, Any]) -> None:
    for key, args in run.items.items():
        try:
            outcome = run.fn(*args)
        except Exception as error:
            run.record(key, _Failure(_summary(error), "", error))
            run.raise_failure()
        else:
            run.record(key, outcome)


def _run_on(run: _Run[Any, Any], executor: Any) -> None:
    """Hand everything to an executor of the caller's: it knows best how to spread the tasks."""
    borrowed: Executor = executor if isinstance(executor, Executor) else executor.get_executor()
    in_flight: dict[Future[Any], Any] = {}
    try:
        suspects = _drain(run, borrowed, deque(run.items), None, in_flight)
    finally:
        for future in in_flight:
            future.cancel()
    if suspects:
        raise run.error(
            f"the executor broke while {len(suspects)} tasks were in flight, {suspects[0]!r} among them: "
            "make a new executor and run the tasks that are missing in .partial again."
        )


def _run_in_processes(run: _Run[Any, Any], pool: WorkerPool, retries: int) -> None:
    queue = deque(run.items)
    charges: Counter[Hashable] = Counter()
    while queue:
        suspects = _in_pool(run, queue, pool)
        while suspects:
            # With one worker and one task in flight there is no doubt about who broke the pool.
            alone = deque(suspects)
            single = WorkerPool(1)
            culprits = _in_pool(run, alone, single)
            single.close()
            for key in culprits:
                charges[key] += 1
                if charges[key] > retries:
                    raise run.error(
                        f"task {key!r} ended its worker process {charges[key]} times, even when it ran alone "
                        "(out of memory, a crash in native code, or a script without "
                        'if __name__ == "__main__":): see its standard error, or run it with executor=None.'
                    )
            suspects = [*culprits, *alone]


def _in_pool(run: _Run[Any, Any], queue: deque[Any], pool: WorkerPool) -> list[Any]:
    """Work off ``queue`` in a pool and return the tasks that were in flight if it broke; then it begins anew."""
    try:
        suspects = _drain(run, pool.processes(), queue, pool.n_workers, {})
    except WorkerError:
        pool.close()
        raise
    except BaseException:
        pool.terminate()
        raise
    if suspects:
        pool.close()
    return suspects


def _drain(
    run: _Run[Any, Any],
    executor: Executor,
    queue: deque[Any],
    window: int | None,
    in_flight: dict[Future[Any], Any],
) -> list[Any]:
    """Take tasks from ``queue`` until it is empty, one fails or the executor breaks.

    At most ``window`` tasks are under way at once, listed in ``in_flight``; None sets no bound. Returns those
    whose fate is unknown because the executor broke. A failure is raised when the tasks at work have ended.
    """
    suspects: list[Any] = []
    # A queue of finished futures costs the same for each task; wait() looks at all of them every time.
    finished: SimpleQueue[Future[Any]] = SimpleQueue()
    while True:
        while queue and not suspects and not run.failures and (window is None or len(in_flight) < window):
            key = queue.popleft()
            try:
                future = executor.submit(_call, run.fn, run.items[key])
            except BrokenExecutor:
                suspects.append(key)
            except RuntimeError as error:
                if window is not None:  # Python tells of a script without a guard for __main__
                    raise
                raise run.error(f"the executor takes no tasks ({error}): pass one that is open.") from error
            else:
                in_flight[future] = key
                future.add_done_callback(finished.put)
        if not in_flight:
            break
        future = finished.get()
        if future not in in_flight:  # withdrawn
            continue
        key = in_flight.pop(future)
        try:
            outcome = _outcome(future)
        except BrokenExecutor:
            suspects.append(key)
        else:
            run.record(key, outcome)
        if run.failures and window is None:
            _withdraw(in_flight)
    run.raise_failure()
    return suspects


def _withdraw(in_flight: dict[Future[Any], Any]) -> None:
    for future in list(in_flight):
        if future.cancel():
            del in_flight[future]


def _outcome(future: Future[Any]) -> Any:
    """Return the result or the failure of a task that ended; a broken executor raises."""
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except (Exception, CancelledError) as error:
        # Not raised by the task but on the way: what cannot be pickled, a lost or cancelled Dask worker.
        summary = f"{_summary(error)} (functions, arguments and results must be picklable)"
        return _Failure(summary, "", error)


def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return fn(*args)
    except Exception as error:
        return _Failure(_summary(error), traceback.format_exc())


def _summary(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__} (whose message cannot be shown)"


def _start_worker() -> None:
    """Give the worker one thread a library, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
    # The variables reach only what is loaded from here on; the imports of the user's script came first.
    try:
        import threadpoolctl  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(1)
    else:
        # Numba refuses to go on when this changes after its threads began.
        os.environ["NUMBA_NUM_THREADS"] = "1"


def _terminate(pool: ProcessPoolExecutor) -> None:
    """End the workers at once, whatever they are doing."""
    # Python 3.14 has terminate_workers(); before, the table of processes is the only way to reach them.
    processes: dict[int, Any] = dict(getattr(pool, "_processes", None) or {})
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes.values():
        process.terminate()
    for process in processes.values():
        process.join()


def _check_arguments(items: Mapping[Any, tuple[Any, ...]], retries: int) -> None:
    if not isinstance(items, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"items is a {type(items).__name__}: give a mapping of id to tuple of arguments.")
    for key, args in items.items():
        if not isinstance(args, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"items[{key!r}] is a {type(args).__name__}: give the arguments as a tuple.")
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:  # pyright: ignore
        raise InputError(f"retries={retries!r}: give an integer of at least 0.")


def _worker_count(executor: object) -> int | None:
    """Return how many processes to start: None for an executor that exists or for this process."""
    if executor == "processes":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(executor, int) and not isinstance(executor, bool) and executor >= 1:
        return executor
    if isinstance(executor, WorkerPool):
        return executor.n_workers
    if executor is None or isinstance(executor, Executor) or hasattr(executor, "get_executor"):
        return None
    raise InputError(
        f"executor={executor!r}: give None, a number of processes >= 1, 'processes', "
        "a concurrent.futures.Executor or a dask Client."
    )
