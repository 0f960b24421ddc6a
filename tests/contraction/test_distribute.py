"""Slices over workers: the same bits whoever runs them, and nothing lost when something breaks."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.contraction.networks import Case, networks
from tnet.contraction import ContractionPlan, distribute, grouping
from tnet.contraction.grouping import group_slices, keys_of_task, nominal_seconds
from tnet.contraction.partial_sums import RunningSum
from tnet.errors import BackendError, FormatError, InputError, MemoryLimitError, ShapeError, WorkerError

RING = Case("ab,bc,cd,da->ac", ((24, 20), (20, 24), (24, 30), (30, 24)))
SPLITS = ((0, 4), (1, 5), (3, 6))  # a, in the output; b and d, summed


def cut(case: Case, splits: tuple[tuple[int, int], ...], dtype: str = "float64") -> ContractionPlan:
    whole = tnet.plan(case.equation, *case.arrays(dtype))
    return ContractionPlan(whole.spec, whole.pairs, splits, whole.dtypes)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group the 120 slices of the ring into 20 tasks: those of d run together."""
    seconds = nominal_seconds(cut(RING, SPLITS))[1]
    monkeypatch.setattr(grouping, "_SECONDS_A_TASK", 6.5 * seconds)
    assert group_slices(cut(RING, SPLITS)).n_tasks == 20


def random_splits(plan: ContractionPlan, draw: Callable[[list[int]], int]) -> tuple[tuple[int, int], ...]:
    splits = []
    for index, size in enumerate(plan.spec.sizes):
        parts = draw([p for p in range(1, size + 1) if size % p == 0] or [1])
        if parts > 1:
            splits.append((index, parts))
    return tuple(splits)


@given(networks(max_operands=4, max_size=6), st.randoms(use_true_random=False), st.floats(1e-6, 1e-3))
@settings(max_examples=60, deadline=None)
def test_a_run_equals_a_call(case: Case, chance: random.Random, seconds: float) -> None:
    whole = tnet.plan(case.equation, *case.shapes)
    plan = cut(case, random_splits(whole, chance.choice))
    arrays = case.arrays()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_SECONDS_A_TASK", seconds)
        tasks = group_slices(plan)
        found = plan.run(*arrays)
    assert tasks.n_tasks * tasks.plan.n_slices == plan.n_slices
    once, each = nominal_seconds(plan)
    assert tasks.plan.n_slices == 1 or tasks.plan.n_slices * each <= max(seconds - once, 4 * once) * (1 + 1e-9)
    wanted = whole(*arrays)
    assert found.shape == wanted.shape
    assert np.allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_summed_indices_go_into_the_task_first(small_tasks: None) -> None:
    plan = cut(RING, SPLITS)
    tasks = group_slices(plan)
    places = {str(keys_of_task(plan.spec, tasks.outer, k)[1]) for k in range(tasks.n_tasks)}
    assert len(places) == 4  # a part of the output for each part of a
    assert tasks.plan.output_shape == (6, 24)


def test_a_task_outweighs_what_no_slice_changes() -> None:
    case = Case("ab,bc,cd,de,ea->", ((512, 512), (512, 512), (512, 4), (4, 64), (64, 512)))
    whole = tnet.plan(case.equation, *case.shapes)
    plan = ContractionPlan(whole.spec, ((0, 1), (2, 5), (3, 6), (4, 7)), ((4, 64),), whole.dtypes)
    once, each = nominal_seconds(plan)
    assert once > 4 * each  # the product of the two large matrices
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_SECONDS_A_TASK", 1e-6)
        n_slices = group_slices(plan).plan.n_slices
    assert n_slices == max(n for n in (1, 2, 4, 8, 16, 32, 64) if n * each <= 4 * once)


