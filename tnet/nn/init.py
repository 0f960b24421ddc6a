"""Maximal-update parametrisation (muP) of models with factorised layers: initial values and learning rates."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from tnet.errors import InputError
from tnet.nn.factorised_conv import FactorisedConv2d
from tnet.nn.factorised_linear import FactorisedLinear, check_size

__all__ = ["mup_", "mup_groups"]

Dims = Mapping[str, tuple[int, int]]

_DENSE = (nn.Linear, nn.modules.conv._ConvNd)
_FACTORISED = (FactorisedLinear, FactorisedConv2d)


class _Role(NamedTuple):
    """What muP has to know of a parameter."""

    kind: str  # "factor", "dense", "readout", "embedding", "vector"
    d_in: int = 1
    d_out: int = 1
    cores: int = 1
    last: bool = False  # of the factors of its layer
    silences: bool = False  # zero values make the readout zero


@torch.no_grad()
def mup_(
    model: nn.Module,
    *,
    readout: str | nn.Module | None = None,
    zero_readout: bool = True,
    zero_last_factor: bool = False,
    dims: Dims | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Draw new values for all parameters such that activations and their changes keep their size at any width.

    A factor that acts as a matrix of ``d_in`` columns and ``d_out`` rows is normal with

    .. math:: \sigma = \frac{\sqrt{\min(d_\mathrm{in}, d_\mathrm{out})}}{d_\mathrm{in}},

    so that its spectral norm is of the order :math:`\sqrt{d_\mathrm{out} / d_\mathrm{in}}`. Dense layers and
    convolutions follow the same rule.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    readout : str or torch.nn.Module, optional
        The last layer, of a size that does not grow with the width, or its name: a dense one gets
        :math:`\sigma = 1 / d_\mathrm{in}`.
    zero_readout : bool
        Set the readout to zero instead; of a factorised readout the factor that acts last.
    zero_last_factor : bool
        Set the factor that acts last to zero in every factorised layer: the layers then return their biases at first,
        as suits residual branches only.
    dims : mapping of str to (int, int), optional
        ``(d_in, d_out)`` by name, for matrices of modules that are not known here.
    generator : torch.Generator, optional
        Of torch's global one by default.

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    InputError
        If a parameter of two or more axes is in a module that is not known here and not in ``dims``, the readout is
        no linear layer of the model, or a readout is tied to an embedding.

    Notes
    -----
    Known are all factorised linear layers and convolutions, ``nn.Linear``, convolutions, ``nn.Embedding``
    (:math:`\sigma = 1`); biases become 0. Other vectors, such as the gains of norms, stay.

    With the rates of :func:`mup_groups`, sizes of activations and of their changes in the first steps of Adam were
    measured at widths from 64 to 1024: they grow with powers of the width within ±0.1 for dense, low-rank (rank a
    share of the width) and BTT layers. Changes under MPO and Kronecker layers fall with a power of about -0.2: the
    gradient of a core is a sum over all places where the core acts, and Adam's signs of it fit each place less.

    References
    ----------
    G. Yang et al., "Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer",
    arXiv:2203.03466; G. Yang, J. B. Simon, J. Bernstein, "A spectral condition for feature learning",
    arXiv:2310.17813; S. Qiu, A. Potapczynski, M. Finzi, M. Goldblum, A. G. Wilson, "Compute better spent: replacing
    dense layers with structured matrices", ICML 2024, section 3.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import BTTLinear
    >>> from tnet.nn.init import mup_, mup_groups
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(16, 64), torch.nn.ReLU(), BTTLinear(64, 64, 2), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    ... )
    >>> model = mup_(model, readout="4")
    >>> groups = mup_groups(model, lr=1e-3, base_width=64, readout="4")
    >>> sorted({group["lr"] for group in groups})
    [0.001, 0.002, 0.004]
    >>> optimiser = torch.optim.Adam(groups)
    """
    roles = _roles(model, readout, dims)
    for name, parameter in model.named_parameters():
        role = roles[name]
        if role.kind == "vector":
            if name.rpartition(".")[2] == "bias":
                parameter.zero_()
        elif (zero_last_factor and role.last) or (zero_readout and role.silences):
            parameter.zero_()
        else:
            parameter.normal_(0.0, _deviation(role), generator=generator)
    return model


