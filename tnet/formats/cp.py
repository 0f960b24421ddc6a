"""The canonical polyadic format: a sum of rank-one tensors."""

from __future__ import annotations

from dataclasses import dataclass

from tnet.arrays import Array, array_namespace, khatri_rao, total_size
from tnet.errors import ShapeError
from tnet.formats.network import TensorNetwork
from tnet.formats.tensor_format import TensorFormat, check_ndim

__all__ = ["CPTensor"]


@dataclass(frozen=True, eq=False, repr=False)
class CPTensor(TensorFormat):
    r"""A sum of R rank-one tensors.

    .. math:: X_{i_1 \dots i_d} = \sum_{r=1}^R \lambda_r \prod_k A^{(k)}_{i_k r}

    Parameters
    ----------
    weights : array, shape (R,)
    factors : tuple of array, shapes (n_k, R)

    Raises
    ------
    ShapeError
        If the numbers of columns differ from the number of weights.
    """

    weights: Array
    factors: tuple[Array, ...]

    array_fields = ("weights", "factors")

    def __post_init__(self) -> None:
        weights = self._set_array("weights", self.weights)
        check_ndim(weights, 1, "weights", "(rank,)")
        for k, factor in enumerate(self._set_arrays("factors", self.factors)):
            check_ndim(factor, 2, f"factors[{k}]", f"(n_{k}, rank)")
            if factor.shape[1] != weights.shape[0]:
                raise ShapeError(
                    f"factors[{k}] has {factor.shape[1]} columns for {weights.shape[0]} weights: "
                    "give one column for each weight."
                )
        self._finish()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor: the rows of each factor."""
        return tuple(int(factor.shape[0]) for factor in self.factors)

    @property
    def rank(self) -> int:
        """Number of rank-one terms."""
        return int(self.weights.shape[0])

    def to_network(self) -> TensorNetwork:
        """Return the network in which all parts share the index ``"r"``; modes are ``"n0"``, ``"n1"`` ..."""
        modes = tuple(f"n{k}" for k in range(self.ndim))
        return TensorNetwork(self.arrays, (("r",), *((mode, "r") for mode in modes)), modes)

    def _contract(self) -> Array:
        xp = array_namespace(*self.arrays)
        first = self.factors[0] * self.weights
        if self.ndim == 1:
            return xp.sum(first, axis=1)
        # Halves of like length: the Khatri-Rao product of all modes but a short one would outgrow the tensor.
        lengths = [total_size(self.shape[:h]) + total_size(self.shape[h:]) for h in range(1, self.ndim)]
        h = 1 + lengths.index(min(lengths))
        left, right = khatri_rao((first, *self.factors[1:h])), khatri_rao(self.factors[h:])
        return xp.reshape(left @ xp.matrix_transpose(right), self.shape)
