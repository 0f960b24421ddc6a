"""The matrix product operator (tensor train matrix)."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, astype, to_compute, total_size
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim, check_operand
from tnet.formats.tensor_train import check_bonds, open_chain

__all__ = ["MatrixProductOperator"]


@dataclass(frozen=True, eq=False, repr=False)
class MatrixProductOperator(TensorFormat):
    r"""A matrix whose row and column index are split into d digits each, as a chain of cores.

    .. math:: W_{(i_1 \dots i_d), (j_1 \dots j_d)} = G_1[i_1, j_1] \cdots G_d[i_d, j_d]

    Parameters
    ----------
    cores : tuple of array, shapes (r_{k-1}, m_k, n_k, r_k)
        With ``r_0 = r_d = 1``. Rows count ``m_k``, columns ``n_k``, both in C order.

    Raises
    ------
    ShapeError
        If neighbouring bonds differ, or a boundary bond is not 1.
    """

    cores: tuple[Array, ...]

    array_fields = ("cores",)

    def __post_init__(self) -> None:
        cores = self._set_arrays("cores", self.cores)
        for k, core in enumerate(cores):
            check_ndim(core, 4, f"cores[{k}]", "(left bond, row digit, column digit, right bond)")
        check_bonds(cores)
        self._finish()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense matrix: ``(prod m_k, prod n_k)``."""
        return total_size(self.row_shape), total_size(self.column_shape)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Sizes ``m_k`` of the digits of the row index."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def column_shape(self) -> tuple[int, ...]:
        """Sizes ``n_k`` of the digits of the column index."""
        return tuple(int(core.shape[2]) for core in self.cores)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sizes of the d - 1 inner bonds."""
        return tuple(int(core.shape[-1]) for core in self.cores[:-1])

    def to_network(self) -> TensorNetwork:
        """Return the network with bonds ``"r1"`` ..., row digits ``"m0"`` ... and column digits ``"n0"`` ...

        Its dense tensor has shape ``(*row_shape, *column_shape)``.
        """
        d = len(self.cores)
        tensors, indices = open_chain(self.cores, tuple((f"m{k}", f"n{k}") for k in range(d)))
        output = (*(f"m{k}" for k in range(d)), *(f"n{k}" for k in range(d)))
        return TensorNetwork(tensors, indices, output)

    def __matmul__(self, x: Array) -> Array:
        """Multiply a vector ``(n,)`` or the columns of a matrix ``(n, k)``.

        Notes
        -----
        One batched matrix product for each core, on views: the state is
        ``(digits of the result, bond * next digit, remaining digits * k)``.
        """
        x, columns = check_operand(x, self.shape[1], "MatrixProductOperator")
        xp = array_namespace(x, *self.cores)
        dtype = xp.result_type(x.dtype, self.dtype)
        y = to_compute(astype(x, dtype))
        done, rest = 1, total_size(x.shape)
        for core in self.cores:
            r, m, n, s = core.shape
            rest //= n
            matrix = xp.reshape(xp.permute_dims(astype(core, y.dtype), (1, 3, 0, 2)), (m * s, r * n))
            y = matrix @ xp.reshape(y, (done, r * n, rest))
            done *= m
        return astype(xp.reshape(y, (self.shape[0], *columns)), dtype)

    def _contract(self) -> Array:
        xp = array_namespace(*self.cores)
        _, rows, columns, s = self.cores[0].shape
        done = xp.reshape(self.cores[0], (rows * columns, s))
        for core in self.cores[1:]:
            r, m, n, s = core.shape
            done = xp.reshape(done @ xp.reshape(core, (r, m * n * s)), (rows, columns, m, n, s))
            rows, columns = rows * m, columns * n
            done = xp.reshape(xp.permute_dims(done, (0, 2, 1, 3, 4)), (rows * columns, s))
        return xp.reshape(done, self.shape)
