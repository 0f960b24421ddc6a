"""The ALS solver: planted networks found, honest errors, the same answers in any company, failures told."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.structure_search.evaluate.cases import (
    ALL,
    COMPLETE,
    GRID,
    INTERNAL,
    LOOSE,
    PLANTED,
    RANK_ONE,
    RING,
    TRAIN,
    dense,
    planted,
    random_cores,
    rse,
)
from tnet.arrays import dtype_name, library_name, to_numpy
from tnet.errors import BackendError, InputError, ShapeError
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.graph_form import graph_form
from tnet.structure_search.evaluate.sweep_program import sweep_program
from tnet.structure_search.losses import DifferentiableLoss, MaskedError, SquaredError, WeightedError
from tnet.structure_search.proposals import Start
from tnet.structure_search.space import SearchSpace, exchanged
from tnet.structure_search.structure import Structure

SQUARED = SquaredError()


@pytest.mark.parametrize("complex_", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("name", PLANTED)
def test_planted_networks_are_found(name: str, complex_: bool) -> None:
    structure = PLANTED[name]
    x = planted(structure, 1, complex_=complex_)
    (found,) = ALS().solve(x, SQUARED, [Start(structure, seed=4, target=1e-10)])
    assert found.rse < 1e-10
    assert found.cores is not None
    assert tuple(core.shape for core in found.cores) == structure.core_shapes
    assert all(core.dtype == x.dtype for core in found.cores)
    assert rse(structure, found.cores, x) < 1e-10


def test_planted_networks_are_found_from_every_seed() -> None:
    x = planted(GRID, 2)
    found = ALS().solve(x, SQUARED, [Start(GRID, seed, target=1e-10) for seed in range(20)])
    assert max(evaluation.rse for evaluation in found) < 1e-10


@pytest.mark.parametrize(
    "structure", [RING, INTERNAL, LOOSE, COMPLETE], ids=["ring", "internal", "loose", "complete"]
)
def test_errors_are_those_of_the_cores_returned(structure: Structure) -> None:
    x = planted(structure, 0, noise=0.4)
    (found,) = ALS(max_sweeps=20).solve(x, SQUARED, [Start(structure, 0)])
    assert found.rse == pytest.approx(rse(structure, found.cores, x), rel=1e-10)
    assert found.rse == min(found.start_errors)
    assert len(found.start_errors) == 8
    assert found.n_sweeps >= 80
    assert found.seconds > 0


def test_masked_error_is_that_of_the_observed_entries_and_unobserved_ones_may_be_nan() -> None:
    x = planted(RING, 1)
    mask = np.random.default_rng(0).random(x.shape) < 0.8
    broken = np.where(mask, x, np.nan)
    (found,) = ALS().solve(broken, MaskedError(mask), [Start(RING, 0, target=1e-10)])
    assert found.rse < 1e-10
    np.testing.assert_allclose(dense(RING, found.cores)[mask], x[mask], atol=1e-4)


def test_weighted_error_is_that_of_the_outputs() -> None:
    x = planted(RING, 1, noise=0.3)
    inputs = np.random.default_rng(0).standard_normal((6, 4))  # fewer samples than columns: singular
    (found,) = ALS().solve(x, WeightedError(inputs @ inputs.T, 2), [Start(RING, 0)])
    outputs = (x - dense(RING, found.cores)).reshape(-1, 6) @ inputs
    relative = np.linalg.norm(outputs) ** 2 / np.linalg.norm(x.reshape(-1, 6) @ inputs) ** 2
    assert found.rse == pytest.approx(relative, rel=1e-6)


def test_a_neighbourhood_gives_what_each_structure_gives_alone() -> None:
    x = planted(GRID, 0, noise=0.5)
    space = SearchSpace("free", 3)
    structures = [GRID, *list(space.neighbours(GRID))[::4]]
    solver = ALS(n_starts=3, race_sweeps=4, n_kept=2, max_sweeps=8)
    together = solver.solve(x, SQUARED, [Start(s, k) for k, s in enumerate(structures)])
    for k, (structure, found) in enumerate(zip(structures, together, strict=True)):
        (alone,) = solver.solve(x, SQUARED, [Start(structure, k)])
        assert found.structure == structure
        assert found.rse == pytest.approx(alone.rse, rel=1e-6)
        assert found.start_errors == pytest.approx(alone.start_errors, rel=1e-6)
        assert found.rse == pytest.approx(rse(structure, found.cores, x), rel=1e-9)


def test_permuted_structures_of_a_permuted_tensor_have_their_error() -> None:
    ring = Structure((3,) * 5, ((0, 1, 2), (0, 4, 3), (1, 2, 2), (2, 3, 3), (3, 4, 2)))
    x = planted(ring, 5)
    structures = [exchanged(ring, i, j) for i in range(5) for j in range(i + 1, 5)]
    found = ALS().solve(x, SQUARED, [Start(s, 0, target=1e-10) for s in [ring, *structures]])
    assert found[0].rse < 1e-10
    for evaluation in found:
        assert evaluation.rse == pytest.approx(rse(evaluation.structure, evaluation.cores, x), rel=1e-6, abs=1e-20)
    assert sum(evaluation.rse > 1e-3 for evaluation in found) >= 9


def test_large_tensors_share_x_only_where_modes_stand_in_one_order(monkeypatch) -> None:
    import tnet.structure_search.evaluate.requests as requests

    ring = Structure((3,) * 4, ((0, 1, 2), (0, 3, 2), (1, 2, 2), (2, 3, 2)))
    starts = [Start(s, 1) for s in (ring, exchanged(ring, 0, 1), exchanged(ring, 1, 2))]
    x = planted(ring, 0, noise=0.2)
    small = ALS(max_sweeps=10).solve(x, SQUARED, starts)
    monkeypatch.setattr(requests, "_SHARED_FROM", {"cpu": 1, "cuda": 1})
    large = ALS(max_sweeps=10).solve(x, SQUARED, starts)
    assert [e.rse for e in large] == pytest.approx([e.rse for e in small], rel=1e-8)


def test_small_tiles_change_nothing(monkeypatch) -> None:
    import tnet.structure_search.evaluate.als as als

    x = planted(RING, 0, noise=0.2)
    starts = [Start(RING, seed) for seed in range(3)]
    whole = ALS(max_sweeps=20).solve(x, SQUARED, starts)
    monkeypatch.setattr(als, "_MOST_ITEMS", {"cpu": 5, "cuda": 5})
    monkeypatch.setattr(als, "_DENSE", {"cpu": 1000, "cuda": 1000})
    tiled = ALS(max_sweeps=20, compiled=False).solve(x, SQUARED, starts)
    assert [e.rse for e in tiled] == pytest.approx([e.rse for e in whole], rel=1e-8)


def test_compiled_loops_and_arrays_agree() -> None:
    solver = ALS(n_starts=3, race_sweeps=4, n_kept=2, max_sweeps=8)
    arrays = dataclasses.replace(solver, compiled=False)
    for structure in [*ALL.values(), Structure((3,) * 5, tuple((0, k, 2) for k in range(1, 5)))]:
        x = planted(structure, 0, noise=0.5)
        (found,) = solver.solve(x, SQUARED, [Start(structure, 0)])
        (expected,) = arrays.solve(x, SQUARED, [Start(structure, 0)])
        assert found.start_errors == pytest.approx(expected.start_errors, rel=1e-6)
        assert found.rse == pytest.approx(rse(structure, found.cores, x), rel=1e-9)


@pytest.mark.parametrize("kind", ["squared", "masked", "weighted"])
def test_all_libraries_agree(xp, convert, library: str, kind: str) -> None:
    x = planted(RING, 1, noise=0.1)
    rng = np.random.default_rng(3)
    root = rng.standard_normal((6, 6))
    mask = rng.random(x.shape) < 0.8
    losses = {
        "squared": lambda c: SQUARED,
        "masked": lambda c: MaskedError(c(mask)),
        "weighted": lambda c: WeightedError(c(root @ root.T), 2),
    }
    solver = ALS(n_starts=4, race_sweeps=5, max_sweeps=10)
    warm = random_cores(RING, 9)
    starts = [Start(RING, 0, warm=tuple(warm)), Start(TRAIN, 1)]
    expected = solver.solve(x, losses[kind](np.asarray), starts)
    starts = [Start(RING, 0, warm=tuple(convert(core) for core in warm)), Start(TRAIN, 1)]
    found = solver.solve(convert(x), losses[kind](convert), starts)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.rse == pytest.approx(theirs.rse, rel=1e-5)
        assert mine.cores is not None
        assert {library_name(core) for core in mine.cores} == {library_name(convert(x))}
        assert tuple(tuple(core.shape) for core in mine.cores) == mine.structure.core_shapes


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-8), ("complex64", 1e-8), ("float16", 1e-5)])
def test_low_precisions_come_back_as_they_were_given(dtype: str, bound: float) -> None:
    ring = PLANTED["ring"]
    x = planted(ring, 1, complex_=dtype == "complex64").astype(dtype)
    (found,) = ALS().solve(x, SQUARED, [Start(ring, 4)])
    assert {core.dtype.name for core in found.cores} == {dtype}
    assert found.rse < bound
    wide = np.complex128 if dtype == "complex64" else np.float64
    error = rse(ring, [core.astype(wide) for core in found.cores], x.astype(wide))
    assert error == pytest.approx(found.rse, rel=1e-3, abs=1e-11)


@pytest.mark.parametrize("factor", [1e-170, 1e170])
def test_extreme_scales_are_taken_out_and_given_back(factor: float) -> None:
    x = planted(TRAIN, 1)
    (plain,) = ALS().solve(x, SQUARED, [Start(TRAIN, 4, target=1e-10)])
    (scaled,) = ALS().solve(x * factor, SQUARED, [Start(TRAIN, 4, target=1e-10)])
    assert scaled.rse < 1e-10
    np.testing.assert_allclose(dense(TRAIN, scaled.cores) / factor, dense(TRAIN, plain.cores), atol=1e-3)


def test_input_is_left_as_it_is() -> None:
    x = planted(RING, 0)
    x.flags.writeable = False
    warm = tuple(random_cores(RING, 1))
    for core in warm:
        core.flags.writeable = False
    ALS(max_sweeps=10).solve(x, SQUARED, [Start(RING, 0, warm=warm)])


def test_a_warm_start_counts_and_wins_where_it_is_the_answer() -> None:
    x = dense(GRID, random_cores(GRID, 0))
    warm = tuple(random_cores(GRID, 0))
    (found,) = ALS(n_starts=1, race_sweeps=1, max_sweeps=1).solve(x, SQUARED, [Start(GRID, 0, warm=warm)])
    assert found.rse < 1e-14
    assert len(found.start_errors) == 2
    assert found.start_errors[0] < 1e-14


def test_a_start_that_reaches_its_target_ends_the_structure() -> None:
    x = planted(GRID, 0, noise=0.1)
    (full, early) = ALS().solve(x, SQUARED, [Start(GRID, 0), Start(GRID, 0, target=0.5)])
    assert early.rse <= 0.5
    assert early.n_sweeps == 80 < full.n_sweeps


def test_the_start_says_how_many_starts_there_are() -> None:
    (found,) = ALS(max_sweeps=10).solve(planted(RING, 0, noise=1.0), SQUARED, [Start(RING, 0, n_starts=3)])
    assert len(found.start_errors) == 3


def test_more_rounds_follow_only_where_a_target_is_missed() -> None:
    x = planted(COMPLETE, 0, noise=1.0)
    solver = ALS(n_starts=2, max_starts=7, race_sweeps=2, n_kept=2, max_sweeps=4)
    content, wanting = solver.solve(x, SQUARED, [Start(COMPLETE, 0), Start(COMPLETE, 0, target=1e-9)])
    assert len(content.start_errors) == 2
    assert len(wanting.start_errors) == 7
    assert wanting.start_errors[:2] == pytest.approx(content.start_errors, rel=1e-9)


def test_starts_too_slow_to_beat_what_is_known_end_early() -> None:
    structure = PLANTED["complete"]
    x = planted(structure, 0, noise=1.0)
    (full,) = ALS().solve(x, SQUARED, [Start(structure, 0)])
    starts = [Start(structure, 0, beat=share * full.rse) for share in (0.9, 1.05, 0.2)]
    out_of_reach, within_reach, far = ALS().solve(x, SQUARED, starts)
    assert 80 < out_of_reach.n_sweeps < full.n_sweeps
    assert 0.9 * full.rse < out_of_reach.rse < 1.2 * full.rse
    assert within_reach.rse == pytest.approx(full.rse, rel=1e-9)
    assert far.start_errors == pytest.approx(full.start_errors, rel=1e-9)
    assert far.n_sweeps == full.n_sweeps


def test_no_more_rounds_follow_where_the_scatter_of_the_starts_leaves_no_hope() -> None:
    structure = PLANTED["complete"]
    x = planted(structure, 0, noise=1.0)
    solver = ALS(n_starts=4, max_starts=12, n_kept=4)
    (full,) = solver.solve(x, SQUARED, [Start(structure, 0)])
    scatter = float(np.std(full.start_errors, ddof=1))
    assert 0 < scatter < 0.2 * full.rse
    beats = (full.rse - 3 * scatter, full.rse - 0.1 * scatter, 0.2 * full.rse)
    starts = [Start(structure, 0, target=beat, beat=beat) for beat in beats]
    hopeless, plausible, far = solver.solve(x, SQUARED, starts)
    assert len(hopeless.start_errors) == 4
    assert len(plausible.start_errors) > 4
    assert len(far.start_errors) > 4


@given(shares=st.lists(st.floats(0.3, 1.2), min_size=2, max_size=4), rounds=st.booleans())
@settings(max_examples=10)
def test_what_is_to_beat_changes_nothing_for_the_company(shares: list[float], rounds: bool) -> None:
    structure = PLANTED["complete"]
    x = planted(structure, 0, noise=1.0)
    solver = ALS(n_starts=2, max_starts=6, race_sweeps=3, max_sweeps=18)
    (full,) = solver.solve(x, SQUARED, [Start(structure, 0)])
    beats = [share * full.rse for share in shares]
    starts = [Start(structure, k, target=beat if rounds else 0.0, beat=beat) for k, beat in enumerate(beats)]
    together = solver.solve(x, SQUARED, starts)
    for start, found in zip(starts, together, strict=True):
        (alone,) = solver.solve(x, SQUARED, [start])
        assert found.start_errors == pytest.approx(alone.start_errors, rel=1e-9)
        assert found.n_sweeps == alone.n_sweeps


def test_the_best_rank_one_network_of_a_zero_slice_is_finite() -> None:
    x = np.zeros((3, 2, 4))
    x[0, 0, 0] = 1.0
    (found,) = ALS().solve(x, SQUARED, [Start(RANK_ONE, 0)])
    assert found.rse < 1e-14
    (wide,) = ALS().solve(x, SQUARED, [Start(Structure((3, 2, 4), ((0, 1, 3), (0, 2, 3), (1, 2, 3))), 0)])
    assert wide.rse < 1e-12
    assert all(np.all(np.isfinite(core)) for core in wide.cores)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (Start(Structure((3, 4, 2)), 0), "x has shape"),
        (Start(RING, 0, warm=tuple(random_cores(TRAIN, 0))), "warm cores of shapes"),
    ],
    ids=["other shape", "warm cores of another structure"],
)
def test_a_start_that_does_not_fit_fails_alone(start: Start, words: str) -> None:
    failed, found = ALS(max_sweeps=10).solve(planted(RING, 0), SQUARED, [start, Start(RING, 0)])
    assert failed.rse == math.inf
    assert failed.cores is None
    assert words in failed.message
    assert math.isfinite(found.rse)


def test_warm_cores_that_are_not_finite_lose_to_random_starts() -> None:
    warm = tuple(core * np.nan for core in random_cores(RING, 0))
    (found,) = ALS(max_sweeps=10).solve(planted(RING, 0, noise=0.1), SQUARED, [Start(RING, 0, warm=warm)])
    assert math.isfinite(found.rse)
    assert found.start_errors[0] == math.inf
    (lost,) = ALS(max_sweeps=10).solve(planted(RING, 0), SQUARED, [Start(RING, 0, warm=warm, n_starts=0)])
    assert lost.rse == math.inf
    assert lost.cores is None
    assert "finite" in lost.message


def test_a_structure_beyond_the_memory_fails_with_its_need() -> None:
    (found,) = ALS(max_bytes=1000).solve(planted(RING, 0), SQUARED, [Start(RING, 0)])
    assert found.rse == math.inf
    assert "max_bytes" in found.message


def test_a_structure_is_not_charged_for_the_padding_of_its_company() -> None:
    x = planted(GRID, 0, noise=0.1)
    small, large = GRID, GRID.with_rank(0, 1, 3)
    needs = [_bytes_of_a_sweep(structure) for structure in (small, large)]
    solver = ALS(max_sweeps=10, max_bytes=(needs[0] + needs[1]) // 2)
    found, failed = solver.solve(x, SQUARED, [Start(small, 0), Start(large, 0)])
    assert math.isfinite(found.rse)
    assert "max_bytes" in failed.message


def _bytes_of_a_sweep(structure: Structure) -> int:
    form = graph_form(structure)
    return 8 * sweep_program(form.graph, form.ranks).n_entries


def test_no_random_starts_beside_a_warm_one_is_one_round() -> None:
    x = planted(GRID, 0, noise=0.5)
    warm = tuple(random_cores(GRID, 1))
    starts = [Start(GRID, 0, target=1e-9, warm=warm, n_starts=0), Start(GRID, 1, target=1e-9)]
    found, _ = ALS(max_sweeps=20).solve(x, SQUARED, starts)
    assert len(found.start_errors) == 1


@pytest.mark.parametrize(
    ("x", "loss", "error"),
    [
        (np.zeros((3, 4, 2, 3)), SQUARED, InputError),
        (np.full((3, 4, 2, 3), np.nan), SQUARED, InputError),
        (np.ones(5), SQUARED, InputError),
        (np.ones((3, 4, 2, 3), dtype=int), SQUARED, BackendError),
        (np.ones((3, 4, 2, 3)), MaskedError(np.ones((3, 4), dtype=bool)), ShapeError),
        (np.ones((3, 4, 2, 3)), MaskedError(np.zeros((3, 4, 2, 3), dtype=bool)), InputError),
        (np.ones((3, 4, 2, 3)), WeightedError(np.eye(5), 2), ShapeError),
        (np.ones((3, 4, 2, 3)), WeightedError(np.eye(6), 4), ShapeError),
        (np.ones((3, 4, 2, 3)), WeightedError(np.zeros((6, 6)), 2), InputError),
        (np.ones((3, 4, 2, 3)), WeightedError(np.full((6, 6), np.inf), 2), InputError),
        (np.ones((3, 4, 2, 3)), DifferentiableLoss(lambda y: y), InputError),
    ],
)
def test_what_no_structure_could_fit_is_refused(x: np.ndarray, loss, error: type) -> None:
    with pytest.raises(error):
        ALS().solve(x, loss, [Start(RING, 0)])


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ALS)])
@pytest.mark.parametrize("value", [-1, "3", None])
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        ALS(**{field: value})


def test_torch_keeps_dtype_and_device() -> None:
    import torch

    x = torch.from_numpy(planted(RING, 0)).to(torch.float32)
    (found,) = ALS().solve(x, SQUARED, [Start(RING, 0)])
    assert all(core.dtype == torch.float32 for core in found.cores)
    assert {dtype_name(core) for core in found.cores} == {"float32"}
    assert rse(RING, [to_numpy(core).astype(float) for core in found.cores], to_numpy(x).astype(float)) < 1e-8


def test_a_structure_that_is_too_dear_fails_alone():
    x = np.random.default_rng(0).standard_normal((4, 4, 4))
    cheap, dear = Structure((4, 4, 4), ((0, 1, 2),)), Structure((4, 4, 4), ((0, 1, 8), (0, 2, 8), (1, 2, 8)))
    first, second = ALS(max_macs=20_000.0).solve(x, SquaredError(), [Start(cheap, 0), Start(dear, 0)])
    assert np.isfinite(first.rse)
    assert second.rse == np.inf
    assert "max_macs" in second.message
