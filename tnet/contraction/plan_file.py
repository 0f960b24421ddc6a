"""Plans as JSON: what is written, and what is believed of what is read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from tnet.contraction.dtypes import DtypePlan, dtype_plan
from tnet.contraction.layout import Layout
from tnet.contraction.memory import format_bytes
from tnet.contraction.pairs import Pair, pairs_of_linear_path
from tnet.contraction.slicing import Split
from tnet.contraction.spec import ContractionSpec
from tnet.errors import FormatError, TnetError
from tnet.io import atomic_write

if TYPE_CHECKING:
    from tnet.contraction.plan import ContractionPlan

__all__ = ["PlanFields", "read_plan", "write_plan"]

_FORMAT = "tnet.contraction_plan"
_FORMAT_VERSION = 3  # 1 had no layouts, 2 was for host memory alone
_READABLE = (1, 2, 3)
_LARGEST_FILE = 64 * 2**20


class PlanFields(NamedTuple):
    """The fields of a plan, in the order of its constructor."""

    spec: ContractionSpec
    pairs: tuple[Pair, ...]
    splits: tuple[Split, ...]
    dtypes: DtypePlan
    memory_limit: int | None
    planner: str
    layouts: tuple[Layout, ...] | None
    on_host: bool


def write_plan(plan: ContractionPlan, path: str | os.PathLike[str]) -> None:
    """Write a plan; the file appears whole or not at all."""
    spec = plan.spec
    content = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "labels": spec.labels,
        "sizes": spec.sizes,
        "inputs": spec.inputs,
        "output": spec.output,
        "path": plan.path,
        "splits": plan.splits,
        "dtypes": plan.dtypes.operands,
        "memory_limit": plan.memory_limit,
        "planner": plan.planner,
        "layouts": plan.layouts,
        "on_host": plan.on_host,
    }
    text = json.dumps(content, indent=1) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def read_plan(path: str | os.PathLike[str]) -> PlanFields:
    """Read what :func:`write_plan` wrote.

    Raises
    ------
    FormatError
        The file is damaged, no plan, or of a version that this tnet does not read.
    """
    if os.path.getsize(path) > _LARGEST_FILE:
        raise FormatError(f"{path}: larger than {format_bytes(_LARGEST_FILE)}, so no contraction plan.")
    with open(path, "rb") as file:
        raw = file.read()
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a JSON file: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{path}: not a contraction plan of tnet.")
    version = content.get("format_version")
    if type(version) is not int or version not in _READABLE:
        raise FormatError(f"{path}: format_version {version!r}; this tnet reads {', '.join(map(str, _READABLE))}.")
    try:
        return _fields(content)
    except (KeyError, TypeError, ValueError, TnetError) as error:
        raise FormatError(f"{path}: damaged contraction plan: {error}") from error


def _fields(content: dict[str, Any]) -> PlanFields:
    if not isinstance(content["labels"], list):
        raise TypeError("labels must be a list")
    labels = tuple(content["labels"])
    sizes = _integers(content["sizes"], 2**62)
    inputs = tuple(_integers(term, len(sizes) - 1) for term in content["inputs"])
    output = _integers(content["output"], len(sizes) - 1)
    if not all(isinstance(label, str) for label in labels) or len(set(labels)) != len(labels):
        raise ValueError("labels must be different strings")
    if len(labels) != len(sizes) or not inputs:
        raise ValueError("labels and sizes differ in number, or there are no inputs")
    if len(set(output)) != len(output) or not set(output) <= {i for term in inputs for i in term}:
        raise ValueError("the output names an index twice, or one of no input")
    spec = ContractionSpec(inputs, output, sizes, labels)
    pairs = pairs_of_linear_path([_integers(step, len(inputs)) for step in content["path"]], len(inputs))
    splits = tuple((i, parts) for i, parts in (_integers(split, 2**62) for split in content["splits"]))
    if len({i for i, _ in splits}) != len(splits) or any(p < 1 or sizes[i] % p for i, p in splits):
        raise ValueError("splits repeat an index or do not divide its size")
    dtypes = dtype_plan(content["dtypes"])
    if len(dtypes.operands) != len(inputs):
        raise ValueError("dtypes and inputs differ in number")
    limit, planner = content["memory_limit"], content["planner"]
    if not (limit is None or (type(limit) is int and limit > 0)) or not isinstance(planner, str):
        raise ValueError("memory_limit or planner is of the wrong kind")
    on_host = content["on_host"] if content["format_version"] > 2 else True
    if type(on_host) is not bool:
        raise TypeError("on_host must be true or false")
    return PlanFields(spec, pairs, splits, dtypes, limit, planner, _layouts(content, inputs), on_host)


def _layouts(content: dict[str, Any], inputs: tuple[tuple[int, ...], ...]) -> tuple[Layout, ...] | None:
    found = content["layouts"] if content["format_version"] > 1 else None
    if found is None:
        return None
    layouts = tuple(None if layout is None else _integers(layout, 2**20) for layout in found)
    if len(layouts) != len(inputs) or any(
        layout is not None and sorted(layout) != list(range(len(indices)))
        for layout, indices in zip(layouts, inputs, strict=True)
    ):
        raise ValueError("layouts are no permutations of the axes of the inputs")
    return layouts


def _integers(values: Any, largest: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= largest for v in values):
        raise ValueError(f"expected a list of integers from 0 to {largest}")
    return tuple(values)
