"""``tnet plan``: the cost of a contraction before anything is allocated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import check_new
from tnet.cli.terminal import print_json, show
from tnet.errors import InputError

if TYPE_CHECKING:
    from tnet.contraction import ContractionPlan

__all__ = ["describe", "plan"]

_LONGEST_SIZE = 20  # digits


@reported
def plan(
    equation: Annotated[str, typer.Argument(help="Einsum equation, such as 'ab,bc->ac'.", show_default=False)],
    sizes: Annotated[str, typer.Option(help="Size of every index: a=64,b=64,c=64.")],
    memory: Annotated[str | None, typer.Option(help="Bytes, or text such as 8GiB: cut indices to keep it.")] = None,
    dtype: Annotated[str, typer.Option(help="Of the operands.")] = "float64",
    planner: Annotated[str, typer.Option(help="Who searches the order; see tnet.plan.")] = "auto",
    seconds: Annotated[float | None, typer.Option(help="At most this long a search.")] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the plan to this .json file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Plan a contraction: order, slices, multiply-adds, bytes at the peak, seconds."""
    if out is not None:
        check_new(out, "--out")
    shapes = _shapes(equation, sizes)
    import tnet

    started = time.perf_counter()
    found = tnet.plan(
        equation,
        *shapes,
        dtype=dtype,
        planner=planner,  # pyright: ignore[reportArgumentType]
        memory_limit=memory,
        max_planning_seconds=seconds,
        rng=seed,
    )
    planning = time.perf_counter() - started
    if out is not None:
        found.save(out)
    if as_json:
        print_json(
            {
                "command": "plan",
                **describe(found),
                "path": found.path,
                "planning_seconds": planning,
                "out": None if out is None else str(out),
            }
        )
        return
    show(found)
    show(f"  planning  {planning:.3g} s")
    if out is not None:
        show(f"saved {out}")


def describe(found: ContractionPlan) -> dict[str, Any]:
    """Return the account of a plan."""
    return {
        "equation": found.spec.equation,
        "n_operands": len(found.spec.inputs),
        "output_shape": found.output_shape,
        "dtype": found.dtypes.result,
        "planner": found.planner,
        "macs": found.macs,
        "flops": found.flops,
        "peak_bytes": found.peak_bytes,
        "memory_limit": found.memory_limit,
        "n_slices": found.n_slices,
        "splits": {found.spec.labels[index]: parts for index, parts in found.splits},
        "predicted_seconds": found.predicted_seconds,
    }


def _shapes(equation: str, text: str) -> list[tuple[int, ...]]:
    """Return the shape of each operand; every index needs a size, and no other has one."""
    from tnet.contraction.spec import read_equation

    terms, _ = read_equation(equation)
    sizes = _sizes(text)
    for position, term in enumerate(terms):
        if ... in term:
            raise InputError(
                f"operand {position} of {equation!r} has an ellipsis, whose axes have no names to give sizes to: "
                "write a letter for each axis."
            )
        for label in term:
            if label not in sizes:
                raise InputError(f"--sizes lacks index {label!r} of operand {position}: add {label}=...")
    unknown = sizes.keys() - {label for term in terms for label in term}
    if unknown:
        raise InputError(f"--sizes names {min(unknown)!r}, which no operand of {equation!r} has.")
    return [tuple(sizes[label] for label in term) for term in terms]


def _sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in text.split(","):
        label, equals, number = part.strip(" \t").rpartition("=")
        if len(label) != 1 or not equals or not (number.isascii() and number.isdecimal()):
            raise InputError(f"--sizes: {part!r} is not a size; write one letter, '=' and a number, as in a=64,b=64.")
        if len(number) > _LONGEST_SIZE:
            raise InputError(f"--sizes: {label!r} has a size of {len(number)} digits; give {_LONGEST_SIZE} at most.")
        if label in sizes:
            raise InputError(f"--sizes gives {label!r} twice: write each index once.")
        sizes[label] = int(number)
    return sizes
