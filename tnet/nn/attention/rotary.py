"""Rotary position embedding: pairs of features are turned by angles that grow with the position."""

from __future__ import annotations

import torch

from tnet.errors import InputError, ShapeError

__all__ = ["apply_rotary", "rotary_angles"]


def rotary_angles(positions: torch.Tensor, width: int, base: float = 10000.0) -> torch.Tensor:
    r"""Return the angles :math:`t\, b^{-2 i / d}` of position t and pair i.

    Parameters
    ----------
    positions : torch.Tensor, shape (...)
        t, integers or real numbers.
    width : int
        d, the number of features: even.
    base : float
        b.

    Returns
    -------
    torch.Tensor, shape (..., d / 2)
        float32, or float64 if ``positions`` is.

    Raises
    ------
    InputError
        If the width is no even positive integer.

    References
    ----------
    Su, Lu, Pan, Murtadha, Wen, Liu, RoFormer: enhanced transformer with rotary position embedding, arXiv:2104.09864.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 2 or width % 2:
        raise InputError(f"width={width!r}: rotary positions turn pairs of features; give an even number of them.")
    dtype = torch.float64 if positions.dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=dtype) / width
    return positions.to(dtype)[..., None] * base**-exponents


def apply_rotary(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    r"""Turn feature i and feature ``i + d/2`` of x as a pair, in the layout of Llama.

    Parameters
    ----------
    x : torch.Tensor, shape (..., d)
    angles : torch.Tensor, shape (..., d / 2)
        Broadcast against the leading axes of x.

    Returns
    -------
    torch.Tensor, shape (..., d)
        In the dtype of x. The map is linear in x and acts on its last axis alone, so it commutes with every
        contraction over other axes.

    Raises
    ------
    ShapeError
        If there is not one angle for two features.
    """
    if 2 * angles.shape[-1] != x.shape[-1]:
        raise ShapeError(f"x {tuple(x.shape)}, angles {tuple(angles.shape)}: give one angle for two features.")
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
