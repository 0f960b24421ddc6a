"""What stacks of networks are fitted to: x laid out as the sweeps read it, and the least squares of each loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.arrays import (
    Array,
    Namespace,
    adjoint,
    array_namespace,
    astype,
    balanced_scale,
    check_finite,
    conj,
    from_numpy_like,
    gram_factor,
    is_complex,
    real_part,
    require_floating,
    to_compute,
    total_size,
)
from tnet.errors import InputError, ShapeError
from tnet.structure_search.evaluate.sweep_program import SweepProgram
from tnet.structure_search.evaluate.sweeps import regularised_solve
from tnet.structure_search.losses import Loss, MaskedError, SquaredError, WeightedError

__all__ = ["Data", "MaskedTarget", "SquaredTarget", "WeightedTarget", "prepared_data", "target_of"]


@dataclass(frozen=True, eq=False)
class Data:
    """A tensor and a loss, checked and scaled once for all structures.

    Attributes
    ----------
    x : array
        In the dtype of computation; unobserved entries 0.
    exponent : int
        The tensor that was given is ``2**exponent * x``.
    squared_norm : float
        What the squared error is divided by.
    mask : array or None
        1 where observed, in the dtype of x.
    factor : array or None
        L, shape (n, q), with L L^H the weight; its rows are the last ``n_columns`` modes.
    n_columns : int
    """

    x: Array
    exponent: int
    squared_norm: float
    mask: Array | None = None
    factor: Array | None = None
    n_columns: int = 0


def prepared_data(x: Array, loss: Loss) -> Data:
    """Return the tensor and the loss as the solvers use them.

    Raises
    ------
    InputError
        If x has fewer than two modes, is zero or not finite (where observed), or the loss does not fit it.
    BackendError
        If x is not of floating point.
    """
    require_floating(x)
    if x.ndim < 2:
        raise InputError(f"x of shape {tuple(x.shape)}: a structure has at least two modes; reshape the tensor.")
    mask = None
    if isinstance(loss, MaskedError):
        xp = array_namespace(x, loss.mask)
        if tuple(loss.mask.shape) != tuple(x.shape):
            raise ShapeError(
                f"mask of shape {tuple(loss.mask.shape)} for x of shape {tuple(x.shape)}: give equal ones."
            )
        observed = astype(loss.mask, xp.bool)
        x = xp.where(observed, x, xp.zeros_like(x))
        mask = observed
    scaled = balanced_scale(to_compute(x))
    if scaled.squared_norm == 0:
        raise InputError("x is zero wherever it counts: every structure fits it, there is nothing to search for.")
    if mask is not None:
        return Data(scaled.array, scaled.exponent, scaled.squared_norm, mask=astype(mask, scaled.array.dtype))
    if isinstance(loss, WeightedError):
        return _weighted(scaled.array, scaled.exponent, loss)
    if not isinstance(loss, SquaredError):
        raise InputError(
            f"{type(loss).__name__} has no least squares: choose SquaredError, MaskedError or WeightedError, or the "
            "solver for differentiable losses."
        )
    return Data(scaled.array, scaled.exponent, scaled.squared_norm)


def _weighted(x: Array, exponent: int, loss: WeightedError) -> Data:
    xp = array_namespace(x, loss.weight)
    k = loss.n_columns
    if not 1 <= k < x.ndim:
        raise ShapeError(f"n_columns={k}: give 1 to {x.ndim - 1} for x of shape {tuple(x.shape)}.")
    n = total_size(tuple(x.shape)[x.ndim - k :])
    if tuple(loss.weight.shape) != (n, n):
        raise ShapeError(f"weight of shape {tuple(loss.weight.shape)}: the columns of x ask for {(n, n)}.")
    check_finite(loss.weight, "weight")
    weight = balanced_scale(astype(loss.weight, x.dtype), "weight").array
    factor = gram_factor((weight + adjoint(weight)) / 2)
    weighted = xp.reshape(x, (-1, n)) @ factor
    norm = float(xp.sum(real_part(weighted * conj(weighted))))
    if norm == 0:
        raise InputError("x times the weight is zero: every structure fits it, there is nothing to search for.")
    return Data(x, exponent, norm, factor=factor, n_columns=k)


def target_of(data: Data, program: SweepProgram, orders: Sequence[tuple[int, ...]]) -> _Target:
    """Return the target for networks whose modes fit the graph of the program in the given orders.

    Parameters
    ----------
    data : Data
    program : SweepProgram
    orders : sequence of tuple of int
        ``orders[b][k]`` is the core of structure b that is core k of the graph.
    """
    if data.mask is not None:
        return MaskedTarget(data, program, orders)
    if data.factor is not None:
        return WeightedTarget(data, program, orders)
    return SquaredTarget(data, program, orders)


class _Target:
    """x for a stack of networks, in the orders of their modes; each order once."""

    def __init__(self, data: Data, program: SweepProgram, orders: Sequence[tuple[int, ...]]) -> None:
        self.xp: Namespace = array_namespace(data.x)
        self.data = data
        self.program = program
        different = {order: k for k, order in enumerate(dict.fromkeys(orders))}
        self._orders = tuple(different)
        self._places = [different[order] for order in orders]
        self._matrices: dict[tuple[str, int], Array] = {}
        self._index: Array | None = None

    def _laid_out(self, a: Array, cores: Sequence[int]) -> Array:
        """Return a tensor like x, (B or 1, entries), with its modes in the order of these cores of the graph."""
        xp = self.xp
        copies = []
        for order in self._orders:
            axes = [order[core] for core in cores if order[core] < a.ndim]
            copies.append(xp.reshape(xp.permute_dims(a, tuple(axes)), (1, -1)))
        if len(copies) == 1:
            return copies[0]
        if self._index is None:
            self._index = from_numpy_like(np.asarray(self._places), a, xp.int64)
        return xp.take(xp.concat(copies, axis=0), self._index, axis=0)

    def _matrix(self, name: str, a: Array, core: int) -> Array:
        """Return a tensor like x as matrices (B or 1, other modes ascending, mode of the core); made once."""
        key = (name, core)
        if key not in self._matrices:
            n = len(self.program.core_labels)
            cores = [*(k for k in range(n) if k != core), core]
            own = self._size(core)
            shape = (-1, total_size(a.shape) // own, own)
            self._matrices[key] = self.xp.reshape(self._laid_out(a, cores), shape)
        return self._matrices[key]

    def _size(self, core: int) -> int:
        return self.program.sizes[core]

    def _stacked(self, name: str, a: Array) -> Array:
        key = (name, -1)
        if key not in self._matrices:
            self._matrices[key] = self._laid_out(a, self.program.modes)
        return self._matrices[key]

    @property
    def stack(self) -> Array:
        """x, (B or 1, entries)."""
        return self._stacked("x", self.data.x)

    def solved(self, core: int, around: Array) -> Array:
        """Return the best core, given all others."""
        raise NotImplementedError

    def errors(self, y: Array, items: slice) -> Array:
        """Return the squared relative errors of approximations to the items of a slice."""
        return _squares(self.xp, y - _rows(self.stack, items)) / self.data.squared_norm


class SquaredTarget(_Target):
    """All entries count."""

    def solved(self, core: int, around: Array) -> Array:
        """Solve :math:`E^H E Z = E^H X`."""
        left = adjoint(around)
        return regularised_solve(self.xp, left @ around, left @ self._matrix("x", self.data.x, core))


class MaskedTarget(_Target):
    """Observed entries count.

    Notes
    -----
    Each slice of the core has a normal matrix of its own, of the rows of E at which its entries are observed; they
    are made one slice at a time, so that the memory beside E is that of a second E and one normal matrix a slice.
    """

    def solved(self, core: int, around: Array) -> Array:
        """Solve :math:`E^H D_i E z_i = E^H D_i x_i` for each slice i of the core, D_i the mask of its entries."""
        xp = self.xp
        mask = self._matrix("mask", self._mask, core)
        right = adjoint(around) @ self._matrix("x", self.data.x, core)
        columns = []
        for i in range(self._size(core)):
            normal = adjoint(around) @ (around * mask[:, :, i : i + 1])
            columns.append(regularised_solve(xp, normal, right[:, :, i : i + 1]))
        return columns[0] if len(columns) == 1 else xp.concat(columns, axis=2)

    def errors(self, y: Array, items: slice) -> Array:
        """Return the squared relative errors at the observed entries."""
        mask = _rows(self._stacked("mask", self._mask), items)
        return _squares(self.xp, mask * y - _rows(self.stack, items)) / self.data.squared_norm

    @property
    def _mask(self) -> Array:
        assert self.data.mask is not None
        return self.data.mask


class WeightedTarget(_Target):
    r"""Differences are multiplied by L on the side of the columns.

    Notes
    -----
    With E the environment of a core, the design matrix is :math:`A = (E \otimes I) L`. For a core of the rows, L
    acts on the modes of E alone, and the slices of the core share their normal matrix; a core of the columns has one
    of the size of the whole core.
    """

    def solved(self, core: int, around: Array) -> Array:
        """Solve :math:`A^H A z = A^H (X L)`."""
        xp, L = self.xp, self._factor
        n_columns, q = (int(n) for n in L.shape)
        B, _, R = (int(n) for n in around.shape)
        own = self._size(core)
        n_modes = self.data.x.ndim
        weighted = self._weighted_x
        if core < n_modes - self.data.n_columns or core >= n_modes:
            E = xp.permute_dims(xp.reshape(around, (B, -1, n_columns, R)), (0, 1, 3, 2))
            A = xp.reshape(xp.permute_dims(E @ L, (0, 1, 3, 2)), (B, -1, R))
            right = self._slices_last(weighted, core) if core < n_modes else xp.reshape(weighted, (1, -1, 1))
            return regularised_solve(xp, adjoint(A) @ A, adjoint(A) @ right)
        n_rows = total_size(weighted.shape) // q
        E = xp.permute_dims(xp.reshape(around, (B, n_rows, n_columns // own, R)), (0, 1, 3, 2))
        A = xp.reshape(E, (B, n_rows * R, n_columns // own)) @ self._factor_without(core)
        A = xp.permute_dims(xp.reshape(A, (B, n_rows, R, own, q)), (0, 1, 4, 2, 3))
        A = xp.reshape(A, (B, n_rows * q, R * own))
        solution = regularised_solve(xp, adjoint(A) @ A, adjoint(A) @ xp.reshape(weighted, (1, -1, 1)))
        return xp.reshape(solution, (B, R, own))

    def errors(self, y: Array, items: slice) -> Array:
        """Return the squared relative errors of the outputs."""
        del items  # all networks share the order of their modes
        shape = tuple(self._size(k) for k in self.program.modes)
        axes = (0, *(1 + self.program.modes.index(k) for k in range(len(shape))))
        y = self.xp.permute_dims(self.xp.reshape(y, (-1, *shape)), axes)
        L = self._factor
        outputs = self.xp.reshape(y, (int(y.shape[0]), -1, int(L.shape[0]))) @ L
        return _squares(self.xp, outputs - self._weighted_x[None, ...]) / self.data.squared_norm

    @property
    def _factor(self) -> Array:
        assert self.data.factor is not None
        return self.data.factor

    @property
    def _weighted_x(self) -> Array:
        """X L, (rows, q)."""
        key = ("weighted", -1)
        if key not in self._matrices:
            L = self._factor
            self._matrices[key] = self.xp.reshape(self.data.x, (-1, int(L.shape[0]))) @ L
        return self._matrices[key]

    def _slices_last(self, weighted: Array, core: int) -> Array:
        """Return X L, (1, other rows and q, mode of the core)."""
        rows = tuple(self.data.x.shape)[: self.data.x.ndim - self.data.n_columns]
        a = self.xp.moveaxis(self.xp.reshape(weighted, (*rows, -1)), core, -1)
        return self.xp.reshape(a, (1, -1, rows[core]))

    def _factor_without(self, core: int) -> Array:
        """Return L as a matrix: the other column modes by the mode of the core and q."""
        first = self.data.x.ndim - self.data.n_columns
        columns = tuple(self.data.x.shape)[first:]
        a = self.xp.moveaxis(self.xp.reshape(self._factor, (*columns, -1)), core - first, -2)
        return self.xp.reshape(a, (-1, columns[core - first] * int(a.shape[-1])))


def _rows(a: Array, items: slice) -> Array:
    return a if int(a.shape[0]) == 1 else a[items, :]


def _squares(xp: Namespace, a: Array) -> Array:
    """Return the squared norms of the items of a stack."""
    a = xp.reshape(a, (int(a.shape[0]), -1))
    if is_complex(a):
        return xp.sum(xp.real(a) ** 2, axis=1) + xp.sum(xp.imag(a) ** 2, axis=1)
    return xp.sum(a * a, axis=1)
