"""The front doors: :func:`plan` and :func:`contract`."""

from __future__ import annotations

import functools
import math
import numbers
import operator
import os
import time
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tnet.arrays import (
    Array,
    as_array,
    name_of_dtype,
    resolve_rng,
)
from tnet.contraction.bound_calls import layouts_of
from tnet.contraction.dtypes import dtype_plan
from tnet.contraction.execute import common_namespace
from tnet.contraction.fitting import fit_into_memory
from tnet.contraction.layout import Layout
from tnet.contraction.memory import parse_bytes
from tnet.contraction.operands import lie_on_host
from tnet.contraction.plan import ContractionPlan
from tnet.contraction.planning import PLANNERS, Path, Timing, find_pairs, name_of_planner
from tnet.contraction.spec import (
    ContractionSpec,
    parse_equation,
    read_interleaved,
    spec_from_labels,
    spec_from_terms,
)
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import TensorNetwork

if TYPE_CHECKING:
    from tnet.parallel import ExecutorLike

__all__ = ["contract", "plan"]

_Shapes = tuple[tuple[int, ...], ...]
_shape, _dtype = attrgetter("shape"), attrgetter("dtype")
Planner = (
    Literal["auto", "greedy", "random-greedy", "optimal", "annealing", "partition", "elimination"]
    | str
    | Sequence[Sequence[int]]
)


