"""What every factorised convolution answers, and how it chooses between its factors and its kernel."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.conv_geometry import ConvGeometry, PaddingMode, Size
from tnet.nn.factorised_linear import check_factors, check_size
from tnet.nn.network_map import NetworkMap, computed_dtype
from tnet.nn.state import FactorModule
from tnet.nn.torch_rates import torch_rates

__all__ = ["ConvArguments", "FactorisedConv2d", "Path", "Stage", "dense_kernel", "pointwise"]

_CALL = 4  # small matrix products in the time of a call that convolves next to nothing
_CHANNELWISE_CALL = {"cpu": 50}  # the same of a call within channels, where that is more
_MERGE = 10  # and of what Python takes to merge factors
_DEPTHWISE = (5.0, 0.125)  # elementwise passes over the output within channels, and more for each entry of the kernel
_BACKWARD = (15.0, 1.0)  # the same of the backward pass; that of other convolutions takes twice the forward pass


class ConvArguments(NamedTuple):
    """What a convolution has beside its kernel, as :class:`torch.nn.Conv2d` takes it."""

    stride: Size
    padding: Size | str
    dilation: Size
    padding_mode: PaddingMode


class Stage(NamedTuple):
    """One convolution of a chain.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel_size : (int, int)
    axes : (bool, bool)
        Whether stride, padding and dilation of rows and of columns belong to it.
    depthwise : bool
        Each channel by itself.
    """

    inputs: int
    outputs: int
    kernel_size: tuple[int, int] = (1, 1)
    axes: tuple[bool, bool] = (False, False)
    depthwise: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds for one place of its output."""
        return math.prod(self.kernel_size) * self.outputs * (1 if self.depthwise else self.inputs)


class Path(NamedTuple):
    """One way to convolve: stages in turn, and the networks whose contraction makes their kernels."""

    stages: tuple[Stage, ...]
    kernels: tuple[NetworkMap, ...] = ()

    def macs(self, geometry: ConvGeometry, size: tuple[int, int]) -> int:
        """Return the multiply-adds for one image, kernels not counted."""
        total = 0
        for stage in self.stages:
            size = geometry.output_size(size, stage.axes)
            total += math.prod(size) * stage.macs
        return total

    def seconds(
        self,
        geometry: ConvGeometry,
        images: int,
        size: tuple[int, int],
        device: str,
        dtype: torch.dtype,
        backward: bool,
    ) -> float:
        """Return the predicted seconds of a forward pass, kernels counted, and of the backward pass if asked for.

        A convolution takes the time of the matrix product of kernel and patches; on CPUs that was within a factor of
        1.5 of what was measured. One within channels moves memory: five elementwise passes, and an eighth of one for
        each entry of its kernel; more in the backward pass, so that rows and columns of large kernels are then taken
        one after the other.
        """
        rated = "cpu" if device == "meta" else device
        rates = torch_rates(rated, dtype)
        factor = 3 if backward else 1
        total = sum(network.weight_order(device, dtype).seconds + _MERGE * rates.step for network in self.kernels)
        total *= factor
        for stage in self.stages:
            size = geometry.output_size(size, stage.axes)
            places, taps = images * math.prod(size), math.prod(stage.kernel_size)
            call = _CHANNELWISE_CALL.get(rated, _CALL) if stage.depthwise else _CALL
            total += factor * call * rates.step
            if stage.depthwise:
                passes = _DEPTHWISE[0] + _DEPTHWISE[1] * taps
                if backward:
                    passes += _BACKWARD[0] + _BACKWARD[1] * taps
                total += passes * rates.times_seconds(max(1, size[1]), places * stage.outputs)
            else:
                total += factor * rates.mac_seconds(stage.outputs, stage.inputs * taps, max(1, places))
        return total


