from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import close, random_array, seeds
from tnet.arrays import contract_pair, einsum, reduce_single, to_numpy
from tnet.errors import IndexLabelError

SPECS = [
    "i->i", "ij->ji", "ii->", "iji->j", "ijk->k",
    "i,i->", "i,j->ij", "ij,jk->ik", "ij,ij->ij", "ij,ij->i", "bij,bjk->bik", "ijk,k->ij", "aab,bc->ca",
    ",ij->ij", "i,->i", "ij,kl->",
    "ij,jk,kl->il", "ijk,jr,kr->ir", "ir,jr,kr->ijk", "i,i,i->", "ab,bc,ca,d->d",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_against_numpy(xp, convert, spec, dtype):
    sizes = dict(zip("abcdijklrk", (2, 3, 2, 4, 3, 4, 5, 2, 3, 5), strict=True))
    sizes.update(a=3, c=2)
    rng = np.random.default_rng(0)
    terms = spec.partition("->")[0].split(",")
    arrays = [random_array(rng, [sizes[i] for i in term], dtype) for term in terms]
    result = einsum(xp, spec, *map(convert, arrays))
    assert result.dtype == convert(arrays[0]).dtype
    close(result, np.einsum(spec, *arrays), dtype)


labels = st.lists(st.sampled_from("abcde"), max_size=4, unique=True)


@given(a=labels, b=labels, output=st.permutations("abcde"), length=st.integers(0, 5), seed=seeds)
def test_pairs_of_any_labels(a, b, output, length, seed):
    kept = tuple(i for i in output if i in {*a, *b})[:length]
    size = dict(zip("abcde", (2, 3, 1, 4, 2), strict=True))
    rng = np.random.default_rng(seed)
    x, y = (random_array(rng, [size[i] for i in term]) for term in (a, b))
    result = contract_pair(np, x, tuple(a), y, tuple(b), kept)
    close(result, np.einsum(f"{''.join(a)},{''.join(b)}->{''.join(kept)}", x, y))


def test_labels_are_any_hashable(xp, convert):
    x = convert(np.arange(6.0).reshape(2, 3))
    result = contract_pair(xp, x, (("row", 0), 7), x, (("row", 1), 7), (("row", 1), ("row", 0)))
    close(result, to_numpy(x) @ to_numpy(x).T)


def test_empty_axes_give_zeros(xp, convert):
    x = convert(np.ones((2, 0)))
    close(einsum(xp, "ij,kj->ik", x, x), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("ij,jk", [(2, 3), (3, 4)]),
        ("ij,jk->ik", [(2, 3)]),
        ("ij,jk->ik", [(2, 3), (4, 2)]),
        ("ii->i", [(2, 3)]),
    ],
)
def test_refusals(xp, convert, spec, shapes):
    with pytest.raises(IndexLabelError, match=r"in full|index '[ij]'"):
        einsum(xp, spec, *(convert(np.ones(shape)) for shape in shapes))


def test_reduce_single_takes_diagonals_then_sums(xp, convert):
    a = random_array(np.random.default_rng(0), (3, 2, 3, 3))
    close(reduce_single(xp, convert(a), tuple("ijii"), ("j", "i")), np.einsum("ijii->ji", a))
