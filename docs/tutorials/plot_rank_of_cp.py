"""
Choose the rank of a CP model
=============================

A sum of rank-one terms (CP) can be read term by term, but only when it has as many terms as the data. This tutorial
finds that number for measurements of fluorescence, and fits them although two of the terms are hard to tell apart.
"""

import matplotlib.pyplot as plt
import numpy as np
from tensorly.datasets import load_kinetic

import tnet
from tnet.decompositions import select_cp_rank

# %%
# The data
# --------
# Fluorescence of mixtures of catecholamines while they react :cite:p:`nikolajsen2003`. It was measured at 12
# wavelengths of emission and 60 points in time, for 10 wavelengths of excitation, over which we take the mean.
# Mixtures with gaps in their data are left out, and so are those marked as outliers.

data = load_kinetic()
complete = ~data.missing_values_position.any(axis=(1, 2, 3))
complete[data.outlier_measurements_idx] = False
x = np.mean(data.tensor[complete], axis=2)
x.shape  # mixture, emission, time

# %%
# If every substance has its spectrum and its course in time, and its share in a mixture only scales both, then x is
# a sum of rank-one terms: one for each substance that can be told apart.
#
# The rank and the curve that shows why
# -------------------------------------
# The error cannot choose: it falls with every term. Core consistency :cite:p:`bro2003` can. It asks for the core of
# a Tucker model with the factors of the fit, which is the identity where the terms do not interact: then it is 100
# percent. A term too many has only noise to explain, or a part of another term; it interacts with the others, and
# the consistency collapses. Fits that end early score too low, so the tolerance here is finer than that of
# :func:`~tnet.decompositions.select_cp_rank` by default.

fine = tnet.Stopping(max_iter=1000, change=1e-8)
selection = select_cp_rank(x, 6, stopping=fine, rng=0)
selection

# %%

axes = tnet.plot.rank_selection(selection)
axes.set_title("Behind the rank of the data, core consistency falls off")
plt.show()

# %%
# Is that what a true rank looks like? A tensor made of just these terms, and white noise of the size of the
# residual, says so:

model = tnet.cp(x, selection.rank, stopping=fine, rng=0)
noise = np.random.default_rng(0).standard_normal(x.shape)
made = np.asarray(model.tensor)
made += model.error * np.linalg.norm(x) / np.linalg.norm(noise) * noise
select_cp_rank(made, 6, stopping=fine, rng=0)

# %%
# The consistency falls at the same place. One thing differs: here the error all but stops falling, too, while that of
# the measurements goes on. What the three terms leave of them is not all noise, but it is not trilinear either.
#
# When components are nearly collinear
# ------------------------------------
# The cosines between the spectra of the three terms, and between their courses in time, are close to one in size:

_, (_, emission, time) = model.tensor
print(np.abs(emission.T @ emission).round(2))
print(np.abs(time.T @ time).round(2))

# %%
# There alternating least squares creeps: for dozens of sweeps the error hardly changes, and a tolerance of 1e-6 takes
# that for the end, far from it. Gauss-Newton (``method="nls"``) moves all factors at once. Starting from a
# generalised eigenvalue problem (``init="gevd"``) leaves little to do; it needs two modes at least as long as the
# rank.

print("method  init  tolerance  sweeps  error")
for method, init, change in [
    ("als", "svd", 1e-6),
    ("als", "svd", 1e-8),
    ("als", "svd", 1e-10),
    ("nls", "svd", 1e-6),
    ("nls", "gevd", 1e-6),
]:
    stopping = tnet.Stopping(max_iter=1000, change=change)
    result = tnet.cp(x, selection.rank, method=method, init=init, stopping=stopping, rng=0)
    print(f"{method:6}  {init:4}  {change:9.0e}  {len(result.history.error):6d}  {result.error:.6f}")

# %%
# A sweep of Gauss-Newton costs about twice one of alternating least squares. Where components differ clearly,
# nothing is to be gained: start with the default, and change the method when a finer tolerance changes the error.
#
# What you saw
# ------------
# * The error of a CP model falls with every term; core consistency tells where the data ends.
# * The same curve, on a tensor whose rank is known, is what to compare with.
# * "Converged" says that the error no longer changes by more than ``stopping.change``. With collinear components use
#   ``method="nls"``, or ``init="gevd"``, or a finer tolerance.
#
# Two other criteria are there: ``method="held_out"`` asks which rank predicts entries that it has not seen, and
# ``method="stability"`` which components come back from perturbed data; see
# :func:`tnet.decompositions.select_cp_rank`.
#
# References: :cite:t:`nikolajsen2003` for the data, :cite:t:`bro2003` for core consistency, :cite:t:`sorber2013`
# for Gauss-Newton.
