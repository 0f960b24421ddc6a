"""``tnet contract``: arrays in, their contraction out."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import check_new
from tnet.cli.plan import describe
from tnet.cli.terminal import print_json, progress_bar, show
from tnet.errors import InputError

if TYPE_CHECKING:
    from tnet.contraction import ContractionPlan

__all__ = ["contract"]

_SUFFIXES = (".npy", ".safetensors")


@reported
def contract(
    equation: Annotated[str, typer.Argument(help="Einsum equation, such as 'ab,bc->ac'.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(help="Operands: .npy, or .npz or .safetensors with one member.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the result to this .npy or .safetensors file.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan that tnet plan wrote.")] = None,
    memory: Annotated[str | None, typer.Option(help="Bytes, or text such as 8GiB: cut indices to keep it.")] = None,
    planner: Annotated[str | None, typer.Option(help="Who searches the order. [default: auto]")] = None,
    seconds: Annotated[float | None, typer.Option(help="At most this long a search of the order.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the search. [default: 0]")] = None,
    executor: Annotated[
        str | None, typer.Option(help="Worker processes for the slices: a number, or 'processes' for all.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Folder to keep plan and sum of the slices in; the same line again goes on there."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Contract arrays. Without --out, a result of one number is printed."""
    workers = _workers(executor)
    if plan is not None and not (memory is planner is seconds is seed is None):
        raise InputError(
            "--plan: the plan holds order and slices; leave out --memory, --planner, --seconds and --seed."
        )
    if out is not None:
        if out.suffix not in _SUFFIXES:
            raise InputError(f"--out {str(out)!r}: give a name that ends in {' or '.join(_SUFFIXES)}.")
        check_new(out, "--out")
    arrays = [_read(file) for file in files]
    _check_result(equation, arrays, out)
    request = None
    if plan is None:
        from tnet.contraction.api import search_or_resume

        _, found, request = search_or_resume(
            equation,
            arrays,
            planner=planner or "auto",
            memory_limit=memory,
            max_planning_seconds=seconds,
            rng=seed or 0,
            checkpoint=checkpoint,
        )
    else:
        found = _load(plan, equation, [tuple(x.shape) for x in arrays])
    from tnet.contraction.distribute import run_plan

    started = time.perf_counter()
    with progress_bar("slices") as callback:
        result = run_plan(
            found,
            arrays,
            executor=workers,
            checkpoint=checkpoint,
            callback=callback,
            request=request,
            deliver=None if out is None else lambda x: _write(x, out),
        )
    elapsed = time.perf_counter() - started
    value = result.item() if result.size == 1 else None
    if as_json:
        shown = [value.real, value.imag] if isinstance(value, complex) else value
        account = {"command": "contract", **describe(found), "value": shown, "seconds": elapsed}
        print_json({**account, "out": None if out is None else str(out)})
        return
    show(found)
    show(f"  seconds   {elapsed:.3g}")
    show(f"{value}" if out is None else f"saved {out}")


def _workers(text: str | None) -> Any:
    if text is None or text == "processes":
        return text
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise InputError(f"--executor {text}: give a number of worker processes of at least 1, or 'processes'.")
    return int(text)


def _read(path: Path) -> Any:
    from tnet.io import read_array, read_safetensors

    if path.suffix != ".safetensors":
        return read_array(path)
    tensors, _ = read_safetensors(path)
    if len(tensors) != 1:
        raise InputError(
            f"{str(path)!r} holds {len(tensors)} tensors ({', '.join(list(tensors)[:4])}): give a file with one."
        )
    return next(iter(tensors.values()))


def _check_result(equation: str, arrays: list[Any], out: Path | None) -> None:
    """Require a place for the result that can hold it, before anything is searched or computed."""
    from tnet.arrays import dtype_name
    from tnet.contraction.dtypes import dtype_plan
    from tnet.contraction.spec import parse_equation

    shape = parse_equation(equation, [tuple(x.shape) for x in arrays]).output_shape
    if out is None:
        if math.prod(shape) != 1:
            raise InputError(f"the result has shape {shape}: give --out, a file to write it to.")
    elif out.suffix == ".safetensors" and dtype_plan([dtype_name(x) for x in arrays]).result == "complex128":
        raise InputError(
            f"--out {str(out)!r}: the result is complex128, which safetensors cannot hold; give a name in .npy."
        )


def _load(path: Path, equation: str, shapes: list[tuple[int, ...]]) -> ContractionPlan:
    """Read a plan and require that it is of this equation and these shapes."""
    from tnet.contraction import ContractionPlan
    from tnet.contraction.spec import parse_equation

    if not path.is_file():
        raise InputError(f"--plan {str(path)!r}: there is no such file.")
    found = ContractionPlan.load(path)
    wanted = parse_equation(equation, shapes)
    same = (found.spec.inputs, found.spec.output, found.spec.sizes) == (wanted.inputs, wanted.output, wanted.sizes)
    if not same:
        raise InputError(
            f"--plan {str(path)!r} was made for {found.spec.equation} with operands of shapes "
            f"{', '.join(map(str, found.spec.input_shapes[:4]))}: plan again for these files."
        )
    return found


def _write(result: Any, path: Path) -> None:
    import numpy as np

    from tnet.io import atomic_write, write_safetensors

    if path.suffix == ".npy":
        atomic_write(path, lambda file: np.save(file, np.asarray(result, order="C"), allow_pickle=False))
    else:
        write_safetensors(path, {"result": result})
