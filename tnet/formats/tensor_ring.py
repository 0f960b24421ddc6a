"""The tensor ring: a tensor train whose ends are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tnet.arrays import Array, array_namespace
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim

__all__ = ["TensorRing", "merged_chain"]


@dataclass(frozen=True, eq=False, repr=False)
class TensorRing(TensorFormat):
    r"""A closed chain of cores, each entry the trace of a product of matrices.

    .. math:: X_{i_1 \dots i_d} = \operatorname{tr} \left( G_1[i_1] \, G_2[i_2] \cdots G_d[i_d] \right)

    Parameters
    ----------
    cores : tuple of array, shapes (r_{k-1}, n_k, r_k)
        With ``r_d = r_0``. A ring with ``r_0 = 1`` is a tensor train.

    Raises
    ------
    ShapeError
        If neighbouring bonds differ, the last and the first included.

    References
    ----------
    .. [1] Q. Zhao, G. Zhou, S. Xie, L. Zhang, A. Cichocki, "Tensor ring decomposition", arXiv:1606.05535
       (2016).

    Examples
    --------
    >>> import numpy as np
    >>> TensorRing((np.ones((2, 4, 3)), np.ones((3, 5, 2)), np.ones((2, 6, 2))))
    TensorRing: shape (4, 5, 6), rank (2, 3, 2), float64 on cpu
      parameters  78 of 120 (1.54x smaller)
      cores       (2, 4, 3), (3, 5, 2), (2, 6, 2)
    """

    cores: tuple[Array, ...]

    array_fields = ("cores",)

    def __post_init__(self) -> None:
        cores = self._set_arrays("cores", self.cores)
        for k, core in enumerate(cores):
            check_ndim(core, 3, f"cores[{k}]", "(left bond, mode, right bond)")
        for k, core in enumerate(cores):
            after = (k + 1) % len(cores)
            right, left = core.shape[2], cores[after].shape[0]
            if right != left:
                raise ShapeError(
                    f"bond {after}: cores[{k}] ends with size {right}, cores[{after}] begins with {left}; "
                    "make them equal (the ring closes from the last core to the first)."
                )
        self._finish()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor: the middle axis of each core."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def rank(self) -> tuple[int, ...]:
        """Sizes of the d bonds; bond k enters core k from the left."""
        return tuple(int(core.shape[0]) for core in self.cores)

    def to_network(self) -> TensorNetwork:
        """Return the network with bonds ``"r0"`` ... ``"r{d-1}"`` and modes ``"n0"``, ``"n1"`` ..."""
        d = len(self.cores)
        indices = tuple((f"r{k}", f"n{k}", f"r{(k + 1) % d}") for k in range(d))
        return TensorNetwork(self.cores, indices, tuple(f"n{k}" for k in range(d)))

    def _contract(self) -> Array:
        xp = array_namespace(*self.cores)
        if self.ndim == 1:
            return xp.sum(xp.linalg.diagonal(xp.permute_dims(self.cores[0], (1, 0, 2))), axis=-1)
        # Two arcs, joined by one product over both bonds: nothing is held that is r^2 times as large as X.
        half = (self.ndim + 1) // 2
        left, right = merged_chain(self.cores[:half]), merged_chain(self.cores[half:])
        r, m, s = left.shape
        n = right.shape[1]
        left = xp.reshape(xp.permute_dims(left, (1, 0, 2)), (m, r * s))
        right = xp.reshape(xp.permute_dims(right, (2, 0, 1)), (r * s, n))
        return xp.reshape(left @ right, self.shape)


def merged_chain(cores: Sequence[Array]) -> Array:
    """Return neighbouring cores as one, ``(left bond, product of the modes, right bond)``."""
    xp = array_namespace(*cores)
    done = cores[0]
    for core in cores[1:]:
        q, m, r = done.shape
        _, n, s = core.shape
        done = xp.reshape(xp.reshape(done, (q * m, r)) @ xp.reshape(core, (r, n * s)), (q, m * n, s))
    return done