def plan(
    equation: str | TensorNetwork | Any,
    *shapes_or_arrays: Any,
    dtype: Any = "float64",
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
    dtype : str or dtype, default "float64"
        Of the operands given by their shapes, by name or of NumPy or torch; bytes are counted for it.
    planner : str or sequence of pair of int, default "auto"
        Every choice below costs at most what ``"greedy"`` does.

        - ``"auto"``: all planners in turn, as long as planning pays; see the notes.
        - ``"greedy"``: the cheapest of a few greedy orders, for up to about 12 operands the best order.
        - ``"random-greedy"``: the best of 128 greedy orders with noise.
        - ``"optimal"``: the least multiply-adds over all orders of up to 16 operands; of more, over the orders that
          contract connected parts.
        - ``"annealing"``, ``"partition"``, ``"elimination"``: a fixed number of orders of that kind, each polished.
        - ``"cotengra:<optimizer>"``: cotengra's, by the name of its preset, as ``"cotengra:auto-hq"``; not compared.
        - An order in opt_einsum's form, ``[(0, 1), (0, 1)]``: checked, and taken as it is.
    memory_limit : int, str or None
        Bytes, or text such as ``"8GiB"``: indices are cut into parts until :attr:`ContractionPlan.peak_bytes`
        is within it. None cuts nothing.
    max_planning_seconds : float or None
        Wall seconds, a ceiling: ``"auto"`` uses them as long as it may still find something better, the others
        stop there, and ``"optimal"`` refuses networks that would take longer. The first use after an installation
        compiles the planners, once, and may pass it.
    rng : int, numpy Generator, torch Generator or None
        Of all noise. None stands for 0: a plan needs no fresh entropy.

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
    InputError
        Unknown planner, a path that does not contract the operands, or too many operands for ``"optimal"``.
    MissingDependencyError
        cotengra is not installed.
    BackendError
        A dtype without numbers.

    Notes
    -----
    First the steps are taken that need no search: vectors, equal index sets and small matrices are absorbed, what
    is connected is planned by itself. ``"auto"`` then starts with ``"greedy"``, in plain Python; if that order takes
    less than a second by the rate of this host, it stays. Otherwise the compiled planners are loaded: noisy
    greedy orders, dynamic programming, elimination orders, lines, partitions, then races of annealed trees, until
    planning has taken half of the predicted seconds of the best order, but at most 30 s; or, with
    ``max_planning_seconds``, until then. One ``rng`` gives one sequence of searches; the clock decides how many of
    them are made. Planning runs on one thread.

    Within the plan an index of size n is cut into a divisor of n equal parts. With ``memory_limit`` cuts take turns
    with changes of the order that suit them, unless the order was given or is cotengra's.

    References
    ----------
    .. [1] J. Gray and S. Kourtis, "Hyper-optimized tensor network contraction", Quantum 5, 410 (2021).
    .. [2] G. Kalachev, P. Panteleev and M.-H. Yung, "Multi-tensor contraction for XEB verification of quantum
       circuits", arXiv:2108.05665 (2021).

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
    spec, names = _describe(operands, parse, _name_of(dtype))
    chosen, limit, seed = _checked_options(planner, memory_limit, max_planning_seconds, rng)
    return _plan(spec, names, chosen, limit, max_planning_seconds, seed, *_placed(operands))


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
        :meth:`tnet.contraction.ContractionPlan.run`. The folder keeps the plan as well: the same call goes on with
        it and does not search again.

    Returns
    -------
    array
        In the library, on the device and in the promoted dtype of the operands. Half precision is computed
        in float32; integers and booleans accumulate and return in 64 bits.

    Raises
    ------
    IndexLabelError, ShapeError, BackendError, MemoryLimitError
        As :func:`plan` and calling a plan.
    InputError, FormatError, WorkerError
        As :func:`plan` and :meth:`tnet.contraction.ContractionPlan.run`; also a checkpoint of other options.

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
    if type(equation) is str and memory_limit is rng is executor is checkpoint is None:
        # The tenth of a look-up by way of the spec: what counts where the arrays are tiny.
        try:
            types, shapes, dtypes = tuple(map(type, arrays)), tuple(map(_shape, arrays)), tuple(map(_dtype, arrays))
            known = _known_plan(equation, shapes, types, dtypes, planner, max_planning_seconds)
        except (AttributeError, TypeError):
            pass  # lists and numbers, which the long way makes arrays
        else:
            return known.runner(arrays, types, shapes, dtypes)(arrays)
    operands, found, request = search_or_resume(
        equation,
        arrays,
        planner=planner,
        memory_limit=memory_limit,
        max_planning_seconds=max_planning_seconds,
        rng=rng,
        checkpoint=checkpoint,
    )
    if executor is None and checkpoint is None:
        return found(*operands)
    from tnet.contraction.distribute import run_plan

    return run_plan(found, operands, executor=executor, checkpoint=checkpoint, request=request)


def search_or_resume(
    equation: str | TensorNetwork | Array,
    arrays: Sequence[Array],
    *,
    planner: Planner,
    memory_limit: int | str | None,
    max_planning_seconds: float | None,
    rng: Any,
    checkpoint: str | os.PathLike[str] | None,
) -> tuple[tuple[Array, ...], ContractionPlan, dict[str, Any] | None]:
    """Return the operands, the plan that a checkpoint was begun with or else a new one, and what was asked for."""
    operands, parse = _take_apart(equation, arrays)
    operands = tuple(as_array(x, f"operand {k}") for k, x in enumerate(operands))
    if operands:
        common_namespace(operands)  # mixed operands are refused before the search begins
    spec, names = _describe(operands, parse, "float64")
    chosen, limit, seed = _checked_options(planner, memory_limit, max_planning_seconds, rng)
    request = kept = None
    if checkpoint is not None:
        from tnet.contraction.resume import kept_plan, request_of

        request = request_of(spec, names, chosen, limit, max_planning_seconds, seed)
        kept = kept_plan(checkpoint, spec, request)
    if kept is None:
        kept = _plan(spec, names, chosen, limit, max_planning_seconds, seed, *_placed(operands))
    return operands, kept, request


@functools.lru_cache(maxsize=256)
def _plan(
    spec: ContractionSpec,
    names: tuple[str, ...],
    planner: str | Path,
    limit: int | None,
    max_seconds: float | None,
    seed: int,
    layouts: tuple[Layout, ...] | None = None,
    on_host: bool = True,
) -> ContractionPlan:
    dtypes = dtype_plan(names)
    timing = Timing(time.perf_counter(), max_seconds, dtypes.compute)
    if limit is None:
        pairs, splits = find_pairs(spec, planner, timing, seed=seed), ()
    else:
        pairs = find_pairs(spec, planner, timing.first_part(), seed=seed)
        own = planner in PLANNERS
        pairs, splits = fit_into_memory(spec, pairs, dtypes, limit, layouts, timing, seed=seed, may_change_tree=own)
    return ContractionPlan(spec, pairs, splits, dtypes, limit, name_of_planner(planner), layouts, on_host)


@functools.lru_cache(maxsize=256)
def _known_plan(
    equation: str,
    shapes: _Shapes,
    types: tuple[type, ...],
    dtypes: tuple[Any, ...],
    planner: Planner,
    max_seconds: float | None,
) -> ContractionPlan:
    if len(set(types)) > 1:
        raise TypeError("operands of several libraries")
    names = tuple(name_of_dtype(dtype) for dtype in dtypes)
    chosen, _, seed = _checked_options(planner, None, max_seconds, None)
    return _plan(_parse(equation, tuple(map(tuple, shapes))), names, chosen, None, max_seconds, seed)


def _placed(operands: Sequence[Any]) -> tuple[tuple[Layout, ...] | None, bool]:
    """Return how the operands lie in memory, and whether in that of the host; shapes do, in C order."""
    if not all(hasattr(x, "dtype") and hasattr(x, "shape") for x in operands):
        return None, True
    return layouts_of(operands), lie_on_host(operands)


def _checked_options(
    planner: Planner, memory_limit: int | str | None, max_planning_seconds: float | None, rng: Any
) -> tuple[str | Path, int | None, int]:
    """Return the planner as a value, and the bytes and the seed that the options stand for."""
    seconds = max_planning_seconds
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, numbers.Real) or not float(seconds) > 0
    ):
        raise InputError(
            f"max_planning_seconds={max_planning_seconds!r}: give a positive number of seconds, or None."
        )
    seed = 0 if rng is None else resolve_rng(rng)[1]
    return _read_planner(planner), parse_bytes(memory_limit), seed


