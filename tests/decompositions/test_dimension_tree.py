"""The products of alternating sweeps: every one from the newest factors, for every division of the modes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tnet.arrays import to_numpy
from tnet.decompositions.dimension_tree import choose_groups, mttkrp_cycle

LETTERS = "abcdefg"


def mttkrp(x: np.ndarray, factors: list[np.ndarray], mode: int) -> np.ndarray:
    """Return the product by its definition."""
    others = [k for k in range(x.ndim) if k != mode]
    terms = ",".join([LETTERS[: x.ndim], *(f"{LETTERS[k]}z" for k in others)])
    return np.einsum(f"{terms}->{LETTERS[mode]}z", x, *(factors[k].conj() for k in others))


def check_two_sweeps(x: np.ndarray, R: int, convert: Any = np.asarray) -> None:
    rng = np.random.default_rng(1)
    draw = lambda n: rng.normal(size=(n, R)) + (1j * rng.normal(size=(n, R)) if np.iscomplexobj(x) else 0)  # noqa: E731
    host = [draw(n) for n in x.shape]
    factors = [convert(factor) for factor in host]
    seen: list[int] = []
    for mode, M in itertools.islice(mttkrp_cycle(convert(x), factors), 2 * x.ndim + 1):
        assert np.allclose(to_numpy(M), mttkrp(x, host, mode))
        seen.append(mode)
        host[mode] = draw(x.shape[mode])
        factors[mode] = convert(host[mode])
    assert seen == [k % x.ndim for k in range(2 * x.ndim + 1)]


def draw_tensor(shape: tuple[int, ...], complex_: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 4, 2), (2, 3, 2, 2, 3)])
@pytest.mark.parametrize("complex_", [False, True])
def test_every_division_gives_every_product(
    shape: tuple[int, ...], complex_: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tnet.decompositions.dimension_tree._PANEL", 20)  # several panels even here
    d = len(shape)
    x = draw_tensor(shape, complex_)
    for n_cuts in range(1, d):
        for cut in itertools.combinations(range(1, d), n_cuts):
            groups = tuple(tuple(range(a, b)) for a, b in itertools.pairwise((0, *cut, d)))
            monkeypatch.setattr("tnet.decompositions.dimension_tree.choose_groups", lambda shape, R, g=groups: g)
            check_two_sweeps(x, 3)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 2, 2, 3, 2, 2)])
def test_one_mode_and_many(shape: tuple[int, ...]) -> None:
    x = draw_tensor(shape, False)
    if len(shape) > 1:
        check_two_sweeps(x, 2)
        return
    mode, M = next(mttkrp_cycle(x, [np.ones((5, 2))]))
    assert mode == 0
    assert np.array_equal(M, np.stack([x, x], axis=1))


def test_other_libraries(convert: Any) -> None:
    check_two_sweeps(draw_tensor((3, 4, 2, 3), True), 2, convert)


def test_strided_input() -> None:
    check_two_sweeps(draw_tensor((4, 3, 6), False).transpose(2, 0, 1)[::2], 2)


def test_the_number_of_groups_follows_the_shape() -> None:
    assert choose_groups((7,), 3) == ((0,),)
    assert choose_groups((7, 8), 3) == ((0,), (1,))
    assert choose_groups((200, 200, 200), 20) == ((0,), (1,), (2,))
    assert choose_groups((60, 60, 60, 60), 20) == ((0, 1), (2, 3))
    # A short mode alone would leave an intermediate as large as the tensor.
    assert len(choose_groups((1000, 10, 10), 20)) == 2
    assert max(len(choose_groups((4,) * d, 5)) for d in range(2, 9)) <= 4
