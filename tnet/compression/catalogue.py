"""From second moments to menus: the metric of each group and the candidates measured in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from tnet.compression.candidates import (
    Menu,
    Site,
    concatenate,
    dense_menu,
    interpolative_menu,
    mpo_menu,
    shared_menu,
)
from tnet.compression.moments import Moments
from tnet.compression.mpo_candidates import mpo_entries, mpo_rivals, mpo_shapes
from tnet.compression.targets import Target
from tnet.compression.whitening import (
    Metric,
    Shrinkage,
    cholesky,
    factorise,
    kronecker_loss,
    shrunk,
    spectrum,
    whitened,
)
from tnet.errors import InputError

__all__ = [
    "CANDIDATES",
    "Group",
    "Problem",
    "build_sites",
    "choose_shrinkage",
    "least_sites",
    "metric_of",
    "probe_groups",
]

#: The kinds that ``candidates=`` accepts, beside "auto".
CANDIDATES = ("dense", "interpolative", "shared", "mpo")


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that the choice of a structure depends on.

    Parameters
    ----------
    targets : dict of str to Target
    groups : tuple of tuple of str
        Targets by shared input.
    weights : dict of str to tensor
        Dense weights ``(m, n)``.
    itemsize : int
        Bytes of a stored weight.
    """

    targets: Mapping[str, Target]
    groups: tuple[tuple[str, ...], ...]
    weights: Mapping[str, torch.Tensor]
    itemsize: int


Group = tuple[str, ...]


def metric_of(problem: Problem, moments: Moments, group: Group, members: Group, shrinkage: Shrinkage) -> Metric:
    """Return the Cholesky factors of the group's input moment and of the members' output moments.

    Where every member has a bias the input moment is centred, for ``b + (W - W') mean`` then absorbs the
    mean exactly and for free. Without output moments each member is weighted by the inverse of its mean
    squared output: the loss is the relative squared output error.
    """
    leader = group[0]
    device = problem.weights[leader].device
    second, mean = moments.second(leader).to(device), moments.mean(leader).to(device)
    if all(problem.targets[name].has_bias for name in members):
        centred = second - torch.outer(mean, mean)
    else:
        centred, mean = second, torch.zeros_like(mean)
    column = cholesky(shrunk(centred, shrinkage.inputs))
    rows: list[torch.Tensor | None] = []
    for name in members:
        if moments.outputs:
            fisher = moments.outputs[name].to(device, torch.float64) / moments.n_units
            rows.append(cholesky(shrunk(fisher, shrinkage.outputs)))
        else:
            weight = problem.weights[name].to(torch.float64)
            power = float(torch.einsum("ij,jk,ik->", weight, second, weight))
            m = problem.targets[name].out_features
            scale = 1.0 / math.sqrt(power) if power > 0 else 1.0
            rows.append(scale * torch.eye(m, dtype=torch.float64, device=device))
    return Metric(column, tuple(rows), mean)


