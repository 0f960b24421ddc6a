"""``tnet search``: one array in, the tensor network with the best structure out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import check_new
from tnet.cli.terminal import print_json, progress_bar, show
from tnet.errors import InputError

__all__ = ["search"]

_Algorithm = Literal["auto", "tnale", "tnls", "tnga", "greedy", "svdinstn", "trees"]
_Space = Literal["free", "trees", "ring", "train"]


@reported
def search(
    file: Annotated[Path, typer.Argument(help="Array: .npy, or .npz with one member.", show_default=False)],
    rtol: Annotated[float | None, typer.Option(help="Fewest parameters at this relative Frobenius error.")] = None,
    max_params: Annotated[int | None, typer.Option(help="Least error with so many parameters.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="Least parameters/entries + WEIGHT x squared relative error.")
    ] = None,
    algorithm: Annotated[_Algorithm, typer.Option(help="What proposes structures.")] = "auto",
    space: Annotated[
        _Space, typer.Option(help="What may be tried; modes of rings and trains in any order.")
    ] = "free",
    max_rank: Annotated[int | None, typer.Option(help="Of any bond; a default by the number of entries.")] = None,
    internal: Annotated[int, typer.Option(help="Cores without a mode, for free and trees.")] = 0,
    reshape: Annotated[str | None, typer.Option(help="Shape to search in, such as 4,4,4,4.")] = None,
    budget: Annotated[int | None, typer.Option(help="Most evaluations.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Most wall seconds.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; none by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of the log: the same line goes on with it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the network to this .safetensors file.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Search for the structure of a tensor network: topology, ranks and order of the modes."""
    goals = {"--rtol": rtol, "--max-params": max_params, "--weight": weight}
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        raise InputError(f"--rtol, --max-params and --weight: give exactly one of them, not {given or 'none'}.")
    mark = None if resume is None else resume / ".out"  # the file that this very search wrote when it last ended
    if out is not None and not (mark is not None and mark.exists() and mark.read_text() == str(out.absolute())):
        check_new(out, "--out")
    from tnet.io import read_array, save
    from tnet.structure_search import Budget, SizeAndError
    from tnet.structure_search import search as run

    x = _reshaped(read_array(file), reshape)
    with progress_bar("search") as bar:
        result = run(
            x,
            rtol=rtol,
            max_params=max_params,
            objective=None if weight is None else SizeAndError(weight),
            algorithm=algorithm,
            space=_space(space, x, max_rank, internal),
            budget=Budget(evaluations=budget, seconds=seconds),
            executor=workers,
            resume=resume,
            rng=seed,
            callback=None if bar is None else lambda trial, best: bar(trial.number + 1, budget or trial.number + 1),
        )
    if out is not None:
        save(result.best.network, out)
        if mark is not None:
            mark.write_text(str(out.absolute()))
    if as_json:
        print_json({"command": "search", "file": str(file), "out": None if out is None else str(out)} | _told(result))
    else:
        show(result)
        if out is not None:
            show(f"saved {out}")


def _told(result: Any) -> dict[str, Any]:
    best = result.best
    return {
        "structure": best.structure.to_json(),
        "n_params": best.n_params,
        "error": best.error,
        "score": best.score,
        "feasible": result.feasible,
        "gap": result.gap,
        "evaluations": result.evaluations,
        "cached": result.n_cached,
        "pruned": result.n_pruned,
        "failed": result.n_failed,
        "ending": result.ending.name,
        "seconds": result.seconds,
        "rng_seed": result.rng_seed,
    }


def _reshaped(x: Any, text: str | None) -> Any:
    if text is None:
        return x
    try:
        shape = tuple(int(part) for part in text.split(","))
        return x.reshape(shape)
    except ValueError:
        raise InputError(f"--reshape {text}: give integers between commas whose product is {x.size}.") from None


def _space(name: str, x: Any, max_rank: int | None, internal: int) -> Any:
    from tnet.structure_search import SearchSpace, default_max_rank

    rank = default_max_rank(x.shape) if max_rank is None else max_rank
    if name in ("ring", "train"):
        if internal:
            raise InputError(f"--internal {internal}: rings and trains have no internal cores.")
        return (SearchSpace.ring if name == "ring" else SearchSpace.train)(x.ndim, max_rank=rank)
    return SearchSpace("free" if name == "free" else "trees", rank, n_internal=internal)
