"""Second moments of layer inputs and output gradients, in one streaming pass over calibration text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from tnet.compression.objective import CausalObjective, EncoderObjective
from tnet.compression.original import OriginalModel
from tnet.compression.sequences import TokenSequence, batches
from tnet.compression.targets import Target
from tnet.contraction.memory import free_bytes
from tnet.errors import InputError, MemoryLimitError

__all__ = ["Moments", "Sensitivity", "check_memory", "collect"]

Sensitivity = Literal["fisher", "output"]


@dataclass
class Moments:
    r"""Running sums over calibration tokens.

    Parameters
    ----------
    inputs : dict of str to tensor
        :math:`\sum_t x_t x_t^T`, shape ``(n, n)``, by the first member of each group that shares its input.
    means : dict of str to tensor
        :math:`\sum_t x_t`, shape ``(n,)``, by group likewise.
    outputs : dict of str to tensor
        :math:`\sum_t g_t g_t^T`, shape ``(m, m)``, by target; empty without a backward pass.
    cross : dict of str to tensor
        :math:`\sum_t x^{orig}_t x_t^T`, shape ``(n, n)``, by group: inputs of the original model against those of
        the compressed one; empty where both are one.
    n_rows : dict of str to tensor
        Input vectors behind ``inputs``, by group: the tokens, times the calls of a layer that the model uses
        repeatedly.
    n_units : int
        Units (tokens or sentences) over which the loss is a mean.
    n_done : int
        Sequences already seen: where an interrupted pass goes on.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    means: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    cross: dict[str, torch.Tensor] = field(default_factory=dict)
    n_rows: dict[str, torch.Tensor] = field(default_factory=dict)
    n_units: int = 0
    n_done: int = 0

    def second(self, leader: str) -> torch.Tensor:
        """Return the second moment of a group's inputs, a mean over input vectors, in float64."""
        return self.inputs[leader].to(torch.float64) / self.n_rows[leader]

    def mean(self, leader: str) -> torch.Tensor:
        """Return the mean input of a group, in float64."""
        return self.means[leader].to(torch.float64) / self.n_rows[leader]

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return tensors and metadata as a checkpoint stores them."""
        tensors = {f"inputs/{k}": v for k, v in self.inputs.items()}
        tensors |= {f"means/{k}": v for k, v in self.means.items()}
        tensors |= {f"outputs/{k}": v for k, v in self.outputs.items()}
        tensors |= {f"cross/{k}": v for k, v in self.cross.items()}
        tensors |= {f"n_rows/{k}": v for k, v in self.n_rows.items()}
        return tensors, {k: str(getattr(self, k)) for k in ("n_units", "n_done")}

    @classmethod
    def from_state(cls, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Moments:
        """Rebuild from :meth:`state`."""
        moments = cls(n_units=int(metadata["n_units"]), n_done=int(metadata["n_done"]))
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            getattr(moments, kind)[name] = value
        return moments


def check_memory(
    targets: Sequence[Target], groups: Sequence[Sequence[str]], sensitivity: Sensitivity, device: torch.device
) -> None:
    """Raise before the first pass if the moments cannot fit into the free memory of the device.

    Raises
    ------
    MemoryLimitError
        Naming the bytes needed, the bytes free and what needs less.
    """
    sizes = {target.name: target for target in targets}
    # In float32: the first estimate, and beside it the second one with its cross moments.
    elements = 3 * sum(sizes[group[0]].in_features ** 2 for group in groups)
    if sensitivity == "fisher":
        elements += 2 * sum(target.out_features**2 for target in targets)
    needed = 4 * elements
    free = free_bytes(torch.empty(0, device=device))
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"the second moments of {len(targets)} layers need {needed / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free; choose fewer layers with targets=, "
            'or sensitivity="output", which keeps no output moments.'
        )


def collect(
    model: Any,
    objective: CausalObjective | EncoderObjective,
    targets: Sequence[Target],
    groups: Sequence[Sequence[str]],
    sequences: Sequence[TokenSequence],
    *,
    sensitivity: Sensitivity,
    seed: int,
    batch_size: int = 4,
    original: OriginalModel | None = None,
    resume: Moments | None = None,
    on_batch: Callable[[Moments], None] | None = None,
) -> Moments:
    r"""Accumulate :math:`C = \sum x x^T`, the mean and :math:`F = \sum g g^T` of each target layer.

    Parameters
    ----------
    model : transformers model
        Run in evaluation mode; parameters, flags and mode are left as they were.
    objective : CausalObjective or EncoderObjective
        Says what is back-propagated.
    targets, groups : sequences
        The layers, and their partition by shared input.
    sequences : sequence of TokenSequence
        Calibration data.
    sensitivity : {"fisher", "output"}
        ``"output"`` runs forward only and leaves ``outputs`` empty.
    seed : int
        Labels and signs of a batch depend on this and on the batch's place alone, so that an interrupted
        pass and an uninterrupted one give the same sums.
    batch_size : int
        Sequences a forward call.
    original : OriginalModel or None
        For a model already compressed: the replaced layers. Labels then come from the original model, and
        ``cross`` is filled.
    resume : Moments or None
        Sums of an interrupted pass.
    on_batch : callable or None
        Called with the sums after each batch: progress and checkpoints.

    Returns
    -------
    Moments
        On the model's device, float32.

    Raises
    ------
    InputError
        If the model gives non-finite values on the calibration data, or a layer does not read one vector a
        token or has no influence on what is to be kept.

    Notes
    -----
    Cost for P target parameters and T tokens: 2PT flops forward, 2PT backward (weight gradients are not
    formed), and :math:`T \sum (n^2 + m^2)` multiply-adds for the sums; one more forward pass with ``original``.
    """
    moments = resume or Moments()
    sums = _Sums(moments, {group[0] for group in groups}, sensitivity == "fisher")
    device = next(model.parameters()).device
    with _frozen(model), _embedding_gradients(model, sensitivity):
        for batch in batches(sequences[moments.n_done :], batch_size, device):
            rng = torch.Generator().manual_seed((seed * 1_000_003 + moments.n_done) % 2**63)
            sums.mask = batch["attention_mask"].flatten().bool()
            reference = None
            if original is not None:
                with torch.no_grad(), original.restored(model), _hooks(model, targets, sums.on_original):
                    reference = objective.outputs(model, batch)
            with _hooks(model, targets, sums.on_output):
                loss = _differentiate(model, objective, batch, reference, sensitivity, rng)
            if not torch.isfinite(loss):
                raise InputError(
                    f"the model gives non-finite values on calibration sequences {moments.n_done} to "
                    f"{moments.n_done + batch_size - 1}: check its weights for NaN, or load it in float32."
                )
            moments.n_units += objective.n_units(batch)
            moments.n_done += len(batch["input_ids"])
            if moments.n_done == len(batch["input_ids"]):
                _check_reached(targets, groups, moments, sensitivity)
            if on_batch is not None:
                on_batch(moments)
    return moments


def _check_reached(
    targets: Sequence[Target], groups: Sequence[Sequence[str]], moments: Moments, sensitivity: Sensitivity
) -> None:
    """Raise if the first batch left a layer without moments."""
    missing = {name for group in groups if group[0] not in moments.inputs for name in group}
    if sensitivity == "fisher":
        missing |= {target.name for target in targets if target.name not in moments.outputs}
    if missing:
        raise InputError(
            f"{', '.join(sorted(missing))}: not used by the model's answer on the calibration data; "
            "choose layers with targets= that leave these out."
        )


class _Sums:
    """The hooks' view of the running sums, and the mask of the batch at hand."""

    def __init__(self, moments: Moments, leaders: set[str], with_gradients: bool) -> None:
        self.moments = moments
        self.leaders = leaders
        self.with_gradients = with_gradients
        self.mask = torch.empty(0)
        self._original: dict[str, list[torch.Tensor]] = {}

    def on_output(self, name: str, x: torch.Tensor, output: torch.Tensor) -> None:
        if name in self.leaders:
            x = self._tokens(name, x)
            _add(self.moments.inputs, name, x.T @ x)
            _add(self.moments.means, name, x.sum(0))
            _add(self.moments.n_rows, name, torch.tensor(len(x), dtype=torch.float64, device=x.device))
            if name in self._original:
                # Both models call their layers in the same order.
                _add(self.moments.cross, name, self._original[name].pop(0).T @ x)
        if self.with_gradients:
            output.register_hook(lambda gradient: self._on_gradient(name, gradient))

    def on_original(self, name: str, x: torch.Tensor, output: torch.Tensor) -> None:
        if name in self.leaders:
            self._original.setdefault(name, []).append(self._tokens(name, x))

    def _tokens(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the tokens that are no padding, float32 ``(tokens, n)``."""
        rows = x.detach().flatten(0, -2)
        if len(rows) != len(self.mask):
            raise InputError(
                f"{name} reads an input of shape {tuple(x.shape)}, not one vector a token; "
                "choose layers with targets= that leave it out."
            )
        return rows[self.mask].float()

    def _on_gradient(self, name: str, gradient: torch.Tensor) -> None:
        g = gradient.flatten(0, -2).float()
        _add(self.moments.outputs, name, g.T @ g)


def _add(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value


def _differentiate(
    model: Any,
    objective: CausalObjective | EncoderObjective,
    batch: dict[str, torch.Tensor],
    reference: torch.Tensor | None,
    sensitivity: Sensitivity,
    rng: torch.Generator,
) -> torch.Tensor:
    """Run forward, and backward unless only outputs are asked for; return one value that shows NaN."""
    if sensitivity == "output":
        with torch.no_grad():
            return objective.outputs(model, batch).sum()
    outputs = objective.outputs(model, batch)
    total = outputs.detach().sum()
    if not torch.isfinite(total):
        return total
    losses = list(objective.losses(outputs, outputs if reference is None else reference, batch, rng))
    for i, loss in enumerate(losses):
        loss.backward(retain_graph=i < len(losses) - 1)
    return total


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without weight gradients, undone at the end."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    training = [module for module in model.modules() if module.training]
    model.eval()
    for parameter in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module in training:
            module.training = True


@contextmanager
def _hooks(
    model: nn.Module, targets: Sequence[Target], hook: Callable[[str, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    def bind(name: str) -> Any:
        return lambda _module, arguments, output: hook(name, arguments[0], output)

    handles = [model.get_submodule(t.name).register_forward_hook(bind(t.name)) for t in targets]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _embedding_gradients(model: Any, sensitivity: Sensitivity) -> Iterator[None]:
    """With frozen weights the graph must start somewhere: at the embeddings' output."""
    if sensitivity == "output":
        yield
        return
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.requires_grad_())
    try:
        yield
    finally:
        handle.remove()
