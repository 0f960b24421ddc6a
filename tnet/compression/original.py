"""The layers that surgery took out: the original model stays at hand without a second copy of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tnet.compression.surgery import install

__all__ = ["OriginalLayers"]


class OriginalLayers:
    """Dense layers by name, before anything was replaced.

    Parameters
    ----------
    model : torch.nn.Module
        The model, still untouched.
    names : iterable of str
        The layers that may be replaced.
    """

    def __init__(self, model: nn.Module, names: Iterator[str] | tuple[str, ...]) -> None:
        self.modules = {name: model.get_submodule(name) for name in names}

    def bias(self, name: str) -> torch.Tensor | None:
        """Return the bias of a layer, detached, or None."""
        bias = self.modules[name].bias
        return bias.detach() if isinstance(bias, torch.Tensor) else None

    def put_back(self, model: nn.Module) -> None:
        """Reinstall every dense layer."""
        for name, module in self.modules.items():
            if model.get_submodule(name) is not module:
                install(model, name, module)

    @contextmanager
    def restored(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model is the original; afterwards it is what it was before."""
        present = {name: model.get_submodule(name) for name in self.modules}
        self.put_back(model)
        try:
            yield
        finally:
            for name, module in present.items():
                if model.get_submodule(name) is not module:
                    install(model, name, module)
