"""Ranks of projected keys and values, head by head, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tnet.errors import InputError, RankError
from tnet.nn.attention.kv_distillation import mean_divergence
from tnet.nn.attention.matryoshka_kv import KVProjection, check_tokens

__all__ = ["KVLoss", "measure_kv_loss"]


@dataclass(frozen=True, eq=False)
class KVLoss:
    """What it costs to cut one head's keys or values, all others whole.

    Parameters
    ----------
    levels : tuple of int
        The ranks measured, rising; the last is d.
    divergence : numpy.ndarray, shape (L, 2, g, len(levels))
        Nats a token from the model without a cut; zero at the last level, never rising with the rank.
    """

    levels: tuple[int, ...]
    divergence: np.ndarray

    def ranks(self, share: float) -> np.ndarray:
        """Choose ranks whose sum is at most ``share`` of the whole.

        Losses of heads are taken to add up. From full rank, the cut with the least loss for each number saved is
        taken, over all heads and all lower levels, until the budget is met; what the last cut saved too much is
        given back where it gains most.

        Parameters
        ----------
        share : float
            Of the bytes of the cache, from ``levels[0] / d`` to 1.

        Returns
        -------
        numpy.ndarray, shape (L, 2, g)
            int64, for :meth:`KVProjection.set_ranks`.

        Raises
        ------
        InputError
            If the share is out of range.
        """
        levels = np.array(self.levels)
        if not levels[0] / levels[-1] <= share <= 1:
            raise InputError(
                f"share={share!r}: give a number from {levels[0] / levels[-1]:.3g}, all heads at the least level "
                f"{levels[0]}, to 1."
            )
        curves = self.divergence.reshape(-1, len(levels))
        at = np.full(len(curves), len(levels) - 1)
        total, budget = levels[-1] * len(curves), share * levels[-1] * len(curves)
        slopes, targets = np.array([_best_cut(curve, levels, len(levels) - 1) for curve in curves]).T
        while total > budget + 1e-9:
            unit = int(np.argmin(slopes))
            total -= levels[at[unit]] - levels[int(targets[unit])]
            at[unit] = int(targets[unit])
            slopes[unit], targets[unit] = _best_cut(curves[unit], levels, at[unit])
        while (raised := _best_raise(curves, levels, at, budget - total + 1e-9)) is not None:
            total += levels[raised[1]] - levels[at[raised[0]]]
            at[raised[0]] = raised[1]
        return levels[at].reshape(self.divergence.shape[:-1])


def measure_kv_loss(
    projection: KVProjection,
    tokens: torch.Tensor,
    *,
    levels: Sequence[int] | None = None,
    batch_size: int = 8,
) -> KVLoss:
    """Measure the divergence of a model from itself, with one head's keys or values cut at a time.

    Parameters
    ----------
    projection : KVProjection
        From :func:`project_kv`, trained or not; its ranks do not matter and stay.
    tokens : torch.Tensor, shape (n, length)
        Token ids without padding; some thousand tokens are enough to rank the heads.
    levels : sequence of int, optional
        Ranks to measure below d; by default the multiples of d / 8.
    batch_size : int
        Sequences at a time.

    Returns
    -------
    KVLoss

    Raises
    ------
    RankError
        If a level is out of range.
    ShapeError
        If there is no table of tokens.
    InputError
        If a divergence is not finite.

    Notes
    -----
    ``2 L g len(levels)`` forward passes over the tokens. Lin et al. (arXiv:2410.14731) search greedily with a pass
    over all heads for each step; here one measurement serves all budgets.
    """
    tokens = check_tokens(tokens, projection.model)
    width = projection.width
    given = sorted({-(-width * i // 8) for i in range(1, 8)} if levels is None else set(levels))
    if not given or not all(isinstance(level, int) and 1 <= level <= width for level in given):
        raise RankError(f"levels={given}: give integers from 1 to {width}.")
    given = [level for level in given if level < width]
    shape = projection.ranks.shape
    divergence = np.zeros((*shape, len(given) + 1))
    whole = torch.ones(*shape, width, device=tokens.device, dtype=projection.bases.dtype)
    with torch.no_grad():
        for batch in tokens.split(batch_size):
            target = projection.logits(batch, masks=whole)
            losses = []  # read once a batch, so that a GPU does not wait for each
            for unit in np.ndindex(*shape):
                for level in given:
                    masks = whole.clone()
                    masks[unit][level:] = 0
                    losses.append(mean_divergence(target, projection.logits(batch, masks=masks)))
            if losses:
                measured = torch.stack(losses).double().cpu().numpy().reshape(*shape, len(given))
                divergence[..., :-1] += measured * len(batch) / len(tokens)
    if not np.isfinite(divergence).all():
        raise InputError("a divergence is not finite: check the weights and the tokens.")
    # A lower rank is a special case of a higher one: where rounding or luck says otherwise, it is raised to that.
    return KVLoss((*given, width), np.maximum.accumulate(divergence[..., ::-1], axis=-1)[..., ::-1])


def _best_cut(curve: np.ndarray, levels: np.ndarray, now: int) -> tuple[float, int]:
    """Return the least loss for a number saved, and the level that reaches it; infinity at the lowest."""
    if now == 0:
        return float("inf"), 0
    slopes = (curve[:now] - curve[now]) / (levels[now] - levels[:now])
    best = int(np.argmin(slopes))
    return float(slopes[best]), best


def _best_raise(curves: np.ndarray, levels: np.ndarray, at: np.ndarray, room: float) -> tuple[int, int] | None:
    """Return the unit and the level that gain most for a number within the room, or None if nothing fits."""
    more = levels - levels[at][:, None]
    gains = np.take_along_axis(curves, at[:, None], axis=1) - curves
    rates = np.where((more > 0) & (more <= room), gains / np.maximum(more, 1), -1.0)
    unit, level = np.unravel_index(int(np.argmax(rates)), rates.shape)
    return None if rates[unit, level] < 0 else (int(unit), int(level))
