"""The Tucker format: a small core with one matrix for each mode."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, ttm_chain
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim

__all__ = ["TuckerTensor"]


@dataclass(frozen=True, eq=False, repr=False)
class TuckerTensor(TensorFormat):
    r"""A core multiplied by a matrix in each mode.

    .. math:: X = G \times_1 A^{(1)} \times_2 A^{(2)} \dots \times_d A^{(d)}

    Parameters
    ----------
    core : array, shape (r_1, ..., r_d)
    factors : tuple of array, shapes (n_k, r_k)

    Raises
    ------
    ShapeError
        If the factors do not fit the core.
    """

    core: Array
    factors: tuple[Array, ...]

    array_fields = ("core", "factors")

    def __post_init__(self) -> None:
        core = self._set_array("core", self.core)
        factors = self._set_arrays("factors", self.factors)
        if len(factors) != core.ndim:
            raise ShapeError(f"{len(factors)} factors for a core of {core.ndim} modes: give one for each mode.")
        for k, factor in enumerate(factors):
            check_ndim(factor, 2, f"factors[{k}]", f"(n_{k}, r_{k})")
            if factor.shape[1] != core.shape[k]:
                raise ShapeError(
                    f"factors[{k}] has {factor.shape[1]} columns, mode {k} of the core has size "
                    f"{core.shape[k]}: make them equal."
                )
        self._finish()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor: the rows of each factor."""
        return tuple(int(factor.shape[0]) for factor in self.factors)

    @property
    def rank(self) -> tuple[int, ...]:
        """Shape of the core."""
        return tuple(int(r) for r in self.core.shape)

    def to_network(self) -> TensorNetwork:
        """Return the network with bonds ``"r0"``, ``"r1"`` ... and modes ``"n0"``, ``"n1"`` ..."""
        modes = tuple(f"n{k}" for k in range(self.ndim))
        bonds = tuple(f"r{k}" for k in range(self.ndim))
        return TensorNetwork(self.arrays, (bonds, *zip(modes, bonds, strict=True)), modes)

    def _contract(self) -> Array:
        return ttm_chain(self.core, self.factors, range(self.ndim))
