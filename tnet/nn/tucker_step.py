"""The parts of one rank-adaptive step on a Tucker model: bases, augmented bases, truncation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tnet.options import Truncation

__all__ = ["augmented_basis", "multiplied", "orthonormalised", "probe", "right_bases", "truncated", "unfolded"]

_NEGLIGIBLE = 1e-14  # of the norm: a direction of roundoff


def unfolded(core: torch.Tensor, mode: int) -> torch.Tensor:
    """Return the matrix whose rows belong to a mode."""
    return core.movedim(mode, 0).flatten(1)


def multiplied(core: torch.Tensor, matrix: torch.Tensor, mode: int) -> torch.Tensor:
    """Return the product of a tensor with a matrix along a mode."""
    return torch.movedim(torch.tensordot(matrix, core.movedim(mode, 0), 1), 0, mode)


def orthonormalised(
    core: torch.Tensor, factors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the same tensor with orthonormal factors of its first modes, in double precision."""
    core, bases = core.detach().double(), []
    for mode, factor in enumerate(factors):
        basis, rest = torch.linalg.qr(factor.detach().double())
        core = multiplied(core, rest, mode)
        bases.append(basis)
    return core, tuple(bases)


def right_bases(core: torch.Tensor, n_modes: int) -> list[torch.Tensor]:
    r"""Return :math:`Q_i`, orthonormal, of :math:`C_{(i)} = S_i Q_i^T` for the first modes."""
    return [torch.linalg.qr(unfolded(core, mode).T)[0] for mode in range(n_modes)]


def probe(
    core: torch.Tensor, factors: Sequence[torch.Tensor], bases: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    r"""Return a model of the same tensor whose gradients are those of all :math:`K_i = U_i S_i` at once.

    .. math:: C \times_j U_j + \sum_i \operatorname{Ten}_i(Q_i^T) \times_i Z_i \times_{j \ne i} U_j, \qquad Z_i = 0

    is a Tucker model with the factors :math:`[U_i, Z_i]`, and the gradient of :math:`Z_i` is that of :math:`K_i`.
    """
    extra = [int(basis.shape[1]) for basis in bases]
    shape = [r + (extra[k] if k < len(extra) else 0) for k, r in enumerate(core.shape)]
    wide = core.new_zeros(shape)
    old = [slice(0, int(r)) for r in core.shape]
    wide[tuple(old)] = core
    for mode, basis in enumerate(bases):
        others = [int(r) for k, r in enumerate(core.shape) if k != mode]
        block = basis.T.reshape(extra[mode], *others).movedim(0, mode)
        where = [*old]
        where[mode] = slice(int(core.shape[mode]), shape[mode])
        wide[tuple(where)] = block
    padded = [
        torch.cat([factor, factor.new_zeros(factor.shape[0], q)], 1) for factor, q in zip(factors, extra, strict=True)
    ]
    return wide, tuple(padded)


def augmented_basis(basis: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Return an orthonormal basis of both ranges, the old columns first and unchanged; roundoff adds no column."""
    rest = moved - basis @ (basis.T @ moved)
    left, values, _ = torch.linalg.svd(rest, full_matrices=False)
    room = int(basis.shape[0]) - int(basis.shape[1])
    keep = min(int((values > _NEGLIGIBLE * torch.linalg.norm(moved)).sum()), room)
    new = left[:, :keep]
    new = torch.linalg.qr(new - basis @ (basis.T @ new))[0]
    return torch.cat([basis, new], 1)


def truncated(
    core: torch.Tensor, factors: Sequence[torch.Tensor], tau: float, max_rank: int | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Cut each mode by the SVD of its unfolding: the least rank that discards at most ``tau`` of the norm."""
    tail, kept, cut = tau * float(torch.linalg.norm(core)), [], core
    for mode, factor in enumerate(factors):
        left, values, _ = torch.linalg.svd(unfolded(core, mode), full_matrices=False)
        rank = Truncation(tail=tail).keep(values.square().tolist())
        directions = left[:, : min(rank, max_rank or rank)]
        cut = multiplied(cut, directions.T, mode)
        kept.append(factor @ directions)
    return cut, tuple(kept)
