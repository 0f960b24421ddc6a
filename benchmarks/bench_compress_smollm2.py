"""Claim: at equal parameters tnet costs SmolLM2-135M a fraction of the perplexity that uniform recipes cost.

Kept parameters 0.9, 0.8, 0.7, 0.6 of the target layers; plain SVD, plain MPO and whitened SVD with a uniform
ratio (the SVD-LLM recipe) against ``tnet.compress``; one calibration text, one held-out text, no training.
``excess`` is the perplexity above the original's, over that of whitened SVD at the same ratio.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses

import record

from tnet.cli.demo import find_model, python_documentation
from tnet.cli.models import load_model
from tnet.compression import compress
from tnet.compression.baselines import compress_uniform

RATIOS = (0.9, 0.8, 0.7, 0.6)
METHODS = ("svd", "mpo", "whitened", "tnet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sequences", type=int, default=40, help="calibration sequences of 256 tokens")
    parser.add_argument("--evaluation", type=int, default=16, help="held-out sequences of 256 tokens")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    arguments = parser.parse_args()
    model, tokenizer = load_model(find_model())
    model.to(arguments.device)
    calibration, evaluation = python_documentation(tokenizer, 256, arguments.sequences, arguments.evaluation)
    data = {"calibration": calibration, "evaluation": evaluation}
    rows = []
    for ratio in arguments.ratios:
        excess = {}
        for method in METHODS:
            copied = copy.deepcopy(model)
            if method == "tnet":
                result = compress(copied, ratio=ratio, progress=False, **data)
            else:
                result = compress_uniform(copied, ratio=ratio, method=method, progress=False, **data)
            excess[method] = result.after.perplexity - result.before.perplexity
            row = {
                "kept": ratio,
                "method": method,
                "stored": result.ratio,
                "bytes": result.bytes_after,
                "perplexity": result.after.perplexity,
                "KL": result.after.kl,
                "top-1": result.after.top1_agreement,
                "excess": excess[method] / excess["whitened"] if "whitened" in excess else float("nan"),
            }
            rows.append(row)
            print(record.table([row]), flush=True)
        for row in rows[-len(METHODS) :]:
            row["excess"] = excess[row["method"]] / excess["whitened"]
    print(f"\noriginal perplexity {result.before.perplexity:.4f}\n\n{record.table(rows)}")
    settings = vars(arguments) | {"original": dataclasses.asdict(result.before)}
    print(record.write("compress_smollm2", __doc__.split("\n")[0], rows, settings))


if __name__ == "__main__":
    main()
