"""Contraction of values beyond the range of floating point: every intermediate is scaled by a power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tnet.arrays import Array, Namespace, device_kind, dtype_name, is_complex, is_torch
from tnet.arrays.operations import operations
from tnet.contraction.execute import Bound, Instruction
from tnet.contraction.slicing import Split, slice_keys
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError

__all__ = ["ScaledResult", "run_scaled"]


class ScaledResult(NamedTuple):
    """A result as ``mantissa * 2**log2_scale``.

    Parameters
    ----------
    mantissa : array
        Of the library and dtype of the computation; its largest modulus is in [1, 2), unless it is all zero, or
        holds entries that are not finite.
    log2_scale : int
        0 where the mantissa is zero.
    """

    mantissa: Array
    log2_scale: int


def run_scaled(
    bound: Bound, spec: ContractionSpec, splits: Sequence[Split], operands: Sequence[Array]
) -> ScaledResult:
    """Contract with every operand and intermediate divided by the power of two next to its largest modulus.

    Parameters
    ----------
    bound : Bound
    spec : ContractionSpec
    splits : sequence of (int, int)
    operands : sequence of array

    Returns
    -------
    ScaledResult

    Raises
    ------
    InputError
        An operand without values, on the meta device.

    Notes
    -----
    Powers of two scale without rounding. Each operand of a step is below 2 in modulus, so that a product over K
    entries stays below 4 K. The maxima are looked at on the host: one synchronisation a step on a GPU.
    """
    for k, x in enumerate(operands):
        if device_kind(x) == "meta":
            raise InputError(f"scaled: operand {k} is on the meta device and has no values: materialise it first.")
    xp = bound.xp
    base: list[Any] = [*operands, *[None] * (bound.n_nodes - bound.n_inputs)]
    shifts = [0] * bound.n_nodes
    for instruction in bound.once:
        _step(xp, bound, instruction, base, shifts)
    if not splits:
        part, shift = _slice(bound, base, shifts)
        return _normalised(xp, part, shift)
    total = xp.zeros(spec.output_shape, dtype=bound.dtype, device=operands[0].device)
    scale, is_zero = 0, True
    for keys, place in slice_keys(spec, splits):
        slots = [x if key is None else x[key] for x, key in zip(base, _all(keys, len(base)), strict=True)]
        part, shift = _slice(bound, slots, list(shifts))
        exponent = _exponent(xp, part)
        # The sum so far and this part meet at the larger of their scales, where neither overflows. Zeros have no
        # scale, but are added all the same: their derivatives need not be zero.
        if exponent is not None:
            top = shift + exponent
            if is_zero or top > scale:
                total, scale = _scaled(total, scale - top), top
            is_zero = False
        total[(*place, ...)] += _scaled(part, shift - scale)
    return _normalised(xp, total, scale)


def _all(keys: Sequence[Any], n: int) -> list[Any]:
    return [*keys, *[None] * (n - len(keys))]


def _slice(bound: Bound, slots: list[Any], shifts: list[int]) -> tuple[Array, int]:
    xp = bound.xp
    if bound.single is not None:
        x = _floating(bound, slots[0])
        shift = _exponent(xp, x) or 0
        part = bound.single(_scaled(x, -shift))
    else:
        node = -1
        for instruction in bound.body:
            _step(xp, bound, instruction, slots, shifts)
            node = instruction.node
        part, shift = slots[node], shifts[node]
    return part if bound.final is None else bound.language.permute(part, bound.final), shift


def _step(xp: Namespace, bound: Bound, instruction: Instruction, slots: list[Any], shifts: list[int]) -> None:
    permute, reshape = bound.language.permute, bound.language.reshape
    sides = []
    shift = 0
    for source, ready, axes, shape in (
        (instruction.left, instruction.left_ready, instruction.left_axes, instruction.left_shape),
        (instruction.right, instruction.right_ready, instruction.right_axes, instruction.right_shape),
    ):
        x = slots[source]
        slots[source] = None
        if source < bound.n_inputs:
            x = _floating(bound, x)
            exponent = _exponent(xp, x)
            if exponent:
                x, shift = _scaled(x, -exponent), shift + exponent
        shift += shifts[source]
        x = x if ready is None else ready(x)
        x = x if axes is None else permute(x, axes)
        sides.append(x if shape is None else reshape(x, shape))
        del x
    z = instruction.function(*sides)
    del sides
    exponent = _exponent(xp, z)
    if exponent:
        z, shift = _scaled(z, -exponent), shift + exponent
    shifts[instruction.node] = shift
    slots[instruction.node] = z if instruction.kept is None else reshape(z, instruction.kept)


def _floating(bound: Bound, x: Array) -> Array:
    return x if x.dtype == bound.dtype else bound.language.convert(x, bound.dtype)


def _exponent(xp: Namespace, x: Array) -> int | None:
    """Return floor(log2(largest modulus)); 0 where an entry is not finite, None for zeros and for no entries."""
    if 0 in x.shape:
        return None
    plain = x.detach() if is_torch(x) else x
    # Of a complex entry the larger part: its modulus may overflow, and differs by less than a factor 2.
    parts = (xp.real(plain), xp.imag(plain)) if is_complex(plain) else (plain,)
    ends = [float(end) for part in parts for end in (xp.min(part), xp.max(part))]
    if not all(map(math.isfinite, ends)):
        return 0
    largest = max(map(abs, ends))
    return math.frexp(largest)[1] - 1 if largest > 0 else None


def _scaled(x: Array, exponent: int) -> Array:
    """Return ``x * 2**exponent``, in steps where one factor would leave the range of its dtype."""
    limit = 100 if dtype_name(x) in ("float32", "complex64") else 1000
    # Beyond four steps every finite number is zero or infinite.
    left = max(-4 * limit, min(4 * limit, exponent))
    while left:
        part = max(-limit, min(limit, left))
        x, left = operations(x).array(x * 2.0**part), left - part
    return x


def _normalised(xp: Namespace, x: Array, shift: int) -> ScaledResult:
    exponent = _exponent(xp, x)
    if exponent is None:
        return ScaledResult(x, 0)
    return ScaledResult(_scaled(x, -exponent), shift + exponent)
