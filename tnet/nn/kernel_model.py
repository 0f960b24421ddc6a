"""Tucker models of convolution kernels: which ranks, and the model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tnet.decompositions import tucker
from tnet.errors import RankError
from tnet.nn.factorised_linear import check_size
from tnet.options import check_rank_or_rtol
from tnet.structure_search import core_shape

__all__ = ["checked_ranks", "kernel_model", "proportional_ranks"]

Model = tuple[torch.Tensor, tuple[torch.Tensor, ...]]


def checked_ranks(ranks: Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return two or four ranks for a kernel ``(O, I, k_h, k_w)``, each from 1 to its mode."""
    ranks = tuple(ranks)
    if len(ranks) not in (2, 4):
        raise RankError(
            f"ranks={ranks}: give two, for outputs and inputs, or four, for the kernel's rows and columns as well."
        )
    for r, size in zip(ranks, shape, strict=False):
        if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= size:
            raise RankError(f"ranks={ranks}: {r!r} for a mode of size {size}; give an integer from 1 to {size}.")
    return ranks


def proportional_ranks(shape: tuple[int, ...], n_modes: int, max_params: int) -> tuple[int, ...]:
    """Return the largest ranks that fit, the same share of each of the first ``n_modes`` modes, at least 1."""
    check_size("max_params", max_params)
    modes = shape[:n_modes]

    def ranks_of(share: float) -> tuple[int, ...]:
        return tuple(max(1, math.floor(share * n + 1e-9)) for n in modes)

    shares = sorted({j / n for n in modes for j in range(1, n + 1)})
    fitting = [ranks for share in shares if _n_params(ranks := ranks_of(share), shape) <= max_params]
    if not fitting:
        least = _n_params(ranks_of(0.0), shape)
        raise RankError(f"max_params={max_params}: ranks of 1 take {least} already; give at least as many.")
    return fitting[-1]


def kernel_model(
    kernel: torch.Tensor,
    rank: int | Sequence[int] | None,
    rtol: float | None,
    max_params: int | None,
    spatial: bool,
) -> Model:
    """Return core and factors of a kernel: two factors, for the channels, or four.

    Parameters
    ----------
    kernel : tensor, shape (O, I, k_h, k_w)
    rank : int or sequence of int, or None
        A bound for all compressed modes, or a rank for each.
    rtol : float or None
        Relative Frobenius error.
    max_params : int or None
        Elements of core and factors.
    spatial : bool
        Whether all four modes are compressed.

    Raises
    ------
    RankError, InputError
        If not exactly one of rank, rtol and max_params is given, or one is out of range.
    """
    if max_params is None:
        check_rank_or_rtol(rank, rtol)
    elif rank is not None or rtol is not None:
        raise RankError("rank=, rtol= and max_params=: more than one given; give exactly one of them.")
    shape = tuple(int(n) for n in kernel.shape)
    n_modes = 4 if spatial else 2
    if isinstance(rank, int):
        bound = check_size("rank", rank)
        rank = tuple(min(bound, n) for n in shape[:n_modes])
    if rank is not None:
        rank = checked_ranks(rank, shape)
        n_modes = len(rank)
    if n_modes == 2:
        return _channel_model(kernel, _channel_ranks(kernel, rtol, max_params) if rank is None else rank)
    if max_params is not None:
        rank = core_shape(kernel.double(), max_params=check_size("max_params", max_params)).ranks
    core, factors = tucker(kernel, rank, rtol=rtol).tensor
    return core, tuple(factors)


def _channel_model(kernel: torch.Tensor, ranks: Sequence[int]) -> Model:
    """Return the model with the places of the kernel left alone."""
    stacked = kernel.flatten(2)
    places = int(stacked.shape[2])
    core, factors = tucker(stacked, (*ranks, places)).tensor
    *channels, last = factors
    core = core @ last.T
    return core.reshape(*core.shape[:2], *kernel.shape[2:]), tuple(channels)


def _channel_ranks(kernel: torch.Tensor, rtol: float | None, max_params: int | None) -> tuple[int, int]:
    """Return ranks of outputs and inputs by the squared singular values of both unfoldings.

    The squared error is at most the sum of what both discard: within rtol the fewest parameters for which that proves
    it, within a budget the least sum.
    """
    double, (n_o, n_i), places = kernel.double(), kernel.shape[:2], math.prod(kernel.shape[2:])
    tails: list[torch.Tensor] = []  # what is discarded after r = 0, 1, ... values
    for mode in range(2):
        squares = torch.linalg.svdvals(double.transpose(0, mode).flatten(1)).square()
        tails.append(torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)]))
    r_o = torch.arange(1, len(tails[0]), device=kernel.device)[:, None]
    r_i = torch.arange(1, len(tails[1]), device=kernel.device)[None, :]
    n_params = r_o * r_i * places + n_o * r_o + n_i * r_i
    discarded = tails[0][r_o] + tails[1][r_i]
    sound = (r_i <= r_o * places) & (r_o <= r_i * places)  # otherwise rows of the core's unfolding are dependent
    if rtol is not None:
        score, fits = n_params.double(), discarded <= rtol**2 * tails[0][0]
        fits[-1, -1] = True
    else:
        budget = check_size("max_params", max_params or 0)
        score, fits = discarded, n_params <= budget
        if not bool(fits.any()):
            least = _n_params((1, 1), tuple(kernel.shape))
            raise RankError(f"max_params={max_params}: ranks of 1 take {least} already; give at least as many.")
    best = int(torch.where(sound & fits, score, math.inf).argmin())
    return best // r_i.shape[1] + 1, best % r_i.shape[1] + 1


def _n_params(ranks: tuple[int, ...], shape: tuple[int, ...]) -> int:
    core = math.prod(ranks) * math.prod(shape[len(ranks) :])
    return core + sum(n * r for n, r in zip(shape, ranks, strict=False))
