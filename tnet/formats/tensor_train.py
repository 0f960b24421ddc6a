"""The tensor train (matrix product state)."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim

__all__ = ["TensorTrain"]


@dataclass(frozen=True, eq=False, repr=False)
class TensorTrain(TensorFormat):
    r"""A chain of cores, each entry a product of matrices; in physics a matrix product state.

    .. math:: X_{i_1 \dots i_d} = G_1[i_1] \, G_2[i_2] \cdots G_d[i_d]

    Parameters
    ----------
    cores : tuple of array, shapes (r_{k-1}, n_k, r_k)
        With ``r_0 = r_d = 1``.

    Raises
    ------
    ShapeError
        If neighbouring bonds differ, or a boundary bond is not 1.

    Examples
    --------
    >>> import numpy as np
    >>> TensorTrain((np.ones((1, 4, 2)), np.ones((2, 5, 3)), np.ones((3, 6, 1))))
    TensorTrain: shape (4, 5, 6), rank (2, 3), float64 on cpu
      parameters  56 of 120 (2.14x smaller)
      cores       (1, 4, 2), (2, 5, 3), (3, 6, 1)
    """

    cores: tuple[Array, ...]

    array_fields = ("cores",)

    def __post_init__(self) -> None:
        cores = self._set_arrays("cores", self.cores)
        for k, core in enumerate(cores):
            check_ndim(core, 3, f"cores[{k}]", "(left bond, mode, right bond)")
        check_bonds(cores)
        self._finish()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor: the middle axis of each core."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sizes of the d - 1 inner bonds."""
        return tuple(int(core.shape[-1]) for core in self.cores[:-1])

    def to_network(self) -> TensorNetwork:
        """Return the network with bonds ``"r1"`` ... ``"r{d-1}"`` and modes ``"n0"``, ``"n1"`` ...

        The boundary bonds of size 1 are dropped.
        """
        modes = tuple((f"n{k}",) for k in range(self.ndim))
        tensors, indices = open_chain(self.cores, modes)
        return TensorNetwork(tensors, indices, tuple(mode for (mode,) in modes))

    def _contract(self) -> Array:
        xp = array_namespace(*self.cores)
        done = self.cores[0]
        for core in self.cores[1:]:
            r, n, s = core.shape
            done = xp.reshape(done, (-1, r)) @ xp.reshape(core, (r, n * s))
            done = xp.reshape(done, (-1, s))
        return xp.reshape(done, self.shape)


def check_bonds(cores: tuple[Array, ...]) -> None:
    """Raise ShapeError unless the first and last axes of the cores form an open chain."""
    if cores[0].shape[0] != 1 or cores[-1].shape[-1] != 1:
        raise ShapeError(f"boundary bonds of size {cores[0].shape[0]} and {cores[-1].shape[-1]}: both must be 1.")
    for k in range(len(cores) - 1):
        right, left = cores[k].shape[-1], cores[k + 1].shape[0]
        if right != left:
            raise ShapeError(
                f"bond {k}: cores[{k}] ends with size {right}, cores[{k + 1}] begins with {left}; make them equal."
            )


def open_chain(
    cores: tuple[Array, ...], modes: tuple[tuple[str, ...], ...]
) -> tuple[tuple[Array, ...], tuple[tuple[str, ...], ...]]:
    """Return the cores without boundary bonds, and their index names."""
    xp = array_namespace(*cores)
    last = len(cores) - 1
    tensors: list[Array] = []
    indices: list[tuple[str, ...]] = []
    for k, core in enumerate(cores):
        shape = tuple(core.shape)
        shape = shape[1 if k == 0 else 0 : -1 if k == last else None]
        tensors.append(xp.reshape(core, shape))
        left = () if k == 0 else (f"r{k}",)
        right = () if k == last else (f"r{k + 1}",)
        indices.append((*left, *modes[k], *right))
    return tuple(tensors), tuple(indices)
