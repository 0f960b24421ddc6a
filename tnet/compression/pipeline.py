"""Compress a language model under a budget: calibrate, choose, factorise, refine, measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tnet.callers import warn_caller
from tnet.compression.allocation import Allocation, Choice, allocate, check_budget
from tnet.compression.catalogue import build_sites, choose_shrinkage, least_sites, probe_groups
from tnet.compression.fitting import Fitted, contiguous, fit, merge, ridge_target
from tnet.compression.job import Job, moments_of, prepare
from tnet.compression.moments import Moments
from tnet.compression.quality import CausalQuality, Judge, mean_damage, measure
from tnet.compression.result import CompressionResult, checkpoint_bytes
from tnet.compression.settings import Settings
from tnet.compression.surgery import install
from tnet.compression.whitening import Shrinkage
from tnet.errors import InputError, QualityGateError

__all__ = ["CalibrationWarning", "compress", "finish", "plan_compression"]

#: Held-out sequences that judge the refit of a block.
_JUDGED = 4
#: Held-out loss above this multiple of the loss on the calibration text itself is worth a warning.
_GENERALISATION = 2.0


class CalibrationWarning(UserWarning):
    """The calibration text says little about the text that the model was judged on."""


def compress(
    model: Any,
    *,
    ratio: float | None = None,
    max_bytes: int | str | None = None,
    calibration: Iterable[Any],
    evaluation: Iterable[Any] | None = None,
    tokenizer: Any | None = None,
    targets: str | None = None,
    candidates: str | Iterable[str] = "auto",
    sensitivity: Literal["fisher", "output"] = "fisher",
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    sequence_length: int = 256,
    batch_size: int = 4,
    refine: bool = True,
    max_increase: float | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    rng: int = 0,
    progress: bool = True,
) -> CompressionResult:
    r"""Replace the linear layers of a transformers model by factorised ones, in place, under one global budget.

    Of all structures within the budget, the one with the least sum of
    :math:`\tfrac12 \|F^{1/2} (W - W') C^{1/2}\|_F^2` over the layers is chosen, with C the second moment of a
    layer's inputs and F that of the gradients at its outputs [martens2015]_, then measured on held-out text.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model or a plain encoder; changed in place. If anything raises, it is the original again.
    ratio : float or None
        Elements stored by the replaced layers (added biases and buffers included) over the elements of the
        targets' dense weights, in (0, 1]; never exceeded. 1.0 leaves the model untouched.
    max_bytes : int or str or None
        Ceiling on the bytes of the saved checkpoint's tensors, embeddings included; "200MiB" is accepted.
        Exactly one of ``ratio`` and ``max_bytes``.
    calibration : iterable of str, or of dict
        Texts (with ``tokenizer``), or keyword arguments of the model with a batch axis. Best from the domain
        in which the model will be used.
    evaluation : iterable or None
        Held-out data of the same kinds; None keeps the last 10 % of the calibration sequences out of all
        statistics.
    tokenizer : callable or None
        A transformers tokenizer, for texts.
    targets : str or None
        Regular expression on module names; None takes every ``nn.Linear`` / ``Conv1D`` of the repeated blocks.
    candidates : "auto" or iterable of str
        Of "dense", "interpolative" (low rank at every rank), "shared" (joint low rank of layers that read the
        same input) and "mpo". "auto" takes all; MPOs only for layer shapes in which a probe finds them within
        1.25 times the loss of low rank.
    sensitivity : {"fisher", "output"}
        ``"output"`` needs no backward pass: F is replaced by the inverse of the mean squared output.
    dtype : {"bfloat16", "float16", "float32"}
        Storage dtype. All weights are rounded to it (and kept in the model's dtype), so that what is measured is
        what will be saved.
    sequence_length, batch_size : int
        Tokens a sequence, and sequences a forward call.
    refine : bool
        Whether C and F are estimated once more on the compressed model, and each block is refitted by ridge
        regression where that lowers the held-out loss.
    max_increase : float or None
        Quality gate on :attr:`CompressionResult.increase`, the relative increase of the perplexity (1 - mean
        cosine for an encoder). Nothing that is computed depends on it: after a miss the same call with another
        value continues from the checkpoint.
    checkpoint : path or None
        Folder for the parts of the work. The same call continues from it after an interruption; it is removed
        at the end.
    device : str or torch.device or None
        Where to compute; None stays where the model is.
    rng : int
        Seed of the sampled labels.
    progress : bool
        Progress bars on a terminal.

    Returns
    -------
    CompressionResult
        Choice by layer, quality before and after on held-out data, bytes; ``.save(path)``.

    Raises
    ------
    InputError
        Options out of range, no text, too little text, a model without such layers, NaN weights, a budget
        below what is possible.
    MemoryLimitError
        If the second moments do not fit into memory.

    QualityGateError
        If the result misses ``max_increase``; it is the error's ``result``, and the model is the original again.

    Warns
    -----
    CalibrationWarning
        If the loss on held-out text is far above that on the calibration text.

    Notes
    -----
    For P target parameters and T tokens about 2PT flops forward and 2PT backward, twice with ``refine`` (plus one
    more forward pass). Factorising an (m, n) layer takes ``O(m n (m + n))``. Memory: the moments, in
    float32, are ``sum n^2`` over distinct inputs plus ``sum m^2`` over layers, up to three times.

    References
    ----------
    .. [martens2015] J. Martens, R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
       curvature", ICML 2015.
    """
    _check_gate(max_increase)
    job = prepare(
        model, calibration, evaluation, tokenizer, checkpoint, device, progress,
        Settings.checked(
            ratio=ratio, max_bytes=max_bytes, targets=targets, candidates=candidates, sensitivity=sensitivity,
            dtype=dtype, sequence_length=sequence_length, batch_size=batch_size, refine=refine, seed=rng,
        ),
    )  # fmt: skip
    try:
        result = _compress(job)
        _warn_of_poor_calibration(result)
        if max_increase is not None and not result.increase <= max_increase:
            raise QualityGateError(
                f"the quality gate is missed: the loss rose by {result.increase:.2%}, allowed were "
                f"{max_increase:.2%}; keep more parameters, or allow a larger increase.",
                result,
            )
    except BaseException:
        job.original.put_back(model)
        raise
    if job.checkpoint is not None:
        job.checkpoint.remove()
    return result


def plan_compression(
    model: Any,
    *,
    ratio: float | None = None,
    max_bytes: int | str | None = None,
    calibration: Iterable[Any],
    evaluation: Iterable[Any] | None = None,
    tokenizer: Any | None = None,
    targets: str | None = None,
    candidates: str | Iterable[str] = "auto",
    sensitivity: Literal["fisher", "output"] = "fisher",
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    sequence_length: int = 256,
    batch_size: int = 4,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    rng: int = 0,
    progress: bool = True,
) -> Allocation:
    """Return what :func:`compress` would choose first, without changing the model.

    Takes the options of :func:`compress`, without ``refine``, and raises as it does.

    Returns
    -------
    Allocation
        The choice of every layer with its parameters, bytes, multiply-adds and predicted loss.
    """
    job = prepare(
        model, calibration, evaluation, tokenizer, checkpoint, device, progress,
        Settings.checked(
            ratio=ratio, max_bytes=max_bytes, targets=targets, candidates=candidates, sensitivity=sensitivity,
            dtype=dtype, sequence_length=sequence_length, batch_size=batch_size, seed=rng,
        ),
    )  # fmt: skip
    budget = _budget(job)
    moments = moments_of(job, "first", job.statistics)
    return _choose(job, "first", moments, _shrinkage(job, moments), budget)


def _check_gate(max_increase: float | None) -> None:
    if max_increase is None:
        return
    if isinstance(max_increase, bool) or not isinstance(max_increase, (int, float)) or not max_increase >= 0:
        raise InputError(f"max_increase={max_increase!r}: give the increase that is allowed, such as 0.05, or None.")


def _compress(job: Job) -> CompressionResult:
    if job.settings.ratio == 1.0:
        return finish(job, ())
    budget = _budget(job)
    moments = moments_of(job, "first", job.statistics)
    shrinkage = _shrinkage(job, moments)
    allocation = _choose(job, "first", moments, shrinkage, budget)
    state = _State(job, {}, {})
    predicted = allocation.loss
    state.install(_fit(job, allocation.choices, moments, shrinkage))
    if job.settings.refine:
        allocation = _refine(state, allocation, moments, shrinkage, budget)
    with job.timed("factorise"), job.reporter.stage("factorise", len(state.fitted)) as advance:
        for index, fitted in enumerate(state.fitted.values()):
            for name, module in zip(fitted.choice.members, fitted.modules(), strict=True):
                module.conv1d = job.problem.targets[name].conv1d
                install(job.model, name, contiguous(module.to(job.problem.weights[name].dtype)))
            advance(index + 1)
    return finish(job, allocation.choices, predicted=predicted, validation_losses=state.losses, shrinkage=shrinkage)


class _State:
    """Which fit is installed where, while choices may still change."""

    def __init__(self, job: Job, fitted: dict[tuple[str, ...], Fitted], losses: dict[str, float]) -> None:
        self.job = job
        self.fitted = fitted
        self.losses = losses

    def install(self, fits: Mapping[tuple[str, ...], Fitted]) -> None:
        """Let these fits be the whole compression: every other target is dense."""
        self.job.original.put_back(self.job.model)
        self.fitted = {}
        self.add(fits)

    def add(self, fits: Mapping[tuple[str, ...], Fitted]) -> None:
        """Exchange the fits of some choices."""
        for members, fitted in fits.items():
            self.fitted[members] = fitted
            for name, module in zip(members, fitted.stand_ins(), strict=True):
                install(self.job.model, name, module)


def finish(
    job: Job,
    choices: tuple[Choice, ...],
    *,
    predicted: float = 0.0,
    validation_losses: Mapping[str, float] | None = None,
    shrinkage: Shrinkage | None = None,
) -> CompressionResult:
    """Round the weights to the storage dtype, and measure them against the original as it came."""
    settings, model = job.settings, job.model
    if any(choice.kind != "dense" for choice in choices):
        _round(model, settings.storage)
    with job.timed("measure"), job.reporter.stage("measure", len(job.evaluation)) as advance:
        before, after = measure(
            model, job.original, job.objective, job.evaluation,
            batch_size=settings.batch_size, on_sequences=advance,
        )  # fmt: skip
        seen = mean_damage(
            model, job.original, job.objective, job.statistics[:_JUDGED], batch_size=settings.batch_size
        )
    return CompressionResult(
        model=model,
        settings=settings,
        choices=choices,
        targets=tuple(job.problem.targets.values()),
        before=before,
        after=after,
        predicted_loss=predicted,
        calibration_loss=seen,
        held_out_loss=after.kl if isinstance(after, CausalQuality) else 1.0 - after.cosine,
        validation_losses=dict(validation_losses or {}),
        shrinkage=shrinkage,
        bytes_before=job.bytes_before,
        bytes_after=checkpoint_bytes(model, settings.storage),
        seconds=dict(job.seconds),
    )


def _shrinkage(job: Job, moments: Moments) -> Shrinkage:
    stored = job.stored("shrinkage")
    if stored is not None:
        return Shrinkage(**stored)
    probes = probe_groups(job.problem.groups)
    validation = moments_of(job, "validation", job.validation, groups=probes)
    with job.timed("shrinkage"):
        shrinkage = choose_shrinkage(job.problem, moments, validation, job.settings.ratio or 0.7)
    job.store("shrinkage", {"inputs": shrinkage.inputs, "outputs": shrinkage.outputs})
    return shrinkage


def _choose(job: Job, name: str, moments: Moments, shrinkage: Shrinkage, budget: int) -> Allocation:
    """Measure the candidates and spend the budget on them."""
    stored = job.stored(f"allocation-{name}")
    if stored is not None:
        choices = tuple(
            Choice(**{**c, "members": tuple(c["members"]), "ranks": tuple(c["ranks"])}) for c in stored["choices"]
        )
        return Allocation(choices, stored["budget"], stored["unit"], stored["lower_bound"])
    groups = job.problem.groups
    with job.timed(f"candidates-{name}"), job.reporter.stage(f"candidates ({name})", len(groups)) as advance:
        done = iter(range(1, len(groups) + 1))
        sites = build_sites(
            job.problem,
            moments,
            shrinkage,
            job.settings.candidates,
            job.mpo_verdicts,
            lambda _group: advance(next(done)),
        )
    with job.timed("allocate"):
        allocation = allocate(sites, budget, unit=job.settings.unit)
    job.store(
        f"allocation-{name}",
        {
            "choices": [vars(choice) for choice in allocation.choices],
            "budget": allocation.budget,
            "unit": allocation.unit,
            "lower_bound": allocation.lower_bound,
        },
    )
    return allocation


def _budget(job: Job) -> int:
    """Return what the target layers may cost, or raise InputError if no allocation could."""
    budget = _target_budget(job)
    check_budget(least_sites(job.problem, job.settings.candidates), budget, unit=job.settings.unit)
    return budget


def _target_budget(job: Job) -> int:
    dense = sum(target.n_params for target in job.problem.targets.values())
    if job.settings.ratio is not None:
        return int(job.settings.ratio * dense)
    assert job.settings.max_bytes is not None
    # What is no target weight is stored as it is: embeddings, head, norms, the targets' own biases.
    rest = job.bytes_before - dense * job.settings.itemsize
    if job.settings.max_bytes < rest:
        raise InputError(
            f"max_bytes={job.settings.max_bytes} is less than the {rest} bytes of what is not compressed "
            "(embeddings, head, norms, biases); raise max_bytes, or choose targets= that include more."
        )
    return job.settings.max_bytes - rest


def _fit(
    job: Job, choices: Sequence[Choice], moments: Moments, shrinkage: Shrinkage, *, ridge: bool = False
) -> dict[tuple[str, ...], Fitted]:
    """Compute the values of the choices that are not dense, in the norm of these moments."""
    problem = job.problem
    group_of = {name: group for group in problem.groups for name in group}
    fits = {}
    with job.timed("fit"):
        for choice in choices:
            if choice.kind == "dense":
                continue
            group = group_of[choice.members[0]]
            weights = {name: problem.weights[name] for name in choice.members}
            if ridge:
                weights = {name: ridge_target(weight, moments, group[0]) for name, weight in weights.items()}
            biases = {name: job.original.bias(name) for name in choice.members}
            fits[choice.members] = fit(problem, moments, shrinkage, group, choice, biases, weights)
    return fits


def _refine(state: _State, allocation: Allocation, moments: Moments, shrinkage: Shrinkage, budget: int) -> Allocation:
    """Estimate the moments again where they have moved to, choose again, refit the blocks by ridge.

    Each step stays only if the loss on the validation sequences falls.
    """
    job = state.job
    both = moments_of(job, "second", job.statistics, original=job.original)
    merge(moments, both)
    judge = Judge(job.model, job.original, job.objective, job.validation[:_JUDGED], job.settings.batch_size)
    loss = state.losses["first allocation"] = judge(job.model)
    first = state.fitted
    again = _choose(job, "second", both, shrinkage, budget)
    state.install(_fit(job, again.choices, both, shrinkage))
    new_loss = state.losses["second allocation"] = judge(job.model)
    if new_loss < loss:
        allocation, loss = again, new_loss
    else:
        state.install(first)
    by_block: dict[int, list[Choice]] = {}
    for choice in allocation.choices:
        if choice.kind != "dense":
            by_block.setdefault(job.problem.targets[choice.members[0]].block, []).append(choice)
    with job.timed("refit"), job.reporter.stage("refit blocks", len(by_block)) as advance:
        for done, (_, choices) in enumerate(sorted(by_block.items()), start=1):
            before = {choice.members: state.fitted[choice.members] for choice in choices}
            state.add(_fit(job, choices, both, shrinkage, ridge=True))
            new_loss = judge(job.model)
            if new_loss < loss:
                loss = new_loss
            else:
                state.add(before)
            advance(done)
    state.losses["refitted blocks"] = loss
    return allocation


def _round(model: nn.Module, dtype: torch.dtype) -> None:
    """Round every weight to the storage dtype and keep it in its own: what is measured is what is saved."""
    # Buffers that are not saved, such as rotary frequencies, are computed anew by the reader: not rounded.
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype).to(tensor.dtype)


def _warn_of_poor_calibration(result: CompressionResult) -> None:
    """Tell the caller of :func:`compress` when the damage on held-out text is much larger."""
    held_out, seen = result.held_out_loss, result.calibration_loss
    if held_out > _GENERALISATION * seen and held_out > 1e-3:
        warn_caller(
            f"the damage on held-out text is {held_out:.3g}, {held_out / max(seen, 1e-12):.1f} times that on the "
            f"calibration text ({seen:.3g}); calibrate on more text, and on text like that of your use.",
            CalibrationWarning,
        )