def _read_planner(planner: Planner) -> str | Path:
    if isinstance(planner, str):
        return planner
    try:
        path = tuple(tuple(operator.index(position) for position in step) for step in planner)
    except TypeError as error:
        raise InputError(
            f"planner is of type {type(planner).__name__}: give the name of a planner, or a path such as "
            "[(0, 1), (0, 1)]."
        ) from error
    return path


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
            f"equation is of type {type(equation).__name__}: give text such as 'ij,jk->ik', a TensorNetwork, or "
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


def _name_of(dtype: Any) -> str:
    """Return the name of a dtype; calls bring other byte orders to that of the host."""
    if isinstance(dtype, str):
        return dtype
    try:
        return dtype.newbyteorder("=").name if isinstance(dtype, np.dtype) else name_of_dtype(dtype)
    except TypeError as error:
        raise BackendError(f"dtype={dtype!r}: give the name of a dtype, such as 'float32', or a dtype.") from error


def _shape_and_dtype(x: Any, position: int, dtype: str) -> tuple[tuple[int, ...], str]:
    if hasattr(x, "shape") and hasattr(x, "dtype") and not isinstance(x, np.generic):
        return tuple(int(n) for n in x.shape), _name_of(x.dtype)
    if isinstance(x, (tuple, list)):
        if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in x):
            raise ShapeError(f"operand {position}: shape {x!r} holds something that is not an integer.")
        shape = tuple(int(n) for n in x)
        if min(shape, default=0) >= 0 and math.prod(shape) >= 2**63:
            raise ShapeError(f"operand {position}: shape {shape} has 2^63 elements or more.")
        return shape, dtype
    raise BackendError(f"operand {position} is of type {type(x).__name__}: give a shape or an array.")
