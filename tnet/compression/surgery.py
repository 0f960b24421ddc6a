"""Exchange of layers within a model: dense for factorised and back, described by plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tnet.compression.targets import dense_weight
from tnet.errors import FormatError, InputError, ShapeError
from tnet.nn import (
    FactorisedLinear,
    FollowerLinear,
    InterpolativeLinear,
    LowRankLinear,
    MPOLinear,
    SharedInputLinear,
)

__all__ = [
    "LayerSpec",
    "build",
    "check_specs",
    "describe",
    "factorised_layers",
    "install",
    "replace",
    "restore_dense",
]

Kind = Literal["low_rank", "interpolative", "shared_owner", "shared_follower", "mpo"]


class LayerSpec(TypedDict):
    """What one factorised layer looks like, without its values; JSON holds it as it is.

    ``rank`` belongs to every kind but ``"mpo"``, which has ``row_shape``, ``column_shape`` and ``ranks``;
    ``owner`` is the module name that a ``"shared_follower"`` reads its right factor from; ``conv1d`` marks a
    layer whose dense original is a transformers ``Conv1D``.
    """

    kind: Kind
    in_features: int
    out_features: int
    bias: bool
    rank: NotRequired[int]
    owner: NotRequired[str]
    row_shape: NotRequired[list[int]]
    column_shape: NotRequired[list[int]]
    ranks: NotRequired[list[int]]
    conv1d: NotRequired[bool]


_COMMON = {"kind": str, "in_features": int, "out_features": int, "bias": bool}
_OWN: dict[str, dict[str, type]] = {
    "low_rank": {"rank": int},
    "interpolative": {"rank": int},
    "shared_owner": {"rank": int},
    "shared_follower": {"rank": int, "owner": str},
    "mpo": {"row_shape": list, "column_shape": list, "ranks": list},
}


def check_specs(specs: object) -> dict[str, LayerSpec]:
    """Return ``specs`` as a plan if it is one: for input that was read from a file.

    Parameters
    ----------
    specs : object
        Should map module names to :class:`LayerSpec` dictionaries.

    Returns
    -------
    dict of str to LayerSpec
        The same object.

    Raises
    ------
    FormatError
        If a name, a key, a type or a reference is wrong; the message names the layer.
    """
    if not isinstance(specs, Mapping):
        raise FormatError(f"layers of type {type(specs).__name__}: a mapping of module names is needed.")
    for name, spec in specs.items():
        _check_spec(name, spec)
    for name, spec in specs.items():
        if spec["kind"] == "shared_follower":
            owner = specs.get(spec["owner"])
            if owner is None or owner["kind"] != "shared_owner":
                raise FormatError(f"layer {name!r}: owner {spec['owner']!r} is no shared_owner among the layers.")
            if (owner["in_features"], owner["rank"]) != (spec["in_features"], spec["rank"]):
                raise FormatError(f"layer {name!r}: in_features or rank differ from those of {spec['owner']!r}.")
    return cast("dict[str, LayerSpec]", specs)


def _check_spec(name: object, spec: object) -> None:
    if not isinstance(name, str) or not name or not isinstance(spec, Mapping):
        raise FormatError(f"layer {name!r}: a non-empty name and a mapping are needed.")
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in _OWN:
        raise FormatError(f"layer {name!r}: kind {kind!r} is unknown; known are {', '.join(_OWN)}.")
    types = _COMMON | _OWN[kind]
    if missing := sorted(types.keys() - spec.keys()):
        raise FormatError(f"layer {name!r} of kind {kind}: {', '.join(missing)} missing.")
    if unknown := sorted(str(key) for key in spec.keys() - types.keys() - {"conv1d"}):
        raise FormatError(f"layer {name!r} of kind {kind}: unknown {', '.join(unknown)}.")
    for key, expected in (types | {"conv1d": bool}).items():
        value: Any = spec.get(key, False)
        right = type(value) is expected and (expected is not list or all(type(item) is int for item in value))
        if not right:
            raise FormatError(f"layer {name!r}: {key}={value!r} is no {_SPOKEN[expected]}.")


_SPOKEN = {str: "text", int: "integer", bool: "true or false", list: "list of integers"}


def build(
    spec: LayerSpec,
    owner: nn.Module | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> FactorisedLinear:
    """Build the layer that a spec describes, with new values.

    Parameters
    ----------
    spec : LayerSpec
        The description.
    owner : SharedInputLinear or None
        Needed by a ``"shared_follower"``, ignored otherwise.
    device : torch.device or str or None
        Where the parameters live; on ``"meta"`` they have no values.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Returns
    -------
    FactorisedLinear
        ``describe`` of it gives the spec back.

    Raises
    ------
    ShapeError, RankError, InputError
        If sizes, ranks or the owner do not fit.
    """
    kind, bias = spec["kind"], spec["bias"]
    n, m = spec["in_features"], spec["out_features"]
    layer: FactorisedLinear
    if kind == "mpo":
        shape = spec.get("row_shape", []), spec.get("column_shape", []), spec.get("ranks", [])
        layer = MPOLinear(*shape, bias=bias, device=device, dtype=dtype)
    elif kind == "shared_follower":
        layer = FollowerLinear(cast("Any", owner), m, bias=bias, device=device, dtype=dtype)
    else:
        layer = _CLASSES[kind](n, m, spec.get("rank", 0), bias=bias, device=device, dtype=dtype)
    if (layer.in_features, layer.out_features) != (n, m):
        raise ShapeError(
            f"spec {dict(spec)}: its factors make a weight "
            f"({layer.out_features}, {layer.in_features}), not ({m}, {n})."
        )
    layer.conv1d = spec.get("conv1d", False)
    return layer


_CLASSES: dict[str, type[LowRankLinear] | type[InterpolativeLinear]] = {
    "low_rank": LowRankLinear,
    "interpolative": InterpolativeLinear,
    "shared_owner": SharedInputLinear,
}


def describe(layer: FactorisedLinear, names: Mapping[nn.Module, str]) -> LayerSpec:
    """Return the spec of a layer; ``names`` gives the module name of a follower's owner."""
    spec: dict[str, Any] = {
        "kind": "",
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
    }
    if isinstance(layer, MPOLinear):
        spec["kind"] = "mpo"
        spec["row_shape"], spec["column_shape"] = list(layer.row_shape), list(layer.column_shape)
        spec["ranks"] = list(layer.ranks)
    elif isinstance(layer, FollowerLinear):
        if layer.owner not in names:
            raise InputError(
                "a FollowerLinear reads the factor of a layer that is not in the model; install its owner."
            )
        spec |= {"kind": "shared_follower", "rank": layer.rank, "owner": names[layer.owner]}
    else:
        kind = next((kind for kind, layer_class in _CLASSES.items() if type(layer) is layer_class), None)
        if kind is None:
            raise InputError(f"layer of type {type(layer).__name__}: no kind of layer spec describes it.")
        spec |= {"kind": kind, "rank": cast("LowRankLinear", layer).rank}
    if layer.conv1d:
        spec["conv1d"] = True
    return cast("LayerSpec", spec)


