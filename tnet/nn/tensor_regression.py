"""Regression on activations that are tensors, with a weight of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from tnet.errors import InputError, RankError, ShapeError
from tnet.nn.cp_linear import CPLinear
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_size
from tnet.nn.mpo_linear import MPOLinear
from tnet.nn.network_linear import NetworkLinear
from tnet.nn.tucker_linear import TuckerLinear

__all__ = ["TensorRegression"]

Kind = Literal["tucker", "cp", "tt"]
_KINDS = ("tucker", "cp", "tt")


class TensorRegression(nn.Module):
    r"""Contract an activation with a low-rank weight: in place of flattening and a dense layer.

    .. math:: y_i = \sum_{j_1 \dots j_d} W[i, j_1, \dots, j_d]\, X[j_1, \dots, j_d] + b_i

    Parameters
    ----------
    input_shape : sequence of int
        ``(n_1, ..., n_d)`` of the activation, without the axes of the batch.
    out_features : int
        m.
    rank : int or sequence of int
        Of W with shape ``(m, n_1, ..., n_d)``. Tucker: ``d + 1`` ranks, or one bound for all; CP: the number of
        terms; TT: the d bonds, or one number for all.
    kind : {"tucker", "cp", "tt"}
        Of the model of W.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    linear : TuckerLinear, CPLinear or MPOLinear
        The layer on the flattened activation; its parameters are the only ones.

    Raises
    ------
    ShapeError, RankError, InputError
        If a size, a rank or the kind is out of its range.

    Notes
    -----
    Modes are multiplied in the fastest order for the batch; see :class:`NetworkLinear`.

    References
    ----------
    J. Kossaifi, Z. C. Lipton, A. Kolbeinsson, A. Khanna, T. Furlanello, A. Anandkumar, "Tensor regression networks",
    Journal of Machine Learning Research 21 (2020), arXiv:1707.08308.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        out_features: int,
        rank: int | Sequence[int],
        kind: Kind = "tucker",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(input_shape)
        self.input_shape = checked_digits("input_shape", shape, math.prod(shape))
        m, kind, d = check_size("out_features", out_features), _checked(kind), len(self.input_shape)
        self.kind: Kind = kind
        if kind == "cp":
            if not isinstance(rank, int):
                raise RankError(f"rank={rank!r}: a CP model has one rank, the number of its terms.")
            self.linear: NetworkLinear = CPLinear((m,), self.input_shape, rank, bias, device, dtype)
        elif kind == "tucker":
            sizes = (m, *self.input_shape)
            ranks = [min(rank, n) for n in sizes] if isinstance(rank, int) else rank
            self.linear = TuckerLinear((m,), self.input_shape, ranks, bias, device, dtype)
        else:
            ranks = (rank,) * d if isinstance(rank, int) else rank
            self.linear = MPOLinear((m, *(1,) * d), (1, *self.input_shape), ranks, bias, device, dtype)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Module,
        input_shape: Sequence[int],
        rank: int | Sequence[int] | None = None,
        *,
        rtol: float | None = None,
        kind: Kind = "tucker",
        weight: torch.Tensor | None = None,
    ) -> TensorRegression:
        """Approximate a dense layer on flattened activations.

        Parameters
        ----------
        linear : torch.nn.Linear
            With ``n_1 ... n_d`` inputs; left unchanged.
        input_shape : sequence of int
            Of an activation before it is flattened.
        rank : int or sequence of int
            As in the constructor.
        rtol : float
            Relative Frobenius error of W, instead of ``rank``.
        kind : {"tucker", "cp", "tt"}
        weight : tensor, shape (n, n), optional
            C, the second moment of the flattened activations: the fit is to ``||(W - W') C^(1/2)||``.

        Returns
        -------
        TensorRegression
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            As from_dense of :class:`TuckerLinear`, :class:`CPLinear` and :class:`MPOLinear`.
        """
        shape, kind = tuple(input_shape), _checked(kind)
        out = getattr(linear, "out_features", None)
        if not isinstance(out, int):
            raise InputError(f"{type(linear).__name__} is no dense linear layer: give a torch.nn.Linear.")
        if kind == "cp":
            if rank is not None and not isinstance(rank, int):
                raise RankError(f"rank={rank!r}: a CP model has one rank, the number of its terms.")
            fitted: NetworkLinear = CPLinear.from_dense(
                linear, rank, rtol=rtol, weight=weight, row_shape=(out,), column_shape=shape
            )
        elif kind == "tucker":
            fitted = TuckerLinear.from_dense(
                linear, rank, rtol=rtol, weight=weight, row_shape=(out,), column_shape=shape
            )
        else:
            rows, columns = (out, *(1,) * len(shape)), (1, *shape)
            fitted = MPOLinear.from_dense(
                linear, rank, rtol=rtol, weight=weight, row_shape=rows, column_shape=columns
            )
        layer = cls(shape, out, 1, kind, fitted.bias is not None, "meta")
        layer.linear = fitted
        return layer.train(linear.training)

    @property
    def out_features(self) -> int:
        """M."""
        return self.linear.out_features

    @property
    def bias(self) -> nn.Parameter | None:
        """``(m,)``, that of ``linear``."""
        return self.linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n_1, ..., n_d)`` to ``(..., m)``."""
        d = len(self.input_shape)
        if tuple(x.shape[-d:]) != self.input_shape:
            raise ShapeError(f"input of shape {tuple(x.shape)}: the last axes must be {self.input_shape}.")
        return self.linear(x.reshape(*x.shape[: x.ndim - d], self.linear.in_features))

    def dense_weight(self) -> torch.Tensor:
        """Return W of shape ``(m, n_1, ..., n_d)``, differentiable in the factors."""
        return self.linear.dense_weight().reshape(self.out_features, *self.input_shape)

    def to_dense(self) -> nn.Linear:
        """Return an ``nn.Linear`` with the same map of flattened activations; nothing is shared with this layer."""
        return self.linear.to_dense()

    def reset_parameters(self) -> None:
        """Draw new values, as the layer of the flattened activation does."""
        self.linear.reset_parameters()

    @property
    def n_params(self) -> int:
        """Elements stored: factors and bias."""
        return self.linear.n_params

    @property
    def macs(self) -> int:
        """Multiply-adds for one activation of a large batch."""
        return self.linear.macs

    def extra_repr(self) -> str:
        """Sizes; what the weight is made of stands in the line of ``linear``."""
        return f"input_shape={self.input_shape}, out_features={self.out_features}, kind={self.kind!r}"


def _checked(kind: Kind) -> Kind:
    if kind not in _KINDS:
        raise InputError(f"kind={kind!r}: give one of {', '.join(_KINDS)}.")
    return kind
