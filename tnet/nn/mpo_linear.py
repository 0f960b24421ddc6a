"""Linear layer whose weight is a matrix product operator (tensor-train matrix)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tnet.decompositions import mpo
from tnet.errors import RankError, ShapeError
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, check_size, dense_parts, parameter_of
from tnet.nn.matricisation import FactorAxes
from tnet.nn.network_linear import NetworkLinear

if TYPE_CHECKING:
    from tnet.formats import MatrixProductOperator

__all__ = ["MPOLinear"]

_N_DIGITS = 3


class MPOLinear(NetworkLinear):
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
    :math:`\sum_k r_{k-1} m_k n_k r_k` parameters. The forward pass takes the fastest order for the tokens at hand:
    core after core from either end, some cores merged first, or the whole weight first; see :class:`NetworkLinear`.

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
        bonds = [(), *((f"r{k}",) for k in range(len(self.ranks))), ()]
        digits = range(len(row_shape))
        self._set_network(
            [(*bonds[k], f"i{k}", f"j{k}", *bonds[k + 1]) for k in digits],
            tuple(f"i{k}" for k in digits),
            tuple(f"j{k}" for k in digits),
        )
        self.reset_parameters()

    def _core_shapes(self) -> tuple[tuple[int, int, int, int], ...]:
        bonds = (1, *self.ranks, 1)
        return tuple(zip(bonds[:-1], self.row_shape, self.column_shape, bonds[1:], strict=True))

    def _cores(self) -> list[torch.Tensor]:
        first, *others = [cast("torch.Tensor", core) for core in self.cores]
        cores = [first.squeeze(0), *others]
        return [*cores[:-1], cores[-1].squeeze(-1)]

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Core k maps ``r_(k-1) n_k`` to ``m_k r_k``."""
        return {f"cores.{k}": (left * n, m * right) for k, (left, m, n, right) in enumerate(self._core_shapes())}

    def factor_axes(self) -> dict[str, FactorAxes]:
        """Rows ``(m_k, r_k)`` and columns ``(r_(k-1), n_k)`` of core k."""
        return {name: FactorAxes((), (1, 3), (0, 2)) for name in self.factor_dims()}

    def _described(self) -> dict[str, object]:
        return {"row_shape": self.row_shape, "column_shape": self.column_shape, "ranks": self.ranks}

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
        linear: nn.Module,
        rank: int | Sequence[int] | None = None,
        *,
        rtol: float | None = None,
        weight: torch.Tensor | None = None,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
    ) -> MPOLinear:
        """Approximate a dense layer by :func:`tnet.mpo`, in the plain or a weighted norm.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rank : int or sequence of int
            Largest inner bond, or one for each inner bond.
        rtol : float
            Relative Frobenius error, instead of ``rank``; not together with ``weight``.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs.
        row_shape, column_shape : sequence of int, optional
            Digits of the output and of the input index, as many of each; three balanced ones by default.

        Returns
        -------
        MPOLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If the digits, ranks or C do not fit the weight, or the weight is not finite.
        """
        dense, bias = dense_parts(linear)
        count = len(row_shape or column_shape or (0,) * _N_DIGITS)
        rows = checked_digits("row_shape", row_shape, dense.shape[0], count)
        columns = checked_digits("column_shape", column_shape, dense.shape[1], count)
        tensor = mpo(dense, rows, columns, rank, rtol=rtol, weight=weight).tensor
        return cls.from_tensor(tensor, bias).train(linear.training)