def mup_groups(
    model: nn.Module,
    lr: float,
    base_width: int,
    *,
    readout: str | nn.Module | None = None,
    inputs: Collection[str] = (),
    lr_vectors: float | None = None,
    lr_factors: float | None = None,
    weight_decay: float = 0.0,
    dims: Dims | None = None,
) -> list[dict[str, Any]]:
    r"""Return parameter groups with the learning rates of muP for Adam and its kin.

    Factors get

    .. math:: \eta_f\, \frac{d_0}{d_\mathrm{in} p},

    with the base width :math:`d_0`, their own :math:`d_\mathrm{in}`, and the number p of factors of their layer;
    dense layers, the readout too, :math:`\eta\, d_0 / d_\mathrm{in}`; embeddings, biases and gains have a rate of
    their own, the same at all widths.

    Parameters
    ----------
    model : torch.nn.Module
        Initialised by :func:`mup_`.
    lr : float
        :math:`\eta`: the rate of a dense layer of ``base_width`` inputs.
    base_width : int
        The width at which ``lr`` was tuned; the same for all models that share it.
    readout : str or torch.nn.Module, optional
        As for :func:`mup_`.
    inputs : collection of str
        Names of layers whose inputs do not grow with the width: their weights get ``lr_vectors``.
    lr_vectors : float, optional
        Rate of embeddings, biases, gains and ``inputs``; ``lr`` by default. It is a constant of its own, to be tuned
        at the base width: the best is often some times ``lr``.
    lr_factors : float, optional
        :math:`\eta_f`, ``lr`` by default. Its best share of ``lr`` is to be tuned at the base width, too: in
        perceptrons of BTT layers a quarter was better than the whole.
    weight_decay : float
        Of factors and dense weights, for a decoupled decay (AdamW): each group has the decay with which
        ``lr * weight_decay``, what a step takes off, is the same in all of them. Embeddings and vectors have none.
    dims : mapping of str to (int, int), optional
        As for :func:`mup_`.

    Returns
    -------
    list of dict
        ``params``, ``lr``, ``weight_decay``; one for each rate. Parameters that do not require gradients are left
        out.

    Raises
    ------
    InputError, ShapeError
        As for :func:`mup_`, or if ``lr``, ``base_width`` or ``weight_decay`` is out of range.

    Notes
    -----
    Gradients of hidden weights shrink as the width grows: let Adam's ``eps`` be small beside them.

    References
    ----------
    As for :func:`mup_`.
    """
    lr_vectors = lr if lr_vectors is None else lr_vectors
    lr_factors = lr if lr_factors is None else lr_factors
    for name, rate in (("lr", lr), ("lr_vectors", lr_vectors), ("lr_factors", lr_factors)):
        if not (isinstance(rate, (int, float)) and math.isfinite(rate) and rate > 0):
            raise InputError(f"{name}={rate!r}: give a positive number.")
    if not (isinstance(weight_decay, (int, float)) and math.isfinite(weight_decay) and weight_decay >= 0):
        raise InputError(f"weight_decay={weight_decay!r}: give a number of at least 0.")
    check_size("base_width", base_width)
    roles = _roles(model, readout, dims)
    fixed = _weights_of(model, inputs)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        role = roles[name]
        matrix = role.kind in ("factor", "dense", "readout")
        scaled = matrix and id(parameter) not in fixed
        base = lr_factors if role.kind == "factor" else lr
        rate = base * base_width / (role.d_in * role.cores) if scaled else float(lr_vectors)
        decay = weight_decay * lr / rate if matrix else 0.0
        if parameter.requires_grad:
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


def _roles(model: nn.Module, readout: str | nn.Module | None, dims: Dims | None) -> dict[str, _Role]:
    """Return the role of every parameter, by its first name in the model."""
    last = _readout_module(model, readout)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    roles = _given(model, dims)
    for path, module in model.named_modules():
        for own, role in _roles_in(module, module is last).items():
            name = names[id(module.get_parameter(own))]
            if roles.setdefault(name, role) != role and not (dims and name in dims):
                raise InputError(
                    f"{path}.{own} is {name}, too, as {role.kind} and as {roles[name].kind}: muP has "
                    "other values and rates for each. Untie them."
                )
    for name, parameter in model.named_parameters():
        if name not in roles and parameter.ndim > 1:
            raise InputError(
                f"{name} of shape {tuple(parameter.shape)} is in a module without a rule: give its sizes, "
                f"dims={{{name!r}: (d_in, d_out)}}."
            )
        roles.setdefault(name, _Role("vector"))
    return roles


def _given(model: nn.Module, dims: Dims | None) -> dict[str, _Role]:
    roles = {}
    known = dict(model.named_parameters())
    for name, sizes in (dims or {}).items():
        if name not in known:
            raise InputError(f"dims names {name!r}, which is no parameter of {type(model).__name__}.")
        if len(sizes) != 2:
            raise InputError(f"dims of {name!r} are {sizes!r}: give (d_in, d_out).")
        d_in, d_out = (check_size(f"dims of {name}", size) for size in sizes)
        roles[name] = _Role("dense", d_in, d_out)
    return roles


def _roles_in(module: nn.Module, is_readout: bool) -> dict[str, _Role]:
    """Return the roles of the parameters that a known module has itself."""
    if isinstance(module, _FACTORISED):
        factors = module.factor_dims()
        *_, last = factors
        return {
            name: _Role("factor", *sizes, len(factors), name == last, is_readout and name == last)
            for name, sizes in factors.items()
        }
    if isinstance(module, _DENSE):
        weight = module.weight
        transposed = getattr(module, "transposed", False)
        d_out = weight.shape[1] * getattr(module, "groups", 1) if transposed else weight.shape[0]
        d_in = max(1, weight.numel() // d_out)
        return {"weight": _Role("readout" if is_readout else "dense", d_in, d_out, silences=is_readout)}
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return {"weight": _Role("embedding")}
    return {}


def _weights_of(model: nn.Module, layers: Collection[str]) -> set[int]:
    """Return the identities of all parameters of the named layers."""
    modules = dict(model.named_modules())
    if isinstance(layers, str) or any(layer not in modules for layer in layers):
        raise InputError(f"inputs={layers!r}: give a collection of names of modules of {type(model).__name__}.")
    return {id(parameter) for layer in layers for parameter in modules[layer].parameters()}


def _readout_module(model: nn.Module, readout: str | nn.Module | None) -> nn.Module | None:
    if readout is None:
        return None
    modules = dict(model.named_modules())
    found = modules.get(readout) if isinstance(readout, str) else readout
    if found is None or all(found is not module for module in modules.values()):
        raise InputError(f"readout={readout!r} is no module of {type(model).__name__}.")
    if not isinstance(found, (nn.Linear, FactorisedLinear)):
        raise InputError(f"readout of type {type(found).__name__}: give an nn.Linear or a factorised linear layer.")
    return found


def _deviation(role: _Role) -> float:
    if role.kind == "embedding":
        return 1.0
    if role.kind == "readout":
        return 1 / role.d_in
    return math.sqrt(min(role.d_in, role.d_out)) / role.d_in
