"""Which layers of a model are compressed, and which of them read the same input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tnet.errors import InputError

__all__ = ["Target", "dense_weight", "find_targets", "group_by_input", "model_device"]

_BLOCK_LIST_NAMES = re.compile(r"(^|_)(layers?|h|blocks?)$")


@dataclass(frozen=True)
class Target:
    """One dense layer that may be replaced.

    Parameters
    ----------
    name : str
        Dotted module name, the first of the names under which the model registers the layer.
    block : int
        Position of the transformer block within its list, -1 outside the blocks.
    out_features, in_features : int
        Size ``(m, n)`` of the dense weight, whichever way the module stores it.
    has_bias : bool
        Whether the module adds a bias.
    conv1d : bool
        True for the ``Conv1D`` of transformers (GPT-2), which stores the weight as ``(n, m)``.
    aliases : tuple of str
        Further names of the same layer, when the model ties it.
    """

    name: str
    block: int
    out_features: int
    in_features: int
    has_bias: bool
    conv1d: bool
    aliases: tuple[str, ...] = ()

    @property
    def n_params(self) -> int:
        """Elements of the dense weight, without the bias."""
        return self.out_features * self.in_features


def dense_weight(module: nn.Module) -> torch.Tensor:
    """Return the dense weight ``(m, n)`` of a linear layer, detached, sharing the module's memory.

    Parameters
    ----------
    module : torch.nn.Linear or transformers.pytorch_utils.Conv1D
        The layer; ``y = W x + b`` with ``W`` of shape ``(m, n)`` = (out, in).

    Returns
    -------
    torch.Tensor
        ``(m, n)``; for a ``Conv1D`` a transposed view.

    Raises
    ------
    InputError
        If the module is of another kind.
    """
    if isinstance(module, Conv1D):
        return module.weight.detach().T
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    raise InputError(
        f"module of type {type(module).__name__}: only torch.nn.Linear and transformers' Conv1D hold a dense weight."
    )


def find_targets(model: nn.Module, pattern: str | None = None) -> tuple[Target, ...]:
    """List the dense layers to compress, in the order in which the model registers them.

    Parameters
    ----------
    model : torch.nn.Module
        Usually a transformers model.
    pattern : str or None
        None takes every ``nn.Linear`` / ``Conv1D`` inside the repeated transformer blocks, hence neither
        embeddings nor head nor pooler. A regular expression takes instead all linear layers, inside the
        blocks or not, with a name in which ``re.search`` finds it.

    Returns
    -------
    tuple of Target
        A layer registered under several names, or sharing weight and bias with another one, appears once with
        its aliases.

    Raises
    ------
    InputError
        If the model has no such layer, the pattern is no regular expression, or it matches nothing.

    Notes
    -----
    The blocks are the outermost ``ModuleList`` s called ``layers``, ``layer``, ``h``, ``block`` or ``blocks``
    that hold linear layers; where no list is called so, the longest list whose members are of one class. Left
    out are layers that share their weight with an embedding or with a layer of another bias, and subclasses
    of ``nn.Linear`` (quantised, parametrised, or read by their owner without a call).
    """
    layers = _replaceable_layers(model)
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no torch.nn.Linear or Conv1D layer that could be replaced; "
            "give the dense model, before any quantisation or compression."
        )
    block_of = _blocks(model, {name for names in layers.values() for name in names})
    if pattern is None:
        chosen = {module: names for module, names in layers.items() if names[0] in block_of}
        if not chosen:
            raise InputError(
                f"{type(model).__name__} has linear layers but no list of repeated blocks; "
                f"choose layers with targets=REGEX, for example targets={_first(layers.values())!r}."
            )
    else:
        chosen = _matching(layers, pattern)
    return tuple(_target(module, names, block_of) for module, names in chosen.items())


def group_by_input(
    model: nn.Module, targets: Iterable[Target], batch: Mapping[str, Any]
) -> tuple[tuple[str, ...], ...]:
    """Partition the targets by the tensor that they read: q, k, v together, gate and up together.

    Parameters
    ----------
    model : torch.nn.Module
        The model; run once in evaluation mode without gradients, then left as it was.
    targets : iterable of Target
        The layers to group.
    batch : mapping
        Keyword arguments of one forward call; a few tokens are enough.

    Returns
    -------
    tuple of tuple of str
        Every target's name once, groups in the order of their first member. Layers are together if in every
        call they read the same memory with the same layout and no write in between. A layer that the batch
        does not reach stands alone.

    Notes
    -----
    The inputs are kept alive until the end of the pass, for otherwise the allocator could give two inputs
    the same address: memory is the sum of the targets' distinct inputs.
    """
    targets = tuple(targets)
    reads: dict[str, list[tuple[object, ...]]] = {target.name: [] for target in targets}
    alive: list[torch.Tensor] = []

    def record(name: str) -> Any:
        def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            x = arguments[0]
            alive.append(x)
            reads[name].append((x.data_ptr(), tuple(x.shape), x.stride(), x._version))

        return hook

    device = model_device(model)
    inputs = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    training = [module for module in model.modules() if module.training]
    handles = [model.get_submodule(name).register_forward_pre_hook(record(name)) for name in reads]
    try:
        model.eval()
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    groups: dict[object, list[str]] = {}
    for name, calls in reads.items():
        groups.setdefault(tuple(calls) or name, []).append(name)
    return tuple(tuple(names) for names in groups.values())


def model_device(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter (the CPU for a model without any)."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _is_linear(module: nn.Module) -> bool:
    # Exact types: a subclass may store or use its weight in a way that a replacement would break.
    return type(module) is nn.Linear or type(module) is Conv1D


def _replaceable_layers(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Map each distinct linear layer to all its names, without those tied to something else."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    first_with_weight: dict[int, nn.Module] = {}
    layers: dict[nn.Module, list[str]] = {}
    other_bias: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if not _is_linear(module) or id(module.weight) in embeddings:
            continue
        first = first_with_weight.setdefault(id(module.weight), module)
        same = module.bias is first.bias and type(module) is type(first)
        if same:
            layers.setdefault(first, []).append(name)
        else:
            other_bias.add(first)
    return {module: names for module, names in layers.items() if module not in other_bias}


def _blocks(model: nn.Module, linear_names: set[str]) -> dict[str, int]:
    """Map the name of every linear layer inside a repeated block to the block's position."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(name.startswith(outer + ".") for outer in lists)
        if isinstance(module, nn.ModuleList) and not inside and _holds_blocks(name, module, linear_names):
            lists[name] = module
    called_so = {name: blocks for name, blocks in lists.items() if _BLOCK_LIST_NAMES.search(_leaf(name))}
    uniform = {name: blocks for name, blocks in lists.items() if len({type(b) for b in blocks}) == 1}
    if called_so:
        chosen = called_so
    else:
        longest = max((len(blocks) for blocks in uniform.values()), default=0)
        chosen = {name: blocks for name, blocks in uniform.items() if len(blocks) == longest}
    return {name: int(position) for name, position in _positions(chosen, linear_names)}


