"""Linear layer whose weight is a matrix product operator (tensor-train matrix)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from tnet.decompositions import mpo
from tnet.errors import RankError, ShapeError
from tnet.nn.factorised_linear import FactorisedLinear, check_factors, check_size, parameter_of

if TYPE_CHECKING:
    from tnet.formats import MatrixProductOperator

__all__ = ["MPOLinear"]


class MPOLinear(FactorisedLinear):
    r"""Linear layer with a matrix product operator as weight.

    .. math:: W_{(i_1 \dots i_d), (j_1 \dots j_d)} = G_1[i_1, j_1] \cdots G_d[i_d, j_d]

    Parameters
    ----------
    row_shape : sequence of int
        ``(m_1, ..., m_d)`` with product ``m``, the number of outputs.
    column_shape : sequence of int
        ``(n_1, ..., n_d)`` with product ``n``, the number of inputs.
    ranks : sequence of int
        The ``d - 1`` inner bonds ``(r_1, ..., r_{d-1})``.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    cores : torch.nn.ParameterList
        Cores of shape ``(r_{k-1}, m_k, n_k, r_k)`` with ``r_0 = r_d = 1``; digits of rows and columns in C
        order.

    Raises
    ------
    ShapeError, RankError
        If the shapes are empty, of different lengths or hold no positive integers, or the ranks do not fit.

    Notes
    -----
    The forward pass takes the cheapest of three ways, by the multiply-adds for the number of tokens at hand:
    the input through the cores from the first to the last or from the last to the first (batched products on
    views, no transposed copies), or the dense weight formed once, then one matrix product. Few tokens favour
    the cores, many the dense weight: for three cores and more the chain's cost a token usually exceeds ``m
    n``.

    References
    ----------
    Novikov, Podoprikhin, Osokin, Vetrov, Tensorizing neural networks, NeurIPS 2015, eq. (5).
    """

    def __init__(
        self,
        row_shape: Sequence[int],
        column_shape: Sequence[int],
        ranks: Sequence[int],
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        row_shape, column_shape, ranks = tuple(row_shape), tuple(column_shape), tuple(ranks)
        if not row_shape or len(row_shape) != len(column_shape):
            raise ShapeError(
                f"row_shape={row_shape}, column_shape={column_shape}: give as many row as column digits, at least 1."
            )
        for k, (m, n) in enumerate(zip(row_shape, column_shape, strict=True)):
            check_size(f"row_shape[{k}]", m)
            check_size(f"column_shape[{k}]", n)
        if len(ranks) != len(row_shape) - 1:
            raise RankError(f"ranks={ranks}: got {len(ranks)} for {len(row_shape)} cores, give one less.")
        if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in ranks):
            raise RankError(f"ranks={ranks}: give integers of at least 1.")
        super().__init__(math.prod(column_shape), math.prod(row_shape))
        self.row_shape, self.column_shape, self.ranks = row_shape, column_shape, ranks
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) for shape in self._core_shapes()
        )
        self._new_bias(bias, device, dtype)
        self.reset_parameters()

    def _core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        bonds = (1, *self.ranks, 1)
        return tuple(zip(bonds[:-1], self.row_shape, self.column_shape, bonds[1:], strict=True))

    def _cores(self) -> list[torch.Tensor]:
        return [cast("torch.Tensor", core) for core in self.cores]

    def reset_parameters(self) -> None:
        """Draw new values: entries of ``W'`` have the variance ``1 / (3 n)`` of a new ``nn.Linear``.

        Core ``k`` is normal with variance ``3^(-1/d) / (r_{k-1} n_k)``; the bias is uniform in
        ``±1/sqrt(n)``.
        """
        share = 3 ** (-1 / len(self.row_shape))
        for core in self._cores():
            bond, _, digit, _ = core.shape
            nn.init.normal_(core, std=(share / (bond * digit)) ** 0.5)
        self._reset_bias()

    @classmethod
    def from_cores(cls, cores: Sequence[torch.Tensor], bias: torch.Tensor | None = None) -> MPOLinear:
        """Build the layer from copies of its cores.

        Parameters
        ----------
        cores : sequence of torch.Tensor
            Shapes ``(r_{k-1}, m_k, n_k, r_k)``, ``r_0 = r_d = 1``, of one floating dtype and device.
        bias : torch.Tensor or None
            ``(m,)``.

        Returns
        -------
        MPOLinear
            With the dtype and device of the cores.

        Raises
        ------
        ShapeError, BackendError, InputError
            If shapes, dtypes or devices do not fit, or a value is not finite.
        """
        cores = tuple(cores)
        check_factors(**{f"cores[{k}]": core for k, core in enumerate(cores)}, bias=bias)
        shapes = [tuple(core.shape) for core in cores]
        bonds_meet = all(len(shape) == 4 for shape in shapes) and all(
            left[-1] == right[0] for left, right in zip([(1,), *shapes], [*shapes, (1,)], strict=True)
        )
        if not cores or not bonds_meet:
            raise ShapeError(
                f"cores of shapes {shapes}: give (r_(k-1), m_k, n_k, r_k) with equal bonds "
                "between neighbours and bonds of 1 at both ends."
            )
        row_shape = [shape[1] for shape in shapes]
        if bias is not None and tuple(bias.shape) != (math.prod(row_shape),):
            raise ShapeError(f"bias {tuple(bias.shape)}: give a vector ({math.prod(row_shape)},) or None.")
        layer = cls(
            row_shape,
            [shape[2] for shape in shapes],
            [shape[3] for shape in shapes[:-1]],
            bias is not None,
            device="meta",
            dtype=cores[0].dtype,
        )
        layer.cores = nn.ParameterList(parameter_of(core, core) for core in cores)
        if bias is not None:
            layer.bias = parameter_of(bias, bias)
        return layer

    @classmethod
    def from_tensor(cls, tensor: MatrixProductOperator, bias: torch.Tensor | None = None) -> MPOLinear:
        """Build the layer from a matrix product operator of torch tensors; see :meth:`from_cores`."""
        return cls.from_cores(tensor.cores, bias)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        row_shape: Sequence[int],
        column_shape: Sequence[int],
        rank: int | Sequence[int],
    ) -> MPOLinear:
        """Approximate a dense layer by :func:`tnet.mpo` in the Frobenius norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        row_shape, column_shape : sequence of int
            Digits of the output and of the input index.
        rank : int or sequence of int
            Largest inner bond, or one for each inner bond.

        Returns
        -------
        MPOLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the shapes or ranks do not fit the weight, or the weight is not finite.
        """
        weight = linear.weight.detach()
        tensor = mpo(weight, tuple(row_shape), tuple(column_shape), rank).tensor
        bias = None if linear.bias is None else linear.bias.detach()
        return cls.from_tensor(tensor, bias).train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        if x.shape[-1] != self.in_features:
            raise ShapeError(f"input of shape {tuple(x.shape)}: the last axis must be {self.in_features}.")
        tokens = math.prod(x.shape[:-1])
        costs = self._costs(tokens)
        way = min(costs, key=costs.__getitem__)
        if way == "dense":
            return F.linear(x, self.dense_weight(), self.bias)
        y = self.contract_forwards(x) if way == "forwards" else self.contract_backwards(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def contract_forwards(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``W' x`` without bias, cores from the first to the last.

        The state is ``(tokens * finished output digits, bond * next input digit, remaining input digits)``.
        """
        batch, rest = math.prod(x.shape[:-1]), self.in_features
        state = x
        for core in self._cores():
            bond, m, n, next_bond = core.shape
            rest //= n
            matrix = core.permute(1, 3, 0, 2).reshape(m * next_bond, bond * n)
            state = _apply(matrix, state.reshape(batch, bond * n, rest))
            batch *= m
        return state.reshape(*x.shape[:-1], self.out_features)

    def contract_backwards(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``W' x`` without bias, cores from the last to the first.

        The state is ``(tokens * remaining input digits, next input digit * bond, finished output digits)``.
        """
        batch, done = math.prod(x.shape[:-1]) * self.in_features, 1
        state = x
        for core in reversed(self._cores()):
            bond, m, n, next_bond = core.shape
            batch //= n
            matrix = core.reshape(bond * m, n * next_bond)
            state = _apply(matrix, state.reshape(batch, n * next_bond, done))
            done *= m
        return state.reshape(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``."""
        cores = self._cores()
        weight, rows, columns = cores[0][0], self.row_shape[0], self.column_shape[0]
        for core in cores[1:]:
            bond, m, n, next_bond = core.shape
            product = weight.reshape(rows * columns, bond) @ core.reshape(bond, m * n * next_bond)
            weight = product.reshape(rows, columns, m, n, next_bond).permute(0, 2, 1, 3, 4)
            rows, columns = rows * m, columns * n
        return weight.reshape(rows, columns)

    def _costs(self, tokens: int) -> dict[str, int]:
        """Multiply-adds of the three ways of the forward pass for this many tokens."""
        forwards = backwards = materialise = 0
        rows, columns, rest_rows, rest_columns = 1, 1, self.out_features, self.in_features
        for bond, m, n, next_bond in self._core_shapes():
            rest_rows, rest_columns = rest_rows // m, rest_columns // n
            size = bond * m * n * next_bond
            forwards += tokens * rows * size * rest_columns
            backwards += tokens * columns * size * rest_rows
            materialise += rows * columns * size if rows * columns > 1 else 0
            rows, columns = rows * m, columns * n
        dense = materialise + tokens * self.out_features * self.in_features
        return {"forwards": forwards, "backwards": backwards, "dense": dense}

    def count_macs(self, tokens: int) -> int:
        """Multiply-adds of one forward pass with this many tokens, by the way that it takes."""
        return min(self._costs(tokens).values())

    @property
    def macs(self) -> int:
        """Multiply-adds for one token of a long input: those of the cheaper chain, at most ``m n``."""
        costs = self._costs(1)
        return min(costs["forwards"], costs["backwards"], self.out_features * self.in_features)

    def extra_repr(self) -> str:
        """Sizes and ranks, as ``print`` shows them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, row_shape={self.row_shape}, "
            f"column_shape={self.column_shape}, ranks={self.ranks}, bias={self.bias is not None}"
        )


def _apply(matrix: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    # One large product is faster than a batch of matrix-vector products when nothing trails the contracted
    # axis.
    if state.shape[-1] == 1:
        return F.linear(state[..., 0], matrix)
    return matrix @ state
