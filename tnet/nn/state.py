"""Saved states of modules whose parameters are factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tnet.errors import ShapeError

__all__ = ["FactorModule"]


class FactorModule(nn.Module):
    """A module that refuses a ``state_dict`` with factors of other shapes, by a :class:`~tnet.errors.ShapeError`."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {name: tuple(tensor.shape) for name, tensor in [*self.named_parameters(), *self.named_buffers()]}
        given = {name: tuple(state_dict[prefix + name].shape) for name in own if prefix + name in state_dict}
        other = {name: shape for name, shape in given.items() if shape != own[name]}
        if other:
            told = ", ".join(f"{prefix}{name} {shape}, not {own[name]}" for name, shape in other.items())
            raise ShapeError(
                f"{type(self).__name__} {prefix.rstrip('.') or '(the module itself)'}: the state_dict is of other "
                f"factors: {told}. Build the layer with the digits and ranks of the saved one."
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