def probe_groups(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Return at most six groups spread over the depth, each cut to its first member."""
    return tuple(groups[i][:1] for i in sorted({round(k * (len(groups) - 1) / 5) for k in range(6)}))


def choose_shrinkage(
    problem: Problem,
    moments: Moments,
    validation: Moments,
    ratio: float,
    grid: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1),
) -> Shrinkage:
    """Choose how far the moments are shrunk: the least loss on held-out moments.

    The groups of :func:`probe_groups` are factorised at the target ratio with every amount of the grid, and the
    result is judged in the metric of the validation split: first the inputs' amount, then the outputs'.

    Parameters
    ----------
    problem : Problem
    moments, validation : Moments
        Of the statistics split, and of the held-out split for the probes.
    ratio : float
        Kept parameters, which fixes the rank of the probe.
    grid : sequence of float
        Amounts to try.

    Returns
    -------
    Shrinkage
    """
    probes = probe_groups(problem.groups)
    exact = Shrinkage(1e-6, 1e-6)
    judges = {group: metric_of(problem, validation, group, group, exact) for group in probes}

    def held_out(shrinkage: Shrinkage) -> float:
        total = 0.0
        for group in probes:
            name = group[0]
            weight = problem.weights[name].to(torch.float64)
            m, n = weight.shape
            rank = interpolative_rank(m, n, ratio)
            metric = metric_of(problem, moments, group, group, shrinkage)
            (left,), right = factorise([weight], metric, rank)
            judge = judges[group]
            whole = kronecker_loss(weight, judge.rows[0], judge.column)
            total += kronecker_loss(weight - left @ right, judge.rows[0], judge.column) / max(whole, 1e-300)
        return total

    best = Shrinkage()
    best = min((Shrinkage(amount, best.outputs) for amount in grid), key=held_out)
    if moments.outputs:
        best = min((Shrinkage(best.inputs, amount) for amount in grid), key=held_out)
    return best


def interpolative_rank(m: int, n: int, ratio: float) -> int:
    """Largest rank with ``r (m + n - r) <= ratio m n``, between 1 and ``min(m, n) - 1``."""
    discriminant = (m + n) ** 2 - 4 * ratio * m * n
    rank = int(((m + n) - math.sqrt(max(discriminant, 0.0))) / 2)
    return max(1, min(rank, min(m, n) - 1))


def build_sites(
    problem: Problem,
    moments: Moments,
    shrinkage: Shrinkage,
    kinds: Literal["auto"] | Iterable[str] = "auto",
    verdicts: dict[tuple[int, ...], bool] | None = None,
    on_group: Callable[[Group], None] | None = None,
) -> tuple[Site, ...]:
    """Measure the candidates of every layer.

    Parameters
    ----------
    problem, moments, shrinkage
        Weights and the metric.
    kinds : "auto" or iterable of str
        Subset of :data:`CANDIDATES`. "auto" takes all, but fits an MPO first to the first layer of each shape
        only, and MPOs to the others of that shape if :func:`mpo_rivals` says that it pays.
    verdicts : dict or None
        What the probes said, by shape: read, and written.
    on_group : callable or None
        Called after each group.

    Returns
    -------
    tuple of Site
        In the order of the groups.
    """
    allowed = check_kinds(kinds)
    verdicts = {} if verdicts is None else verdicts
    sites: list[Site] = []
    for group in problem.groups:
        metric = metric_of(problem, moments, group, group, shrinkage)
        blocks = whitened([problem.weights[name] for name in group], metric)
        separate = []
        for index, name in enumerate(group):
            alone = Metric(metric.column, (metric.rows[index],), metric.mean)
            separate.append(_menu(problem, name, alone, blocks[index], allowed, kinds == "auto", verdicts))
        joint = None
        if "shared" in allowed and len(group) > 1:
            values = spectrum(blocks)
            members = [problem.targets[name] for name in group]
            joint = shared_menu(members, values.cpu().numpy(), problem.itemsize)
        sites.append(Site(tuple(separate), joint))
        if on_group is not None:
            on_group(group)
    return tuple(sites)


def least_sites(problem: Problem, kinds: Literal["auto"] | Iterable[str] = "auto") -> tuple[Site, ...]:
    """Return the smallest entries that :func:`build_sites` could offer, from the shapes alone: every loss is 0."""
    allowed = check_kinds(kinds)
    sites = []
    for group in problem.groups:
        members = [problem.targets[name] for name in group]
        separate = [_least_menu(target, problem.itemsize, allowed) for target in members]
        joint = None
        if "shared" in allowed and len(members) > 1:
            joint = shared_menu(members, np.zeros(2), problem.itemsize)
        sites.append(Site(tuple(separate), joint))
    return tuple(sites)


def _least_menu(target: Target, itemsize: int, allowed: tuple[str, ...]) -> Menu:
    parts = []
    if "dense" in allowed or allowed == ("shared",):
        parts.append(dense_menu(target, itemsize))
    if "interpolative" in allowed and min(target.out_features, target.in_features) > 1:
        parts.append(interpolative_menu(target, np.zeros(2), itemsize))
    if "mpo" in allowed:
        shapes = mpo_shapes(target.out_features, target.in_features)
        parts.append(mpo_menu(target, [(*shape, 0.0) for shape in shapes], itemsize))
    return _joined(target, allowed, parts)


def _joined(target: Target, allowed: tuple[str, ...], parts: Sequence[Menu]) -> Menu:
    parts = [part for part in parts if len(part)]
    if not parts:
        raise InputError(
            f"candidates={allowed!r} leaves nothing for {target.name} of shape "
            f"({target.out_features}, {target.in_features}); add 'dense'."
        )
    return concatenate(parts)


def check_kinds(kinds: Literal["auto"] | Iterable[str]) -> tuple[str, ...]:
    """Return the kinds as a tuple, or raise InputError naming those that exist."""
    if kinds == "auto":
        return CANDIDATES
    chosen = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    unknown = [kind for kind in chosen if kind not in CANDIDATES]
    if unknown or not chosen:
        raise InputError(f'candidates={kinds!r}: give "auto" or a non-empty subset of {", ".join(CANDIDATES)}.')
    return chosen


def _menu(
    problem: Problem,
    name: str,
    metric: Metric,
    block: torch.Tensor,
    allowed: tuple[str, ...],
    probe: bool,
    verdicts: dict[tuple[int, ...], bool],
) -> Menu:
    """Join the entries of one layer."""
    target = problem.targets[name]
    parts: list[Menu] = []
    if "dense" in allowed or allowed == ("shared",):
        parts.append(dense_menu(target, problem.itemsize))
    low_rank: Menu | None = None
    if "interpolative" in allowed:
        values = spectrum([block]).cpu().numpy()
        low_rank = interpolative_menu(target, values, problem.itemsize)
        parts.append(low_rank)
    if "mpo" in allowed:
        weight = problem.weights[name]
        if probe and low_rank is not None and tuple(weight.shape) not in verdicts:
            verdicts[tuple(weight.shape)] = mpo_rivals(weight, metric, low_rank.n_params, low_rank.loss)
        if verdicts.get(tuple(weight.shape), True):
            parts.append(mpo_menu(target, mpo_entries(weight, metric), problem.itemsize))
    return _joined(target, allowed, parts)
