"""Training of low-rank layers that finds their ranks: dynamical low-rank training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from tnet.errors import BackendError, InputError
from tnet.nn.factorised_linear import check_size
from tnet.nn.low_rank_linear import LowRankLinear
from tnet.nn.tucker_conv import TuckerConv2d
from tnet.nn.tucker_linear import TuckerLinear
from tnet.nn.tucker_step import augmented_basis, multiplied, orthonormalised, probe, right_bases, truncated

__all__ = ["DLRT"]

Factors = tuple[torch.Tensor, ...]


class DLRT(torch.optim.Optimizer):
    r"""Gradient steps on the weights of low-rank layers, in bases that follow the gradient; ranks adapt.

    Every :class:`TuckerConv2d`, :class:`TuckerLinear` and :class:`LowRankLinear` of a model is stepped, except those
    that are frozen or have no part in the loss. With :math:`W = C \times_i U_i`, orthonormal :math:`U_i`,
    :math:`C_{(i)} = S_i Q_i^T`, and the gradient taken twice:

    1. :math:`K_i = U_i S_i - \eta\, \partial L / \partial K_i` for all modes, from one backward pass;
    2. :math:`\hat U_i` spans :math:`[U_i, K_i]`, and :math:`\hat C = C \times_i \hat U_i^T U_i`;
    3. :math:`\hat C \leftarrow \hat C - \eta\, \partial L / \partial \hat C`, from a second backward pass;
    4. each mode of :math:`\hat C` is cut at the least rank that discards at most :math:`\tau \|\hat C\|`.

    Parameters
    ----------
    model : torch.nn.Module
        With at least one such layer, of single or double precision. Its ranks change in place.
    lr : float
        Step :math:`\eta`, one for each layer in ``param_groups``.
    tau : float
        :math:`\tau` in [0, 1). At 0 ranks double with each step, up to the modes or ``max_rank``.
    max_rank : int, optional
        Largest rank of any mode.

    Raises
    ------
    InputError, BackendError
        If an option is out of range, or no layer or one of half precision is found.

    Notes
    -----
    The step is never along a factor alone, whose gradient is as small as the singular values that it meets: values of
    1e-8 do not slow it. It is plain gradient descent. All other parameters keep the gradients of the second pass, for
    another optimiser to step; those of the layers are new objects after each step. Both passes see the same weights;
    batch normalisation counts the batch twice. As ranks change, a compiled model is compiled again, and data-parallel
    replicas need equal gradients.

    A step costs two passes at twice the ranks, and for each layer the QR and SVD of ``n_i x 2 r_i`` factors and of
    the core, in double precision.

    References
    ----------
    E. Zangrando, S. Schotthöfer, G. Ceruti, J. Kusch, F. Tudisco, "Rank-adaptive spectral pruning of convolutional
    layers during training", arXiv:2305.19059; S. Schotthöfer, E. Zangrando, J. Kusch, G. Ceruti, F. Tudisco,
    "Low-rank lottery tickets", NeurIPS 2022, arXiv:2205.13571.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import DLRT, LowRankLinear
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> layer = LowRankLinear(20, 10, 8, bias=False)
    >>> x = torch.randn(200, 20)
    >>> y = x @ torch.randn(20, 2) @ torch.randn(2, 10)
    >>> optimiser = DLRT(layer, lr=0.5, tau=0.05)
    >>> def closure():
    ...     loss = 0.5 * (layer(x) - y).square().sum() / len(x)
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(60):
    ...     loss = optimiser.step(closure)
    >>> layer.rank, bool(loss < 1e-5)
    (2, True)
    """

    def __init__(self, model: nn.Module, lr: float = 0.1, *, tau: float = 0.1, max_rank: int | None = None) -> None:
        if not (isinstance(lr, (int, float)) and math.isfinite(lr) and lr > 0):
            raise InputError(f"lr={lr!r}: give a positive number.")
        if not (isinstance(tau, (int, float)) and 0 <= tau < 1):
            raise InputError(f"tau={tau!r}: give a share of the norm in [0, 1), such as 0.1.")
        self._max_rank = None if max_rank is None else check_size("max_rank", max_rank)
        self._model = model
        seats = [_seat(module) for module in model.modules() if isinstance(module, _KINDS)]
        self._layers = [seat for seat in seats if all(parameter.requires_grad for parameter in seat.parameters())]
        if not self._layers:
            names = ", ".join(kind.__name__ for kind in _KINDS)
            raise InputError(
                f"{type(model).__name__} has no layer to train: give it one of {names} that requires gradients."
            )
        groups = [{"params": layer.parameters()} for layer in self._layers]
        for parameter in (parameter for group in groups for parameter in group["params"]):
            if parameter.dtype not in (torch.float32, torch.float64):
                raise BackendError(
                    f"factors of {parameter.dtype}: bases are not orthonormal there. Keep the model in float32 and "
                    "compute under torch.autocast."
                )
        super().__init__(cast("Any", groups), {"lr": float(lr), "tau": float(tau)})

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure`` computes the loss of the batch, calls ``backward`` and returns the loss.

        Gradients of the model are set to None before each of its two calls.

        Raises
        ------
        InputError
            Without a closure, or if a gradient is not finite; the layers then are what they were.
        """
        if closure is None:
            raise InputError("DLRT.step() needs a closure that computes the loss, calls backward() and returns it.")
        before = [layer.read() for layer in self._layers]
        try:
            with torch.no_grad():
                bases = self._augmented(before, closure)
                loss, after = self._moved(before, bases, closure)
        except BaseException:
            self._place(before)
            raise
        self._place(after)
        return loss

    def _augmented(
        self, before: Sequence[tuple[torch.Tensor, Factors]], closure: Callable[..., Any]
    ) -> list[Factors]:
        """Return the old bases joined with those of all ``K_i`` after their step."""
        rights = [right_bases(core, len(factors)) for core, factors in before]
        for layer, (core, factors), right in zip(self._layers, before, rights, strict=True):
            layer.probe(core, factors, right)
        self._evaluate(closure)
        result: list[Factors] = []
        for k, (layer, (core, factors), right) in enumerate(zip(self._layers, before, rights, strict=True)):
            slopes, lr = layer.slopes(factors, right), self.param_groups[k]["lr"]
            wider = []
            for mode, (factor, basis, slope) in enumerate(zip(factors, right, slopes, strict=True)):
                S = core.movedim(mode, 0).flatten(1) @ basis
                wider.append(augmented_basis(factor, factor @ S - lr * self._finite(slope)))
            result.append(tuple(wider))
        return result

    def _moved(
        self, before: Sequence[tuple[torch.Tensor, Factors]], bases: Sequence[Factors], closure: Callable[..., Any]
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, Factors]]]:
        """Return the loss, and core and factors of all layers after the step of the core and the cut."""
        cores = []
        for layer, (core, factors), wide in zip(self._layers, before, bases, strict=True):
            for mode, (factor, basis) in enumerate(zip(factors, wide, strict=True)):
                core = multiplied(core, basis.T @ factor, mode)
            layer.place(core, wide)
            cores.append(core)
        loss = self._evaluate(closure)
        after = []
        for layer, core, wide, group, old in zip(self._layers, cores, bases, self.param_groups, before, strict=True):
            if all(parameter.grad is None for parameter in layer.parameters()):
                after.append(old)  # it took no part in the loss
                continue
            core = core - group["lr"] * self._finite(layer.core_slope(wide))
            after.append(truncated(core, wide, group["tau"], self._max_rank))
        return loss, after

    def _evaluate(self, closure: Callable[[], torch.Tensor]) -> torch.Tensor:
        self._model.zero_grad()
        with torch.enable_grad():
            return closure().detach()

    def _place(self, states: Sequence[tuple[torch.Tensor, Factors]]) -> None:
        for layer, group, (core, factors) in zip(self._layers, self.param_groups, states, strict=True):
            layer.place(core, factors)
            group["params"] = layer.parameters()

    def _finite(self, slope: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isfinite(slope).all()):
            raise InputError("a gradient is not finite, no step was taken: lower lr, or look at loss and batch.")
        return slope