def test_a_run_keeps_the_limit() -> None:
    arrays = [np.random.default_rng(k).normal(size=(96, 96)) for k in range(4)]
    limit = 6 * arrays[0].nbytes + 20_000  # the four, the result, and one more
    plan = tnet.plan("ab,bc,cd,da->ac", *arrays, memory_limit=limit)
    assert plan.n_slices > 1
    plan.run(*arrays)  # what is imported and cached does not count
    tracemalloc.start()
    plan.run(*arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak + sum(a.nbytes for a in arrays) <= limit + arrays[0].nbytes + 100_000  # and a partial result


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "float16", "int8", "uint64"])
def test_dtypes(dtype: str, small_tasks: None) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 3, size=shape).astype(dtype) for shape in RING.shapes]
    plan = cut(RING, SPLITS, dtype)
    found = plan.run(*arrays)
    assert found.dtype == plan(*arrays).dtype
    wanted = np.einsum(RING.equation, *(a.astype("complex128") for a in arrays))
    assert np.allclose(found.astype("complex128"), wanted, rtol=1e-3 if dtype == "float16" else 1e-5)


def test_half_precision_is_rounded_once(small_tasks: None) -> None:
    case = Case("i,i->", ((4096,), (4096,)))
    plan = cut(case, ((0, 4096),), "float16")
    ones = np.ones(4096, dtype=np.float16)
    assert float(plan.run(ones, ones)) == 4096  # a sum in float16 stops at 2048


