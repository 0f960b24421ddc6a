"""Figures of the guide, drawn at every build from the results that the benchmarks have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "guide" / "generated"

FORMATS = {
    "TT": "tensor train, given order",
    "TT best order": "tensor train, best order",
    "HT best tree": "hierarchical Tucker",
    "tree search": "tree search",
}
TENSORS = {
    "china": "photograph of a temple",
    "flower": "photograph of a flower",
    "indian pines": "hyperspectral image",
}


def draw_tree_search(path: Path) -> None:
    """Draw the parameters that each format needs for three natural tensors."""
    import matplotlib.pyplot as plt

    rows = json.loads((RESULTS / "search_trees.json").read_text())["rows"]
    style: dict[Any, Any] = {"svg.hashsalt": "tnet", "svg.fonttype": "path", "font.size": 10}
    with plt.rc_context(style):
        figure, panels = plt.subplots(1, len(rows), figsize=(9.5, 2.3), sharey=True, layout="constrained")
        for axes, row in zip(panels, rows, strict=True):
            names, sizes = list(FORMATS.values())[::-1], [row[key] for key in FORMATS][::-1]
            colours = ["#2f6fde" if name == "tree search" else "#b8bec9" for name in names]
            bars = axes.barh(names, sizes, color=colours)
            axes.bar_label(bars, labels=[f"{size:,}" for size in sizes], padding=3, fontsize=9)
            axes.set_title(f"{TENSORS[row['tensor']]}\n{row['entries']:,} entries", fontsize=10)
            axes.set_xlim(0, 1.3 * max(sizes))
            axes.set_xticks([])
            axes.tick_params(left=False)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


def _draw_all(app: Sphinx) -> None:
    FIGURES.mkdir(exist_ok=True)
    draw_tree_search(FIGURES / "tree_search.svg")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _draw_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