class _Seat(Protocol):
    """What the step needs of a layer: core and factors, and gradients at the places where it puts others."""

    def parameters(self) -> list[nn.Parameter]: ...

    def read(self) -> tuple[torch.Tensor, Factors]: ...

    def place(self, core: torch.Tensor, factors: Factors) -> None: ...

    def probe(self, core: torch.Tensor, factors: Factors, right: Sequence[torch.Tensor]) -> None: ...

    def slopes(self, factors: Factors, right: Sequence[torch.Tensor]) -> list[torch.Tensor]: ...

    def core_slope(self, factors: Factors) -> torch.Tensor: ...


class _TuckerSeat:
    """A layer that has core and factors itself."""

    def __init__(self, layer: TuckerConv2d | TuckerLinear) -> None:
        self.layer = layer

    def parameters(self) -> list[nn.Parameter]:
        return [self.layer.core, *(cast("nn.Parameter", factor) for factor in self.layer.factors)]

    def read(self) -> tuple[torch.Tensor, Factors]:
        core, *factors = self.parameters()
        return orthonormalised(core, factors)

    def place(self, core: torch.Tensor, factors: Factors) -> None:
        self.layer.replace_factors(core, factors)

    def probe(self, core: torch.Tensor, factors: Factors, right: Sequence[torch.Tensor]) -> None:
        self.place(*probe(core, factors, right))

    def slopes(self, factors: Factors, right: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        _, *wide = self.parameters()
        return [_gradient(parameter)[:, factor.shape[1] :] for parameter, factor in zip(wide, factors, strict=True)]

    def core_slope(self, factors: Factors) -> torch.Tensor:
        return _gradient(self.layer.core)


class _LowRankSeat:
    """A product of two matrices as ``U S V^T``, kept as ``U S`` and ``V^T``."""

    def __init__(self, layer: LowRankLinear) -> None:
        self.layer = layer

    def parameters(self) -> list[nn.Parameter]:
        return [self.layer.left, self.layer.right]

    def read(self) -> tuple[torch.Tensor, Factors]:
        left = self.layer.left
        core = torch.eye(left.shape[1], dtype=torch.float64, device=left.device)
        return orthonormalised(core, (left, self.layer.right.T))

    def place(self, core: torch.Tensor, factors: Factors) -> None:
        self.layer.replace_factors(factors[0] @ core, factors[1].T)

    def probe(self, core: torch.Tensor, factors: Factors, right: Sequence[torch.Tensor]) -> None:
        """Put ``[U S, U]`` and ``[V^T; 0]``: their gradients hold ``G V`` and ``U^T G``."""
        left, other = factors
        wide = torch.cat([left @ core, left], 1)
        self.layer.replace_factors(wide, torch.cat([other.T, other.new_zeros(left.shape[1], other.shape[0])]))

    def slopes(self, factors: Factors, right: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        r = factors[1].shape[1]
        return [_gradient(self.layer.left)[:, :r] @ right[0], _gradient(self.layer.right)[r:].T @ right[1]]

    def core_slope(self, factors: Factors) -> torch.Tensor:
        return factors[0].T @ _gradient(self.layer.left)


_KINDS = (TuckerConv2d, TuckerLinear, LowRankLinear)


def _seat(layer: TuckerConv2d | TuckerLinear | LowRankLinear) -> _Seat:
    return _LowRankSeat(layer) if isinstance(layer, LowRankLinear) else _TuckerSeat(layer)


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    """Return the gradient in double precision; a layer that took no part has none, which is zero."""
    return torch.zeros_like(parameter, dtype=torch.float64) if parameter.grad is None else parameter.grad.double()
