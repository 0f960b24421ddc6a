"""
Decompose a tensor and choose a rank
====================================

A rank is a choice of error. This tutorial takes pictures of handwritten digits, states the error that is
allowed, and looks at what each format needs for it.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import tnet

# %%
# The data
# --------
# 1797 pictures of 8 x 8 pixels. Sorted by the digit they show they form a tensor of order 4:
# digit, writer, row, column.

digits = load_digits()
n_writers = min(np.bincount(digits.target))
x = np.stack([digits.images[digits.target == digit][:n_writers] for digit in range(10)])
x.shape

# %%
# State the error, get the ranks
# ------------------------------
# ``rtol`` is the relative Frobenius error of the whole tensor. The result says which ranks that took, the error
# that was reached, and how many parameters are left.

tnet.tt(x, rtol=0.3)

# %%
# Tucker compresses every mode by its own basis. For the same error:

result = tnet.tucker(x, rtol=0.3)
result

# %%
# The format in the result holds the arrays. ``np.asarray`` multiplies it out.

core, factors = result.tensor
y = np.asarray(result.tensor)
np.linalg.norm(x - y) / np.linalg.norm(x) - result.error

# %%
# State the rank, get the error
# -----------------------------
# The canonical polyadic format (CP) is a sum of rank-one tensors. Its rank cannot be read from singular values:
# it is tried. The iteration warns when it ends before it converged, and says so in ``status``; here a few dozen
# sweeps are enough for a curve.

stopping = tnet.Stopping(max_iter=50, change=1e-5)
cp = {}
for rank in (2, 4, 8, 16, 32, 64):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tnet.errors.ConvergenceWarning)
        cp[rank] = tnet.cp(x, rank, rng=0, stopping=stopping)
cp[64]

# %%
# Which format for this data?
# ---------------------------
# Error against parameters answers both questions at once: the format is the lowest curve, the rank is the point
# where it meets the allowed error. Principal components of the pictures as vectors are the format that forgets
# the modes.

tolerances = (0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)
curves = {
    "CP": list(cp.values()),
    "tensor train": [tnet.tt(x, rtol=rtol) for rtol in tolerances],
    "Tucker": [tnet.tucker(x, rtol=rtol) for rtol in tolerances],
    "principal components": [tnet.tt(x.reshape(-1, 64), rtol=rtol) for rtol in tolerances],
}

figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
for name, results in curves.items():
    axes.plot([r.tensor.n_params for r in results], [r.error for r in results], marker=".", label=name)
axes.axhline(0.3, color="black", linewidth=0.8, linestyle=":")
axes.set(xscale="log", xlabel="parameters", ylabel="relative error", title="The smallest format depends on the error")
axes.legend()
plt.show()

# %%
# What you saw
# ------------
# * ``rtol`` gives the ranks of Tucker and of the tensor train directly; for CP the curve gives the rank.
# * Here Tucker needs the fewest parameters at coarse errors and CP from about 0.3 down, with the most time. At fine
#   errors principal components catch up: what is left has no structure along the modes.
# * ``result.error`` is the error of what was returned, not an estimate.
#
# References: :cite:t:`kolda2009` for CP and Tucker, :cite:t:`vannieuwenhoven2012` for the algorithm of
# :func:`tnet.tucker`, :cite:t:`oseledets2011` for that of :func:`tnet.tt`.
