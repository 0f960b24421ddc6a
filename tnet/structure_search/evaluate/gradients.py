"""Errors of a stack of networks and their gradients by the cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tnet.arrays import Array, Namespace
from tnet.structure_search.evaluate.sweep_program import Contraction, Key, SweepProgram
from tnet.structure_search.evaluate.sweeps import contract

__all__ = ["SlopedTarget", "errors_and_gradients"]


class SlopedTarget(Protocol):
    """A loss that can be differentiated by the approximation."""

    def errors_and_slopes(self, y: Array, items: slice) -> tuple[Array, Array]:
        """Return the losses (n,) of approximations (n, entries), and their gradients by y."""
        ...


def errors_and_gradients(
    xp: Namespace, program: SweepProgram, target: SlopedTarget, cores: Sequence[Array], items: slice
) -> tuple[Array, list[Array]]:
    """Return the errors (B,) of networks, and the gradients (B, R_k, n_k) by their cores.

    Parameters
    ----------
    xp : namespace
    program : SweepProgram
        One whose normal matrices are made by ``"layers"``: it contracts x with all cores but one for each core.
    target : SlopedTarget
    cores : sequence of array, shapes (B, R_k, n_k)
    items : slice
        Places of these networks in the stack of the target.

    Notes
    -----
    The chain rule through the network: the gradient by y takes the place of x in the descent of a sweep, in which
    each half of the cores is contracted once for all cores of the other half.
    """
    tensors: dict[Key, Array] = {("block", 1 << k): core for k, core in enumerate(cores)}
    for item in (*program.up, program.join):
        if item.out[0] == "block":
            contract(xp, tensors, item)
    y = xp.reshape(tensors[program.join.out], (int(cores[0].shape[0]), -1))
    errors, slopes = target.errors_and_slopes(y, items)
    tensors["rest", (1 << len(cores)) - 1] = slopes
    gradients: list[Array] = list(cores)
    for item in program.down:
        if not isinstance(item, Contraction):
            gradients[item.core] = item.views[1].of(xp, tensors[item.keys[1]])
        elif item.out[0] == "rest":
            contract(xp, tensors, item)
    return errors, gradients
