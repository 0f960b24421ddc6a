"""How an approximation is judged: by all entries, by the observed ones, or by what a layer does to its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tnet.arrays import Array

__all__ = ["DifferentiableLoss", "Loss", "MaskedError", "SquaredError", "WeightedError"]


@dataclass(frozen=True)
class SquaredError:
    r""":math:`\|X - Y\|_F^2 / \|X\|_F^2`."""


@dataclass(frozen=True, eq=False)
class MaskedError:
    r""":math:`\|M \odot (X - Y)\|_F^2 / \|M \odot X\|_F^2` for completion: only observed entries count.

    Parameters
    ----------
    mask : array of bool, shape of the tensor
        True where an entry was observed. Others may hold anything, NaN too.
    """

    mask: Array


@dataclass(frozen=True, eq=False)
class WeightedError:
    r""":math:`\mathrm{tr}\,(X - Y)\, C\, (X - Y)^T / \mathrm{tr}\, X C X^T`, X and Y as matrices.

    With C the second moments of a layer's inputs it is the error of the outputs,
    :math:`\|(W - W') C^{1/2}\|_F^2`.

    Parameters
    ----------
    weight : array, shape (n, n)
        Symmetric positive semidefinite; n is the product of the sizes of the last ``n_columns`` modes.
    n_columns : int
        So many modes at the end are the columns of the matrix.
    """

    weight: Array
    n_columns: int


@dataclass(frozen=True, eq=False)
class DifferentiableLoss:
    """Any function of the dense approximation that torch can differentiate.

    Parameters
    ----------
    function : callable
        ``function(y)`` takes a torch tensor of the shape of x, and gives a non-negative number as a torch tensor. It
        takes the place of the squared relative error in every objective.
    """

    function: Callable[[Array], Array]


Loss: TypeAlias = SquaredError | MaskedError | WeightedError | DifferentiableLoss
