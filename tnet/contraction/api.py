"""The front doors: :func:`plan` and :func:`contract`."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from tnet.arrays import (
    Array,
    as_array,
    dtype_name,
    name_of_dtype,
    resolve_rng,
)
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.execute import common_namespace
from tnet.contraction.layout import Layout
from tnet.contraction.memory import parse_bytes
from tnet.contraction.plan import ContractionPlan, layouts_of
from tnet.contraction.planning import find_pairs
from tnet.contraction.slicing import choose_splits
from tnet.contraction.spec import (
    ContractionSpec,
    parse_equation,
    read_interleaved,
    spec_from_labels,
    spec_from_terms,
)
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import TensorNetwork
from tnet.parallel import ExecutorLike

__all__ = ["contract", "plan"]

_Shapes = tuple[tuple[int, ...], ...]
_shape, _dtype = attrgetter("shape"), attrgetter("dtype")
Planner = Literal["auto", "greedy", "optimal", "random-greedy"]


def plan(
    equation: str | TensorNetwork | Any,
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
        indices outside the output are summed. Every character but ``,``, ``-``, ``>``, ``.`` and ASCII blanks
        is a label. A network brings its own indices and arrays. Left out when the labels are given as lists.
    *shapes_or_arrays : tuple of int, or array
        One for each operand; of an array, only shape and dtype are used. None beside a network. Or, without an
        equation, each followed by the list of its labels, and at the end the labels of the output:
        ``plan((8, 9), ["i", 0], (9, 7), [0, ("x", 1)], ["i", ("x", 1)])``. Labels are anything hashable, or
        ``...``. Without the last list the output holds the labels that appear once: sorted when they are all
        integers or all text, as in NumPy, otherwise in order of first appearance.
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
    operands, parse = _take_apart(equation, shapes_or_arrays)
    spec, names = _describe(operands, parse, dtype)
    limit, seed = _checked_options(planner, memory_limit, max_planning_seconds, rng)
    return _plan(spec, names, planner, limit, max_planning_seconds, seed, _layouts(operands))


def contract(
    equation: str | TensorNetwork | Array,
    *arrays: Array,
    planner: Planner = "auto",
    memory_limit: int | str | None = None,
    max_planning_seconds: float | None = None,
    rng: Any = None,
    executor: ExecutorLike = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Array:
    """Contract arrays, or a network, to one array.

    ``contract("ij,jk->ik", a, b)`` is ``plan("ij,jk->ik", a, b)(a, b)``; plans of the last calls are kept,
    so that a repeated call does not search again.

    Parameters
    ----------
    equation : str or TensorNetwork
        As in :func:`plan`.
    *arrays : array
        One for each operand, of one library and device. None beside a network. Or, without an equation, each
        followed by the list of its labels: ``contract(a, ["i", 0], b, [0, "k"], ["i", "k"])``.
    planner, memory_limit, max_planning_seconds, rng
        As in :func:`plan`.
    executor, checkpoint
        Who runs the slices, and a folder from which a broken run goes on, as in
        :meth:`tnet.contraction.ContractionPlan.run`.

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
    if type(equation) is str and memory_limit is rng is executor is checkpoint is None and planner != "random-greedy":
        # The tenth of a look-up by way of the spec: what counts where the arrays are tiny.
        try:
            types, shapes, dtypes = tuple(map(type, arrays)), tuple(map(_shape, arrays)), tuple(map(_dtype, arrays))
            known = _known_plan(equation, shapes, types, dtypes, planner, max_planning_seconds)
        except (AttributeError, TypeError):
            pass  # lists and numbers, which the long way makes arrays
        else:
            return known.runner(arrays, types, shapes, dtypes)(arrays)
    operands, parse = _take_apart(equation, arrays)
    operands = tuple(as_array(x, f"operand {k}") for k, x in enumerate(operands))
    if operands:
        common_namespace(operands)  # mixed operands are refused before the search begins
    spec, names = _describe(operands, parse, "float64")
    limit, seed = _checked_options(planner, memory_limit, max_planning_seconds, rng)
    found = _plan(spec, names, planner, limit, max_planning_seconds, seed, _layouts(operands))
    if executor is None and checkpoint is None:
        return found(*operands)
    return found.run(*operands, executor=executor, checkpoint=checkpoint)