class Counter:
    """Counts the tasks that run in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers: list[int] = []
        inner = distribute._run_task

        def counted(job: Any, number: int) -> Any:
            self.numbers.append(number)
            return inner(job, number)

        monkeypatch.setattr(distribute, "_run_task", counted)


# -- The same bits


@pytest.fixture(scope="module")
def wanted_bits() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        seconds = nominal_seconds(cut(RING, SPLITS))[1]
        patch.setattr(grouping, "_SECONDS_A_TASK", 6.5 * seconds)
        return cut(RING, SPLITS).run(*RING.arrays()).tobytes()


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_processes_give_the_same_bits(n_workers: int, small_tasks: None, wanted_bits: bytes) -> None:
    seen: list[tuple[int, int]] = []
    found = cut(RING, SPLITS).run(*RING.arrays(), executor=n_workers, callback=lambda *n: seen.append(n))
    assert found.tobytes() == wanted_bits
    assert seen == [(6 * k, 120) for k in range(21)]


def test_large_operands_lie_in_one_file(
    small_tasks: None, wanted_bits: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribute, "_TRAVELS", 0)
    arrays = [np.asfortranarray(a) for a in RING.arrays()]  # the order in memory does not matter
    plan = cut(RING, SPLITS)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = plan.run(*arrays, executor=pool)
        assert found.tobytes() == wanted_bits
        again = plan.run(*(2 * a for a in arrays), executor=pool)  # other operands, the same workers
        assert np.array_equal(again, 16 * found)


def test_threads_give_the_same_bits(small_tasks: None, wanted_bits: bytes) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert cut(RING, SPLITS).run(*RING.arrays(), executor=pool).tobytes() == wanted_bits
        assert not pool._shutdown


@pytest.mark.parametrize(("travels", "library"), [(0, "numpy"), (0, "torch"), (1 << 20, "numpy"), (1 << 20, "torch")])
def test_dask_gives_the_same_bits(
    travels: int, library: str, small_tasks: None, dask_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribute, "_TRAVELS", travels)  # beyond it, operands are scattered
    arrays = RING.arrays()
    operands = arrays if library == "numpy" else [torch.from_numpy(a) for a in arrays]
    plan = cut(RING, SPLITS)
    found = plan.run(*operands, executor=dask_client)
    assert type(found) is type(operands[0])
    assert np.asarray(found).tobytes() == np.asarray(plan.run(*operands)).tobytes()


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


def test_contract_takes_an_executor_and_a_checkpoint(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(k).normal(size=(32, 32)) for k in range(4)]
    limit = 4 * arrays[0].nbytes + 12 * 1024
    found = tnet.contract("ab,bc,cd,da->", *arrays, memory_limit=limit, checkpoint=tmp_path / "job")
    with ThreadPoolExecutor(2) as pool:
        assert found == tnet.contract("ab,bc,cd,da->", *arrays, memory_limit=limit, executor=pool)
    assert np.allclose(found, np.trace(np.linalg.multi_dot(arrays)))
    assert not (tmp_path / "job").exists()


@given(st.permutations(range(20)), st.integers(0, 20), st.sampled_from(["float64", "complex128", "int64"]))
@settings(max_examples=30, deadline=None)
def test_the_order_in_which_tasks_end_does_not_matter(order: list[int], stop: int, dtype: str) -> None:
    plan = cut(RING, SPLITS, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "_SECONDS_A_TASK", 6.5 * nominal_seconds(cut(RING, SPLITS))[1])
        tasks = group_slices(plan)
    rng = np.random.default_rng(0)
    partials = [(100 * rng.normal(size=tasks.plan.output_shape)).astype(dtype) for _ in range(tasks.n_tasks)]
    straight = RunningSum(plan.spec, tasks, partials[0])
    for number, partial in enumerate(partials):
        straight.add(number, partial)
    first, second = (RunningSum(plan.spec, tasks, partials[0]) for _ in range(2))
    for number in order[:stop]:
        first.add(number, partials[number])
    second.restore(*first.state(), "a file")
    assert second.n_done == first.n_done
    assert second.missing == sorted(set(range(tasks.n_tasks)) - set(order[:stop]))
    for number in reversed(second.missing):
        second.add(number, partials[number])
    assert second.result.tobytes() == straight.result.tobytes()


# -- What breaks


def test_a_killed_worker_loses_nothing(small_tasks: None, wanted_bits: bytes) -> None:
    killed: list[int] = []

    def kill(n_done: int, _: int) -> None:
        if n_done >= 20 and not killed:
            victim = multiprocessing.active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    found = cut(RING, SPLITS).run(*RING.arrays(), executor=2, callback=kill)
    assert killed
    assert found.tobytes() == wanted_bits


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float16"])
def test_an_interrupted_run_goes_on_where_it_stopped(
    dtype: str, small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "job"
    plan, arrays = cut(RING, SPLITS, dtype), RING.arrays(dtype)
    wanted = plan.run(*arrays)
    n_tasks = group_slices(plan).n_tasks
    counter = Counter(monkeypatch)

    def interrupt(n_done: int, n_slices: int) -> None:
        if n_done >= n_slices // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(*arrays, checkpoint=folder, callback=interrupt)
    assert folder.is_dir()
    n_before = len(counter.numbers)
    assert 0 < n_before < n_tasks
    seen: list[int] = []
    found = plan.run(*arrays, checkpoint=folder, callback=lambda done, _: seen.append(done))
    assert counter.numbers == list(range(n_tasks))
    assert seen[0] == n_before * plan.n_slices // n_tasks
    assert found.tobytes() == wanted.tobytes()
    assert not folder.exists()


def interrupted(folder: Path) -> tuple[ContractionPlan, list[np.ndarray]]:
    plan, arrays = cut(RING, SPLITS), RING.arrays()

    def interrupt(n_done: int, _: int) -> None:
        if n_done >= 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(*arrays, checkpoint=folder, callback=interrupt)
    return plan, arrays


def test_long_runs_save_on_the_way(small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnet.contraction.partial_sums._SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr("tnet.contraction.partial_sums._SHARE_OF_SAVING", 1e9)
    files: list[bool] = []
    cut(RING, SPLITS).run(
        *RING.arrays(),
        checkpoint=tmp_path / "job",
        callback=lambda *_: files.append((tmp_path / "job" / "sum.safetensors").exists()),
    )
    assert files == [False, *[True] * 20]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda plan, arrays: (plan, [arrays[0] + 1e-9, *arrays[1:]]), "operands"),
        (lambda plan, arrays: (cut(RING, ((0, 4), (1, 5))), arrays), "plan"),
        (lambda plan, arrays: (plan, [torch.from_numpy(a) for a in arrays]), "library"),
    ],
    ids=["operands", "plan", "library"],
)
def test_a_checkpoint_of_another_job_is_refused(
    change: Callable[..., Any], word: str, small_tasks: None, tmp_path: Path
) -> None:
    plan, arrays = change(*interrupted(tmp_path / "job"))
    with pytest.raises(InputError, match=f"belongs to another job.*{word} was") as caught:
        plan.run(*arrays, checkpoint=tmp_path / "job")
    assert str(caught.value).count(" was ") == 1


def test_the_same_line_goes_on_with_the_plan_it_began_with(
    small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, arrays = tmp_path / "job", RING.arrays()
    first, second = cut(RING, SPLITS), cut(RING, ((1, 4), (3, 6)))
    wanted = first.run(*arrays).tobytes()
    answers = iter([first, second])
    monkeypatch.setattr("tnet.contraction.api._plan", lambda *_: next(answers))  # a search that the clock ends

    def line(equation: str = RING.equation, **options: Any) -> np.ndarray:
        return tnet.contract(equation, *arrays, checkpoint=folder, **options)

    def breaks(job: Any, number: int) -> Any:
        if number == 7:
            raise KeyboardInterrupt
        return inner(job, number)

    inner = distribute._run_task
    with monkeypatch.context() as patch:
        patch.setattr(distribute, "_run_task", breaks)
        with pytest.raises(KeyboardInterrupt):
            line()
    for options, word in [
        ({"memory_limit": "1GiB"}, "memory_limit was None and is now 1073741824"),
        ({"planner": [(0, 1)] * 3}, "planner was 'auto' and is now "),
        ({"max_planning_seconds": 9}, "max_planning_seconds was None"),
        ({"rng": 1}, "rng was 0 and is now 1"),
        ({"equation": "ab,bc,cd,da->ca"}, "equation was "),
    ]:
        with pytest.raises(InputError, match=f"belongs to another job: {re.escape(word)}"):
            line(**options)
    with pytest.raises(InputError, match="plan was"):
        second.run(*arrays, checkpoint=folder)
    counter = Counter(monkeypatch)
    assert line("xy,yz,zw,wx->xz").tobytes() == wanted
    assert counter.numbers == list(range(7, 20))
    assert not folder.exists()


@pytest.mark.parametrize("name", ["plan.json", "request.json"])
@pytest.mark.parametrize("content", [None, b"{}", b"[", b'{"format": "tnet.contraction_plan", "format_version": 2}'])
def test_a_damaged_plan_of_a_checkpoint_is_refused(
    name: str, content: bytes | None, small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = cut(RING, SPLITS)
    monkeypatch.setattr("tnet.contraction.api._plan", lambda *_: plan)
    monkeypatch.setattr(distribute, "_run_task", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        tnet.contract(RING.equation, *RING.arrays(), checkpoint=tmp_path)
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    elif name == "plan.json":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes().replace(b"auto", b"fast"))
    with pytest.raises(FormatError):
        tnet.contract(RING.equation, *RING.arrays(), checkpoint=tmp_path)


def test_labels_do_not_matter_to_a_checkpoint(small_tasks: None, tmp_path: Path) -> None:
    _, arrays = interrupted(tmp_path / "job")
    other = cut(Case("xy,yz,zw,wx->xz", RING.shapes), SPLITS)
    assert np.allclose(other.run(*arrays, checkpoint=tmp_path / "job"), np.einsum(RING.equation, *arrays))


@pytest.mark.parametrize("name", ["sum.safetensors", "job.json"])
@pytest.mark.parametrize("where", [0.3, 0.99])
def test_a_damaged_checkpoint_is_refused(name: str, where: float, small_tasks: None, tmp_path: Path) -> None:
    plan, arrays = interrupted(tmp_path / "job")
    file = tmp_path / "job" / name
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError):
        plan.run(*arrays, checkpoint=tmp_path / "job")


@pytest.mark.parametrize(
    ("names", "metadata"),
    [
        (["merged"], {}),
        (["merged"], {"n_merged": "-1 "}),
        (["merged"], {"n_merged": "21"}),
        ([], {"n_merged": "1"}),
        (["merged", "waiting.0"], {"n_merged": "1"}),
        (["merged", "waiting.20"], {"n_merged": "1"}),
        (["merged", "waiting.x"], {"n_merged": "1"}),
        (["merged", "other"], {"n_merged": "1"}),
    ],
)
def test_sums_of_nothing_known_are_refused(names: list[str], metadata: dict[str, str], small_tasks: None) -> None:
    plan = cut(RING, SPLITS)
    total = RunningSum(plan.spec, group_slices(plan), np.zeros(1))
    tensors, _ = total.state()
    with pytest.raises(FormatError, match="a file does not hold the sums"):
        total.restore({name: tensors["merged"] for name in names}, metadata, "a file")


def test_a_failed_task_leaves_a_checkpoint(
    small_tasks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = distribute._run_task

    def fails(job: Any, number: int) -> Any:
        if number == 7:
            raise ValueError("bad task")
        return inner(job, number)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(distribute, "_run_task", fails)
        with pytest.raises(WorkerError, match="task 7 failed: ValueError: bad task") as caught:
            cut(RING, SPLITS).run(*RING.arrays(), executor=pool, checkpoint=tmp_path / "job")
    assert caught.value.partial == {}
    counter = Counter(monkeypatch)
    cut(RING, SPLITS).run(*RING.arrays(), checkpoint=tmp_path / "job")
    assert counter.numbers[0] == 7


# -- What is refused


def test_gradients_flow_here_and_are_refused_elsewhere(small_tasks: None, tmp_path: Path) -> None:
    operands = [torch.from_numpy(a).requires_grad_() for a in RING.arrays()]
    plan = cut(RING, SPLITS)
    plan.run(*operands).sum().backward()
    assert all(x.grad is not None for x in operands)
    with pytest.raises(BackendError, match="operand 0 records gradients"):
        plan.run(*operands, executor=2)
    with pytest.raises(BackendError, match="operand 0 records gradients"):
        plan.run(*operands, checkpoint=tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_bad_arguments_are_refused_before_the_work(small_tasks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, arrays = cut(RING, SPLITS), RING.arrays()
    counter = Counter(monkeypatch)
    with pytest.raises(ShapeError, match="4 operands, but 3"):
        plan.run(*arrays[:3])
    with pytest.raises(ShapeError, match="operand 1 has shape"):
        plan.run(arrays[0], arrays[0], *arrays[2:])
    with pytest.raises(BackendError, match="0 of numpy on cpu, 3 of torch on cpu"):
        plan.run(*arrays[:3], torch.from_numpy(arrays[3]))
    with pytest.raises(InputError, match="executor='many'"):
        plan.run(*arrays, executor="many")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="executor=True"):
        plan.run(*arrays, executor=True)
    with pytest.raises(BackendError, match="operand 0 lies on a meta device"):
        plan.run(*(torch.from_numpy(a).to("meta") for a in arrays), executor=2)
    for executor in (0, -1):
        with pytest.raises(InputError, match="a number of processes >= 1"):
            plan.run(*arrays, executor=executor)
        with pytest.raises(InputError, match="a number of processes >= 1"):
            tnet.contract(RING.equation, *arrays, executor=executor)  # one task
    assert counter.numbers == []


def test_wider_operands_must_stay_within_the_limit() -> None:
    arrays = [np.ones((32, 32), dtype=np.float32)] * 4
    plan = tnet.plan("ab,bc,cd,da->", *arrays, memory_limit=4 * arrays[0].nbytes + 6 * 1024)
    assert plan.n_slices > 1
    with pytest.raises(MemoryLimitError, match="memory_limit"):
        plan.run(*(a.astype(float) for a in arrays))
    free = ContractionPlan(plan.spec, plan.pairs, plan.splits, plan.dtypes)
    assert free.run(*(a.astype(float) for a in arrays)).dtype == float


def test_one_task_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    arrays = RING.arrays()
    found = tnet.plan(RING.equation, *arrays).run(*arrays, executor=8)
    assert np.allclose(found, np.einsum(RING.equation, *arrays))
    assert counter.numbers == [0]
