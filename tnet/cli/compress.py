"""``tnet compress``: a language model in, a smaller one out, with the account of what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import (
    check_budget,
    check_device,
    check_dtype,
    check_new,
    check_pattern,
    parse_candidates,
    parse_share,
    read_text,
    require,
)
from tnet.cli.models import ModelSource, load_model, locate_model, texts_for
from tnet.cli.terminal import print_json, say, show, show_table, size
from tnet.errors import InputError, QualityGateError

if TYPE_CHECKING:
    from tnet.compression import Allocation, CompressionResult

__all__ = ["compress"]


@dataclass(frozen=True)
class _Request:
    """What was asked for, checked as far as possible without torch."""

    model: str
    source: ModelSource
    out: Path
    options: dict[str, Any]
    refine: bool
    device: str | None
    calibration: str
    evaluation: str | None
    checkpoint: Path | None
    gate: float | None
    report: Path | None
    dense: bool
    json: bool


@reported
def compress(
    model: Annotated[str, typer.Argument(help="Model folder, .gguf file, or name on the hub.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.", show_default=False)],
    ratio: Annotated[float | None, typer.Option(help="Share of the target parameters to keep, (0, 1].")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Bytes of the saved model, such as 200MiB.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text like that of the model's use; for an encoder one text a line.")
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Text to measure on; without it a tenth of the calibration text is held out.")
    ] = None,
    targets: Annotated[str | None, typer.Option(help="Regular expression on layer names.")] = None,
    candidates: Annotated[
        str, typer.Option(help="auto, or some of dense,interpolative,shared,mpo between commas.")
    ] = "auto",
    sensitivity: Annotated[
        Literal["fisher", "output"], typer.Option(help="'output' needs no backward pass: for very large models.")
    ] = "fisher",
    sequence_length: Annotated[int, typer.Option(help="Tokens a sequence.", min=2)] = 256,
    batch_size: Annotated[int, typer.Option(help="Sequences a forward pass.", min=1)] = 4,
    no_refine: Annotated[bool, typer.Option("--no-refine", help="Skip the second estimate and the refit.")] = False,
    max_ppl_increase: Annotated[
        str | None, typer.Option(help="Write nothing and exit 3 above this increase: 0.05 or 5%.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder for unfinished work.", show_default="OUT.partial")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the saved model: bfloat16, float16 or float32.")] = "bfloat16",
    dense: Annotated[bool, typer.Option("--dense", help="Multiply out: no smaller, but loads without tnet.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    seed: Annotated[int, typer.Option(help="Of the labels that the model draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the account as an HTML file too.")] = None,
) -> None:
    """Compress a language model under one budget, and measure what it cost.

    Interrupt it when you like: the same line continues where it stopped.
    """
    check_budget(ratio, max_bytes)
    check_dtype(dtype)
    check_device(device)
    check_pattern(targets)
    kinds = parse_candidates(candidates)
    gate = parse_share(max_ppl_increase, "--max-ppl-increase")
    if not dry_run:
        check_new(out, "OUT")
    if report is not None:
        check_new(report, "--report")
        require("matplotlib", "plot", "--report")
    if calibration is None:
        raise InputError("--calibration: give a text file like that on which the model will be used.")
    text = read_text(calibration, "--calibration", at_least=1)
    held_out = None if evaluation is None else read_text(evaluation, "--evaluation", at_least=1)
    source = locate_model(model)
    if source.causal:
        for option, path in (("--calibration", calibration), ("--evaluation", evaluation)):
            if path is not None:
                read_text(path, option, at_least=sequence_length)
    require("torch", "llm", "tnet compress")
    require("transformers", "llm", "tnet compress")
    if checkpoint is None and not dry_run:
        checkpoint = out.with_name(out.name + ".partial")
    request = _Request(
        model=model,
        source=source,
        out=out,
        options={
            "ratio": ratio,
            "max_bytes": int(max_bytes) if max_bytes is not None and max_bytes.isdecimal() else max_bytes,
            "targets": targets,
            "candidates": kinds,
            "sensitivity": sensitivity,
            "dtype": dtype,
            "sequence_length": sequence_length,
            "batch_size": batch_size,
            "rng": seed,
        },
        refine=not no_refine,
        device=device,
        calibration=text,
        evaluation=held_out,
        checkpoint=checkpoint,
        gate=gate,
        report=report,
        dense=dense,
        json=as_json,
    )
    if dry_run:
        _plan(request)
    else:
        _compress(request)


def _load(request: _Request) -> tuple[Any, Any, dict[str, Any]]:
    """Return model, tokenizer and the data as the library's keyword arguments."""
    say(f"loading {request.model}", style="dim")
    model, tokenizer = load_model(request.source)
    if request.device is not None:
        _require_device(request.device)
    causal = hasattr(model, "lm_head") if request.source.causal is None else request.source.causal
    data = {
        "calibration": texts_for(request.calibration, causal),
        "evaluation": None if request.evaluation is None else texts_for(request.evaluation, causal),
        "tokenizer": tokenizer,
        "checkpoint": request.checkpoint,
        "device": request.device,
    }
    return model, tokenizer, data


