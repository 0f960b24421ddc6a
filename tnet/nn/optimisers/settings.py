"""Checks that optimisers share: numbers, parameters, gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tnet.errors import BackendError, InputError

__all__ = ["check_gradients", "check_number", "check_parameters"]


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """Return a finite number of ``[low, high)``, or of ``(low, high)``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and (value > low if open_low else value >= low) and value < high):
        bounds = f"above {low:g}" if open_low else f"of at least {low:g}"
        raise InputError(
            f"{name}={value!r}: give a number {bounds}" + (f", below {high:g}." if high < math.inf else ".")
        )
    return float(value)


def check_parameters(group: Mapping[str, Any]) -> None:
    """Raise unless all parameters of a group are real, of single or double precision."""
    for parameter in group["params"]:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise BackendError(
                f"a parameter of {parameter.dtype}: keep parameters in float32 or float64, and compute in half "
                "precision under torch.autocast."
            )


def check_gradients(groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise unless all gradients are dense and finite, before anything is changed."""
    found = [p.grad for group in groups for p in group["params"] if p.grad is not None and p.numel()]
    largest: dict[torch.device, list[torch.Tensor]] = {}
    for gradient in found:
        if gradient.layout is not torch.strided:
            raise BackendError(f"a gradient of layout {gradient.layout}: only dense ones can be stepped.")
        largest.setdefault(gradient.device, []).append(gradient.abs().amax().double())
    if not all(bool(torch.isfinite(torch.stack(values)).all()) for values in largest.values()):
        raise InputError("a gradient is not finite, no step was taken: lower lr, or look at loss and batch.")
