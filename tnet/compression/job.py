"""One compression as a job: its checked inputs, its split data, and the parts that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tnet.compression.catalogue import Group, Problem
from tnet.compression.moments import Moments, check_memory, collect
from tnet.compression.objective import CausalObjective, EncoderObjective, objective_of
from tnet.compression.original import OriginalModel
from tnet.compression.progress import Reporter
from tnet.compression.result import checkpoint_bytes
from tnet.compression.sequences import TokenSequence, batches, hold_out, to_sequences
from tnet.compression.settings import Settings
from tnet.compression.targets import Target, dense_weight, find_targets, group_by_input
from tnet.errors import InputError
from tnet.io import Checkpoint, open_checkpoint

__all__ = ["Job", "moments_of", "prepare"]

#: Share of the sequences that are kept out of the statistics.
_HELD_OUT = 0.1
_CHECKPOINT_SECONDS = 60.0


@dataclass(eq=False)
class Job:
    """A model, its data and where the parts of the work are kept."""

    model: Any
    settings: Settings
    objective: CausalObjective | EncoderObjective
    problem: Problem
    original: OriginalModel
    statistics: list[TokenSequence]
    validation: list[TokenSequence]
    evaluation: list[TokenSequence]
    reporter: Reporter
    checkpoint: Checkpoint | None
    bytes_before: int
    mpo_verdicts: dict[tuple[int, ...], bool] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall seconds of the block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def stored(self, name: str) -> Any:
        """Return a value that an interrupted run left behind, or None."""
        if self.checkpoint is not None and self.checkpoint.has(name):
            return self.checkpoint.load_json(name)
        return None

    def store(self, name: str, value: Any) -> None:
        """Leave a value behind for a later run."""
        if self.checkpoint is not None:
            self.checkpoint.save_json(name, value)


def prepare(
    model: Any,
    calibration: Iterable[Any],
    evaluation: Iterable[Any] | None,
    tokenizer: Any | None,
    checkpoint: str | Path | None,
    device: str | torch.device | None,
    progress: bool,
    settings: Settings,
) -> Job:
    """Check everything that can be checked cheaply, and split the data."""
    objective = objective_of(model)
    targets = find_targets(model, settings.targets)
    weights = {target.name: dense_weight(model.get_submodule(target.name)) for target in targets}
    for name, weight in weights.items():
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all():
            raise InputError(f"{name}.weight has non-finite values; compress takes a model with finite weights.")
    length, causal = settings.sequence_length, objective.causal
    known = to_sequences(calibration, name="calibration", tokenizer=tokenizer, length=length, causal=causal)
    _check_sequences(model, known, "calibration")
    if evaluation is None:
        known, held_out = hold_out(known, _HELD_OUT)
    else:
        held_out = to_sequences(evaluation, name="evaluation", tokenizer=tokenizer, length=length, causal=causal)
        _check_sequences(model, held_out, "evaluation")
    statistics, validation = hold_out(known, _HELD_OUT)
    if device is not None:
        model.to(device)
        weights = {target.name: dense_weight(model.get_submodule(target.name)) for target in targets}
    tiny = {key: value[:8] for key, value in next(batches(known, 1, next(model.parameters()).device)).items()}
    groups = group_by_input(model, targets, {key: value[:, :8] for key, value in tiny.items()})
    problem = Problem({target.name: target for target in targets}, groups, weights, settings.itemsize)
    store = None if checkpoint is None else open_checkpoint(checkpoint, _key(model, settings, known, held_out))
    return Job(
        model=model,
        settings=settings,
        objective=objective,
        problem=problem,
        original=OriginalModel(model, tuple(problem.targets)),
        statistics=statistics,
        validation=validation,
        evaluation=held_out,
        reporter=Reporter(progress),
        checkpoint=store,
        bytes_before=checkpoint_bytes(model, settings.storage),
    )


def _check_sequences(model: Any, sequences: Sequence[TokenSequence], name: str) -> None:
    """Refuse tokens that the model does not know, as those of another tokenizer, and more than it has positions."""
    longest, positions = max(len(s["input_ids"]) for s in sequences), _positions(model)
    if positions is not None and longest > positions:
        raise InputError(
            f"{name}= has a sequence of {longest} tokens, and the model was made for {positions} positions; "
            f"give sequence_length={positions} or less, or cut the sequences."
        )
    size = model.get_input_embeddings().num_embeddings
    ids = [sequence["input_ids"] for sequence in sequences]
    least, most = min(int(row.min()) for row in ids), max(int(row.max()) for row in ids)
    if least < 0 or most >= size:
        raise InputError(
            f"{name}= has token ids from {least} to {most}, and the model knows 0 to {size - 1}; "
            "use the tokenizer that belongs to the model."
        )


def _positions(model: Any) -> int | None:
    """Return the most tokens of a sequence, or None if the configuration does not say."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    for module in model.modules():
        # RoBERTa counts its positions from behind the padding's.
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == positions and module.padding_idx:
            return positions - module.padding_idx - 1
    return positions


def _key(
    model: Any,
    settings: Settings,
    known: Sequence[TokenSequence],
    held_out: Sequence[TokenSequence],
) -> dict[str, Any]:
    """What the parts of a checkpoint depend on."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    _digest(digest, model.state_dict())
    text = hashlib.sha256()
    for part in (known, held_out):
        text.update(f"{len(part)} sequences".encode())
        for sequence in part:
            _digest(text, sequence)
    return {**settings.to_dict(), "model": digest.hexdigest(), "data": text.hexdigest()}


def _digest(digest: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add names, shapes and values to a hash."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def moments_of(
    job: Job,
    name: str,
    sequences: Sequence[TokenSequence],
    groups: tuple[Group, ...] | None = None,
    original: OriginalModel | None = None,
) -> Moments:
    """Collect moments, going on where a checkpoint stands and leaving one behind every minute."""
    part = f"moments-{name}"
    groups = job.problem.groups if groups is None else groups
    targets: list[Target] = [job.problem.targets[member] for group in groups for member in group]
    device = next(job.model.parameters()).device
    if name == "first":
        check_memory(targets, groups, job.settings.sensitivity, device)
    resume = None
    if job.checkpoint is not None and job.checkpoint.has(part):
        tensors, metadata = job.checkpoint.load_tensors(part, library="torch")
        resume = Moments.from_state({k: v.to(device) for k, v in tensors.items()}, metadata)
        if resume.n_done >= len(sequences):
            return resume
    last = time.monotonic()

    def on_batch(moments: Moments) -> None:
        nonlocal last
        advance(moments.n_done)
        due = time.monotonic() - last > _CHECKPOINT_SECONDS or moments.n_done >= len(sequences)
        if job.checkpoint is not None and due:
            job.checkpoint.save_tensors(part, *moments.state())
            last = time.monotonic()

    with job.timed(part), job.reporter.stage(f"calibrate ({name})", len(sequences)) as advance:
        return collect(
            job.model,
            job.objective,
            targets,
            groups,
            sequences,
            sensitivity=job.settings.sensitivity,
            seed=job.settings.seed,
            batch_size=job.settings.batch_size,
            original=original,
            resume=resume,
            on_batch=on_batch,
        )
