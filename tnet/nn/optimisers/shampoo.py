"""Shampoo: one preconditioner for each mode of a tensor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from tnet.errors import InputError
from tnet.nn.factorised_linear import check_size
from tnet.nn.optimisers.settings import check_gradients, check_number, check_parameters

__all__ = ["Shampoo"]

_GRAFTS = ("adam", "sgd", None)


class Shampoo(torch.optim.Optimizer):
    r"""Gradient steps preconditioned in every mode of a tensor of any order.

    With the matricisations :math:`G_{(i)}` of the gradient of a tensor of k modes,

    .. math::

        L_i \leftarrow \beta L_i + (1 - \beta) G_{(i)} G_{(i)}^T, \qquad
        W \leftarrow (1 - \eta \lambda) W - \eta\, c\, M \times_1 L_1^{-1/(2k)} \cdots \times_k L_k^{-1/(2k)}

    where M is the running mean of gradients, and c brings the step to the norm that Adam or SGD would take.

    Parameters
    ----------
    params : iterable
        Parameters or groups, of single or double precision.
    lr : float
        :math:`\eta`.
    momentum : float
        Decay of the running mean M, in [0, 1).
    decay : float or None
        :math:`\beta` in [0, 1), or None for sums :math:`L_i \leftarrow L_i + G_{(i)} G_{(i)}^T`, as first published.
    ridge : float
        Added to the eigenvalues of :math:`L_i`, relative to the largest.
    every : int
        Steps from one computation of the roots to the next.
    start : int
        Number of first steps without preconditioners: those of Adam, or along M. Gradients of these steps count in
        :math:`L_i`. With a number that is never reached a group is trained by Adam: that suits embeddings, whose rare
        tokens would get most of a preconditioned step.
    max_mode : int
        Longer modes are cut into blocks of at most this length, each with its own preconditioners.
    graft : {"adam", "sgd", None}
        Whose norm a step has: that of Adam, with the second moments of ``decay`` (AdaGrad for None), of M, or the
        preconditioned one. It is taken for a whole parameter.
    weight_decay : float
        :math:`\lambda`, decoupled, of parameters of two or more axes.
    eps : float
        Of Adam.

    Raises
    ------
    InputError, BackendError
        If an option is out of range, or a parameter is complex or of half precision.

    Notes
    -----
    Modes of length 1 do not count. Roots are by symmetric eigenvalue decompositions, in the precision of the
    parameter; without a ridge, eigenvalues that are zero up to rounding are left out (pseudo-inverse). Without
    accumulation (``decay=0``, ``momentum=0``), ridge, graft and start, the step of a matrix ``U S V^T`` is ``U V^T``.

    A step costs :math:`2 \sum_i n_i` multiply-adds for each entry of a tensor of modes :math:`n_i`, and about
    :math:`10 \sum_i n_i^3` once in ``every`` steps. The state is :math:`2 \sum_i n_i^2` numbers, and two for each
    entry.

    References
    ----------
    V. Gupta, T. Koren, Y. Singer, "Shampoo: preconditioned stochastic tensor optimization", arXiv:1802.09568,
    algorithm 2; for grafting and blocks R. Anil, V. Gupta, T. Koren, K. Regan, Y. Singer, "Scalable second order
    optimization for deep learning", arXiv:2002.09018.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import MPOLinear, Shampoo
    >>> _ = torch.manual_seed(0)
    >>> layer = MPOLinear((4, 4), (4, 4), (8,))
    >>> optimiser = Shampoo(layer.parameters(), lr=0.03)
    >>> x = torch.randn(64, 16)
    >>> for _ in range(100):
    ...     loss = (layer(x) - x.flip(1)).square().mean()
    ...     optimiser.zero_grad()
    ...     loss.backward()
    ...     optimiser.step()
    >>> bool(loss < 0.1)
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.9,
        decay: float | None = 0.95,
        ridge: float = 1e-6,
        every: int = 10,
        start: int = 10,
        max_mode: int = 1024,
        graft: str | None = "adam",
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "decay": decay, "ridge": ridge, "every": every, "start": start,
            "max_mode": max_mode, "graft": graft, "weight_decay": weight_decay, "eps": eps,
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
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._step(group, parameter)
        return loss

    def _step(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        gradient, state = cast("torch.Tensor", parameter.grad), self.state[parameter]
        blocks = _blocks(parameter.shape, group["max_mode"])
        if not state:
            self._start(group, parameter, blocks)
        state["step"] += 1
        t = int(state["step"])
        mean, corrected = gradient, gradient
        if group["momentum"]:
            mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
            corrected = mean / (1 - group["momentum"] ** t)
        self._accumulate(group, state, gradient, blocks)
        plain = _plain_step(group, state, corrected, t)
        if t <= group["start"]:
            direction = plain
        else:
            if (t - 1 - group["start"]) % group["every"] == 0:
                self._take_roots(group, state)
            direction = torch.empty_like(gradient)
            for place, roots in zip(blocks, state["roots"], strict=True):
                direction[place] = _preconditioned(corrected[place], roots)
            if group["graft"] is not None:
                direction = _of_norm(direction, torch.linalg.vector_norm(plain))
        if parameter.ndim > 1:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(direction, alpha=group["lr"])

    def _start(self, group: dict[str, Any], parameter: nn.Parameter, blocks: Sequence[tuple[slice, ...]]) -> None:
        state = self.state[parameter]
        state["step"] = torch.tensor(0.0)
        if group["momentum"]:
            state["mean"] = torch.zeros_like(parameter)
        if group["graft"] == "adam":
            state["square"] = torch.zeros_like(parameter)
        sizes = [parameter[place].shape for place in blocks]
        state["grams"] = [[parameter.new_zeros(n, n) for n in shape if n > 1] for shape in sizes]
        state["roots"] = [[parameter.new_zeros(n, n) for n in shape if n > 1] for shape in sizes]

    def _accumulate(
        self,
        group: dict[str, Any],
        state: dict[str, Any],
        gradient: torch.Tensor,
        blocks: Sequence[tuple[slice, ...]],
    ) -> None:
        decay = group["decay"]
        kept, taken = (1.0, 1.0) if decay is None else (decay, 1 - decay)
        if "square" in state:
            state["square"].mul_(kept).addcmul_(gradient, gradient, value=taken)
        for place, grams in zip(blocks, state["grams"], strict=True):
            block = _long_modes(gradient[place])
            for mode, gram in enumerate(grams):
                unfolded = block.movedim(mode, 0).reshape(len(gram), -1)
                gram.addmm_(unfolded, unfolded.T, beta=kept, alpha=taken)

    def _take_roots(self, group: dict[str, Any], state: dict[str, Any]) -> None:
        t, decay = int(state["step"]), group["decay"]
        weight = 1.0 if decay is None else 1 - decay**t
        for grams, roots in zip(state["grams"], state["roots"], strict=True):
            for gram, root in zip(grams, roots, strict=True):
                root.copy_(_root(gram / weight, -1 / (2 * len(grams)), group["ridge"]))


def _blocks(shape: Sequence[int], longest: int) -> list[tuple[slice, ...]]:
    """Return the places of the blocks of a tensor: each mode is cut into nearly equal parts."""
    cuts = []
    for n in shape:
        parts = -(-n // longest)
        bounds = [n * part // parts for part in range(parts + 1)]
        cuts.append([slice(low, high) for low, high in itertools.pairwise(bounds)])
    return list(itertools.product(*cuts))


def _long_modes(tensor: torch.Tensor) -> torch.Tensor:
    """Drop the modes of length 1."""
    return tensor.reshape([n for n in tensor.shape if n > 1])


def _preconditioned(block: torch.Tensor, roots: Sequence[torch.Tensor]) -> torch.Tensor:
    result = _long_modes(block)
    for mode, root in enumerate(roots):
        result = torch.tensordot(root, result.movedim(mode, 0), dims=1).movedim(0, mode)
    return result.reshape(block.shape)


def _root(gram: torch.Tensor, exponent: float, ridge: float) -> torch.Tensor:
    """Return a negative power of a positive semidefinite matrix, on its range; the identity for zero."""
    largest = gram.diagonal().amax()
    if not bool(torch.isfinite(largest)):
        raise InputError("squares of gradients overflow: scale the loss down.")
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    values, vectors = torch.linalg.eigh(torch.where(largest > 0, gram / scale, identity))
    lifted = values.clamp_min(0) + ridge * values[-1]
    least = (0.0 if ridge else len(gram) * torch.finfo(gram.dtype).eps) * values[-1]
    powers = torch.where(lifted > least, lifted.clamp_min(least) ** exponent, torch.zeros_like(values))
    return (vectors * powers) @ vectors.T * scale**exponent


def _plain_step(group: dict[str, Any], state: dict[str, Any], mean: torch.Tensor, t: int) -> torch.Tensor:
    """Return the step of Adam, or of gradient descent."""
    if group["graft"] != "adam":
        return mean
    weight = 1.0 if group["decay"] is None else 1 - group["decay"] ** t
    return mean / ((state["square"] / weight).sqrt_() + group["eps"])


def _of_norm(direction: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Scale to a norm; of zeros, zeros. The largest entry goes first: squares of small ones would be lost."""
    tiny = torch.finfo(direction.dtype).tiny
    direction = direction / direction.abs().amax().clamp_min(tiny)
    return direction * (norm / torch.linalg.vector_norm(direction).clamp_min(tiny))


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "ridge", "weight_decay"):
        check_number(name, group[name], 0)
    check_number("momentum", group["momentum"], 0, 1)
    if group["decay"] is not None:
        check_number("decay", group["decay"], 0, 1)
    check_number("eps", group["eps"], 0, open_low=True)
    check_size("every", group["every"])
    if isinstance(group["start"], bool) or not isinstance(group["start"], int) or group["start"] < 0:
        raise InputError(f"start={group['start']!r}: give an integer of at least 0.")
    check_size("max_mode", group["max_mode"])
    if group["graft"] not in _GRAFTS:
        raise InputError(f"graft={group['graft']!r}: give one of {', '.join(map(repr, _GRAFTS))}.")
    check_parameters(group)
