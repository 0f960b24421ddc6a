"""A search on disk: an append-only log of its trials, and the cores of what it evaluated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tnet.arrays import Array, from_numpy_like, to_numpy
from tnet.errors import FormatError, InputError
from tnet.io import open_checkpoint
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation, Trial

__all__ = ["Journal", "described"]

_LOG = "trials.jsonl"
_SEED = "seed"
_VERSION = 1


class Journal:
    """A folder that a search writes to as it goes, and goes on from.

    Parameters
    ----------
    directory : str or path
        A new folder, or that of a search for the same tensor with the same settings.
    question : dict
        All that the answers depend on, as JSON; see :func:`described`.

    Raises
    ------
    InputError
        The folder belongs to another search (the message names what differs), or holds other files.
    FormatError
        It is damaged, or of a version that this tnet does not read.
    """

    def __init__(self, directory: str | os.PathLike[str], question: dict[str, Any]) -> None:
        self._folder = open_checkpoint(directory, {"search": _VERSION, **question})
        self._log = self._folder.directory / _LOG
        self._size = 0  # bytes of the log, as far as this search knows
        self.trials = self._read()

    def seed(self, fresh: int) -> int:
        """Return the seed that the search began with; ``fresh`` where it begins now."""
        if not self._folder.has(_SEED):
            self._folder.save_json(_SEED, fresh)
        return int(self._folder.load_json(_SEED))

    def append(self, trial: Trial, evaluation: Evaluation | None) -> None:
        """Write a trial, its cores first: a line of the log promises that they are there."""
        cores = evaluation.cores if evaluation is not None and trial.status == "evaluated" else None
        if cores is not None:
            self.keep_cores(trial, cores)
        content = {
            **dataclasses.asdict(dataclasses.replace(trial, structure=None)),  # type: ignore[arg-type]
            "structure": trial.structure.to_json(),
            "start_errors": [] if evaluation is None else list(evaluation.start_errors),
            "has_cores": cores is not None,
        }
        line = (json.dumps(_finite(content)) + "\n").encode()
        with open(self._log, "ab") as file:
            if file.tell() != self._size:
                raise InputError(
                    f"{self._log}: another search writes to this log at the same time; let it end, or give this one "
                    "a folder of its own."
                )
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(line)

    def keep_cores(self, trial: Trial, cores: Sequence[Array]) -> None:
        """Write the cores of a trial."""
        tensors = {f"{k:03d}": to_numpy(core) for k, core in enumerate(cores)}
        self._folder.save_tensors(_part(trial.number), tensors)

    def cores(self, trial: Trial, like: Array) -> tuple[Array, ...] | None:
        """Return the cores of a trial of the log, in the library of ``like``; None where there are none."""
        if trial.status != "evaluated" or not self._folder.has(_part(trial.number)):
            return None
        tensors, _ = self._folder.load_tensors(_part(trial.number))
        return tuple(from_numpy_like(np.asarray(tensors[name]), like) for name in sorted(tensors))

    def _read(self) -> list[Trial]:
        if not self._log.exists():
            return []
        raw = self._log.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):  # killed while it wrote a line
            with open(self._log, "r+b") as file:
                file.truncate(len(whole))
        self._size = len(whole)
        trials = []
        for number, line in enumerate(whole.splitlines()):
            try:
                trials.append(_trial(json.loads(line)))
                if trials[-1].number != number:
                    raise ValueError(f"trial {trials[-1].number} stands in line {number + 1}")
            except (KeyError, TypeError, ValueError) as error:
                raise FormatError(
                    f"{self._log}: line {number + 1} is damaged ({error}); remove the folder."
                ) from error
        return trials


def _part(number: int) -> str:
    return f"trial-{number:06d}"


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content with infinities as text, which strict JSON has not."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in content.items()
    } | {"start_errors": [str(error) if not math.isfinite(error) else error for error in content["start_errors"]]}


def _trial(content: dict[str, Any]) -> Trial:
    if content["status"] not in ("evaluated", "cached", "pruned", "failed"):
        raise ValueError(f"status {content['status']!r}")
    return Trial(
        number=int(content["number"]),
        structure=Structure.from_json(content["structure"]),
        rse=float(content["rse"]),
        score=float(content["score"]),
        bound=float(content["bound"]),
        status=content["status"],
        n_starts=int(content["n_starts"]),
        n_sweeps=int(content["n_sweeps"]),
        seconds=float(content["seconds"]),
        message=str(content["message"]),
    )


def described(value: object) -> Any:
    """Return settings as JSON: dataclasses by name and fields, arrays by digest, functions by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, (tuple, list)):
        return [described(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return array_digest(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"  # type: ignore[attr-defined]


def array_digest(x: Array) -> dict[str, Any]:
    """Return dtype, shape and SHA-256 of an array's entries in C order."""
    entries = np.ascontiguousarray(to_numpy(x))
    digest = hashlib.sha256(entries.tobytes()).hexdigest()
    return {"dtype": str(entries.dtype), "shape": list(entries.shape), "sha256": digest}
