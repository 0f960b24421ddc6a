"""Running a program: a static loop of pairwise steps, summed over slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tnet.arrays import Array, Namespace, array_namespace, as_array, astype, library_name, resolve_dtype
from tnet.contraction.dtypes import DtypePlan
from tnet.contraction.lowering import Leaf, Operand, Program
from tnet.contraction.slicing import Split, slice_keys
from tnet.contraction.spec import ContractionSpec
from tnet.errors import BackendError

__all__ = ["Runner", "make_runner"]

Runner = Callable[[Sequence[Array]], Array]

# Their arrays carry the method; a bound method costs half of the namespace's function.
_HAVE_RESHAPE_METHOD = frozenset({"numpy", "torch", "cupy"})


def make_runner(
    spec: ContractionSpec,
    program: Program,
    splits: Sequence[Split],
    dtypes: DtypePlan,
    arrays: Sequence[Array],
) -> Runner:
    """Return the function that contracts arrays of the same types as ``arrays``.

    Parameters
    ----------
    spec : ContractionSpec
    program : Program
        Of one slice.
    splits : sequence of (int, int)
    dtypes : DtypePlan
        Of ``arrays``.
    arrays : sequence of array
        Only their library, dtypes and device are looked at.

    Raises
    ------
    BackendError
        Arrays of several libraries or devices, or a dtype that their library does not know.
    """
    plain = [as_array(x, f"operand {k}") for k, x in enumerate(arrays)]
    must_convert = any(a is not x for a, x in zip(plain, arrays, strict=True))
    try:
        xp = array_namespace(*plain)
    except BackendError as error:
        kinds = ", ".join(f"operand {k}: {library_name(x)}" for k, x in enumerate(plain[:8]))
        raise BackendError(f"operands cannot be mixed: {error} ({kinds})") from error
    machine = _Machine(xp, program, dtypes, library_name(plain[0]))

    def run(operands: Sequence[Array]) -> Array:
        if must_convert:
            operands = [as_array(x, f"operand {k}") for k, x in enumerate(operands)]
        if not splits:
            result = machine.run(list(operands))
        else:
            # Slices are added into an array of our own: the first part may be a view of an input.
            like = operands[0]
            result = xp.zeros(spec.output_shape, dtype=machine.dtype, device=like.device)
            for keys, place in slice_keys(spec, splits):
                pieces = [x if key is None else x[key] for x, key in zip(operands, keys, strict=True)]
                result[(*place, ...)] += machine.run(pieces)
        return astype(result, machine.result_dtype)

    return run


class _Machine:
    """A program bound to an array library."""

    def __init__(self, xp: Namespace, program: Program, dtypes: DtypePlan, library: str) -> None:
        self.xp = xp
        self.program = program
        self.dtype = resolve_dtype(xp, dtypes.compute)
        self.result_dtype = resolve_dtype(xp, dtypes.result)
        self._by_method = library in _HAVE_RESHAPE_METHOD
        self._idle_leaf = [
            not leaf.diagonals and not leaf.summed and name == dtypes.compute
            for leaf, name in zip(program.leaves, dtypes.operands, strict=True)
        ]

    def run(self, slots: list[Any]) -> Array:
        """Contract one slice; ``slots`` is consumed, so that an intermediate is freed after its use."""
        for step in self.program.steps:
            left = self._matrix(step.left, slots)
            right = self._matrix(step.right, slots)
            product = left @ right if step.is_product else left * right
            del left, right
            slots.append(self._reshape(product, step.shape))
            del product
        if not self.program.steps:
            # Never hand out a view of an input: who writes to the result would write to it.
            last = self._prepared(slots, 0)
            last = self.xp.asarray(last, copy=True)
        else:
            last = slots[-1]
        permutation = self.program.final_permutation
        return last if permutation is None else self.xp.permute_dims(last, permutation)

    def _matrix(self, operand: Operand, slots: list[Any]) -> Array:
        source = operand.source
        x = self._prepared(slots, source)
        if operand.permutation is not None:
            x = self.xp.permute_dims(x, operand.permutation)
        x = self._reshape(x, operand.shape)
        return self.xp.matrix_transpose(x) if operand.transposed else x

    def _prepared(self, slots: list[Any], source: int) -> Array:
        """Take an array out of its slot; an input with diagonals taken, converted and summed."""
        x = slots[source]
        slots[source] = None
        if source >= len(self._idle_leaf) or self._idle_leaf[source]:
            return x
        leaf: Leaf = self.program.leaves[source]
        for permutation in leaf.diagonals:
            x = self.xp.linalg.diagonal(self.xp.permute_dims(x, permutation))
        x = astype(x, self.dtype)
        if leaf.summed:
            # asarray: NumPy returns a scalar, not an array, when every axis is summed.
            x = self.xp.asarray(self.xp.sum(x, axis=leaf.summed, dtype=self.dtype))
        return x

    def _reshape(self, x: Array, shape: tuple[int, ...]) -> Array:
        return x.reshape(shape) if self._by_method else self.xp.reshape(x, shape)
