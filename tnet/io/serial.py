"""Save and load the formats and decompositions.

A file is a safetensors file with one tensor for each array and, in the metadata entry ``"tnet"``, JSON that
says how they fit together. Any reader of safetensors can open it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from tnet import __version__
from tnet.arrays import Array, array_namespace, dtype_name, is_torch
from tnet.errors import FormatError, InputError, TnetError
from tnet.formats import (
    BlockTensorTrain,
    CPTensor,
    HierarchicalTucker,
    KroneckerSum,
    LowRank,
    MatrixProductOperator,
    TensorNetwork,
    TensorRing,
    TensorTrain,
    TuckerTensor,
)
from tnet.io.safetensors_header import open_regular, read_header
from tnet.io.safetensors_reader import read_sealed
from tnet.io.safetensors_writer import write_safetensors
from tnet.io.strict_json import canonical_json, parse_json
from tnet.results import Decomposition, History, Status

__all__ = ["FORMAT_VERSION", "load", "save"]

FORMAT_VERSION = 1
"""Version of the layout that :func:`save` writes; every version up to it is read."""

_KEY = "tnet"
_LENGTH_OF_BEGINNING = 64
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        CPTensor,
        TuckerTensor,
        TensorTrain,
        TensorRing,
        HierarchicalTucker,
        MatrixProductOperator,
        LowRank,
        KroneckerSum,
        BlockTensorTrain,
        TensorNetwork,
    )
}
_ERROR_KINDS = ("exact", "gram", "bound", "estimate")


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Save a format or a decomposition to a file.

    Parameters
    ----------
    obj : a format of :mod:`tnet.formats`, or a Decomposition
        Its arrays are written bit for bit; gradients and devices are not kept.
    path : str or path
        The file to make or replace, whole or not at all; ``.safetensors`` is the customary ending.

    Raises
    ------
    InputError
        ``obj`` is something else.
    BackendError
        Arrays of a dtype that the file cannot hold.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import tnet
    >>> from tnet.formats import LowRank
    >>> path = tempfile.mkdtemp() + "/w.safetensors"
    >>> tnet.save(LowRank(np.ones((4, 1)), np.ones((1, 3))), path)
    >>> tnet.load(path).shape
    (4, 3)
    """
    tensor = obj.tensor if isinstance(obj, Decomposition) else obj
    kind = type(tensor).__name__
    if kind == "ContractionPlan":
        raise InputError("a ContractionPlan is kept as JSON: use plan.save(path), and ContractionPlan.load(path).")
    if _KINDS.get(kind) is not type(tensor):
        given = kind if tensor is obj else f"Decomposition of {kind}"
        raise InputError(f"{given}: only {', '.join(_KINDS)} and decompositions into them can be saved.")
    arrays, fields, data = _taken_apart(tensor)
    complex_names = [name for name, x in arrays.items() if dtype_name(x) == "complex128"]
    description = {
        "format_version": FORMAT_VERSION,
        "tnet_version": __version__,
        "kind": kind,
        "library": "torch" if any(map(is_torch, arrays.values())) else "numpy",
        "fields": fields,
        "data": data,
        "complex128": complex_names,
        "decomposition": _account(obj) if isinstance(obj, Decomposition) else None,
    }
    for name in complex_names:
        arrays[name] = _real_pairs(arrays[name])
    write_safetensors(path, arrays, {_KEY: canonical_json(description).decode("utf-8")})


def load(path: str | os.PathLike[str]) -> Any:
    """Load what :func:`save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    format or Decomposition
        With torch tensors on the CPU if they were torch tensors when saved, else with NumPy arrays.

    Raises
    ------
    InputError
        No such file.
    FormatError
        Damaged (every byte is covered by a digest), not written by :func:`save`, or of a
        ``format_version`` that this tnet does not know.
    MissingDependencyError
        The file holds torch tensors and torch is not installed.
    """
    shown = repr(str(path))
    _require_no_plan(path)
    text = read_header(path).metadata.get(_KEY)
    if text is None:
        raise FormatError(f"{shown} was not written by tnet.save: use tnet.io.read_safetensors for its tensors.")
    description = parse_json(text.encode("utf-8"), f"the description in {shown}")
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(
            f"{shown} has format_version {version!r:.20}; tnet {__version__} reads up to {FORMAT_VERSION}: "
            "use the tnet that wrote it, or a newer one."
        )
    library = description.get("library")
    if library not in ("numpy", "torch"):
        raise FormatError(f"{shown} is damaged: it names the library {library!r:.40}.")
    tensors, metadata = read_sealed(path, library=library)
    if metadata.get(_KEY) != text:
        raise FormatError(f"{shown} was replaced while it was read: load it again.")
    try:
        return _put_together(description, tensors)
    except (KeyError, TypeError, AttributeError, ValueError, TnetError) as error:
        raise FormatError(f"{shown} does not hold what it describes ({type(error).__name__}: {error}).") from error


