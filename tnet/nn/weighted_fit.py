"""Factors of a layer fitted to a dense weight in a weighted norm."""

from __future__ import annotations

import copy
import math

import torch

from tnet.errors import InputError, ShapeError
from tnet.nn.factorised_conv import FactorisedConv2d
from tnet.nn.network_linear import NetworkLinear

__all__ = ["fit_factors"]

_ITERATIONS = 300
_HISTORY = 20


def fit_factors(layer: NetworkLinear | FactorisedConv2d, dense: torch.Tensor, weight: torch.Tensor) -> None:
    r"""Lower :math:`\|(W - W') C^{1/2}\|_F` over all factors of a layer at once, from the values that they have.

    Parameters
    ----------
    layer : NetworkLinear or FactorisedConv2d
        Changed in place, unless nothing better is found.
    dense : tensor, shape (m, n)
        The weight; of a convolution the kernel as a matrix ``(O, I k_h k_w)``.
    weight : tensor, shape (n, n)
        C, the second moment of the inputs.

    Notes
    -----
    L-BFGS in double precision; an iteration costs about ``m n^2`` multiply-adds. Used where no least squares of its
    own is at hand: for MPO, BTT and Kronecker sums the decompositions have one.
    """
    n = dense.shape[1]
    if tuple(weight.shape) != (n, n):
        raise ShapeError(f"weight of shape {tuple(weight.shape)}: give ({n}, {n}), a second moment of the inputs.")
    C = weight.detach().to(device=dense.device, dtype=torch.float64)
    C = (C + C.T) / 2
    total = torch.sum((dense.double() @ C) * dense.double())
    if not bool(torch.isfinite(total)) or float(total) <= 0:
        raise InputError("weight is not positive semidefinite, zero or not finite: give X^T X / len(X).")
    W = dense.double()
    own = copy.deepcopy(layer).double()
    factors = [own.get_parameter(name) for name in own.factor_dims()]
    with torch.no_grad():  # gradients of factors of one scale are comparable
        norms = [max(float(factor.norm()), 1e-300) for factor in factors]
        common = math.exp(sum(map(math.log, norms)) / len(norms))
        for factor, norm in zip(factors, norms, strict=True):
            factor.mul_(common / norm)
    optimiser = torch.optim.LBFGS(
        factors, max_iter=_ITERATIONS, history_size=_HISTORY, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        difference = W - own.dense_weight().reshape(W.shape)
        error = torch.sum((difference @ C) * difference) / total
        error.backward()
        return error

    with torch.enable_grad():
        before = optimiser.step(loss).detach()
        after = loss().detach()
    if bool(after < before):
        with torch.no_grad():
            for name in own.factor_dims():
                layer.get_parameter(name).copy_(own.get_parameter(name))