def factorised_layers(model: nn.Module) -> dict[str, LayerSpec]:
    """Read the specs of all factorised layers of a model.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    dict of str to LayerSpec
        By module name, in the model's order; a layer with several names under the first one. Empty for a
        dense model.

    Raises
    ------
    InputError
        If a follower's owner is not part of the model.
    """
    layers = {m: name for name, m in model.named_modules() if isinstance(m, FactorisedLinear)}
    return {name: describe(layer, cast("dict[nn.Module, str]", layers)) for layer, name in layers.items()}


def install(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another one, under all names of the old one.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    name : str
        Dotted name of the module to replace.
    module : torch.nn.Module
        Its successor; brought to the training mode of the old one and, unless the old one has no values, to
        the device and floating dtype of its parameters.

    Raises
    ------
    InputError
        If the model has no module of this name, or the new one would put parameters without values into it.

    Notes
    -----
    The names of a layer are those under which the module itself is registered, and those of other linear
    layers with the very same weight and bias.
    """
    old = _submodule(model, name)
    reference = next(old.parameters(), None)
    if reference is not None and not reference.is_meta:
        if any(tensor.is_meta for tensor in module.parameters()):
            raise InputError(f"the new module for {name!r} has no values (device meta); fill it first.")
        module.to(device=reference.device, dtype=reference.dtype)
    module.train(old.training)
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child is old or (child is not None and _is_tied(child, old)):
                parent._modules[child_name] = module


def replace(model: nn.Module, plan: Mapping[str, LayerSpec]) -> None:
    """Replace the named layers by new ones according to their specs, in place.

    Parameters
    ----------
    model : torch.nn.Module
        The dense model, on a real device or on ``"meta"``; its layers must have the sizes of the specs.
    plan : mapping of str to LayerSpec
        Module names and what to put there. The new layers have new values: load a state dict, or use
        :func:`install` with fitted layers instead.

    Raises
    ------
    FormatError
        If the plan is malformed, names a layer that the model does not have, or one of another size.

    Notes
    -----
    Everything is checked and built before the first layer is exchanged.
    """
    check_specs(plan)
    built: dict[str, FactorisedLinear] = {}
    owners_first = sorted(plan, key=lambda name: plan[name]["kind"] == "shared_follower")
    for name in owners_first:
        spec, old = plan[name], _dense_layer(model, name, plan[name])
        parameter = dense_weight(old)
        built[name] = _build_for(name, spec, built, parameter.device, parameter.dtype)
    for name in plan:
        install(model, name, built[name])


def restore_dense(model: nn.Module) -> tuple[str, ...]:
    """Turn every factorised layer back into a dense one with the same map, in place.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place; a dense model is left alone.

    Returns
    -------
    tuple of str
        The names of the layers that were exchanged.

    Notes
    -----
    A layer that stood for a ``Conv1D`` becomes a ``Conv1D``, others an ``nn.Linear``: a state dict of the
    result loads into the original architecture.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FactorisedLinear)}
    dense = {name: _dense_like_original(layer) for name, layer in layers.items()}
    for name, module in dense.items():
        install(model, name, module)
    return tuple(dense)


