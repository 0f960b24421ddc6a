"""Tasks end once each, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tnet.errors import InputError, TnetError, WorkerError
from tnet.parallel import run_tasks

HERE = str(Path(__file__).parent)


def square(x):
    return x * x


def slow_square(x, seconds):
    time.sleep(seconds)
    return x * x


def fail_on(x, bad):
    if x == bad:
        raise ValueError(f"bad value {x}")
    return x


class TwoArguments(Exception):  # noqa: N818
    """Pickles but does not unpickle: the classical way to break a pool from within."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


class NoPickle(Exception):  # noqa: N818
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NoMessage(Exception):  # noqa: N818
    def __str__(self):
        raise RuntimeError("no text")


def raise_kind(kind):
    raise {"two": lambda: TwoArguments(1, 2), "lock": NoPickle, "text": NoMessage}[kind]()


def return_lambda():
    return lambda: None


def kill_once(x, folder, victims):
    """Kill the own process the first time that a victim is worked on."""
    mark = Path(folder) / f"killed-{x}"
    if x in victims and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def kill_always(x, poison, folder):
    with open(Path(folder) / f"runs-{x}", "a") as file:
        file.write("x")
    if x == poison:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return x


def worker_report():
    import numpy as np

    np.ones((4, 4)) @ np.ones((4, 4))
    import numba
    import threadpoolctl

    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    start_method = get_context().get_start_method(allow_none=True)
    return os.getpid(), pools, numba.get_num_threads(), signal.getsignal(signal.SIGINT).name, start_method


class FakeDaskClient:
    def __init__(self, executor):
        self.executor = executor

    def get_executor(self):
        return self.executor


ITEMS = {f"task {n}": (n,) for n in range(12)}
EXPECTED = {f"task {n}": n * n for n in range(12)}


@pytest.fixture(params=["here", "one process", "processes", "threads", "dask"])
def executor(request):
    if request.param in ("threads", "dask"):
        with ThreadPoolExecutor(3) as pool:
            yield pool if request.param == "threads" else FakeDaskClient(pool)
    else:
        yield {"here": None, "one process": 1, "processes": "processes"}[request.param]


def test_same_results_in_the_order_of_the_items(executor):
    seen = {}
    results = run_tasks(square, ITEMS, executor=executor, on_result=seen.__setitem__)
    assert results == EXPECTED
    assert list(results) == list(ITEMS)
    assert seen == EXPECTED


def test_no_items(executor):
    assert run_tasks(square, {}, executor=executor) == {}


def test_results_arrive_as_they_end():
    items = {"slow": (2, 1.0), "fast": (3, 0.0), "next": (4, 0.0)}
    order = []
    with ThreadPoolExecutor(2) as pool:
        results = run_tasks(slow_square, items, executor=pool, on_result=lambda key, _: order.append(key))
    assert order == ["fast", "next", "slow"]
    assert list(results.items()) == [("slow", 4), ("fast", 9), ("next", 16)]


def test_a_task_that_raises_is_named(executor):
    seen = {}
    items = {n: (n, 3) for n in range(4)}
    with pytest.raises(WorkerError, match=r"task 3 failed: ValueError: bad value 3") as info:
        run_tasks(fail_on, items, executor=executor, on_result=seen.__setitem__)
    assert info.value.partial == seen
    assert all(seen[key] == key for key in seen)
    if executor is None:
        assert isinstance(info.value.__cause__, ValueError)
        assert seen == {0: 0, 1: 1, 2: 2}
    else:
        assert "Traceback" in str(info.value)
        assert "in fail_on" in str(info.value)


def test_a_failure_withdraws_what_has_not_begun():
    begun = []

    def first_fails(x):
        begun.append(x)
        if x == 0:
            raise ValueError(x)
        time.sleep(0.05)
        return x

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(WorkerError, match="task 0 failed") as info:
            run_tasks(first_fails, {n: (n,) for n in range(500)}, executor=pool)
        assert len(begun) < 500
        assert set(info.value.partial) == set(begun) - {0}
        assert pool.submit(square, 2).result() == 4  # left open


def test_an_error_without_text_here():
    with pytest.raises(WorkerError, match="NoMessage"):
        run_tasks(raise_kind, {"x": ("text",)})


def test_several_failures_name_the_first_item():
    barrier = threading.Barrier(2)

    def both(x):
        barrier.wait(10)
        raise ValueError(x)

    with ThreadPoolExecutor(2) as pool, pytest.raises(WorkerError, match=r"task 'a' failed.*1 more failed"):
        run_tasks(both, {"a": ("a",), "b": ("b",)}, executor=pool)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("two", "TwoArguments: 1 and 2"), ("lock", "NoPickle: holds a lock"), ("text", "NoMessage")],
)
def test_exceptions_that_cannot_be_pickled(kind, name):
    with pytest.raises(WorkerError, match=rf"task 'x' failed: {name}"):
        run_tasks(raise_kind, {"x": (kind,)}, executor=1)


@pytest.mark.parametrize("fn", [return_lambda, lambda: 1])
def test_what_cannot_be_pickled_is_a_failure(fn):
    with pytest.raises(WorkerError, match="must be picklable"):
        run_tasks(fn, {"x": ()}, executor=1)