def _require_no_plan(path: str | os.PathLike[str]) -> None:
    with open_regular(path) as file:
        if b'"tnet.contraction_plan"' in file.read(_LENGTH_OF_BEGINNING):
            raise FormatError(f"{str(path)!r} is a contraction plan: use ContractionPlan.load(path).")


def _taken_apart(tensor: Any) -> tuple[dict[str, Array], dict[str, int | None], dict[str, Any]]:
    """Return the arrays by name, the number of arrays in each field (None: not a tuple), and plain data."""
    arrays: dict[str, Array] = {}
    fields: dict[str, int | None] = {}
    data: dict[str, Any] = {}
    for field in dataclasses.fields(tensor):
        value = getattr(tensor, field.name)
        if field.name not in tensor.array_fields:
            data[field.name] = value
        elif isinstance(value, tuple):
            fields[field.name] = len(value)
            arrays.update({f"{field.name}.{k}": x for k, x in enumerate(value)})
        else:
            fields[field.name] = None
            arrays[field.name] = value
    return arrays, fields, data


def _put_together(description: dict[str, Any], tensors: dict[str, Array]) -> Any:
    kind = _KINDS[description["kind"]]
    for name in description["complex128"]:
        tensors[name] = _from_real_pairs(tensors[name])
    values: dict[str, Any] = {name: _tuples(value) for name, value in description["data"].items()}
    for name, count in description["fields"].items():
        if count is None:
            values[name] = tensors.pop(name)
        elif type(count) is int and 0 <= count <= len(tensors):
            values[name] = tuple(tensors.pop(f"{name}.{k}") for k in range(count))
        else:
            raise ValueError(f"{name} has {count!r} parts")
    if tensors:
        raise ValueError(f"{len(tensors)} tensors belong to no field")
    tensor = kind(**values)
    account = description["decomposition"]
    return tensor if account is None else _decomposition(tensor, account)


def _account(result: Decomposition[Any]) -> dict[str, Any]:
    return {
        "error": _text_if_not_finite(result.error),
        "error_kind": result.error_kind,
        "status": result.status.name,
        "history": {
            "error": [_text_if_not_finite(x) for x in result.history.error],
            "seconds": [_text_if_not_finite(x) for x in result.history.seconds],
        },
        "seconds": _text_if_not_finite(result.seconds),
        "rng_seed": result.rng_seed,
    }


def _decomposition(tensor: Any, account: dict[str, Any]) -> Decomposition[Any]:
    seed = account["rng_seed"]
    if seed is not None and type(seed) is not int:
        raise ValueError(f"rng_seed {seed!r}")
    if account["error_kind"] not in _ERROR_KINDS:
        raise ValueError(f"error_kind {account['error_kind']!r}")
    history = account["history"]
    return Decomposition(
        tensor=tensor,
        error=float(account["error"]),
        error_kind=account["error_kind"],
        status=Status[account["status"]],
        history=History(tuple(map(float, history["error"])), tuple(map(float, history["seconds"]))),
        seconds=float(account["seconds"]),
        rng_seed=seed,
    )


def _text_if_not_finite(x: float) -> float | str:
    """JSON has neither NaN nor infinity; ``float`` reads their names."""
    return float(x) if math.isfinite(x) else repr(float(x))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _real_pairs(x: Array) -> Array:
    # Safetensors has no complex128: real and imaginary parts along a last axis of size 2, both bit for bit.
    xp = array_namespace(x)
    return xp.stack([xp.real(x), xp.imag(x)], axis=-1)


def _from_real_pairs(x: Array) -> Array:
    if x.ndim < 1 or x.shape[-1] != 2 or dtype_name(x) != "float64":
        raise ValueError("complex numbers are not stored as pairs")
    if is_torch(x):
        return array_namespace(x).view_as_complex(x)
    return x.view("complex128")[..., 0]
