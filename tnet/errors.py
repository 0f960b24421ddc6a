"""The family of typed errors.

Every message says what was given, what is allowed and what to do.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "ConvergenceWarning",
    "FormatError",
    "IndexLabelError",
    "InputError",
    "MemoryLimitError",
    "MissingDependencyError",
    "QualityGateError",
    "RankError",
    "ShapeError",
    "TnetError",
    "UnsafeFileError",
    "WorkerError",
]


class TnetError(Exception):
    """Base class of every error that tnet raises on purpose."""


class InputError(TnetError, ValueError):
    """A value that cannot be used: non-finite, empty, out of range, contradictory."""


class ShapeError(InputError):
    """Shapes that do not fit each other or the operation."""


class RankError(InputError):
    """A rank that is not a positive integer, or a wrong count of ranks."""


class IndexLabelError(InputError):
    """An index label that is unknown, repeated, or carries two sizes."""


class BackendError(TnetError, TypeError):
    """Arrays of an unsupported kind or dtype, or of mixed libraries or devices."""


class MemoryLimitError(TnetError, MemoryError):
    """The job cannot run within the memory allowed."""


class FormatError(InputError):
    """A file that is damaged, or written in a version that this tnet does not read."""


class UnsafeFileError(FormatError):
    """A file that could harm: executable content, paths that leave the folder, bombs."""


class MissingDependencyError(TnetError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


class WorkerError(TnetError, RuntimeError):
    """A task failed in its worker, or a worker died more often than the retries allow.

    Attributes
    ----------
    partial : dict
        Results of the tasks that did finish, by task id.
    """

    def __init__(self, message: str, partial: dict[object, object] | None = None) -> None:
        super().__init__(message)
        self.partial = {} if partial is None else partial


class QualityGateError(TnetError, RuntimeError):
    """The result misses the quality that was demanded; nothing was written.

    Attributes
    ----------
    result : object or None
        The account of what was reached.
    """

    def __init__(self, message: str, result: object | None = None) -> None:
        super().__init__(message)
        self.result = result


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged; the result is the best so far."""
