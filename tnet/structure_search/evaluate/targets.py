"""What stacks of networks are fitted to: x laid out as the sweeps read it, and the least squares of each loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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
    is_torch,
    library_name,
    real_part,
    require_floating,
    to_compute,
    total_size,
)
from tnet.errors import BackendError, InputError, ShapeError
from tnet.structure_search.evaluate.sweep_program import SweepProgram
from tnet.structure_search.evaluate.sweeps import regularised_solve
from tnet.structure_search.losses import DifferentiableLoss, Loss, MaskedError, WeightedError

__all__ = [
    "Data",
    "DifferentiableTarget",
    "MaskedTarget",
    "SquaredTarget",
    "Target",
    "WeightedTarget",
    "prepared_data",
    "target_of",
]

_ASYMMETRY = 1e-3  # of a second moment summed in single precision, relative to its largest entry


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
    function : callable or None
        Of a differentiable loss; then ``x`` is as it was given.
    """

    x: Array
    exponent: int
    squared_norm: float
    mask: Array | None = None
    factor: Array | None = None
    n_columns: int = 0
    function: Callable[[Array], Array] | None = None


def prepared_data(x: Array, loss: Loss) -> Data:
    """Return the tensor and the loss as the solvers use them.

    Raises
    ------
    InputError
        If x has fewer than two modes, is zero or not finite (where observed), or the loss does not fit it.
    BackendError
        If x is not of floating point, or a differentiable loss is asked of another library than torch.
    """
    require_floating(x)
    if x.ndim < 2:
        raise InputError(f"x of shape {tuple(x.shape)}: a structure has at least two modes; reshape the tensor.")
    if isinstance(loss, DifferentiableLoss):
        if not is_torch(x):
            raise BackendError(
                f"a DifferentiableLoss is differentiated by torch; x is of {library_name(x)}: pass a torch tensor."
            )
        return Data(to_compute(x), 0, 1.0, function=loss.function)
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
    return Data(scaled.array, scaled.exponent, scaled.squared_norm)


def _weighted(x: Array, exponent: int, loss: WeightedError) -> Data:
    xp = array_namespace(x, loss.weight)
    k = loss.n_columns
    if not (isinstance(k, int) and 1 <= k < x.ndim):
        raise ShapeError(f"n_columns={k!r}: give 1 to {x.ndim - 1} for x of shape {tuple(x.shape)}.")
    n = total_size(tuple(x.shape)[x.ndim - k :])
    if tuple(loss.weight.shape) != (n, n):
        raise ShapeError(f"weight of shape {tuple(loss.weight.shape)}: the columns of x ask for {(n, n)}.")
    check_finite(loss.weight, "weight")
    if is_complex(loss.weight) and not is_complex(x):
        raise InputError("weight is complex and x is real: give a real weight, or a complex x.")
    weight = balanced_scale(astype(loss.weight, x.dtype), "weight").array
    if float(xp.max(xp.abs(weight - adjoint(weight)))) > _ASYMMETRY * float(xp.max(xp.abs(weight))):
        raise InputError("weight is not Hermitian: give a second moment such as X^H X / len(X).")
    factor = gram_factor((weight + adjoint(weight)) / 2)
    if float(xp.max(xp.abs(factor @ adjoint(factor) - weight))) > _ASYMMETRY * float(xp.max(xp.abs(weight))):
        raise InputError("weight has negative eigenvalues: give a positive semidefinite matrix.")
    weighted = xp.reshape(x, (-1, n)) @ factor
    norm = float(xp.sum(real_part(weighted * conj(weighted))))
    if norm == 0:
        raise InputError("x times the weight is zero: every structure fits it, there is nothing to search for.")
    return Data(x, exponent, norm, factor=factor, n_columns=k)


def target_of(data: Data, program: SweepProgram, orders: Sequence[tuple[int, ...]]) -> Target:
    """Return the target for networks whose modes fit the graph of the program in the given orders.

    Parameters
    ----------
    data : Data
    program : SweepProgram
    orders : sequence of tuple of int
        ``orders[b][k]`` is the core of structure b that is core k of the graph.
    """
    if data.function is not None:
        return DifferentiableTarget(data, program, orders)
    if data.mask is not None:
        return MaskedTarget(data, program, orders)
    if data.factor is not None:
        return WeightedTarget(data, program, orders)
    return SquaredTarget(data, program, orders)


