"""``tnet decompose``: one array in, one factorised tensor out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tnet.cli.failures import reported
from tnet.cli.inputs import check_new
from tnet.cli.terminal import print_json, show
from tnet.errors import InputError

__all__ = ["decompose"]

_Method = Literal["cp", "tucker", "tt", "tr", "ht", "mpo", "btt", "kronecker-sum"]
_OF_MATRICES = ("mpo", "btt", "kronecker-sum")


@reported
def decompose(
    file: Annotated[Path, typer.Argument(help="Array: .npy, or .npz with one member.", show_default=False)],
    method: Annotated[_Method, typer.Option(help="Format to decompose into.")],
    rank: Annotated[str | None, typer.Option(help="One integer, or one a mode, bond or node between commas.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative Frobenius error of the whole tensor.")] = None,
    rows: Annotated[str | None, typer.Option(help="Digits of the rows of a matrix, such as 32,24.")] = None,
    columns: Annotated[str | None, typer.Option(help="Digits of its columns.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this .safetensors file.")] = None,
    seed: Annotated[int, typer.Option(help="Of random starts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Decompose a dense array, by rank or by error."""
    ranks = _parse_integers(rank, "--rank")
    digits = tuple(_parse_integers(text, name) for text, name in ((rows, "--rows"), (columns, "--columns")))
    if method == "cp" and (not isinstance(ranks, int) or rtol is not None):
        raise InputError("--method cp takes --rank with one integer, and no --rtol.")
    if (ranks is None) == (rtol is None):
        raise InputError(
            f"--rank and --rtol: {'neither' if rtol is None else 'both'} given; give exactly one of them."
        )
    given = sum(part is not None for part in digits)
    if given != (2 if method in _OF_MATRICES else 0):
        raise InputError(
            f"--rows and --columns: {', '.join(_OF_MATRICES)} need both, the other methods take neither."
        )
    if out is not None:
        check_new(out, "--out")
    from tnet.io import read_array, save

    result = _run(read_array(file), method, digits, ranks, rtol, seed)
    if out is not None:
        save(result, out)
    if as_json:
        print_json(
            {
                "command": "decompose",
                "file": str(file),
                "method": method,
                "out": None if out is None else str(out),
                "kind": type(result.tensor).__name__,
                "shape": list(result.tensor.shape),
                "rank": result.tensor.rank,
                "dtype": str(result.tensor.dtype),
                "n_params": result.tensor.n_params,
                "error": float(result.error),
                "error_kind": result.error_kind,
                "status": result.status.name,
                "sweeps": len(result.history.error),
                "seconds": result.seconds,
                "rng_seed": result.rng_seed,
            }
        )
    else:
        show(result)
        if out is not None:
            show(f"saved {out}")


def _run(x: Any, method: str, digits: tuple[Any, ...], ranks: Any, rtol: float | None, seed: int) -> Any:
    import tnet

    if method == "cp":
        return tnet.cp(x, ranks, rng=seed)
    by_error = {"tucker": tnet.tucker, "tt": tnet.tt, "tr": tnet.tr, "ht": tnet.ht}
    if method in by_error:
        return by_error[method](x, ranks, rtol=rtol)
    of_matrices = {"mpo": tnet.mpo, "btt": tnet.btt, "kronecker-sum": tnet.kronecker_sum}
    row_shape, column_shape = (n if isinstance(n, tuple) else (n,) for n in digits)
    return of_matrices[method](x, row_shape, column_shape, ranks, rtol=rtol)


def _parse_integers(text: str | None, name: str) -> int | tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{name} {text}: give an integer, or integers between commas.") from None
    if min(numbers) < 1:
        raise InputError(f"{name} {text}: {'ranks' if name == '--rank' else 'digits'} are at least 1.")
    return numbers[0] if len(numbers) == 1 else numbers