@functools.lru_cache(maxsize=256)
def _plan(
    spec: ContractionSpec,
    names: tuple[str, ...],
    planner: str,
    limit: int | None,
    max_seconds: float | None,
    seed: int | None,
    layouts: tuple[Layout, ...] | None = None,
) -> ContractionPlan:
    dtypes = dtype_plan(names)
    pairs = find_pairs(spec, planner, max_seconds=max_seconds, rng=seed)
    splits = () if limit is None else choose_splits(spec, pairs, dtypes, limit, layouts)
    return ContractionPlan(spec, pairs, splits, dtypes, limit, planner, layouts)


@functools.lru_cache(maxsize=256)
def _known_plan(
    equation: str,
    shapes: _Shapes,
    types: tuple[type, ...],
    dtypes: tuple[Any, ...],
    planner: str,
    max_seconds: float | None,
) -> ContractionPlan:
    if len(set(types)) > 1:
        raise TypeError("operands of several libraries")
    names = tuple(name_of_dtype(dtype) for dtype in dtypes)
    _checked_options(planner, None, max_seconds, None)
    return _plan(_parse(equation, tuple(map(tuple, shapes))), names, planner, None, max_seconds, None)


def _layouts(operands: Sequence[Any]) -> tuple[Layout, ...] | None:
    """Return how the operands lie in memory; shapes stand for arrays in C order."""
    if not all(hasattr(x, "dtype") and hasattr(x, "shape") for x in operands):
        return None
    return layouts_of(operands)


def _checked_options(
    planner: str, memory_limit: int | str | None, max_planning_seconds: float | None, rng: Any
) -> tuple[int | None, int | None]:
    """Return the bytes and the seed that the options stand for."""
    if max_planning_seconds is not None and not max_planning_seconds > 0:
        raise InputError(
            f"max_planning_seconds={max_planning_seconds!r}: give a positive number of seconds, or None."
        )
    return parse_bytes(memory_limit), resolve_rng(rng)[1] if planner == "random-greedy" else None


def _take_apart(equation: Any, given: Sequence[Any]) -> tuple[tuple[Any, ...], Callable[[_Shapes], ContractionSpec]]:
    """Return the operands, and the function that turns their shapes into a spec."""
    if isinstance(equation, TensorNetwork):
        if given:
            raise InputError(f"{len(given)} operands given beside a TensorNetwork, which brings its own; give none.")
        return equation.tensors, functools.partial(spec_from_labels, equation.indices, equation.output)
    if isinstance(equation, str):
        return tuple(given), functools.partial(_parse, equation)
    if not (hasattr(equation, "shape") or isinstance(equation, (tuple, list))):
        raise InputError(
            f"equation is a {type(equation).__name__}: give text such as 'ij,jk->ik', a TensorNetwork, or "
            'operands with their labels: a, ["i", "j"], b, ["j", "k"], ["i", "k"].'
        )
    operands, terms, output = read_interleaved((equation, *given))
    return tuple(operands), functools.partial(_number, tuple(terms), output)


def _describe(
    operands: Sequence[Any], parse: Callable[[_Shapes], ContractionSpec], dtype: str
) -> tuple[ContractionSpec, tuple[str, ...]]:
    read = [_shape_and_dtype(x, k, dtype) for k, x in enumerate(operands)]
    return parse(tuple(shape for shape, _ in read)), tuple(name for _, name in read)


@functools.lru_cache(maxsize=256)
def _parse(equation: str, shapes: _Shapes) -> ContractionSpec:
    return parse_equation(equation, shapes)


@functools.lru_cache(maxsize=256)
def _number(terms: tuple[Any, ...], output: Any, shapes: _Shapes) -> ContractionSpec:
    return spec_from_terms(terms, output, shapes)


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
