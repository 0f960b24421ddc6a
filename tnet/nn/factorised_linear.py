"""What every factorised linear layer answers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.nn.matricisation import FactorAxes
from tnet.nn.state import FactorModule

__all__ = [
    "FactorisedLinear",
    "check_factors",
    "check_product",
    "check_rank",
    "check_size",
    "dense_parts",
    "parameter_of",
]


class FactorisedLinear(FactorModule, ABC):
    """A linear map ``y = W' x + b`` whose weight ``W'`` of shape ``(m, n)`` is stored in factors.

    Attributes
    ----------
    in_features, out_features : int
        The sizes ``n`` and ``m`` of ``W'``.
    bias : torch.nn.Parameter or None
        ``(m,)``.
    conv1d : bool
        True if the dense layer that this one stands for stored its weight as ``(n, m)``, as GPT-2's
        ``Conv1D`` does. It has no effect on the layer itself.
    """

    in_features: int
    out_features: int
    bias: nn.Parameter | None
    conv1d: bool

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.conv1d = False

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""

    @abstractmethod
    def dense_weight(self) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``, differentiable in the factors."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds of the forward pass for one token."""

    @abstractmethod
    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Return for each factor, by parameter name, the sizes ``(d_in, d_out)`` of the matrix that it acts as.

        The product of all ``d_in`` is n times the number of terms summed over for one entry of ``W'``. Factors stand
        in the order in which they act on an input.
        """

    def factor_axes(self) -> dict[str, FactorAxes]:
        """Return for each factor, by parameter name, which of its axes are outputs and which are inputs.

        The sizes of the matrices are those of :meth:`factor_dims`.
        """
        return {name: FactorAxes((), (0,), (1,)) for name in self.factor_dims()}

    def reset_parameters(self) -> None:
        """Draw new values: entries of ``W'`` have the variance ``1 / (3 n)`` of a new ``nn.Linear``.

        Each of d factors is normal with variance ``3^(-1/d) / d_in`` (:meth:`factor_dims`), so that each keeps the
        scale of what it maps; the bias is uniform in ``±1/sqrt(n)``.
        """
        dims = self.factor_dims()
        share = 3 ** (-1 / len(dims))
        for name, (d_in, _) in dims.items():
            nn.init.normal_(self.get_parameter(name), std=(share / d_in) ** 0.5)
        self._reset_bias()

    @property
    def n_params(self) -> int:
        """Elements stored by this layer: factors, bias and index buffers."""
        stored = [*self.parameters(), *self.buffers()]
        return sum(tensor.numel() for tensor in stored)

    @property
    def weight(self) -> torch.Tensor:
        """``W'``, formed anew at every access: for code that reads ``layer.weight`` of a linear layer."""
        return self.dense_weight()

    def to_dense(self) -> nn.Linear:
        """Return an ``nn.Linear`` with the same map, dtype and device; nothing is shared with this layer."""
        with torch.no_grad():
            weight = self.dense_weight()
            dense = nn.Linear(
                self.in_features,
                self.out_features,
                bias=self.bias is not None,
                device="meta",
                dtype=weight.dtype,
            )
            dense.weight = nn.Parameter(weight.clone())
            if self.bias is not None:
                dense.bias = nn.Parameter(self.bias.detach().clone())
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, parameters and multiply-adds a token, as ``print`` shows them."""
        own = "".join(f"{name}={value}, " for name, value in self._described().items())
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {own}bias={self.bias is not None}, "
            f"n_params={self.n_params}, macs={self.macs}"
        )

    @abstractmethod
    def _described(self) -> dict[str, object]:
        """Return what beside its sizes tells the layer from others of its class."""

    def _new_bias(self, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        parameter = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", parameter)

    def _reset_bias(self) -> None:
        if self.bias is not None:
            bound = self.in_features**-0.5
            nn.init.uniform_(self.bias, -bound, bound)


def dense_parts(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight ``(m, n)`` and bias of a dense layer, detached: an ``nn.Linear``, or GPT-2's ``Conv1D``."""
    weight, bias = getattr(linear, "weight", None), getattr(linear, "bias", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or isinstance(linear, nn.Embedding):
        raise InputError(f"{type(linear).__name__} is no dense linear layer: give a torch.nn.Linear.")
    check_factors(weight=weight, bias=bias)
    weight = weight.detach().T if type(linear).__name__ == "Conv1D" else weight.detach()
    return weight, None if bias is None else bias.detach()


def check_size(name: str, value: int) -> int:
    """Return ``value`` if it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ShapeError(f"{name}={value!r}: give an integer of at least 1.")
    return value


def check_rank(rank: int, largest: int, reason: str) -> int:
    """Return ``rank`` if it is an integer from 1 to ``largest``; ``reason`` says what sets the limit."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
        raise RankError(f"rank={rank!r}: give an integer from 1 to {largest}, {reason}.")
    return rank


def check_factors(**factors: torch.Tensor | None) -> None:
    """Raise unless the named factors are finite floating tensors of one dtype and device."""
    given = {name: factor for name, factor in factors.items() if factor is not None}
    for name, factor in given.items():
        if not isinstance(factor, torch.Tensor) or not factor.is_floating_point():
            kind = factor.dtype if isinstance(factor, torch.Tensor) else type(factor).__name__
            raise BackendError(f"{name} of type {kind}: give a real floating torch tensor.")
    kinds = {name: (factor.dtype, factor.device) for name, factor in given.items()}
    if len(set(kinds.values())) > 1:
        raise BackendError(f"factors of mixed dtype or device, {kinds}: bring them to one.")
    for name, factor in given.items():
        if not factor.is_meta and not bool(torch.isfinite(factor).all()):
            raise InputError(f"{name} has non-finite values; remove NaN and Inf before building a layer.")


def check_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> tuple[int, int, int]:
    """Return ``(m, n, r)`` of ``left (m, r) @ right (r, n)``, or raise naming the shapes."""
    check_factors(left=left, right=right, bias=bias)
    shapes = f"left {tuple(left.shape)}, right {tuple(right.shape)}"
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ShapeError(f"{shapes}: give matrices (m, r) and (r, n).")
    (out_features, rank), in_features = left.shape, right.shape[1]
    if bias is not None and tuple(bias.shape) != (out_features,):
        raise ShapeError(f"bias {tuple(bias.shape)} for {shapes}: give a vector ({out_features},) or None.")
    return out_features, in_features, rank


def parameter_of(tensor: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    """Return a new contiguous parameter with the values of ``tensor``, in dtype and device of ``like``."""
    values = tensor.detach().to(device=like.device, dtype=like.dtype)
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format))
