"""Where the kernel of a convolution is applied: stride, padding and dilation, each axis on its own."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from tnet.errors import InputError, ShapeError

__all__ = ["ConvGeometry", "PaddingMode", "Size", "pair"]

Size = int | tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = ("zeros", "reflect", "replicate", "circular")


class ConvGeometry(NamedTuple):
    """The window of a convolution over rows and columns.

    Parameters
    ----------
    kernel_size, stride, dilation : (int, int)
    before, after : (int, int)
        Padding before the first and after the last row and column.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}

    Notes
    -----
    All four ways of padding act on one axis after the other, and on each channel alone: a convolution over the rows,
    one over the columns, and products over the channels may pad where they are applied.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    padding_mode: PaddingMode

    @classmethod
    def of(
        cls, kernel_size: Size, stride: Size, padding: Size | str, dilation: Size, padding_mode: PaddingMode
    ) -> ConvGeometry:
        """Check the arguments of :class:`torch.nn.Conv2d` and resolve its padding."""
        kernel, stride = pair("kernel_size", kernel_size), pair("stride", stride)
        dilation = pair("dilation", dilation)
        if padding_mode not in _MODES:
            raise InputError(f"padding_mode={padding_mode!r}: give one of {', '.join(_MODES)}.")
        if padding == "same":
            if stride != (1, 1):
                raise InputError(f"padding='same' with stride={stride}: only a stride of 1 keeps the size.")
            total = (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
            before = (total[0] // 2, total[1] // 2)
            return cls(kernel, stride, dilation, before, (total[0] - before[0], total[1] - before[1]), padding_mode)
        if isinstance(padding, str) and padding != "valid":
            raise InputError(f"padding={padding!r}: give numbers, 'same' or 'valid'.")
        sides = (0, 0) if isinstance(padding, str) else pair("padding", padding, least=0)
        return cls(kernel, stride, dilation, sides, sides, padding_mode)

    def output_size(self, size: tuple[int, int], axes: tuple[bool, bool] = (True, True)) -> tuple[int, int]:
        """Return rows and columns after a convolution along the axes marked; at least 0."""
        out = list(size)
        for k in range(2):
            if axes[k]:
                padded = size[k] + self.before[k] + self.after[k]
                window = self.dilation[k] * (self.kernel_size[k] - 1) + 1
                out[k] = max(0, (padded - window) // self.stride[k] + 1)
        return out[0], out[1]

    def convolve(
        self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, groups: int, axes: tuple[bool, bool]
    ) -> torch.Tensor:
        """Pad and convolve along the axes marked; along the others the kernel has size 1 and meets every place."""
        window = _window(self, axes)
        if window.pads is not None:
            x = F.pad(x, window.pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        return F.conv2d(x, kernel, bias, window.stride, window.padding, window.dilation, groups)


class _Window(NamedTuple):
    """What the convolution of some axes is called with; ``pads`` is for a call of its own, where one must be."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    pads: tuple[int, int, int, int] | None


@torch.compiler.assume_constant_result
def _window(geometry: ConvGeometry, axes: tuple[bool, bool]) -> _Window:
    return _kept_window(geometry, axes)


@functools.lru_cache(maxsize=1 << 12)
def _kept_window(geometry: ConvGeometry, axes: tuple[bool, bool]) -> _Window:
    def along(sizes: tuple[int, int], otherwise: int) -> tuple[int, int]:
        return (sizes[0] if axes[0] else otherwise, sizes[1] if axes[1] else otherwise)

    before, after = along(geometry.before, 0), along(geometry.after, 0)
    stride, dilation = along(geometry.stride, 1), along(geometry.dilation, 1)
    if before == after and (geometry.padding_mode == "zeros" or not any(before)):
        return _Window(stride, before, dilation, None)
    return _Window(stride, (0, 0), dilation, (before[1], after[1], before[0], after[0]))


def pair(name: str, value: Size, least: int = 1) -> tuple[int, int]:
    """Return two integers of at least ``least``, from one or two."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in values):
        raise ShapeError(f"{name}={value!r}: give an integer of at least {least}, or two for rows and columns.")
    return values[0], values[1]
