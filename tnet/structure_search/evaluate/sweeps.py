"""Sweeps of alternating least squares over a stack of networks of one graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tnet.arrays import Array, Namespace, astype, conj, is_torch, real_part
from tnet.structure_search.evaluate.sweep_program import Contraction, Key, SweepProgram

__all__ = ["SHIFT", "FitTarget", "contract", "dense", "regularised_solve", "swept"]

SHIFT = 4.0
"""Times eps times the trace is added to the diagonal of normal matrices: just above their roundoff."""


class FitTarget(Protocol):
    """What a stack of networks is fitted to, under a loss."""

    @property
    def stack(self) -> Array:
        """X as (B, entries), its modes in the order of ``program.modes``; B = 1 where all networks share it.

        Used where the normal matrices are made from layers.
        """
        ...

    def solved(self, core: int, around: Array) -> Array:
        """Return the best core (B, bonds, mode), given all others contracted: (B, other modes ascending, bonds).

        Used where the normal matrices are made from the environment.
        """
        ...

    def errors(self, y: Array, items: slice) -> Array:
        """Return the squared relative errors of approximations (n, entries) to the items of a slice of the stack."""
        ...


def swept(
    xp: Namespace, program: SweepProgram, target: FitTarget, cores: Sequence[Array], n_sweeps: int
) -> list[Array]:
    """Return the cores after ``n_sweeps`` sweeps.

    Parameters
    ----------
    xp : namespace
    program : SweepProgram
    target : Target
    cores : sequence of array, shapes (B, *bonds, mode)
    n_sweeps : int

    Returns
    -------
    list of array, shapes (B, R_k, n_k)
        Bonds merged.
    """
    tensors: dict[Key, Array] = {("block", 1 << k): core for k, core in enumerate(cores)}
    tensors["rest", (1 << len(cores)) - 1] = target.stack
    for item in program.up:
        contract(xp, tensors, item)
    for _ in range(n_sweeps):
        for item in program.down:
            if isinstance(item, Contraction):
                contract(xp, tensors, item)
                continue
            if program.gram == "layers":
                normal, right = (view.of(xp, tensors[key]) for key, view in zip(item.keys, item.views, strict=True))
                solution = regularised_solve(xp, normal, right)
            else:
                solution = target.solved(item.core, item.views[0].of(xp, tensors[item.keys[0]]))
            tensors["block", 1 << item.core] = solution
    return [tensors["block", 1 << k] for k in range(len(cores))]


def dense(xp: Namespace, program: SweepProgram, cores: Sequence[Array]) -> Array:
    """Return the stack of whole tensors (B, entries), modes in the order of ``program.modes``."""
    tensors: dict[Key, Array] = {("block", 1 << k): core for k, core in enumerate(cores)}
    for item in program.up:
        if item.out[0] == "block":
            contract(xp, tensors, item)
    contract(xp, tensors, program.join)
    return tensors[program.join.out]


def regularised_solve(xp: Namespace, normal: Array, right: Array) -> Array:
    r"""Return the solutions of :math:`(N + \delta I) Z = M` for stacks of Hermitian semidefinite N.

    Parameters
    ----------
    normal : array, shape (..., n, n)
    right : array, shape (..., n, m)

    Notes
    -----
    :math:`\delta = 4 \epsilon\, \mathrm{tr} N`, so that dependent columns of the environment, and those that only
    pad a stack, get finite solutions (zero in the latter case), at a relative error of :math:`\sqrt\delta` at most.
    """
    n = int(normal.shape[-1])
    info = xp.finfo(normal.dtype)
    diagonal = xp.reshape(normal, (*normal.shape[:-2], n * n))[..., :: n + 1]
    shift = xp.sum(real_part(diagonal), axis=-1) * (SHIFT * float(info.eps)) + float(info.smallest_normal)
    eye = xp.eye(n, dtype=normal.dtype, device=normal.device)
    shifted = normal + astype(shift, normal.dtype)[..., None, None] * eye
    if is_torch(normal):
        return xp.linalg.solve_ex(shifted, right)[0]
    return xp.linalg.solve(shifted, right)


def contract(xp: Namespace, tensors: dict[Key, Array], item: Contraction) -> None:
    """Do one contraction of a program on the tensors at hand."""
    a, b = tensors[item.a], tensors[item.b]
    tensors[item.out] = item.step(xp, conj(a) if item.conj_a else a, conj(b) if item.conj_b else b)
