"""The original model at hand while another is built in its place, without a second copy of what stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tnet.compression.surgery import install

__all__ = ["OriginalModel"]


class OriginalModel:
    """Layers and values of a model before anything was replaced or rounded.

    Parameters
    ----------
    model : torch.nn.Module
        The model, still untouched.
    names : tuple of str
        The layers that may be replaced.

    Notes
    -----
    Holds references: a value costs memory only once the model has another one in its place.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        self.modules = {name: model.get_submodule(name) for name in names}
        self._tensors = tuple(model.state_dict(keep_vars=True).values())
        self._values = tuple(tensor.data for tensor in self._tensors)

    def bias(self, name: str) -> torch.Tensor | None:
        """Return the bias of a layer, detached, or None."""
        bias = self.modules[name].bias
        return bias.detach() if isinstance(bias, torch.Tensor) else None

    def put_back(self, model: nn.Module) -> None:
        """Reinstall every dense layer, with the values that all weights had."""
        self._exchange(model, self.modules, self._values)

    @contextmanager
    def restored(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model is the original; afterwards it is what it was before."""
        modules = {name: model.get_submodule(name) for name in self.modules}
        values = tuple(tensor.data for tensor in self._tensors)
        self.put_back(model)
        try:
            yield
        finally:
            self._exchange(model, modules, values)

    def _exchange(self, model: nn.Module, modules: dict[str, nn.Module], values: tuple[torch.Tensor, ...]) -> None:
        for name, module in modules.items():
            if model.get_submodule(name) is not module:
                install(model, name, module)
        for tensor, value in zip(self._tensors, values, strict=True):
            if tensor.data is not value:
                tensor.data = value
