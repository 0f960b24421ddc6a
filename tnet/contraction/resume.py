"""The plan of a checkpoint: the clock decides what a search finds, so a run goes on with the one it began with."""

from __future__ import annotations

import dataclasses
import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tnet.contraction.plan import ContractionPlan
from tnet.contraction.planning import Path as Order
from tnet.contraction.spec import ContractionSpec
from tnet.errors import FormatError, InputError
from tnet.io import Checkpoint

__all__ = ["keep_plan", "kept_plan", "request_of"]

_PLAN = "plan.json"
_REQUEST = "request"


def request_of(
    spec: ContractionSpec,
    dtypes: Sequence[str],
    planner: str | Order,
    memory_limit: int | None,
    max_planning_seconds: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return all that a search is asked for, as JSON holds it.

    The labels do not matter: those that are objects have other names in another process.
    """
    n = len(spec.labels)
    letters = tuple(string.ascii_letters[:n]) if n <= len(string.ascii_letters) else tuple(map(str, range(n)))
    return {
        "equation": dataclasses.replace(spec, labels=letters).equation,
        "shapes": [list(shape) for shape in spec.input_shapes],
        "dtypes": list(dtypes),
        "planner": planner if isinstance(planner, str) else [list(step) for step in planner],
        "memory_limit": memory_limit,
        "max_planning_seconds": None if max_planning_seconds is None else repr(float(max_planning_seconds)),
        "rng": seed,
    }


def kept_plan(
    directory: str | os.PathLike[str], spec: ContractionSpec, request: Mapping[str, Any]
) -> ContractionPlan | None:
    """Return the plan that lies in a checkpoint; None where none does.

    Raises
    ------
    InputError
        It was made for another request; the message names what differs.
    FormatError
        It is damaged.
    """
    store = Checkpoint(Path(directory))
    if not (store.directory / f"{_REQUEST}.json").is_file():
        return None
    stored = store.load_json(_REQUEST)
    shown = f"checkpoint {str(directory)!r}"
    if not isinstance(stored, dict) or stored.keys() != request.keys():
        raise FormatError(f"{shown} is damaged: it does not say what its plan was made for.")
    differences = [
        f"{name} was {stored[name]!r:.80} and is now {value!r:.80}"
        for name, value in request.items()
        if stored[name] != value
    ]
    if differences:
        raise InputError(
            f"{shown} belongs to another job: {'; '.join(differences)}. "
            "Run with the same options and inputs, or remove the folder to begin again."
        )
    try:
        plan = ContractionPlan.load(store.directory / _PLAN)
    except FileNotFoundError:
        raise FormatError(f"{shown} is damaged: it lacks {_PLAN}.") from None
    if (plan.spec.inputs, plan.spec.output, plan.spec.sizes) != (spec.inputs, spec.output, spec.sizes):
        raise FormatError(f"{shown} is damaged: its plan is not of its equation.")
    return plan


def keep_plan(directory: str | os.PathLike[str], plan: ContractionPlan, request: Mapping[str, Any]) -> None:
    """Lay a plan into the folder of a checkpoint, and then what it was made for: where that is, both are whole."""
    store = Checkpoint(Path(directory))
    if not (store.directory / f"{_REQUEST}.json").exists():
        plan.save(store.directory / _PLAN)
        store.save_json(_REQUEST, dict(request))
