"""Linear layers whose weight is a network of cores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from tnet.errors import ShapeError
from tnet.nn.factorised_linear import FactorisedLinear
from tnet.nn.matricisation import FactorAxes, acting_axes
from tnet.nn.network_map import NetworkMap

__all__ = ["NetworkLinear"]


class NetworkLinear(FactorisedLinear):
    """A factorised layer that multiplies its cores and the input in the fastest order.

    Notes
    -----
    The order is that of least predicted seconds for the number of tokens at hand, by how fast this device multiplies
    and copies (measured at its first use in about a second, and kept on disk): core after core for few tokens, some
    of the cores first, or the whole weight first and then one product. On the meta device nothing is computed.
    """

    _network: NetworkMap

    @abstractmethod
    def _cores(self) -> list[torch.Tensor]:
        """Return the tensors of the network, in the order of its indices."""

    def _set_network(
        self, indices: Sequence[tuple[str, ...]], rows: tuple[str, ...], columns: tuple[str, ...]
    ) -> None:
        self._network = NetworkMap.of(indices, rows, columns, self._cores())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        if x.shape[-1] != self.in_features:
            raise ShapeError(f"input of shape {tuple(x.shape)}: the last axis must be {self.in_features}.")
        y = self._network.apply(self._cores(), x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dense_weight(self) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``."""
        return self._network.weight(self._cores())

    def factor_axes(self) -> dict[str, FactorAxes]:
        """Return for each factor, by parameter name, which of its axes are outputs and which are inputs."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        cores = zip(self._cores(), self._network.indices, strict=True)
        indices = {names[id(core)]: axes for core, axes in cores}
        acting = {name: indices[name] for name in self.factor_dims()}
        return acting_axes(acting, self._network.rows, self._network.columns)

    @property
    def macs(self) -> int:
        """Multiply-adds for one token of a long input, in the order that needs fewest; at most ``m n``."""
        return self._network.macs()
