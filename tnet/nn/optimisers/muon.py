"""Muon: momentum made orthogonal, for dense weights and for the matrices that factors act as."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.factorised_linear import FactorisedLinear, check_size
from tnet.nn.matricisation import FactorAxes
from tnet.nn.optimisers.orthogonalisation import newton_schulz
from tnet.nn.optimisers.settings import check_gradients, check_number, check_parameters

__all__ = ["Muon", "muon_groups"]

_SCALES = {
    "spectral": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "rms": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
}


class Muon(torch.optim.Optimizer):
    r"""Steps of steepest descent in the spectral norm: momentum, its singular values brought near 1.

    .. math::

        M \leftarrow \mu M + G, \qquad W \leftarrow (1 - \eta \lambda) W
        - \eta\, s\, \mathrm{NewtonSchulz}(G + \mu M)

    A factor is stepped as the matrix, or the stack of matrices, that it acts as in its layer; see
    :func:`muon_groups`. What is no matrix is stepped by AdamW, with the rate ``adam_share * lr``.

    Parameters
    ----------
    params : iterable
        Parameters or groups. Those of two or more axes are matrices ``(first axis, all others)``, unless their group
        has another ``axes``: a triple ``(batch, rows, columns)`` of tuples of axes, or None for AdamW.
    lr : float
        :math:`\eta`.
    momentum : float
        :math:`\mu` in [0, 1).
    nesterov : bool
        Whether the step looks ahead, as above; else it is along M.
    steps : int
        Of :func:`newton_schulz`.
    scale : {"spectral", "rms"}
        Factor s: :math:`\sqrt{\max(1, m/n)}` for m rows and n columns, so that the change of outputs is the same for
        all shapes; or :math:`0.2 \sqrt{\max(m, n)}`, at which entries change as much as under AdamW: rates of AdamW
        then serve.
    weight_decay : float
        :math:`\lambda`, decoupled, of all parameters of two or more axes.
    adam_share : float
        Rate of AdamW as a share of ``lr``.
    betas : (float, float)
        Of AdamW.
    eps : float
        Of AdamW.
    dtype : torch.dtype, optional
        Of the iterations: bfloat16 on GPUs for single precision, else that of the parameter.

    Raises
    ------
    InputError, BackendError, ShapeError
        If an option is out of range, a parameter is complex or of half precision, or ``axes`` does not fit.

    Notes
    -----
    One state of the size of the parameter, two for AdamW. Matrices of one shape are made orthogonal together.

    References
    ----------
    K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
    https://kellerjordan.github.io/posts/muon/; J. Bernstein, L. Newhouse, "Old optimizer, new norm",
    arXiv:2409.20325; for ``"rms"`` J. Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import BTTLinear, Muon, muon_groups
    >>> _ = torch.manual_seed(0)
    >>> layer = BTTLinear(16, 16, 2)
    >>> optimiser = Muon(muon_groups(layer), lr=0.05)
    >>> x = torch.randn(64, 16)
    >>> for _ in range(100):
    ...     loss = (layer(x) - x.flip(1)).square().mean()
    ...     optimiser.zero_grad()
    ...     loss.backward()
    ...     optimiser.step()
    >>> bool(loss < 0.4)
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        scale: str = "spectral",
        weight_decay: float = 0.0,
        adam_share: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "steps": steps, "scale": scale,
            "weight_decay": weight_decay, "adam_share": adam_share, "betas": betas, "eps": eps, "dtype": dtype,
            "axes": "first",
        }  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its options and parameters."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure``, if given, computes the loss anew and returns it.

        Raises
        ------
        InputError
            If a gradient is not finite; nothing is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_gradients(self.param_groups)
        for group in self.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None and p.numel()]
            matrices = [p for p in stepped if _axes(group, p) is not None]
            self._step_matrices(group, matrices)
            for parameter in stepped:
                if _axes(group, parameter) is None:
                    self._step_adam(group, parameter)
        return loss

    def _step_matrices(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        stacks: dict[tuple[Any, ...], list[tuple[nn.Parameter, torch.Tensor]]] = {}
        for parameter in parameters:
            gradient, state = cast("torch.Tensor", parameter.grad), self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            moment = state["momentum"].mul_(group["momentum"]).add_(gradient)
            ahead = gradient + group["momentum"] * moment if group["nesterov"] else moment
            stack = _matricised(ahead, cast("FactorAxes", _axes(group, parameter)))
            stacks.setdefault((stack.shape[1:], stack.dtype, stack.device), []).append((parameter, stack))
        for (shape, dtype, device), members in stacks.items():
            working = group["dtype"] or (
                torch.bfloat16 if device.type == "cuda" and dtype == torch.float32 else dtype
            )
            together = torch.cat([stack for _, stack in members])
            together = together / together.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(dtype).tiny)
            orthogonal = newton_schulz(together.to(working), group["steps"]).to(dtype)
            size = group["lr"] * _SCALES[group["scale"]](*shape)
            parts = orthogonal.split([len(stack) for _, stack in members])
            for (parameter, _), part in zip(members, parts, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                axes = cast("FactorAxes", _axes(group, parameter))
                parameter.sub_(_tensorised(part, axes, parameter.shape), alpha=size)

    def _step_adam(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        gradient, state = cast("torch.Tensor", parameter.grad), self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        t, rate, (beta1, beta2) = int(state["step"]), group["lr"] * group["adam_share"], group["betas"]
        mean = state["mean"].lerp_(gradient, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if parameter.ndim > 1:
            parameter.mul_(1 - rate * group["weight_decay"])
        size = (square / (1 - beta2**t)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(mean, size, value=-rate / (1 - beta1**t))


def muon_groups(model: nn.Module, *, readout: str | nn.Module | None = None) -> list[dict[str, Any]]:
    """Return the parameter groups of a model for :class:`Muon`.

    Factors of factorised linear layers get the ``axes`` of the matrices that they act as; embeddings and the readout
    are left to AdamW; all others are matrices ``(first axis, all others)``, as dense weights and kernels of
    convolutions are, or vectors.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    readout : str or torch.nn.Module, optional
        The last layer, or its name.

    Returns
    -------
    list of dict
        ``params`` and ``axes``. Parameters that do not require gradients are left out.

    Raises
    ------
    InputError
        If the readout is no module of the model.
    """
    modules = dict(model.named_modules())
    last = modules.get(readout) if isinstance(readout, str) else readout
    if readout is not None and all(last is not module for module in modules.values()):
        raise InputError(f"readout={readout!r} is no module of {type(model).__name__}.")
    axes: dict[int, FactorAxes | None] = {}
    for module in modules.values():
        if isinstance(module, FactorisedLinear):
            axes |= {id(module.get_parameter(name)): of for name, of in module.factor_axes().items()}
    for module in modules.values():
        if module is last or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            axes |= {id(parameter): None for parameter in module.parameters()}
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(axes.get(id(parameter), "first"), []).append(parameter)
    return [
        {"params": parameters, "axes": of if of is None or isinstance(of, str) else tuple(of)}
        for of, parameters in groups.items()
    ]


def _check(group: dict[str, Any]) -> None:
    check_number("lr", group["lr"], 0)
    check_number("momentum", group["momentum"], 0, 1)
    check_number("weight_decay", group["weight_decay"], 0)
    check_number("adam_share", group["adam_share"], 0)
    check_number("eps", group["eps"], 0, open_low=True)
    check_size("steps", group["steps"])
    if not isinstance(group["nesterov"], bool):
        raise InputError(f"nesterov={group['nesterov']!r}: give True or False.")
    if len(group["betas"]) != 2:
        raise InputError(f"betas={group['betas']!r}: give two numbers.")
    for beta in group["betas"]:
        check_number("betas", beta, 0, 1)
    if group["scale"] not in _SCALES:
        raise InputError(f"scale={group['scale']!r}: give one of {', '.join(map(repr, _SCALES))}.")
    check_parameters(group)
    axes = group["axes"]
    if axes is None or axes == "first":
        return
    if isinstance(axes, str) or len(axes) != 3:
        raise InputError(f"axes={axes!r}: give (batch, rows, columns), tuples of axes each, None or 'first'.")
    for parameter in group["params"]:
        if sorted(axis for part in axes for axis in part) != list(range(parameter.ndim)):
            raise ShapeError(
                f"axes={axes!r} for a parameter of shape {tuple(parameter.shape)}: name each of its "
                f"{parameter.ndim} axes once."
            )


def _axes(group: dict[str, Any], parameter: nn.Parameter) -> FactorAxes | None:
    axes = group["axes"]
    if axes is None:
        return None
    if axes == "first":
        return FactorAxes((), (0,), tuple(range(1, parameter.ndim))) if parameter.ndim > 1 else None
    return FactorAxes(*(tuple(part) for part in axes))


def _matricised(tensor: torch.Tensor, axes: FactorAxes) -> torch.Tensor:
    """Return the stack ``(batch, rows, columns)``."""
    sizes = [math.prod(tensor.shape[axis] for axis in part) for part in axes]
    return tensor.permute(*axes.batch, *axes.rows, *axes.columns).reshape(sizes)


def _tensorised(stack: torch.Tensor, axes: FactorAxes, shape: torch.Size) -> torch.Tensor:
    """Undo :func:`_matricised`."""
    order = [*axes.batch, *axes.rows, *axes.columns]
    return stack.reshape([shape[axis] for axis in order]).permute([order.index(axis) for axis in range(len(order))])
