"""Orders that other libraries find."""

from __future__ import annotations

import warnings
from typing import Any

from tnet.contraction.pairs import Pair, pairs_of_linear_path
from tnet.contraction.spec import ContractionSpec
from tnet.errors import InputError, MissingDependencyError

__all__ = ["path_from_cotengra"]


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what else could be installed
            import cotengra
    except ImportError as error:
        raise MissingDependencyError(
            f"planner='cotengra:{optimizer}' needs cotengra: pip install cotengra, or choose planner='auto'."
        ) from error
    library: Any = cotengra
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