def _holds_blocks(name: str, blocks: nn.ModuleList, linear_names: set[str]) -> bool:
    # A list of bare linear layers (experts, heads) is no list of blocks: its members' own names are linear.
    return any(linear.startswith(f"{name}.{position}.") for position in range(len(blocks)) for linear in linear_names)


def _positions(lists: Iterable[str], linear_names: set[str]) -> Iterator[tuple[str, str]]:
    for outer in lists:
        for name in linear_names:
            if name.startswith(outer + "."):
                yield name, name[len(outer) + 1 :].split(".", 1)[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _matching(layers: dict[nn.Module, list[str]], pattern: str) -> dict[nn.Module, list[str]]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"targets={pattern!r} is not a regular expression: {error}.") from error
    chosen = {module: names for module, names in layers.items() if any(expression.search(name) for name in names)}
    if not chosen:
        some = ", ".join(names[0] for names in list(layers.values())[:8])
        raise InputError(f"targets={pattern!r} matches no linear layer; there are {len(layers)}, such as {some}.")
    return chosen


def _first(names: Iterable[list[str]]) -> str:
    return next(iter(names))[0]


def _target(module: nn.Module, names: list[str], block_of: dict[str, int]) -> Target:
    out_features, in_features = dense_weight(module).shape
    return Target(
        name=names[0],
        block=block_of.get(names[0], -1),
        out_features=out_features,
        in_features=in_features,
        has_bias=cast("torch.Tensor | None", module.bias) is not None,
        conv1d=isinstance(module, Conv1D),
        aliases=tuple(names[1:]),
    )
