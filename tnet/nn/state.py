"""Saved states of modules whose parameters are factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tnet.errors import ShapeError

__all__ = ["refuse_other_factors"]


def refuse_other_factors(module: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Raise if a state_dict holds factors of other shapes than those of a module.

    Parameters
    ----------
    module : torch.nn.Module
    state_dict : mapping of str to tensor
    prefix : str
        Of the module's keys, with a dot at its end.

    Raises
    ------
    ShapeError
        Naming the module, and each factor with both shapes.
    """
    own = {name: tuple(tensor.shape) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    given = {name: tuple(state_dict[prefix + name].shape) for name in own if prefix + name in state_dict}
    other = {name: shape for name, shape in given.items() if shape != own[name]}
    if other:
        told = ", ".join(f"{prefix}{name} {shape}, not {own[name]}" for name, shape in other.items())
        raise ShapeError(
            f"{type(module).__name__} {prefix.rstrip('.') or '(the module itself)'}: the state_dict is of other "
            f"factors: {told}. Build the layer with the digits and ranks of the saved one."
        )
