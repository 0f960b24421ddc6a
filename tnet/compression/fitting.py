"""From chosen candidates to layers: factorise in the metric, correct the bias, choose the gauge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tnet.compression.allocation import Choice
from tnet.compression.catalogue import Group, Problem, metric_of
from tnet.compression.moments import Moments
from tnet.compression.mpo_candidates import fit_mpo
from tnet.compression.whitening import Shrinkage, cholesky, factorise, shrunk
from tnet.formats import MatrixProductOperator
from tnet.nn import FactorisedLinear, InterpolativeLinear, MPOLinear, shared_input_layers

__all__ = ["Fitted", "contiguous", "fit", "merge", "ridge_target"]

#: Weight of the original layer against the calibration data in :func:`ridge_target`.
RIDGE = 10.0
#: Share of the mean power below which an input direction says nothing.
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True, eq=False)
class Fitted:
    """One choice with its values, in float64.

    Parameters
    ----------
    choice : Choice
    approximations : tuple of (tensor, tensor), or MatrixProductOperator
        Left and right factor of each member, or the MPO of the only one.
    biases : tuple of (tensor or None)
        Corrected for the mean, by member.
    """

    choice: Choice
    approximations: tuple[tuple[torch.Tensor, torch.Tensor], ...] | MatrixProductOperator
    biases: tuple[torch.Tensor | None, ...]

    def stand_ins(self) -> tuple[nn.Module, ...]:
        """Return dense layers with the same map: cheap to build while the choice may still change."""
        if isinstance(self.approximations, MatrixProductOperator):
            weights = [self.approximations.to_dense()]
        else:
            weights = [left @ right for left, right in self.approximations]
        return tuple(_dense(weight, bias) for weight, bias in zip(weights, self.biases, strict=True))

    def modules(self) -> tuple[FactorisedLinear, ...]:
        """Return the layers that will be stored."""
        if isinstance(self.approximations, MatrixProductOperator):
            return (MPOLinear.from_tensor(self.approximations, self.biases[0]),)
        lefts = [left for left, _ in self.approximations]
        right = self.approximations[0][1]
        if self.choice.kind == "shared":
            return shared_input_layers(lefts, right, self.biases)
        return (InterpolativeLinear.from_factors(lefts[0], right, self.biases[0]),)


def _dense(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    m, n = weight.shape
    layer = nn.Linear(n, m, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
    return layer


def contiguous(module: FactorisedLinear) -> FactorisedLinear:
    """Give the values the memory order that a reloaded model has, for sums to come in the same order."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    return module


def fit(
    problem: Problem,
    moments: Moments,
    shrinkage: Shrinkage,
    group: Group,
    choice: Choice,
    biases: Mapping[str, torch.Tensor | None],
    weights: Mapping[str, torch.Tensor],
) -> Fitted:
    """Compute the values of a choice other than dense.

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
    """
    members = choice.members
    metric = metric_of(problem, moments, group, members, shrinkage)
    targets = [weights[name].to(torch.float64) for name in members]
    approximations: tuple[tuple[torch.Tensor, torch.Tensor], ...] | MatrixProductOperator
    if choice.kind == "mpo":
        approximations = fit_mpo(targets[0], metric, choice.ranks)
        products = [approximations.to_dense()]
    else:
        lefts, right = factorise(targets, metric, choice.ranks[0])
        approximations = tuple((left, right) for left in lefts)
        products = [left @ right for left in lefts]
    corrected = tuple(
        _corrected(problem.weights[name], biases[name], metric.mean, product)
        for name, product in zip(members, products, strict=True)
    )
    return Fitted(choice, approximations, corrected)


def _corrected(
    weight: torch.Tensor, bias: torch.Tensor | None, mean: torch.Tensor, approximation: torch.Tensor
) -> torch.Tensor | None:
    """``b + (W - W') mean``: the mean output stays what it was."""
    if bias is None:
        return None
    return bias.to(torch.float64) + (weight.to(torch.float64) - approximation) @ mean


def merge(first: Moments, second: Moments) -> None:
    """Add the statistics of the original model to those of the compressed one, in place of the latter.

    For the original model the cross moment is the input moment.
    """
    for name, value in first.inputs.items():
        second.inputs[name] += value
        second.cross[name] += value
        second.means[name] += first.means[name]
        second.n_rows[name] += first.n_rows[name]
    for name, value in first.outputs.items():
        second.outputs[name] += value
    second.n_units += first.n_units


def ridge_target(weight: torch.Tensor, moments: Moments, leader: str) -> torch.Tensor:
    r"""Weight that maps the compressed model's inputs to the original's outputs, pulled towards the original.

    .. math:: W_t = \arg\min_T E\|W x^{orig} - T x\|^2 + \rho E\|(W - T) x\|^2
              = W + W (D - C) \, ((1 + \rho) C)^{-1},

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
    # The sums are of single precision: directions that hardly any input has stay those of W.
    regular = cholesky((1 + RIDGE) * shrunk(c, _NEGLIGIBLE))
    change = weight.to(torch.float64) @ (d - c)
    return weight.to(torch.float64) + torch.cholesky_solve(change.T, regular).T
