"""Orders that other libraries find."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from tnet.contraction.pairs import Pair, pairs_of_linear_path
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError, MissingDependencyError

__all__ = ["load_cotengra", "path_from_cotengra"]


def load_cotengra(purpose: str, instead: str) -> Any:
    """Return the module; MissingDependencyError says what needs it, and what to do instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what else could be installed
            return importlib.import_module("cotengra")
    except ImportError as error:
        raise MissingDependencyError(f"{purpose} needs cotengra: pip install cotengra, or {instead}.") from error


def path_from_cotengra(spec: ContractionSpec, optimizer: str) -> tuple[Pair, ...]:
    """Return the pairwise steps that an optimizer of cotengra finds.

    Parameters
    ----------
    spec : ContractionSpec
    optimizer : str
        Name of one of cotengra's presets, such as ``"auto-hq"``, ``"random-greedy"`` or ``"hyper"``.

    Raises
    ------
    MissingDependencyError
        cotengra is not installed.
    InputError
        cotengra does not know the optimizer, or refuses the network.
    """
    library = load_cotengra(f"planner='cotengra:{optimizer}'", "choose planner='auto'")
    sizes = {i: max(size, 1) for i, size in enumerate(spec.sizes)}
    inputs = [tuple(dict.fromkeys(indices)) for indices in spec.inputs]
    try:
        path = library.array_contract_path(inputs, spec.output, size_dict=sizes, optimize=optimizer, cache=False)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"planner='cotengra:{optimizer}': cotengra gives {type(error).__name__}: {error}; name one of its "
            "presets, such as 'cotengra:auto-hq' or 'cotengra:random-greedy'."
        ) from error
    return pairs_of_linear_path(path, len(spec.inputs))
