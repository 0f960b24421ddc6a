"""From chosen candidates to modules: factorise in the metric, correct the bias, choose the gauge."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tnet.compression.allocation import Choice
from tnet.compression.catalogue import Group, Problem, metric_of
from tnet.compression.moments import Moments
from tnet.compression.mpo_candidates import fit_mpo
from tnet.compression.whitening import Metric, Shrinkage, factorise
from tnet.nn import FactorisedLinear, InterpolativeLinear, MPOLinear, shared_input_layers

__all__ = ["build_modules", "merge", "ridge_target"]

#: Weight of the original layer against the calibration data in :func:`ridge_target`.
RIDGE = 10.0


def build_modules(
    problem: Problem,
    moments: Moments,
    shrinkage: Shrinkage,
    group: Group,
    choice: Choice,
    biases: Mapping[str, torch.Tensor | None],
    weights: Mapping[str, torch.Tensor],
) -> dict[str, nn.Module]:
    """Return the modules that replace the choice's members; nothing for a layer that stays dense.

    Parameters
    ----------
    problem, moments, shrinkage
        The metric.
    group : tuple of str
        The layers that read the same input as the members.
    choice : Choice
        Kind and rank.
    biases : mapping
        Original biases by name.
    weights : mapping
        What to approximate: the original weights, or :func:`ridge_target`.

    Returns
    -------
    dict of str to torch.nn.Module
        On the device and in the dtype of the original weight.
    """
    if choice.kind == "dense":
        return {}
    members = choice.members
    like = problem.weights[members[0]]
    metric = metric_of(problem, moments, group, members, shrinkage)
    targets = [weights[name].to(torch.float64) for name in members]
    if choice.kind == "mpo":
        tensor = fit_mpo(targets[0], metric, choice.ranks)
        bias = _corrected(problem, members[0], biases, metric, tensor.to_dense())
        modules: tuple[FactorisedLinear, ...] = (MPOLinear.from_tensor(tensor, bias),)
    else:
        lefts, right = factorise(targets, metric, choice.ranks[0])
        corrected = [
            _corrected(problem, name, biases, metric, left @ right) for name, left in zip(members, lefts, strict=True)
        ]
        if choice.kind == "shared":
            modules = shared_input_layers(lefts, right, corrected)
        else:
            modules = (InterpolativeLinear.from_factors(lefts[0], right, corrected[0]),)
    for name, module in zip(members, modules, strict=True):
        module.conv1d = problem.targets[name].conv1d
        module.to(device=like.device, dtype=like.dtype)
        for parameter in module.parameters():
            # Another memory order would sum in another order than the reloaded model does.
            parameter.data = parameter.data.contiguous()
    return dict(zip(members, modules, strict=True))


def _corrected(
    problem: Problem,
    name: str,
    biases: Mapping[str, torch.Tensor | None],
    metric: Metric,
    approximation: torch.Tensor,
) -> torch.Tensor | None:
    """``b + (W - W') mean``: the mean output stays what it was."""
    bias = biases[name]
    if bias is None:
        return None
    weight = problem.weights[name].to(torch.float64)
    return bias.to(torch.float64) + (weight - approximation) @ metric.mean


def merge(first: Moments, second: Moments) -> None:
    """Add the statistics of the original model to those of the compressed one, in place of the latter.

    For the original model the cross moment is the input moment.
    """
    for name, value in first.inputs.items():
        second.inputs[name] += value
        second.cross[name] += value
        second.means[name] += first.means[name]
    for name, value in first.outputs.items():
        second.outputs[name] += value
    second.n_tokens += first.n_tokens
    second.n_units += first.n_units


def ridge_target(weight: torch.Tensor, moments: Moments, leader: str) -> torch.Tensor:
    r"""Weight that maps the compressed model's inputs to the original's outputs, pulled towards the original.

    .. math:: W_t = \arg\min_T E\|W x^{orig} - T x\|^2 + \rho E\|(W - T) x\|^2
              = W (D + \rho C) \, ((1 + \rho) C)^{-1},

    with :math:`C = E[x x^T]`, :math:`D = E[x^{orig} x^T]`. Without the ridge, a few thousand tokens fit noise.

    Parameters
    ----------
    weight : tensor
        ``W``, ``(m, n)``.
    moments : Moments
        With ``cross``.
    leader : str
        First member of the layer's group.
    """
    device = weight.device
    c = moments.inputs[leader].to(device, torch.float64)
    d = moments.cross[leader].to(device, torch.float64)
    c = c + 1e-6 * torch.diagonal(c).mean() * torch.eye(len(c), dtype=c.dtype, device=device)
    right_hand = weight.to(torch.float64) @ (d + RIDGE * c)
    return torch.cholesky_solve(right_hand.T, torch.linalg.cholesky((1 + RIDGE) * c)).T
