"""How long a search may go on, and why it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from tnet.errors import InputError

__all__ = ["Budget", "Ending"]


@dataclass(frozen=True)
class Budget:
    """Ceilings of a search; None is no ceiling.

    Parameters
    ----------
    evaluations : int or None
        Structures that are evaluated, those answered from memory included.
    seconds : float or None
        Wall seconds. An evaluation under way is given up, unless it is the first, or runs in a worker or beside the
        main thread: then it is finished.
    patience : int or None
        Evaluations in a row that brought nothing better.
    trial_seconds : float or None
        Wall seconds of one evaluation, after which it counts as failed. Kept by a signal of the operating system: in
        the main thread of this process or of a worker, on systems that have it (not Windows).
    """

    evaluations: int | None = None
    seconds: float | None = None
    patience: int | None = 500
    trial_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "patience", "seconds", "trial_seconds"):
            if isinstance(getattr(self, name), np.number):
                object.__setattr__(self, name, getattr(self, name).item())
        for name in ("evaluations", "patience"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}: give a positive integer, or None for no ceiling.")
        for name in ("seconds", "trial_seconds"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or math.isnan(value)
            ):
                raise InputError(f"{name}={value!r}: give a positive number of seconds, or None for no ceiling.")


class Ending(Enum):
    """Why a search ended; the value is the sentence shown to the user."""

    PROVEN = "proven: no structure of the space scores better"
    FINISHED = "the algorithm has nothing more to try"
    EVALUATIONS = "evaluations used up: raise Budget(evaluations=...)"
    SECONDS = "seconds used up: raise Budget(seconds=...), or go on with resume="
    PATIENCE = "nothing better for a while: raise Budget(patience=...)"
    INTERRUPTED = "interrupted: this is the best so far"