def _require_device(device: str) -> None:
    import torch

    kind, _, index = device.partition(":")
    backend = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}.get(kind)
    count = 1 if backend is None else backend.device_count()
    if int(index or 0) >= count:
        raise InputError(f"--device {device}: torch sees {count} devices of that kind here; try --device cpu.")


def _compress(request: _Request) -> None:
    from tnet.compression import compress as compress_model

    model, tokenizer, data = _load(request)
    try:
        result = compress_model(model, refine=request.refine, max_increase=request.gate, **request.options, **data)
    except QualityGateError as error:
        _show_miss(request, error)
        raise
    account = _account(request, result)
    result.save(request.out, tokenizer=tokenizer, dense=request.dense)
    if request.report is not None:
        from tnet.plot import report

        report(result, request.report, title=f"{request.model}, compressed by tnet")
    if request.json:
        print_json(account)
    else:
        show(result)
        _show_quality(result)
        how = "transformers alone" if request.dense else "transformers, after import tnet.compression"
        show(f"saved {request.out}: load it with {how}")


def _account(request: _Request, result: CompressionResult) -> dict[str, Any]:
    return {"command": "compress", "model": request.model, "out": str(request.out), **result.to_dict()}


def _show_miss(request: _Request, error: QualityGateError) -> None:
    result: Any = error.result
    if request.json:
        print_json({**_account(request, result), "out": None})
    else:
        show(result)
        _show_quality(result)
    say(f"nothing was written; the work is kept in {request.checkpoint}: another --max-ppl-increase costs little.")


def _show_quality(result: CompressionResult) -> None:
    rows = [
        ("parameters in the targets", f"{result.n_params_before:,}", f"{result.n_params:,}"),
        (f"bytes in {result.settings.dtype}", size(result.bytes_before), size(result.bytes_after)),
    ]
    before, after = vars(result.before), vars(result.after)
    rows += [(name, f"{before[name]:.4g}", f"{after[name]:.4g}") for name in after]
    show_table("held-out quality", ("", "before", "after"), rows)


def _plan(request: _Request) -> None:
    from tnet.compression import plan_compression
    from tnet.compression.targets import find_targets

    model, _, data = _load(request)
    dense = {target.name: target.n_params for target in find_targets(model, request.options["targets"])}
    allocation = plan_compression(model, **request.options, **data)
    total = sum(dense.values())
    if request.json:
        print_json(
            {
                "command": "compress",
                "dry_run": True,
                "model": request.model,
                "budget": allocation.budget,
                "unit": allocation.unit,
                "n_params_before": total,
                "n_params": allocation.n_params,
                "n_bytes": allocation.n_bytes,
                "macs": allocation.macs,
                "predicted_loss": allocation.loss,
                "layers": [vars(choice) for choice in allocation.choices],
            }
        )
    else:
        _show_plan(allocation, dense)


def _show_plan(allocation: Allocation, dense: dict[str, int]) -> None:
    rows = []
    for choice in allocation.choices:
        before = sum(dense[name] for name in choice.members)
        ranks = " ".join(map(str, choice.ranks)) or "-"
        kept = f"{choice.n_params / before:.1%}"
        rows.append((" + ".join(choice.members), choice.kind, ranks, kept, f"{choice.loss:.3e}"))
    total = sum(dense.values())
    rows.append(("all", "", "", f"{allocation.n_params / total:.1%}", f"{allocation.loss:.3e}"))
    show_table("plan", ("layer", "kind", "rank", "kept", "predicted loss"), rows, left=2)
    show(
        f"{allocation.n_params:,} of {total:,} parameters, {size(allocation.n_bytes)} in the target layers, "
        f"budget {allocation.budget:,} {allocation.unit}; nothing was written"
    )