class Target(ABC):
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
        copies = self._copies(a, cores)
        if len(self._orders) == 1:
            return copies
        if self._index is None:
            self._index = from_numpy_like(np.asarray(self._places), a, xp.int64)
        return xp.take(copies, self._index, axis=0)

    def _copies(self, a: Array, cores: Sequence[int]) -> Array:
        """Return a tensor like x in each of the different orders, (orders, entries)."""
        xp = self.xp
        copies = []
        for order in self._orders:
            axes = tuple(order[core] for core in cores if order[core] < a.ndim)
            copies.append(xp.reshape(xp.permute_dims(a, axes), (1, -1)))
        return copies[0] if len(copies) == 1 else xp.concat(copies, axis=0)

    def different_stacks(self) -> tuple[Array, np.ndarray]:
        """Return x in each of the different orders (orders, entries), and which of them each network has."""
        return self._copies(self.data.x, self.program.modes), np.asarray(self._places)

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

    @abstractmethod
    def solved(self, core: int, around: Array) -> Array:
        """Return the best core, given all others."""

    def errors(self, y: Array, items: slice) -> Array:
        """Return the squared relative errors of approximations to the items of a slice."""
        return _squares(self.xp, self._difference(y, items)) / self.data.squared_norm

    def errors_and_slopes(self, y: Array, items: slice) -> tuple[Array, Array]:
        """Return the squared relative errors, and their gradients (B, entries) by y."""
        difference = self._difference(y, items)
        errors = _squares(self.xp, difference) / self.data.squared_norm
        return errors, self._pulled_back(difference) * (2 / self.data.squared_norm)

    def _difference(self, y: Array, items: slice) -> Array:
        return y - _rows(self.stack, items)

    def _pulled_back(self, difference: Array) -> Array:
        """Apply the adjoint of the linear part of the difference."""
        return difference


class SquaredTarget(Target):
    """All entries count."""

    def solved(self, core: int, around: Array) -> Array:
        """Solve :math:`E^H E Z = E^H X`."""
        left = adjoint(around)
        return regularised_solve(self.xp, left @ around, left @ self._matrix("x", self.data.x, core))


class DifferentiableTarget(Target):
    """A function of the approximation, differentiated by torch.

    Notes
    -----
    The function sees one approximation at a time, a leaf of torch's graph; its gradient there is carried to the cores
    by the network itself.
    """

    def solved(self, core: int, around: Array) -> Array:
        """Refuse: there are no normal equations."""
        raise InputError("a DifferentiableLoss has no least squares: choose the solver LBFGS.")

    def errors(self, y: Array, items: slice) -> Array:
        """Return the losses."""
        return self.errors_and_slopes(y, items)[0]

    def errors_and_slopes(self, y: Array, items: slice) -> tuple[Array, Array]:
        """Return the losses, and their gradients by y."""
        xp, modes = self.xp, self.program.modes
        shape = tuple(self._size(k) for k in modes)
        assert self.data.function is not None
        losses, slopes = [], []
        for item, place in enumerate(range(items.start, items.stop)):
            order = self._orders[self._places[place if len(self._places) > 1 else 0]]
            axes = tuple(np.argsort([order[k] for k in modes]).tolist())  # internal cores come last
            approximation = xp.reshape(xp.permute_dims(xp.reshape(y[item, :], shape), axes), self.data.x.shape)
            leaf = approximation.detach().clone().requires_grad_(True)
            loss = self.data.function(leaf)
            loss.backward(inputs=[leaf])  # other tensors that the loss depends on keep their gradients
            slope = xp.zeros_like(leaf) if leaf.grad is None else leaf.grad
            slope = xp.permute_dims(
                xp.reshape(slope, tuple(shape[k] for k in axes)), tuple(np.argsort(axes).tolist())
            )
            losses.append(loss.detach())
            slopes.append(xp.reshape(slope, (-1,)))
        return xp.stack(losses), xp.stack(slopes)


class MaskedTarget(Target):
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

    def _difference(self, y: Array, items: slice) -> Array:
        return _rows(self._stacked("mask", self._mask), items) * y - _rows(self.stack, items)

    @property
    def _mask(self) -> Array:
        assert self.data.mask is not None
        return self.data.mask


class WeightedTarget(Target):
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

    def _difference(self, y: Array, items: slice) -> Array:
        del items  # all networks share the order of their modes
        xp, L, modes = self.xp, self._factor, self.program.modes
        axes = (0, *(1 + modes.index(k) for k in range(len(modes))))
        y = xp.permute_dims(xp.reshape(y, (-1, *(self._size(k) for k in modes))), axes)
        return xp.reshape(y, (int(y.shape[0]), -1, int(L.shape[0]))) @ L - self._weighted_x[None, ...]

    def _pulled_back(self, difference: Array) -> Array:
        xp, modes = self.xp, self.program.modes
        slope = xp.reshape(difference @ adjoint(self._factor), (-1, *(self._size(k) for k in range(len(modes)))))
        slope = xp.permute_dims(slope, (0, *(1 + k for k in modes)))
        return xp.reshape(slope, (int(slope.shape[0]), -1))

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
