"""Orthogonal matrices near given ones, by matrix products alone."""

from __future__ import annotations

import torch

from tnet.errors import BackendError, ShapeError
from tnet.nn.factorised_linear import check_size

__all__ = ["newton_schulz"]

_QUINTIC = (3.4445, -4.7750, 2.0315)


def newton_schulz(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    r"""Bring the singular values of each matrix of a stack near 1, singular vectors kept.

    From :math:`X = G / \|G\|_F`, :math:`X \leftarrow a X + (b A + c A^2) X` with :math:`A = X X^T` and
    :math:`(a, b, c) = (3.4445, -4.7750, 2.0315)`.

    Parameters
    ----------
    matrices : torch.Tensor
        ``(..., m, n)``, real and floating, bfloat16 too.
    steps : int
        Iterations. Five bring values above about a hundredth of :math:`\|G\|_F` near 1: not to it, but to the
        interval in which the polynomial cycles, about ``[0.68, 1.135]``.

    Returns
    -------
    torch.Tensor
        Of the same shape and dtype. A matrix of zeros stays one.

    Raises
    ------
    ShapeError, BackendError
        If the input is no stack of real floating matrices, or ``steps`` is no positive integer.

    Notes
    -----
    With s the smaller and l the larger side, a step costs :math:`2 s^2 l + s^3` multiply-adds.

    References
    ----------
    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/; J. Bernstein, L. Newhouse, "Old optimizer, new norm",
    arXiv:2409.20325.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import newton_schulz
    >>> values = torch.linalg.svdvals(newton_schulz(torch.diag(torch.tensor([5.0, 3.0, 1.0]))))
    >>> bool((values - 1).abs().max() < 0.35)
    True
    """
    if not isinstance(matrices, torch.Tensor) or not matrices.is_floating_point():
        raise BackendError(f"matrices of type {getattr(matrices, 'dtype', type(matrices).__name__)}: give real ones.")
    if matrices.ndim < 2:
        raise ShapeError(f"matrices of shape {tuple(matrices.shape)}: give (..., m, n).")
    check_size("steps", steps)
    if matrices.numel() == 0:
        return matrices.clone()
    tall = matrices.shape[-2] > matrices.shape[-1]
    X = matrices.mT if tall else matrices
    tiny = torch.finfo(X.dtype).tiny
    X = X / X.abs().amax((-2, -1), keepdim=True).clamp_min(tiny)  # no square overflows then
    X = X / torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True).clamp_min(tiny)
    a, b, c = _QUINTIC
    for _ in range(steps):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.mT if tall else X
