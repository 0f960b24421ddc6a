"""Linear layers that read one input through one shared right factor (query, key, value; gate, up)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.factorised_linear import FactorisedLinear, check_product, check_rank, parameter_of
from tnet.nn.interpolation import interpolate
from tnet.nn.interpolative_linear import InterpolativeLinear

__all__ = ["FollowerLinear", "SharedInputLinear", "shared_input_layers"]


class SharedInputLinear(InterpolativeLinear):
    """Owner of a right factor that :class:`FollowerLinear` layers read too.

    It is an :class:`InterpolativeLinear`; the class of its own tells saved models and readers that others
    depend on it. Together the layers are the joint factorisation ``[W_1; W_2; ...] = [left_1; left_2; ...] @
    right`` of the stacked weights.
    """


class FollowerLinear(FactorisedLinear):
    r"""Linear layer with its own left factor and the right factor of an owner.

    ``y = left (x_P + coupling x_R) + b`` with ``P``, ``R`` and ``coupling`` of the owner.

    Parameters
    ----------
    owner : SharedInputLinear
        Holder of the right factor ``(r, n)``. The reference is not registered: the factor appears once in
        ``parameters()`` and ``state_dict()``, and a deep copy of the model links to the copy of the owner.
    out_features : int
        ``m``.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    left : torch.nn.Parameter
        ``(m, r)``.

    Raises
    ------
    ShapeError, InputError
        If the size is no positive integer or the owner is no :class:`SharedInputLinear`.

    Notes
    -----
    Stores ``m r`` elements (and ``m`` for the bias). The projection is computed anew, not taken from the
    owner's call, so that the layer keeps no state between calls: ``r (m + n - r)`` multiply-adds a token.
    """

    def __init__(
        self,
        owner: SharedInputLinear,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(owner, SharedInputLinear):
            raise InputError(f"owner of type {type(owner).__name__}: give a SharedInputLinear.")
        super().__init__(owner.in_features, out_features)
        # In a tuple, nn.Module does not see a submodule; deepcopy still follows the reference through its
        # memo.
        self._owner = (owner,)
        self.left = nn.Parameter(torch.empty(out_features, owner.rank, device=device, dtype=dtype))
        self._new_bias(bias, device, dtype)
        self.reset_parameters()

    @property
    def owner(self) -> SharedInputLinear:
        """The layer that holds the right factor."""
        return self._owner[0]

    @property
    def rank(self) -> int:
        """Rank of the shared factor."""
        return self.owner.rank

    def reset_parameters(self) -> None:
        """Draw a new left factor with the variance that the owner's would have."""
        variance_gain = 2 if self.rank < self.in_features else 1
        nn.init.normal_(self.left, std=(3 * self.rank * variance_gain) ** -0.5)
        self._reset_bias()

    @classmethod
    def from_owner(
        cls, owner: SharedInputLinear, left: torch.Tensor, bias: torch.Tensor | None = None
    ) -> FollowerLinear:
        """Build the layer from ``left (m, r)`` in the owner's gauge: the pivot columns of its weight."""
        check_product(left, torch.empty(owner.rank, 0, dtype=left.dtype, device=left.device), bias)
        layer = cls(owner, left.shape[0], bias is not None, device="meta", dtype=left.dtype)
        layer.left = parameter_of(left, left)
        if bias is not None:
            layer.bias = parameter_of(bias, left)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        return F.linear(self.owner.project(x), self.left, self.bias)

    def dense_weight(self) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``."""
        return self.left @ self.owner.right()

    @property
    def macs(self) -> int:
        """Multiply-adds for one token, the projection included: ``r (m + n - r)``."""
        return self.rank * (self.out_features + self.in_features - self.rank)

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """``left`` maps r to m; the right factor is the owner's."""
        return {"left": (self.rank, self.out_features)}

    def _described(self) -> dict[str, object]:
        return {"rank": self.rank, "right": "of an owner"}


def shared_input_layers(
    lefts: Sequence[torch.Tensor],
    right: torch.Tensor,
    biases: Sequence[torch.Tensor | None] | None = None,
) -> tuple[SharedInputLinear | FollowerLinear, ...]:
    """Build the layers ``W'_i = left_i @ right`` with the right factor stored once, in the first of them.

    Parameters
    ----------
    lefts : sequence of torch.Tensor
        At least one ``(m_i, r)``, of one dtype and device.
    right : torch.Tensor
        ``(r, n)``, of the same dtype and device, ``r <= n``.
    biases : sequence of (torch.Tensor or None), or None
        One ``(m_i,)`` or None for each left factor; None for no biases.

    Returns
    -------
    tuple
        A :class:`SharedInputLinear`, then :class:`FollowerLinear` s, in the order of ``lefts``.

    Raises
    ------
    ShapeError, RankError, BackendError, InputError
        If shapes, rank, dtypes or devices do not fit, or a value is not finite.

    Notes
    -----
    ``r (sum m_i + n - r)`` elements and ``n`` integers together.
    """
    lefts = tuple(lefts)
    biases = (None,) * len(lefts) if biases is None else tuple(biases)
    if not lefts or len(lefts) != len(biases):
        raise ShapeError(
            f"{len(lefts)} left factors and {len(biases)} biases: give at least one left factor, "
            "and one bias or None for each."
        )
    for left, bias in zip(lefts, biases, strict=True):
        _, in_features, rank = check_product(left, right, bias)
    check_rank(rank, in_features, f"the input size of right {tuple(right.shape)}")
    interpolation = interpolate(right)
    owner = SharedInputLinear.from_interpolation(lefts[0], interpolation, biases[0])
    followers = (
        FollowerLinear.from_owner(
            owner,
            (left.detach().double().cpu() @ interpolation.mixing).to(device=left.device, dtype=left.dtype),
            bias,
        )
        for left, bias in zip(lefts[1:], biases[1:], strict=True)
    )
    return (owner, *followers)
