"""Higher-order orthogonal iteration, on a compressed core and on the tensor itself."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tnet.arrays import Array, adjoint, array_namespace, dtype_name, mode_product, squared_norm, ttm_chain
from tnet.decompositions.iteration import Callback, IterationInfo
from tnet.decompositions.preparation import Prepared, rescaled
from tnet.decompositions.residual import DIFFERENCE_FLOOR
from tnet.decompositions.sthosvd import leading_factor, order_of_modes, projection_error, sthosvd
from tnet.decompositions.truncated_basis import resolve_method
from tnet.formats import TuckerTensor
from tnet.options import Stopping, Truncation
from tnet.results import Status

__all__ = ["TuckerFit", "contracted_cycle", "hooi", "tucker_as_returned"]


class TuckerFit(NamedTuple):
    """A core and orthonormal factors in the scale of ``prepared.array``, and their account."""

    core: Array
    factors: tuple[Array, ...]
    error: float
    status: Status
    errors: tuple[float, ...]
    seconds: tuple[float, ...]


def hooi(
    prepared: Prepared,
    ranks: tuple[int, ...] | None,
    rtol: float | None,
    *,
    first_gram: Array | None,
    oversampling: int,
    refine: bool,
    stopping: Stopping,
    callback: Callback[TuckerTensor] | None,
    started: float,
) -> TuckerFit:
    """Improve ST-HOSVD by orthogonal iteration; see :func:`tnet.tucker`.

    Notes
    -----
    ST-HOSVD finds ``oversampling`` more columns of each factor than it is asked for, and ``x`` is projected on all
    of them. The leading block of that core is the core of ST-HOSVD itself: the iteration starts from it and cannot
    end worse. With ``refine`` what it finds is where sweeps over ``x`` start.
    """
    x, norm2 = prepared.array, prepared.squared_norm
    shape = tuple(int(n) for n in x.shape)
    method = resolve_method("auto", rtol, x)
    if ranks is None:
        ranks = tuple(int(r) for r in sthosvd(x, None, rtol, norm2, first_gram=first_gram).core.shape)
        if order_of_modes(shape, ranks)[0] != order_of_modes(shape, None)[0]:
            first_gram = None
    wide, bases, ranks = _compressed(x, ranks, oversampling, method, first_gram)
    leading = tuple(U[:, :r] for U, r in zip(bases, ranks, strict=True))
    iteration = _Iteration(prepared, _State(_leading_block(wide, ranks), leading))
    status = Status.CONVERGED
    if norm2 > 0 and ranks != tuple(wide.shape):
        xp = array_namespace(x)
        start = [xp.eye(U.shape[1], r, dtype=x.dtype, device=x.device) for U, r in zip(bases, ranks, strict=True)]
        lift = lambda inner: tuple(U @ V for U, V in zip(bases, inner, strict=True))  # noqa: E731
        status = iteration.run(wide, start, lift, stopping, callback, started)
    if norm2 > 0 and refine and len(shape) > 1 and status not in (Status.CALLBACK, Status.INTERRUPTED):
        status = iteration.run(x, list(iteration.state.factors), tuple, stopping, callback, started)
    state = iteration.state
    error = projection_error(x, state.core, state.factors, norm2)
    errors = (*state.errors[:-1], error) if state.errors else ()
    return TuckerFit(state.core, state.factors, error, status, errors, state.seconds)


def contracted_cycle(Z: Array, factors: list[Array]) -> Iterator[tuple[int, Array]]:
    r"""Yield for ever a mode and ``Z`` contracted with all other factors, as they are at that moment.

    Notes
    -----
    :math:`P = Z \times_j U_j^H`, the only product as large as ``Z``, serves the updates of the d - 1 modes that
    follow j; the last of them is the next j. So d updates take d / (d - 1) passes over ``Z`` instead of d.
    """
    d = Z.ndim
    root = 0
    while True:
        P = mode_product(Z, adjoint(factors[root]), root)
        for step in range(1, d):
            mode = (root + step) % d
            others = [k for k in range(d) if k not in (root, mode)]
            yield mode, ttm_chain(P, [adjoint(factors[k]) for k in others], others)
        root = (root - 1) % d


@dataclass(frozen=True, eq=False)
class _State:
    """All that a complete sweep leaves; replaced in one assignment, so that Ctrl-C never tears it."""

    core: Array
    factors: tuple[Array, ...]
    errors: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()


class _Iteration:
    """Sweeps over the compressed core, then over the tensor, with one history."""

    def __init__(self, prepared: Prepared, start: _State) -> None:
        self._prepared = prepared
        self._floor = DIFFERENCE_FLOOR[dtype_name(prepared.array)]
        self.state = start

    def run(
        self,
        Z: Array,
        factors: list[Array],
        lift: Callable[[list[Array]], tuple[Array, ...]],
        stopping: Stopping,
        callback: Callback[TuckerTensor] | None,
        started: float,
    ) -> Status:
        """Sweep over ``Z`` until a criterion of ``stopping`` holds; ``lift`` turns its factors into those of x.

        Below the error that norms resolve there is nothing left to see, and to gain.
        """
        error = self._error(self.state.core)
        try:
            for core in itertools.islice(_sweeps(Z, factors), stopping.max_iter):
                previous, error = error, self._error(core)
                errors = (*self.state.errors, error)
                seconds = (*self.state.seconds, time.perf_counter() - started)
                self.state = _State(core, lift(factors), errors, seconds)
                if callback is not None:
                    tensor = tucker_as_returned(core, self.state.factors, self._prepared)
                    if callback(IterationInfo(len(errors), error, seconds[-1], tensor)):
                        return Status.CALLBACK
                if stopping.change > 0 and (previous - error < stopping.change or error < self._floor):
                    return Status.CONVERGED
                if stopping.max_seconds is not None and seconds[-1] >= stopping.max_seconds:
                    return Status.MAX_SECONDS
        except KeyboardInterrupt:
            return Status.INTERRUPTED
        return Status.MAX_ITER

    def _error(self, core: Array) -> float:
        norm2 = self._prepared.squared_norm
        return math.sqrt(max(norm2 - squared_norm(core), 0.0) / norm2)


def _sweeps(Z: Array, factors: list[Array]) -> Iterator[Array]:
    """Yield the core after each sweep, for ever; ``factors`` are replaced in place."""
    updates = contracted_cycle(Z, factors)
    while True:
        core: Array = None
        for mode, T in itertools.islice(updates, Z.ndim):
            factors[mode] = leading_factor(T, mode, Truncation(rank=int(factors[mode].shape[1]))).U
            core = T, mode
        T, mode = core
        yield mode_product(T, adjoint(factors[mode]), mode)


def tucker_as_returned(core: Array, factors: Sequence[Array], prepared: Prepared) -> TuckerTensor:
    """Return the tensor in the scale and dtype of the input."""
    core, *final = rescaled([core, *factors], 0, prepared)
    return TuckerTensor(core, tuple(final))


def _compressed(
    x: Array, ranks: tuple[int, ...], oversampling: int, method: str, first_gram: Array | None
) -> tuple[Array, tuple[Array, ...], tuple[int, ...]]:
    """Return a core, its bases and the ranks such that the leading block of the core is that of ST-HOSVD."""
    wide, small = x, x
    bases: dict[int, Array] = {}
    kept = list(int(n) for n in x.shape)
    G = first_gram
    for mode in order_of_modes(tuple(x.shape), ranks):
        width = min(int(x.shape[mode]), ranks[mode] + oversampling)
        # The modes done already are cut to their final ranks here: so the first columns are those of ST-HOSVD.
        U = leading_factor(small, mode, Truncation(rank=width), method, G).U
        G = None
        wide = mode_product(wide, adjoint(U), mode)
        bases[mode] = U
        kept[mode] = min(ranks[mode], int(U.shape[1]))
        small = _leading_block(wide, kept)
    return wide, tuple(bases[k] for k in range(x.ndim)), tuple(kept)


def _leading_block(Y: Array, sizes: Sequence[int]) -> Array:
    return Y[tuple(slice(0, n) for n in sizes)]
