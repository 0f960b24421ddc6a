"""The linear map of a network of cores: an input with digits goes through in the order that is fastest."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from tnet.contraction.rates import COUNTING, Rates
from tnet.nn.contraction_order import TOKENS, Operand, Order, best_order
from tnet.nn.products import matrix_product
from tnet.nn.torch_rates import torch_rates

__all__ = ["NetworkMap", "Program", "program_of"]

Axes = tuple[str, ...]
Sizes = tuple[tuple[str, int], ...]

_MANY = 1 << 30  # tokens beside which products of cores alone cost nothing


class NetworkMap(NamedTuple):
    """A linear map ``(..., n) -> (..., m)`` by a network of cores: what is known of it without their entries.

    Parameters
    ----------
    indices : tuple of tuple of str
        Axes of each core. A name in several tensors is summed over, unless it is in ``rows``.
    rows, columns : tuple of str
        Axes of the output and of the input; the first varies slowest.
    sizes : tuple of (str, int)
        Of all axes.

    Notes
    -----
    The order of products is that of least predicted seconds for the next power of two of tokens, with the backward
    pass where gradients are recorded, at rates that are measured on the device at its first use.
    """

    indices: tuple[Axes, ...]
    rows: Axes
    columns: Axes
    sizes: Sizes

    @classmethod
    def of(cls, indices: Sequence[Axes], rows: Axes, columns: Axes, cores: Sequence[torch.Tensor]) -> NetworkMap:
        """Take the sizes from the cores."""
        sizes = {
            name: int(size)
            for axes, core in zip(indices, cores, strict=True)
            for name, size in zip(axes, core.shape, strict=True)
        }
        return cls(tuple(indices), rows, columns, tuple(sorted(sizes.items())))

    def apply(self, cores: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return ``W' x`` for x of shape ``(..., n)``."""
        tokens = math.prod(x.shape[:-1])
        backward = torch.is_grad_enabled() and any(core.requires_grad for core in cores)
        program = _map_program(self, int(tokens), str(x.device), computed_dtype(x), backward)
        y = program.run([*cores, x])
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], y.shape[-1])

    def weight(self, cores: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return ``W'`` of shape ``(m, n)``."""
        return _weight_program(self, str(cores[0].device), computed_dtype(cores[0])).run(cores)

    def order(self, tokens: int, device: str, dtype: torch.dtype, backward: bool = False) -> Order:
        """Return the order of products for so many tokens, with the backward pass or without."""
        bucket = 1 << max(tokens - 1, 0).bit_length()
        return _map_order(self, bucket, device, dtype, backward)

    def weight_order(self, device: str, dtype: torch.dtype) -> Order:
        """Return the order of products that forms ``W'``."""
        return _weight_order(self, device, dtype)

    def macs(self) -> int:
        """Return the least multiply-adds for each of many tokens, products of cores alone not counted."""
        return _least_macs(self)


class View(NamedTuple):
    """A tensor as a product reads it: reshaped, its axes permuted, reshaped again; None where nothing is to do."""

    source: int
    axes: tuple[int, ...] | None
    permutation: tuple[int, ...] | None
    shape: tuple[int, ...] | None

    def of(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        tensor = tensors[self.source]
        if self.axes is not None:
            tensor = tensor.reshape(self.axes)
        if self.permutation is not None:
            tensor = tensor.permute(self.permutation)
        return tensor if self.shape is None else tensor.reshape(self.shape)


class Program(NamedTuple):
    """An order with all shapes filled in."""

    steps: tuple[tuple[View, View], ...]
    output: View

    def run(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Multiply the tensors."""
        values = list(tensors)
        for left, right in self.steps:
            values.append(matrix_product(left.of(values), right.of(values)))
        return self.output.of(values)


def program_of(order: Order, network: NetworkMap, tokens: int) -> Program:
    """Fill in the shapes of an order of the cores and the input."""
    return _filled(order, (TOKENS,), network.rows, {**dict(network.sizes), TOKENS: tokens})


@torch.compiler.assume_constant_result
def computed_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the dtype in which products are computed: that of autocast where it is on."""
    kind = tensor.device.type
    if tensor.dtype != torch.float64 and kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype


@torch.compiler.assume_constant_result
def _map_program(network: NetworkMap, tokens: int, device: str, dtype: torch.dtype, backward: bool) -> Program:
    return _kept_map_program(network, tokens, device, dtype, backward)


@torch.compiler.assume_constant_result
def _weight_program(network: NetworkMap, device: str, dtype: torch.dtype) -> Program:
    return _kept_weight_program(network, device, dtype)


@functools.lru_cache(maxsize=1 << 12)
def _kept_map_program(network: NetworkMap, tokens: int, device: str, dtype: torch.dtype, backward: bool) -> Program:
    return program_of(network.order(tokens, device, dtype, backward), network, tokens)


@functools.lru_cache(maxsize=1 << 10)
def _kept_weight_program(network: NetworkMap, device: str, dtype: torch.dtype) -> Program:
    order = network.weight_order(device, dtype)
    return _filled(order, network.rows, network.columns, dict(network.sizes))


@functools.lru_cache(maxsize=1 << 10)
def _weight_order(network: NetworkMap, device: str, dtype: torch.dtype) -> Order:
    output, sizes = network.rows + network.columns, dict(network.sizes)
    return best_order(network.indices, output, sizes, _rates(device, dtype), dtype.itemsize)


@functools.lru_cache(maxsize=1 << 12)
def _map_order(network: NetworkMap, tokens: int, device: str, dtype: torch.dtype, backward: bool) -> Order:
    return best_order(
        (*network.indices, (TOKENS, *network.columns)),
        (TOKENS, *network.rows),
        {**dict(network.sizes), TOKENS: tokens},
        _rates(device, dtype),
        dtype.itemsize,
        backward=backward,
    )


@functools.lru_cache(maxsize=1 << 12)
def _least_macs(network: NetworkMap) -> int:
    indices, output = (*network.indices, (TOKENS, *network.columns)), (TOKENS, *network.rows)
    order = best_order(indices, output, {**dict(network.sizes), TOKENS: _MANY}, COUNTING, 1)
    return order.macs // _MANY


def _rates(device: str, dtype: torch.dtype) -> Rates:
    # Other devices have no rates of their own: any order is right, and those of the host are a guess.
    return torch_rates(device if device.startswith("cuda") else "cpu", dtype)


def _filled(order: Order, first: Axes, last: Axes, sizes: Mapping[str, int]) -> Program:
    stored: dict[int, tuple[int, ...]] = {}  # shapes of intermediates; those of other tensors are taken as they come

    def view(operand: Operand, groups: Sequence[Axes]) -> View:
        shape = tuple(math.prod(sizes[name] for name in group) for group in groups)
        wanted = [name for group in groups for name in group]
        have = stored.get(operand.source)
        if wanted == list(operand.axes):
            return View(operand.source, None, None, None if shape == have else shape)
        axes = tuple(sizes[name] for name in operand.axes)
        places = tuple(operand.axes.index(name) for name in wanted)
        permuted = tuple(axes[k] for k in places)
        return View(operand.source, None if axes == have else axes, places, None if shape == permuted else shape)

    steps = []
    n_leaves = len(order.steps) + 1
    for k, step in enumerate(order.steps):
        left, right = view(step.left, step.left.groups), view(step.right, step.right.groups)
        steps.append((left, right))
        groups = (*step.left.groups[:-1], *step.right.groups[1:])
        if len(step.left.groups) < len(step.right.groups):  # one matrix times each of a stack
            groups = (step.right.groups[0], step.left.groups[0], step.right.groups[2])
        elif len(step.left.groups) == 3:
            groups = (*step.left.groups[:2], step.right.groups[2])
        stored[n_leaves + k] = tuple(math.prod(sizes[name] for name in group) for group in groups)
    return Program(tuple(steps), view(order.output, (first, last)))
