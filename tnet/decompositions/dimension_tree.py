"""The matricised-tensor products of alternating sweeps, from fewer than one pass over the tensor each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from tnet.arrays import Array, Namespace, array_namespace, is_complex, total_size

__all__ = ["balanced_split", "choose_groups", "mttkrp_cycle", "price_of_sweep"]

Groups: TypeAlias = tuple[tuple[int, ...], ...]

_PANEL = 1 << 17  # elements of a Khatri-Rao panel: it stays in cache between its making and its use

# Prices in multiply-adds of a large matrix product: an element of the tensor cannot be read in less time than
# some multiply-adds take; one of an intermediate is written once and read twice; a small product is a call.
_READ = 16
_INTERMEDIATE = 32
_CALL = 10_000


def choose_groups(shape: Sequence[int], R: int) -> Groups:
    """Return the groups of neighbouring modes of which one at a time is contracted with the tensor.

    Parameters
    ----------
    shape : sequence of int
    R : int

    Notes
    -----
    G groups take ``G / (G - 1)`` products with the tensor a sweep, so that more groups are better, but leave
    intermediates of ``R N / |group|`` elements, for which fewer and longer groups are better. The cheapest
    division into two to four groups is taken: usually all modes of a tensor of order 3, and two halves of one
    of order 4.
    """
    return min(_divisions(len(shape)), key=lambda groups: _price(shape, R, groups))


def price_of_sweep(shape: Sequence[int], R: int) -> float:
    """Return what the products of a sweep cost, in multiply-adds of a large matrix product."""
    return min(_price(shape, R, groups) for groups in _divisions(len(shape)))


def _divisions(d: int) -> Iterator[Groups]:
    if d == 1:
        return iter([((0,),)])
    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, d), k) for k in range(1, min(d, 4)))
    return (_between((0, *cut, d)) for cut in cuts)


def mttkrp_cycle(x: Array, factors: list[Array]) -> Iterator[tuple[int, Array]]:
    r"""Yield the products that update the factors of a CP model one after the other, for ever.

    Parameters
    ----------
    x : array, shape (n_1, ..., n_d)
    factors : list of array, shapes (n_k, R)
        Read whenever a product is asked for, so that the caller updates its entries in between. Between two
        products only the factor of the mode yielded last may change; after any other change, begin a new cycle.

    Yields
    ------
    k : int
        0, 1, ..., d - 1, 0, 1, ...
    M : array, shape (n_k, R)
        :math:`M_k = X_{(k)} \overline{(A_1 \odot \dots A_{k-1} \odot A_{k+1} \dots \odot A_d)}` with the newest
        factors.

    Notes
    -----
    The multi-sweep dimension tree [2]_ over the groups of :func:`choose_groups`: the tensor contracted with one
    group serves all the modes of the others, also across the end of a sweep. ``1.5 N R`` multiply-adds with
    ``x`` a sweep for three groups, ``2 N R`` for two [1]_, where mode by mode takes ``d N R``. All else works on
    intermediates of ``R N / |group|`` elements, one of which is held at a time. They are laid out with r first:
    products of that form, (R, group) times (group, rest), run at up to twice the speed of their transposes.
    Khatri-Rao products are made in panels and never held whole. A tensor that is not C-contiguous is copied once.

    References
    ----------
    .. [1] A.-H. Phan, P. Tichavsky, A. Cichocki, "Fast alternating LS algorithms for high order
       CANDECOMP/PARAFAC tensor factorizations", IEEE Trans. Signal Process. 61 (2013).
    .. [2] L. Ma, E. Solomonik, "Efficient parallel CP decomposition with pairwise perturbation and multi-sweep
       dimension tree", IEEE International Parallel and Distributed Processing Symposium (2021).
    """
    xp = array_namespace(x)
    flipped = (lambda A: xp.conj(xp.matrix_transpose(A))) if is_complex(x) else xp.matrix_transpose
    rows = [flipped(factor) for factor in factors]  # (R, n_k)
    if x.ndim == 1:
        while True:
            yield 0, xp.reshape(x, (-1, 1)) * xp.ones_like(factors[0][:1, :])
    shape = tuple(int(n) for n in x.shape)
    x = xp.reshape(x, (-1,))
    groups = choose_groups(shape, int(factors[0].shape[1]))
    contracted = len(groups) - 1
    while True:
        group = groups[contracted]
        T = _contract_tensor(xp, x, shape, group, rows)
        # The modes behind the group come first in the cycle, and lie last in memory.
        products = _serve(
            xp, T, list(range(group[0])), list(range(group[-1] + 1, len(shape))), rows, later_first=True
        )
        del T  # not to be held beside the next one
        for mode, product in products:
            yield mode, xp.matrix_transpose(product)
            rows[mode] = flipped(factors[mode])
        contracted = (contracted - 1) % len(groups)


def _contract_tensor(
    xp: Namespace, x: Array, shape: tuple[int, ...], group: tuple[int, ...], rows: list[Array]
) -> Array:
    """Return the tensor contracted with the factors of ``group``, shape (R, before, after)."""
    before, after = total_size(shape[: group[0]]), total_size(shape[group[-1] + 1 :])
    blocks = xp.reshape(x, (before, -1, after))
    first, rest = rows[group[0]], [rows[k] for k in group[1:]]
    if not rest:
        return _contract_blocks(xp, blocks, first)
    R, n = first.shape
    tail = _khatri_rao_rows(xp, rest)
    m = int(tail.shape[1])
    step = max(1, _PANEL // (R * m))
    total = None
    for start in range(0, n, step):
        stop = min(start + step, n)
        panel = _khatri_rao_rows(xp, [first[:, start:stop], tail])
        part = _contract_blocks(xp, blocks[:, start * m : stop * m, :], panel)
        total = part if total is None else total + part
    return total


def _contract_blocks(xp: Namespace, blocks: Array, panel: Array) -> Array:
    """Return the product of ``panel`` (R, m) and ``blocks`` (before, m, after), shape (R, before, after)."""
    before, _, after = blocks.shape
    if before == 1:
        return xp.reshape(panel @ blocks[0, :, :], (-1, 1, after))
    if after == 1:
        return xp.reshape(panel @ xp.matrix_transpose(blocks[:, :, 0]), (-1, before, 1))
    return xp.permute_dims(panel @ blocks, (1, 0, 2))


def _serve(
    xp: Namespace, T: Array, leading: list[int], trailing: list[int], rows: list[Array], later_first: bool = False
) -> Iterator[tuple[int, Array]]:
    """Yield the products, shape (R, n_k), of the modes that ``T`` of shape (R, leading, trailing) still has.

    The leading modes come first in the cycle, unless ``later_first``.
    """
    R = int(T.shape[0])
    halves = [(leading, trailing), (trailing, leading)]
    for own, other in reversed(halves) if later_first else halves:
        if not own:
            continue
        part = T
        if other:
            weights = _khatri_rao_rows(xp, [rows[k] for k in other])
            part = T @ weights[:, :, None] if own is leading else weights[:, None, :] @ T
        if len(own) == 1:
            yield own[0], xp.reshape(part, (R, -1))
            continue
        sizes = [int(rows[k].shape[1]) for k in own]
        h = balanced_split(sizes)
        part = xp.reshape(part, (R, total_size(sizes[:h]), total_size(sizes[h:])))
        yield from _serve(xp, part, own[:h], own[h:], rows)


def _khatri_rao_rows(xp: Namespace, rows: list[Array]) -> Array:
    """Return the transposed Khatri-Rao product, shape (R, product of the n_k)."""
    product = rows[0]
    for other in rows[1:]:
        R, m = product.shape
        product = xp.reshape(product[:, :, None] * other[:, None, :], (R, m * other.shape[1]))
    return product


def balanced_split(sizes: Sequence[int]) -> int:
    """Return how many leading modes form the first half, so that the two halves are alike in size."""
    return min(range(1, len(sizes)), key=lambda h: max(total_size(sizes[:h]), total_size(sizes[h:])), default=1)


def _between(bounds: tuple[int, ...]) -> Groups:
    return tuple(tuple(range(a, b)) for a, b in itertools.pairwise(bounds))


def _price(shape: Sequence[int], R: int, groups: Groups) -> float:
    """Return the price of a sweep."""
    N = total_size(shape)
    total = 0.0
    for group in groups:
        before, after = total_size(shape[: group[0]]), total_size(shape[group[-1] + 1 :])
        intermediate = R * before * after if len(groups) > 2 or len(shape) - len(group) > 1 else 0
        calls = before if before > 1 and after > 1 else 1
        total += N * max(R, _READ) + _INTERMEDIATE * intermediate + _CALL * calls
    return total / max(1, len(groups) - 1)