def test_killed_workers_lose_nothing(tmp_path):
    items = {n: (n, str(tmp_path), (3, 7)) for n in range(12)}
    seen = []
    results = run_tasks(kill_once, items, executor=2, on_result=lambda key, _: seen.append(key))
    assert results == {n: n * n for n in range(12)}
    assert sorted(seen) == list(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed-3", "killed-7"]


def test_a_poison_item_is_blamed_alone(tmp_path):
    items = {n: (n, 2, str(tmp_path)) for n in range(6)}
    seen = []
    with pytest.raises(WorkerError, match=r"task 2 ended its worker process 2 times") as info:
        run_tasks(kill_always, items, executor=2, retries=1, on_result=lambda key, _: seen.append(key))
    assert sorted(info.value.partial) == sorted(seen)
    assert 2 not in seen
    # Once beside others, then alone until it is found guilty; its neighbours ran again at most once.
    runs = {int(p.name[5:]): len(p.read_text()) for p in tmp_path.iterdir()}
    assert runs.pop(2) == 3
    assert max(runs.values()) <= 2


def test_no_retries_charges_the_first_death_alone(tmp_path):
    with pytest.raises(WorkerError, match="1 times"):
        run_tasks(kill_always, {2: (2, 2, str(tmp_path))}, executor=1, retries=0)
    assert (tmp_path / "runs-2").read_text() == "xx"


def test_an_executor_of_the_callers_that_breaks(tmp_path):
    items = {n: (n, 2, str(tmp_path)) for n in range(4)}
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(WorkerError, match="make a new executor") as info,
    ):
        run_tasks(kill_always, items, executor=pool)
    assert info.value.partial == {0: 0, 1: 1}
    with pytest.raises(WorkerError, match="make a new executor"):
        run_tasks(kill_always, items, executor=pool)


def test_an_executor_that_is_shut_down():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WorkerError, match="pass one that is open"):
        run_tasks(square, ITEMS, executor=pool)


def test_a_task_cancelled_by_others_is_a_failure():
    class Cancelling(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.cancel()
            return future

    with pytest.raises(WorkerError, match="CancelledError"):
        run_tasks(square, {"x": (1,)}, executor=Cancelling(1))


def test_workers_have_one_thread_and_leave_interrupts_alone():
    reports = run_tasks(worker_report, {n: () for n in range(2)}, executor=2)
    for pid, pools, numba_threads, handler, start_method in reports.values():
        assert pid != os.getpid()
        assert pools
        assert set(pools) == {1}
        assert numba_threads == 1
        assert handler == "SIG_IGN"
        assert start_method == "spawn"
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_a_callback_that_raises_ends_the_workers():
    def stop(key, result):
        raise OSError("disk full")

    begin = time.monotonic()
    items = {"fast": (1, 0.0), "slow": (2, 60.0)}
    with pytest.raises(OSError, match="disk full"):
        run_tasks(slow_square, items, executor=2, on_result=stop)
    assert time.monotonic() - begin < 30


INTERRUPTED = """
import os, sys, time
sys.path.insert(0, {here!r})
from tnet.parallel import run_tasks
from test_parallel import slow_square

def ready(key, result):
    print(key, flush=True)

if __name__ == "__main__":
    items = {{"fast": (1, 0.0), "a": (2, 60.0), "b": (3, 60.0)}}
    try:
        run_tasks(slow_square, items, executor=2, on_result=ready)
    except KeyboardInterrupt:
        children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
        names = [open(f"/proc/{{pid}}/cmdline").read() for pid in children]
        print("interrupted", sum("spawn_main" in name for name in names), flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="reads /proc")
def test_an_interrupt_ends_the_workers_and_passes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED.format(here=HERE))
    child = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "fast\n"
    begin = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: workers too
    out, _ = child.communicate(timeout=60)
    assert out == "interrupted 0\n"
    assert time.monotonic() - begin < 30
    assert child.returncode == 0


def test_a_script_without_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from tnet.parallel import run_tasks\nrun_tasks(abs, {'x': (-1,)}, executor=1, retries=0)\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last_error = done.stderr[done.stderr.rindex("WorkerError") :]
    assert 'if __name__ == "__main__":' in last_error


@pytest.mark.parametrize("executor", [0, -1, True, 2.0, "threads", object(), [1]])
def test_unusable_executors(executor):
    with pytest.raises(InputError, match=r"executor=.*give None, a number of processes"):
        run_tasks(square, ITEMS, executor=executor)


@pytest.mark.parametrize("retries", [-1, True, 1.5, None])
def test_unusable_retries(retries):
    with pytest.raises(InputError, match="retries="):
        run_tasks(square, ITEMS, retries=retries)


@pytest.mark.parametrize("items", [[(1,)], {"a": 1}, {"a": [1]}])
def test_unusable_items(items):
    with pytest.raises(InputError, match="items"):
        run_tasks(square, items)


def test_errors_are_of_the_family():
    with pytest.raises(TnetError):
        run_tasks(fail_on, {0: (0, 0)})
