"""``tnet info``: what a file or a model folder holds, told from headers alone."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from tnet.cli.failures import reported
from tnet.cli.models import read_config
from tnet.cli.terminal import print_json, show, show_table, size
from tnet.errors import FormatError, InputError

__all__ = ["info"]


@reported
def info(
    path: Annotated[Path, typer.Argument(help="A .safetensors, .npy or .npz file, or a model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the standard output.")] = False,
) -> None:
    """Show what a file or a model folder holds, without loading it."""
    if path.is_dir():
        account, show_account = _folder(path), _show_folder
    elif not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}.")
    elif path.suffix.lower() in (".npy", ".npz"):
        account, show_account = _numpy(path), _show_arrays
    else:
        account, show_account = _safetensors(path), _show_arrays
    if as_json:
        print_json({"command": "info", "path": str(path), **account})
    else:
        show_account(str(path), account)


def _safetensors(path: Path) -> dict[str, Any]:
    from tnet.io import read_header
    from tnet.io.strict_json import parse_json

    header = read_header(path)
    arrays = [
        {"name": name, "dtype": entry.dtype, "shape": list(entry.shape), "nbytes": entry.nbytes}
        for name, entry in header.tensors.items()
    ]
    account: dict[str, Any] = {"kind": "safetensors", "nbytes": header.nbytes, "arrays": arrays}
    if "tnet" in header.metadata:
        description = parse_json(header.metadata["tnet"].encode(), f"the description in {str(path)!r}")
        if not isinstance(description, dict):
            raise FormatError(f"{str(path)!r} is damaged: its description is no object.")
        account["kind"] = str(description.get("kind"))
        account["decomposition"] = description.get("decomposition")
    return account


def _numpy(path: Path) -> dict[str, Any]:
    arrays: list[dict[str, Any]] = []
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    with archive.open(member) as stream:
                        arrays.append(_npy_header(stream, member.removesuffix(".npy")))
        else:
            file.seek(0)
            arrays.append(_npy_header(file, path.stem))
    return {"kind": path.suffix.lower()[1:], "nbytes": sum(array["nbytes"] for array in arrays), "arrays": arrays}


def _npy_header(stream: Any, name: str) -> dict[str, Any]:
    from numpy.lib import format as npy

    file: BinaryIO = stream
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, EOFError) as error:
        raise FormatError(f"{name!r} is no array of NumPy: {error}") from None
    nbytes = math.prod(shape) * dtype.itemsize
    return {"name": name, "dtype": str(dtype), "shape": list(shape), "nbytes": nbytes}


def _show_arrays(path: str, account: dict[str, Any]) -> None:
    rows = [
        (array["name"], array["dtype"], " x ".join(map(str, array["shape"])) or "scalar", size(array["nbytes"]))
        for array in account["arrays"]
    ]
    rows.append(("all", "", "", size(account["nbytes"])))
    show_table(f"{path}: {account['kind']}", ("array", "dtype", "shape", "bytes"), rows, left=3)
    found = account.get("decomposition")
    if isinstance(found, dict):
        show(f"relative error {found.get('error')} ({found.get('error_kind')}), {found.get('status')}")


def _folder(path: Path) -> dict[str, Any]:
    from tnet.io import read_header

    if not (path / "config.json").exists():
        raise InputError(f"{str(path)!r} has no config.json: it is no model folder.")
    config = read_config(path)
    entries: dict[str, tuple[int, int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        for name, entry in read_header(file).tensors.items():
            entries[name] = (math.prod(entry.shape), entry.nbytes)
    account: dict[str, Any] = {
        "kind": "model",
        "architectures": config.get("architectures"),
        "n_params": sum(n for n, _ in entries.values()),
        "nbytes": sum(nbytes for _, nbytes in entries.values()),
        "layers": [],
    }
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") == "tnet":
        account["kind"] = "model compressed by tnet"
        account["layers"] = _layers(quantization.get("layers"), entries)
        account["result"] = _saved_result(path)
    return account


def _layers(specs: Any, entries: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    if not isinstance(specs, dict):
        raise FormatError("quantization_config has no layers: config.json is damaged.")
    layers = []
    for name, spec in specs.items():
        try:
            m, n = int(spec["out_features"]), int(spec["in_features"])
            rank = spec.get("rank", spec.get("ranks"))
            kind = str(spec["kind"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FormatError(f"quantization_config describes {name!r} badly: config.json is damaged.") from None
        stored = sum(
            count for key, (count, _) in entries.items() if key.startswith(f"{name}.") and not key.endswith(".bias")
        )
        layers.append({"name": name, "kind": kind, "shape": [m, n], "rank": rank, "n_params": stored})
    return layers


def _saved_result(path: Path) -> dict[str, Any] | None:
    """Return the quality before and after, where the account was saved along."""
    from tnet.io.strict_json import parse_json

    file = path / "tnet.json"
    if not file.exists():
        return None
    account = parse_json(file.read_bytes(), repr(str(file)))
    if not isinstance(account, dict):
        raise FormatError(f"{str(file)!r} holds no object: it is damaged.")
    return {key: account.get(key) for key in ("ratio", "bytes_before", "bytes_after", "before", "after", "increase")}


def _show_folder(path: str, account: dict[str, Any]) -> None:
    if account["layers"]:
        rows = []
        for layer in account["layers"]:
            m, n = layer["shape"]
            rank = layer["rank"]
            shown = " ".join(map(str, rank)) if isinstance(rank, list) else str(rank)
            kept = f"{layer['n_params'] / max(m * n, 1):.1%}"
            rows.append((layer["name"], layer["kind"], f"{m} x {n}", shown, kept))
        show_table("factorised layers", ("layer", "kind", "dense shape", "rank", "kept"), rows, left=2)
    names = account["architectures"]
    shown = ", ".join(map(str, names)) if isinstance(names, list) else "unknown architecture"
    show(f"{path}: {account['kind']}, {shown}, {account['n_params']:,} parameters, {size(account['nbytes'])}")
    result = account.get("result")
    if result is not None:
        after, before = result["after"], result["before"]
        if isinstance(after, dict) and isinstance(before, dict):
            pairs = ", ".join(f"{name} {before.get(name)} -> {value}" for name, value in after.items())
            show(f"on held-out text when it was compressed: {pairs}")