class FactorisedConv2d(FactorModule, ABC):
    """A two-dimensional convolution whose kernel of shape ``(O, I, k_h, k_w)`` is stored in factors.

    Attributes
    ----------
    in_channels, out_channels : int
        ``I`` and ``O``.
    kernel_size, stride, dilation : (int, int)
    padding : int, (int, int) or str
        As it was given.
    padding_mode : str
    bias : torch.nn.Parameter or None
        ``(O,)``.

    Notes
    -----
    A forward pass takes the way of least predicted seconds for its number of images and their size, with the backward
    pass where gradients are recorded: a chain of small convolutions, some factors merged first, or the whole kernel
    formed and applied. The predictions count
    convolutions as matrix products, at rates that are measured on the device at its first use and kept on disk.
    """

    bias: nn.Parameter | None

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, arguments: ConvArguments) -> None:
        super().__init__()
        self.in_channels = check_size("in_channels", in_channels)
        self.out_channels = check_size("out_channels", out_channels)
        self._geometry = ConvGeometry.of(kernel_size, *arguments)
        self.padding = arguments.padding
        self._paths: tuple[Path, ...] = ()

    @property
    def kernel_size(self) -> tuple[int, int]:
        """``(k_h, k_w)``."""
        return self._geometry.kernel_size

    @property
    def stride(self) -> tuple[int, int]:
        """Over rows and columns."""
        return self._geometry.stride

    @property
    def dilation(self) -> tuple[int, int]:
        """Over rows and columns."""
        return self._geometry.dilation

    @property
    def padding_mode(self) -> PaddingMode:
        """How the border is padded."""
        return self._geometry.padding_mode

    @abstractmethod
    def _kernels(self, path: int) -> list[torch.Tensor]:
        """Return the kernels of the stages of a path."""

    @abstractmethod
    def dense_weight(self) -> torch.Tensor:
        """Return the kernel ``(O, I, k_h, k_w)``, differentiable in the factors."""

    @abstractmethod
    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Return for each factor, by parameter name, the sizes ``(d_in, d_out)`` of the matrix that it acts as.

        The product of all ``d_in`` is ``I k_h k_w`` times the number of terms summed for one entry of the kernel.
        """

    @abstractmethod
    def _described(self) -> dict[str, object]:
        """Return what beside its sizes tells the layer from others of its class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(N, I, H, W)`` to ``(N, O, H', W')``, or one image without N."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ShapeError(
                f"input of shape {tuple(x.shape)}: give (N, {self.in_channels}, H, W) or ({self.in_channels}, H, W)."
            )
        batch = x if x.ndim == 4 else x.unsqueeze(0)
        n, _, height, width = batch.shape
        k = _fastest(
            self._paths,
            self._geometry,
            int(n),
            (int(height), int(width)),
            str(x.device),
            computed_dtype(x),
            torch.is_grad_enabled(),
        )
        y = self.along(k, batch)
        return y if x.ndim == 4 else y.squeeze(0)

    def along(self, path: int, x: torch.Tensor) -> torch.Tensor:
        """Map ``(N, I, H, W)`` by one of the ``n_paths`` ways, whatever its cost; all agree up to rounding."""
        stages = self._paths[path].stages
        for k, (stage, kernel) in enumerate(zip(stages, self._kernels(path), strict=True)):
            bias = self.bias if k == len(stages) - 1 else None
            if bias is not None and bias.dtype != kernel.dtype:
                bias = bias.to(kernel.dtype)
            x = self._geometry.convolve(x, kernel, bias, stage.outputs if stage.depthwise else 1, stage.axes)
        return x

    @property
    def n_paths(self) -> int:
        """In how many ways the layer can be applied."""
        return len(self._paths)

    def macs(self, height: int, width: int) -> int:
        """Return the multiply-adds for one of many images of this size, the least of all ways."""
        size = check_size("height", height), check_size("width", width)
        return min(path.macs(self._geometry, size) for path in self._paths)

    @property
    def n_params(self) -> int:
        """Elements stored by this layer: factors and bias."""
        return sum(parameter.numel() for parameter in self.parameters())

    def reset_parameters(self) -> None:
        """Draw new values: entries of the kernel have the variance ``1 / (3 I k_h k_w)`` of a new ``nn.Conv2d``."""
        dims = self.factor_dims()
        share = 3 ** (-1 / len(dims))
        for name, (d_in, _) in dims.items():
            nn.init.normal_(self.get_parameter(name), std=(share / d_in) ** 0.5)
        if self.bias is not None:
            bound = (self.in_channels * math.prod(self.kernel_size)) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def to_dense(self) -> nn.Conv2d:
        """Return an ``nn.Conv2d`` with the same map, dtype and device; nothing is shared with this layer."""
        with torch.no_grad():
            kernel = self.dense_weight()
            dense = nn.Conv2d(
                self.in_channels,
                self.out_channels,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                bias=self.bias is not None,
                padding_mode=self.padding_mode,
                device="meta",
                dtype=kernel.dtype,
            )
            dense.weight = nn.Parameter(kernel.clone(memory_format=torch.contiguous_format))
            if self.bias is not None:
                dense.bias = nn.Parameter(self.bias.detach().clone())
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, parameters, and multiply-adds for a place of the output, as ``print`` shows them."""
        own = "".join(f"{name}={value}, " for name, value in self._described().items())
        # An image so large that its border does not count, and its sides are multiples of the stride.
        side = [2**20 * s for s in self.stride]
        places = math.prod(self._geometry.output_size((side[0], side[1])))
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, padding_mode={self.padding_mode!r}, {own}"
            f"bias={self.bias is not None}, n_params={self.n_params}, "
            f"macs_per_output={round(self.macs(side[0], side[1]) / places)}"
        )

    def _new_bias(self, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        parameter = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", parameter)


@torch.compiler.assume_constant_result
def _fastest(
    paths: tuple[Path, ...],
    geometry: ConvGeometry,
    images: int,
    size: tuple[int, int],
    device: str,
    dtype: torch.dtype,
    backward: bool,
) -> int:
    return _kept_fastest(paths, geometry, images, size, device, dtype, backward)


@functools.lru_cache(maxsize=1 << 12)
def _kept_fastest(
    paths: tuple[Path, ...],
    geometry: ConvGeometry,
    images: int,
    size: tuple[int, int],
    device: str,
    dtype: torch.dtype,
    backward: bool,
) -> int:
    return min(range(len(paths)), key=lambda k: paths[k].seconds(geometry, images, size, device, dtype, backward))


def pointwise(matrix: torch.Tensor) -> torch.Tensor:
    """Return the kernel of a product over the channels."""
    return matrix.reshape(*matrix.shape, 1, 1)


def dense_kernel(conv: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None, ConvArguments]:
    """Return kernel and bias of an ``nn.Conv2d``, detached, and its other arguments; refuse groups, other layers."""
    if not isinstance(conv, nn.Conv2d):
        raise InputError(f"{type(conv).__name__} is no dense convolution: give a torch.nn.Conv2d.")
    if conv.groups != 1:
        raise InputError(f"groups={conv.groups}: only convolutions of one group are factorised.")
    check_factors(weight=conv.weight, bias=conv.bias)
    stride, dilation = ((n[0], n[1]) for n in (conv.stride, conv.dilation))
    padding = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1])
    mode: Any = conv.padding_mode
    bias = None if conv.bias is None else conv.bias.detach()
    return conv.weight.detach(), bias, ConvArguments(stride, padding, dilation, mode)
