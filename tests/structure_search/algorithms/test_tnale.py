"""TnALE against the published account: evaluations a round, windows, interpolation, permutations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.structure_search.algorithms.dialogues import best, missing_ranks, problem, talk
from tnet.errors import InputError
from tnet.structure_search.algorithms.tnale import TnALE, interpolated_errors, rank_window
from tnet.structure_search.objective import SizeAndError
from tnet.structure_search.search import search
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.structure import Structure


@pytest.mark.parametrize(
    ("rank", "radius", "max_rank", "window"),
    [
        (4, 1, 7, [3, 4, 5]),
        (1, 1, 7, [1, 2, 3]),
        (7, 1, 7, [5, 6, 7]),
        (2, 2, 7, [1, 2, 3, 4, 5]),
        (6, 2, 7, [3, 4, 5, 6, 7]),
        (2, 2, 4, [1, 2, 3, 4]),
        (2, 2, 5, [1, 2, 3, 4, 5]),
        (1, 3, 1, [1]),
    ],
)
def test_windows_are_shifted_into_the_range(rank: int, radius: int, max_rank: int, window: list[int]) -> None:
    assert list(rank_window(rank, radius, max_rank)) == window


def test_interpolation_by_hand() -> None:
    assert interpolated_errors({0: 0.9, 2: 0.3, 4: 0.1}, 5) == pytest.approx([0.9, 0.6, 0.3, 0.2, 0.1])
    assert interpolated_errors({0: 1.0, 3: 0.4, 6: 0.1}, 7) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1])
    assert interpolated_errors({0: 1.0, 1: 0.5, 3: 0.1}, 4) == pytest.approx([1.0, 0.5, 0.3, 0.1])
    assert interpolated_errors({0: 1.0, 2: math.inf, 4: 0.1}, 5) == [1.0, math.inf, math.inf, math.inf, 0.1]
    assert interpolated_errors({1: 0.5}, 3) == [math.inf, 0.5, math.inf]


@pytest.mark.parametrize(
    ("n_modes", "radius", "evaluations"),
    [(6, 1, 52), (8, 1, 77), (6, 2, 12 * 5 + 16)],
)
@pytest.mark.parametrize("initial_rounds", [0, 1])
def test_evaluations_of_a_round_on_rings(n_modes: int, radius: int, evaluations: int, initial_rounds: int) -> None:
    """The published counts: 52 for a ring of 6 cores and 77 for one of 8, interpolated or with radius 1."""
    if initial_rounds:
        evaluations = {6: 52, 8: 77}[n_modes]
    algorithm = TnALE(initial_radius=2, radius=radius, initial_rounds=initial_rounds)
    space = SearchSpace.ring(n_modes, max_rank=7)
    told, _ = talk(algorithm, problem(space, (3,) * n_modes), lambda s: 1 / s.n_params, batches=2 * n_modes + 1)
    assert sum(map(len, told)) == evaluations


def test_a_round_visits_forth_and_back() -> None:
    """Of a train of 4 modes with permutation: ranks 0, 1, 2, the order, ranks 2, 1, and 0 again."""
    told, _ = talk(
        TnALE(initial_rounds=0, round_trips=2),
        problem(SearchSpace.train(4, max_rank=5), (2, 2, 2, 2)),
        lambda s: 1.0,
        batches=13,
    )
    sizes = [3, 3, 3, 7, 3, 3]
    assert [len(batch) for batch in told] == [*sizes, *sizes, 3]


def test_without_order_the_last_rank_is_visited_once() -> None:
    space = SearchSpace(max_rank=3)
    told, _ = talk(TnALE(initial_rounds=0), problem(space, (2, 2, 2)), lambda s: 1.0, batches=5)
    assert [len(batch) for batch in told] == [3] * 5
    changed = []
    for batch in told:
        ranks = [[trial.structure.rank(i, j) for i, j in space.pairs(3)] for trial in batch]
        changed.append(next(k for k in range(3) if len({row[k] for row in ranks}) > 1))
    assert changed == [0, 1, 2, 1, 0]


def test_the_order_is_tried_with_all_transpositions() -> None:
    space = SearchSpace.train(4, max_rank=2)
    setting = problem(space, (2, 3, 4, 5), objective=SizeAndError(1e6))
    told, _ = talk(TnALE(initial_rounds=0), setting, lambda s: 1 / s.n_params, batches=4)
    batch = told[3]  # ranks of 2 everywhere: larger structures win here
    home = batch[0].structure
    assert len(batch) == 7
    degrees = [tuple(trial.structure.degree(k) for k in range(4)) for trial in batch]
    for (a, b), degree in zip(itertools.combinations(range(4), 2), degrees[1:], strict=True):
        assert sorted(degree) == sorted(degrees[0]), (a, b)
    assert len({trial.structure for trial in batch}) == 6  # exchanging the inner two reverses what the outer two do
    assert home.n_params == max(trial.structure.n_params for trial in told[2])


def test_interpolated_values_are_taken_and_their_errors_carried() -> None:
    """A window of 5 ranks: ends and middle are evaluated; the linear error between them decides."""
    space = SearchSpace("ranks", 5, ((0, 1), (1, 2)))
    given = {1: 1.0, 3: 0.0, 5: 0.0}
    weight = 2.0

    def error(structure: Structure) -> float:
        return given.get(structure.rank(0, 1), 0.9) + 0.05 * structure.rank(1, 2)

    told, _ = talk(
        TnALE(initial_radius=2, initial_rounds=3),
        problem(space, (10, 10, 10), objective=SizeAndError(weight)),
        error,
        batches=2,
    )
    assert [trial.structure.rank(0, 1) for trial in told[0]] == [1, 3, 5]
    # Scores of ranks 1 ... 5 with interpolated errors fall up to 3: it is taken, and the next rank is tried from it.
    assert {trial.structure.rank(0, 1) for trial in told[1]} == {3}
    assert [trial.structure.rank(1, 2) for trial in told[1]] == [1, 3, 5]


def test_the_least_error_seen_is_carried() -> None:
    """An evaluation of the current structure that got stuck does not undo what is known of it."""
    space = SearchSpace("ranks", 3, ((0, 1), (1, 2)))
    seen: dict[Structure, int] = {}
    target = Structure((9, 9, 9), ((0, 1, 2), (1, 2, 2)))

    def error(structure: Structure) -> float:
        seen[structure] = seen.get(structure, 0) + 1
        if structure == target:
            return 0.0 if seen[structure] == 1 else 1.0
        return 0.5

    for seed in range(20):
        seen.clear()
        told, _ = talk(TnALE(initial_rounds=0), problem(space, (9, 9, 9)), error, seed=seed, batches=3)
        met = [k for k, batch in enumerate(told) if any(trial.structure == target for trial in batch)]
        if met and met[0] < 2:
            assert target in [trial.structure for trial in told[met[0] + 1]]
            break
    else:
        pytest.fail("no seed met the target before the last step")


def test_forbidden_values_are_left_out() -> None:
    space = SearchSpace("trees", max_rank=3)
    told, ended = talk(TnALE(patience=2), problem(space, (3, 3, 3, 3)), lambda s: 1 / s.n_params, batches=500)
    assert ended
    assert all(trial.structure.is_tree for batch in told for trial in batch)


def test_patience_ends_it_and_none_does_not() -> None:
    setting = problem(SearchSpace.ring(4, max_rank=3), (3, 3, 3, 3))
    error = missing_ranks(Structure((3, 3, 3, 3), ((0, 1, 2), (1, 2, 2))))
    told, ended = talk(TnALE(patience=2), setting, error, batches=300)
    assert ended
    told_on, ended = talk(TnALE(patience=None), setting, error, batches=300)
    assert not ended
    assert [t.structure for batch in told for t in batch] == [
        t.structure for batch in told_on[: len(told)] for t in batch
    ]


@pytest.mark.parametrize(
    ("space", "planted"),
    [
        (SearchSpace.ring(5, max_rank=4), ((0, 2, 3), (0, 3, 2), (1, 2, 2), (1, 4, 2), (3, 4, 3))),
        (SearchSpace(max_rank=3), ((0, 1, 2), (1, 2, 3), (2, 4, 2))),
        (SearchSpace.train(5, max_rank=4, permuted=False), ((0, 1, 2), (1, 2, 3), (2, 3, 3), (3, 4, 2))),
    ],
    ids=["permutation", "topology", "ranks"],
)
def test_planted_structures_are_found(space: SearchSpace, planted: tuple) -> None:
    target = Structure((4, 4, 4, 4, 4), planted)
    goal = SizeAndError(20.0)
    told, _ = talk(
        TnALE(patience=10), problem(space, target.shape, objective=goal), missing_ranks(target), batches=4000
    )
    found = best(told)
    assert found.score <= goal.score(target, 0.0)
    assert found.rse == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": 0}, {"initial_radius": -1}, {"initial_rounds": -1}, {"round_trips": 0},
        {"patience": 0}, {"absent": 1.5},
    ],
)  # fmt: skip
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        TnALE(**settings)


def test_x_is_not_touched() -> None:
    setting = problem(SearchSpace(max_rank=2), (2, 2, 2))
    before = np.array(setting.x)
    talk(TnALE(patience=1), setting, lambda s: 1 / s.n_params)
    assert np.array_equal(before, setting.x)


def test_it_begins_where_it_is_told(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 3, 3))
    start = Structure((3, 3, 3), ((0, 1, 2), (0, 2, 2), (1, 2, 2)))
    walk = TnALE(initial_rounds=0, patience=1, start=start)
    settings = {"objective": SizeAndError(5.0), "algorithm": walk, "rng": 0, "resume": tmp_path / "log"}
    found = search(x, **settings)
    assert start in [trial.structure for trial in found.trials[:3]]  # in the window of the first variable
    assert search(x, **settings).best.score == found.best.score
    with pytest.raises(InputError, match="start="):
        TnALE(start=((0, 1, 2),))  # type: ignore[arg-type]
