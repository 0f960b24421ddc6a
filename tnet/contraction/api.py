"""The front doors: :func:`plan` and :func:`contract`."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tnet.arrays import Array, array_namespace, as_array, dtype_name, resolve_rng
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.memory import parse_bytes
from tnet.contraction.plan import ContractionPlan
from tnet.contraction.planning import find_pairs
from tnet.contraction.slicing import choose_splits
from tnet.contraction.spec import ContractionSpec, parse_equation, spec_from_labels
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import TensorNetwork

__all__ = ["contract", "plan"]

Planner = Literal["auto", "greedy", "optimal", "random-greedy"]


def plan(
    equation: str | TensorNetwork,
    *shapes_or_arrays: Any,
    dtype: str = "float64",
    planner: Planner = "auto",
    memory_limit: int | str | None = None,
    max_planning_seconds: float | None = None,
    rng: Any = None,
) -> ContractionPlan:
    """Plan a contraction: its order, its slices, its cost.

    Parameters
    ----------
    equation : str or TensorNetwork
        An einsum equation such as ``"ij,jk->ik"``; operands that share an index are multiplied along it,
        indices outside the output are summed. A network brings its own indices and arrays.
    *shapes_or_arrays : tuple of int, or array
        One for each operand; of an array, only shape and dtype are used. None beside a network.
    dtype : str, default "float64"
        Of the operands given by their shapes; bytes are counted for it.
    planner : {"auto", "greedy", "optimal", "random-greedy"}
        ``"auto"``: the cheaper of a greedy and, on up to 14 operands, a branch-and-bound search.
        ``"optimal"``: least multiply-adds over all orders, up to 12 operands. ``"random-greedy"``: the best
        of 64 greedy searches with noise.
    memory_limit : int, str or None
        Bytes, or text such as ``"8GiB"``: indices are cut into parts until :attr:`ContractionPlan.peak_bytes`
        is within it. None cuts nothing.
    max_planning_seconds : float or None
        Wall seconds for the search of the order. ``"random-greedy"`` stops there; ``"optimal"`` refuses
        networks that would take longer.
    rng : int, numpy Generator, torch Generator or None
        For ``"random-greedy"``.

    Returns
    -------
    ContractionPlan

    Raises
    ------
    IndexLabelError
        Unknown or repeated output index, or one index of two sizes.
    ShapeError
        Wrong number of operands or of axes.
    MemoryLimitError
        ``memory_limit`` cannot be met; the message names the least limit that can.
    BackendError
        A dtype without numbers.

    Notes
    -----
    The order comes from opt_einsum [1]_, reordered so that the least is alive at a time. Within the plan an
    index of size n is cut into a divisor of n equal parts.

    References
    ----------
    .. [1] D. G. A. Smith and J. Gray, "opt_einsum - A Python package for optimizing contraction order for
       einsum-like expressions", Journal of Open Source Software 3 (2018) 753.

    Examples
    --------
    >>> import tnet
    >>> p = tnet.plan("ij,jk,kl->il", (8, 512), (512, 512), (512, 8))
    >>> p.macs
    2129920
    >>> p.path
    [(0, 1), (0, 1)]
    """
    if max_planning_seconds is not None and not max_planning_seconds > 0:
        raise InputError(
            f"max_planning_seconds={max_planning_seconds!r}: give a positive number of seconds, or None."
        )
    spec, names = _read_operands(equation, shapes_or_arrays, dtype)
    limit = parse_bytes(memory_limit)
    seed = resolve_rng(rng)[1] if planner == "random-greedy" else None
    return _plan(spec, names, planner, limit, max_planning_seconds, seed)


def contract(
    equation: str | TensorNetwork,
    *arrays: Array,
    planner: Planner = "auto",
    memory_limit: int | str | None = None,
    max_planning_seconds: float | None = None,
    rng: Any = None,
) -> Array:
    """Contract arrays, or a network, to one array.

    ``contract("ij,jk->ik", a, b)`` is ``plan("ij,jk->ik", a, b)(a, b)``; plans of the last calls are kept,
    so that a repeated call does not search again.

    Parameters
    ----------
    equation : str or TensorNetwork
        As in :func:`plan`.
    *arrays : array
        One for each operand, of one library and device. None beside a network.
    planner, memory_limit, max_planning_seconds, rng
        As in :func:`plan`.

    Returns
    -------
    array
        In the library, on the device and in the promoted dtype of the operands. Half precision is computed
        in float32; integers and booleans accumulate and return in 64 bits.

    Raises
    ------
    IndexLabelError, ShapeError, BackendError, MemoryLimitError
        As :func:`plan` and calling a plan.

    Notes
    -----
    Every step is a permutation, a reshape and a (batched) matrix product of the array library.
    Differentiable where the library is.

    Examples
    --------
    >>> import numpy as np
    >>> import tnet
    >>> tnet.contract("ij,jk->ik", np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [3., 4.]])
    """
    if isinstance(equation, TensorNetwork):
        _refuse_operands_beside_network(arrays)
        operands: tuple[Array, ...] = equation.tensors
        found = plan(
            equation,
            planner=planner,
            memory_limit=memory_limit,
            max_planning_seconds=max_planning_seconds,
            rng=rng,
        )
        return found(*operands)
    operands = tuple(as_array(x, f"operand {k}") for k, x in enumerate(arrays))
    if operands:
        array_namespace(*operands)  # mixed libraries and devices are refused before the search
    found = plan(
        equation,
        *operands,
        planner=planner,
        memory_limit=memory_limit,
        max_planning_seconds=max_planning_seconds,
        rng=rng,
    )
    return found(*operands)


@functools.lru_cache(maxsize=256)
def _plan(
    spec: ContractionSpec,
    names: tuple[str, ...],
    planner: str,
    limit: int | None,
    max_seconds: float | None,
    seed: int | None,
) -> ContractionPlan:
    dtypes = dtype_plan(names)
    pairs = find_pairs(spec, planner, max_seconds=max_seconds, rng=seed)
    splits = () if limit is None else choose_splits(spec, pairs, dtypes, limit)
    return ContractionPlan(spec, pairs, splits, dtypes, limit, planner)


def _read_operands(
    equation: str | TensorNetwork, given: Sequence[Any], dtype: str
) -> tuple[ContractionSpec, tuple[str, ...]]:
    if isinstance(equation, TensorNetwork):
        _refuse_operands_beside_network(given)
        shapes = [tuple(int(n) for n in tensor.shape) for tensor in equation.tensors]
        names = tuple(dtype_name(tensor) for tensor in equation.tensors)
        return spec_from_labels(equation.indices, equation.output, shapes), names
    if not isinstance(equation, str):
        raise InputError(
            f"equation is a {type(equation).__name__}: give text such as 'ij,jk->ik', or a TensorNetwork."
        )
    read = [_shape_and_dtype(x, k, dtype) for k, x in enumerate(given)]
    return _parse(equation, tuple(shape for shape, _ in read)), tuple(name for _, name in read)


@functools.lru_cache(maxsize=256)
def _parse(equation: str, shapes: tuple[tuple[int, ...], ...]) -> ContractionSpec:
    return parse_equation(equation, shapes)


def _shape_and_dtype(x: Any, position: int, dtype: str) -> tuple[tuple[int, ...], str]:
    if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic):
        return tuple(int(n) for n in x.shape), dtype_name(x)
    if isinstance(x, (tuple, list)):
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in x):
            raise ShapeError(f"operand {position}: shape {x!r} holds something that is not an integer.")
        shape = tuple(int(n) for n in x)
        if any(n < 0 for n in shape) or math.prod(shape) >= 2**63:
            raise ShapeError(f"operand {position}: shape {shape} has a negative size, or 2^63 elements or more.")
        return shape, str(dtype)
    raise BackendError(f"operand {position} is a {type(x).__name__}: give a shape or an array.")


def _refuse_operands_beside_network(given: Sequence[Any]) -> None:
    if given:
        raise InputError(f"{len(given)} operands given beside a TensorNetwork, which brings its own; give none.")