def _dense_like_original(layer: FactorisedLinear) -> nn.Module:
    linear = layer.to_dense()
    if not layer.conv1d:
        return linear
    # Conv1D always has a bias, and its constructor takes neither device nor dtype.
    with torch.device("meta"):
        conv = Conv1D(layer.out_features, layer.in_features)
    conv.weight = nn.Parameter(linear.weight.detach().T.contiguous())
    bias = linear.weight.new_zeros(layer.out_features) if linear.bias is None else linear.bias.detach()
    conv.bias = nn.Parameter(bias)
    return conv


def _build_for(
    name: str,
    spec: LayerSpec,
    built: Mapping[str, FactorisedLinear],
    device: torch.device,
    dtype: torch.dtype,
) -> FactorisedLinear:
    try:
        return build(spec, built.get(spec.get("owner", "")), device, dtype)
    except InputError as error:
        raise FormatError(f"layer {name!r}: {error}") from error


def _dense_layer(model: nn.Module, name: str, spec: LayerSpec) -> nn.Linear | Conv1D:
    try:
        layer = _submodule(model, name)
    except InputError as error:
        raise FormatError(str(error)) from error
    wanted = Conv1D if spec.get("conv1d", False) else nn.Linear
    if not isinstance(layer, wanted):
        raise FormatError(f"layer {name!r}: the model has a {type(layer).__name__} there, not a {wanted.__name__}.")
    shape, wanted_shape = tuple(dense_weight(layer).shape), (spec["out_features"], spec["in_features"])
    if shape != wanted_shape:
        raise FormatError(f"layer {name!r}: the model's weight is {shape}, not {wanted_shape}.")
    return cast("nn.Linear | Conv1D", layer)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = model
    if module is model:
        raise InputError(f"{type(model).__name__} has no module {name!r} that could be replaced.")
    return module


def _is_tied(module: nn.Module, other: nn.Module) -> bool:
    return (
        type(module) is type(other)
        and isinstance(module, (nn.Linear, Conv1D))
        and isinstance(other, (nn.Linear, Conv1D))
        and module.weight is other.weight
        and module.bias is other.bias
    )
