"""What all figures share: the Axes to draw on, colours, and labels that are taken literally."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tnet.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["ACCENT", "MUTED", "PALETTE", "axes_or_new", "literal", "matplotlib_or_raise"]

ACCENT = "#2f6fde"
MUTED = "#8b93a1"
PALETTE = ("#2f6fde", "#e08a1e", "#2a9d6f", "#c2417c", "#7a5cc9", "#5b7f95", "#b4562d", "#8b93a1")


def matplotlib_or_raise() -> None:
    """Raise MissingDependencyError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingDependencyError("figures need matplotlib: pip install 'tnet-tensors[plot]'.") from None


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax``, or the Axes of a new pyplot figure of ``size`` inches."""
    matplotlib_or_raise()
    if ax is not None:
        return ax
    from matplotlib import pyplot

    _, new = pyplot.subplots(figsize=size, layout="constrained")
    return new


def literal(texts: Iterable[Text]) -> None:
    """Show names as they are: a dollar sign in one begins no formula."""
    for text in texts:
        text.set_parse_math(False)
