"""CP models of weights: of so many terms, or the fewest that meet a tolerance."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from tnet.decompositions import cp
from tnet.errors import ConvergenceWarning, RankError
from tnet.nn.factorised_linear import check_size
from tnet.options import Stopping, check_rank_or_rtol

if TYPE_CHECKING:
    from tnet.formats import CPTensor

__all__ = ["cp_model"]

_FIT = Stopping(max_iter=100, change=1e-5)


def cp_model(tensor: torch.Tensor, rank: int | None, rtol: float | None) -> CPTensor:
    """Return a CP model of a weight: of ``rank`` terms, or within ``rtol``: ranks are doubled, then bisected.

    Raises
    ------
    RankError, ShapeError, InputError
        If not exactly one of rank and rtol is given, one is out of range, or no rank with fewer parameters than the
        tensor has meets ``rtol``.
    """
    check_rank_or_rtol(rank, rtol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weight is no sum of few terms; ALS creeps
        if rank is not None:
            return cp(tensor, check_size("rank", rank), stopping=_FIT, rng=0).tensor
        return _within(tensor, rtol or 0.0)


def _within(tensor: torch.Tensor, rtol: float) -> CPTensor:
    """Return the model of the least rank found whose error is at most rtol."""
    most = tensor.numel() // sum(tensor.shape)
    low, high, rank = 0, 0, 1
    best: CPTensor | None = None
    while not high or high - low > 1:
        found = cp(tensor, rank, stopping=_FIT, rng=0)
        if found.error <= rtol:
            best, high = found.tensor, rank
        else:
            low = rank
        if not high and rank >= most:
            raise RankError(
                f"rtol={rtol}: not met with {rank} terms, as many parameters as the weight has; loosen it."
            )
        rank = (low + high) // 2 if high else min(2 * rank, most)
    assert best is not None
    return best
