from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.compression.allocation import Choice
from tnet.compression.candidates import (
    Site,
    concatenate,
    dense_menu,
    interpolative_menu,
    mpo_menu,
    shared_menu,
)
from tnet.compression.fitting import Fitted
from tnet.compression.mpo_candidates import bonds_for, mpo_entries, mpo_rivals
from tnet.compression.targets import Target
from tnet.compression.whitening import Metric, spectrum, whitened
from tnet.decompositions import mpo
from tnet.nn.digits import balanced_digits


def target(name: str, m: int, n: int, bias: bool = False) -> Target:
    return Target(name, 0, m, n, bias, False)


def choice_of(menu, i: int) -> Choice:
    return Choice(
        menu.members, menu.kinds[i], menu.ranks[i],
        int(menu.n_params[i]), int(menu.n_bytes[i]), int(menu.macs[i]), float(menu.loss[i]),
    )  # fmt: skip


def stored(modules, itemsize: int) -> tuple[int, int]:
    """Elements and bytes that modules store without their biases, each tensor once."""
    tensors = {}
    for module in modules:
        for name, tensor in module.state_dict().items():
            if name != "bias":
                tensors[tensor.data_ptr()] = tensor
    elements = sum(t.numel() for t in tensors.values())
    size = sum(t.numel() * (itemsize if t.is_floating_point() else t.element_size()) for t in tensors.values())
    return elements, size


@pytest.mark.parametrize(("m", "n"), [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_interpolative_menus_count_what_the_layers_store(m, n, bias, itemsize):
    menu = interpolative_menu(target("a", m, n, bias), np.arange(min(m, n), 0.0, -1.0), itemsize)
    assert len(menu) > 0
    for i in range(len(menu)):
        rank = menu.ranks[i][0]
        factors = torch.randn(m, rank, dtype=torch.float64), torch.randn(rank, n, dtype=torch.float64)
        fitted = Fitted(choice_of(menu, i), (factors,), (torch.ones(m, dtype=torch.float64) if bias else None,))
        modules = fitted.modules()
        assert stored(modules, itemsize) == (menu.n_params[i], menu.n_bytes[i])
        assert menu.n_params[i] < m * n
        assert menu.macs[i] == modules[0].macs


@pytest.mark.parametrize("rows", [(8, 4, 4), (3, 3), (20, 20)])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_shared_menus_count_what_the_layers_store(rows, itemsize):
    n = 10
    members = [target(str(i), m, n) for i, m in enumerate(rows)]
    menu = shared_menu(members, np.ones(min(sum(rows), n)), itemsize)
    for i in range(len(menu)):
        rank = menu.ranks[i][0]
        right = torch.randn(rank, n, dtype=torch.float64)
        factors = tuple((torch.randn(m, rank, dtype=torch.float64), right) for m in rows)
        modules = Fitted(choice_of(menu, i), factors, (None,) * len(rows)).modules()
        assert stored(modules, itemsize) == (menu.n_params[i], menu.n_bytes[i])
        assert menu.macs[i] == sum(module.macs for module in modules)
    assert set(menu.kinds) == {"shared"}
    assert menu.members == tuple(str(i) for i in range(len(rows)))


def identity_metric(m: int, n: int) -> Metric:
    eye = torch.eye(n, dtype=torch.float64)
    return Metric(eye, (torch.eye(m, dtype=torch.float64),), torch.zeros(n, dtype=torch.float64))


@pytest.mark.parametrize("itemsize", [2, 4])
def test_mpo_menus_count_what_the_layers_store(itemsize):
    m, n = 12, 8
    weight = torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    menu = mpo_menu(target("a", m, n), mpo_entries(weight, identity_metric(m, n)), itemsize)
    assert len(menu) == 2
    for i in range(len(menu)):
        tensor = mpo(weight, balanced_digits(m, 3), balanced_digits(n, 3), menu.ranks[i]).tensor
        modules = Fitted(choice_of(menu, i), tensor, (None,)).modules()
        assert stored(modules, itemsize) == (menu.n_params[i], menu.n_bytes[i])
        assert menu.macs[i] == modules[0].macs


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=12), m=st.integers(1, 40), n=st.integers(1, 40))
def test_losses_are_halved_tails_and_entries_save_something(values, m, n):
    values = np.sort(np.array(values[: min(m, n)]))[::-1]
    menu = interpolative_menu(target("a", m, n), values, 2)
    for i in range(len(menu)):
        rank = menu.ranks[i][0]
        assert 1 <= rank < len(values)
        assert menu.loss[i] == pytest.approx(0.5 * values[rank:].sum(), rel=1e-12)
        assert menu.n_params[i] == rank * (m + n - rank) + n < m * n
    assert (np.diff(menu.loss) <= 0).all()


def test_dense_menu_and_joining():
    dense = dense_menu(target("a", 6, 5), 2)
    assert (dense.n_params[0], dense.n_bytes[0], dense.macs[0], dense.loss[0]) == (30, 60, 30, 0.0)
    low_rank = interpolative_menu(target("a", 6, 5), np.arange(5.0, 0.0, -1.0), 2)
    joined = concatenate([dense, low_rank])
    assert len(joined) == 1 + len(low_rank)
    assert joined.kinds == ("dense", *low_rank.kinds)
    assert joined.ranks == ((), *low_rank.ranks)
    for field in ("n_params", "n_bytes", "macs", "loss"):
        assert getattr(joined, field).tolist() == [*getattr(dense, field), *getattr(low_rank, field)]
    assert Site((joined, dense_menu(target("b", 2, 5), 2))).members == ("a", "b")


@given(
    rows=st.tuples(*[st.integers(1, 5)] * 3),
    columns=st.tuples(*[st.integers(1, 5)] * 3),
    share=st.floats(0.1, 1.0),
)
def test_bonds_fit_the_budget_and_one_more_would_not(rows, columns, share):
    sizes = [m * n for m, n in zip(rows, columns, strict=True)]
    limits = (min(sizes[0], sizes[1] * sizes[2]), min(sizes[0] * sizes[1], sizes[2]))
    budget = int(share * np.prod(sizes))

    def elements(bonds) -> int:
        return sizes[0] * bonds[0] + bonds[0] * sizes[1] * bonds[1] + bonds[1] * sizes[2]

    bonds = bonds_for(rows, columns, budget)
    assert all(1 <= bond <= limit for bond, limit in zip(bonds, limits, strict=True))
    assert elements(bonds) <= budget or bonds == (1, 1)
    if bonds != limits:
        assert elements([min(max(bonds) + 1, limit) for limit in limits]) > budget


def test_an_mpo_rivals_low_rank_for_a_kronecker_product_and_not_for_a_low_rank_matrix():
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(k, k, dtype=torch.float64, generator=generator) for k in (4, 4, 4))
    metric = identity_metric(64, 64)
    for weight, expected in (
        (torch.kron(torch.kron(a, b), c), True),
        (
            torch.randn(64, 2, dtype=torch.float64, generator=generator)
            @ torch.randn(2, 64, dtype=torch.float64, generator=generator),
            False,
        ),
    ):
        values = spectrum(whitened([weight], metric)).numpy()
        menu = interpolative_menu(target("a", 64, 64), values, 2)
        assert mpo_rivals(weight, metric, menu.n_params, menu.loss) is expected
    assert mpo_rivals(weight, metric, np.array([10**6]), np.array([0.0])), "nothing else is as small"
