"""
One function in every format
============================

Which format needs the fewest numbers depends on the tensor and on the error. This tutorial writes one tensor in five
formats, at the same errors, and then goes on to a tensor that no memory could hold.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np

import tnet

# %%
# The data
# --------
# A ladder of resistors: one in series, one in parallel to all that follows, and so on. What an ohmmeter at its
# entrance shows depends on all of them, on the far ones less than on the near ones.


def resistance(rungs):
    """Return the resistance at the entrance of a ladder; ``rungs`` are the resistors, arrays that broadcast."""
    total = rungs[-1]
    for k in reversed(range(len(rungs) - 1)):
        total = rungs[k] + total if k % 2 == 0 else rungs[k] * total / (rungs[k] + total)
    return total


# %%
# Six resistors with ten values each make a tensor of order 6 with a million entries.

values = np.geomspace(1.0, 100.0, 10)
x = resistance(np.meshgrid(*[values] * 6, indexing="ij"))
x.shape

# %%
# The same error in every format
# ------------------------------
# All formats but CP take the error that is allowed and find their ranks. For CP the rank is raised until the error
# is reached; the fits need not be finished for that.


def cp_within(x, rtol):
    stopping = tnet.Stopping(max_iter=100, change=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tnet.errors.ConvergenceWarning)
        for rank in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            result = tnet.cp(x, rank, rng=0, stopping=stopping)
            if result.error <= rtol:
                return result
    return None


formats = {
    "Tucker": tnet.tucker,
    "tensor train": tnet.tt,
    "tensor ring": tnet.tr,
    "hierarchical Tucker": tnet.ht,
    "CP": cp_within,
}
results = {name: method(x, rtol=1e-3) for name, method in formats.items()}
for name, result in results.items():
    print(f"{name:20} {result.tensor.n_params:5d} parameters, error {result.error:.1e}, ranks {result.tensor.rank}")

# %%
# The core of Tucker has one index for each mode, so that its size is the product of the six ranks. Train, ring and
# tree have small arrays only. The ring is the train here, with a first rank of 1: nothing in a ladder closes a
# circle.
#
# Parameters against error
# ------------------------

tolerances = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)
figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
for name, method in formats.items():
    if name == "tensor ring":
        continue  # as the train
    within = tolerances[:5] if name == "CP" else tolerances
    curve = [method(x, rtol=rtol) for rtol in within]
    axes.plot([r.error for r in curve], [r.tensor.n_params for r in curve], marker=".", label=name)
axes.set(xscale="log", yscale="log", xlabel="relative error", ylabel="parameters")
axes.set_title("The finer the error, the more a Tucker core costs")
axes.invert_xaxis()
axes.legend()
plt.show()

# %%
# At coarse errors the formats hardly differ, with a few hundred parameters for a million entries at most. In the
# middle the tree is slightly ahead, which compresses each mode first; at fine errors the train, for a ladder is a
# chain, and so is a train. CP is drawn as far as rank 32 reaches: a sum of separable terms describes the ladder
# badly, and is slow to find.
#
# The order of the modes counts
# -----------------------------
# A train joins neighbours. With the ladder's modes shuffled it is the same tensor, and its train is larger:

for order in ((0, 1, 2, 3, 4, 5), (0, 3, 1, 4, 2, 5)):
    print(order, tnet.tt(np.transpose(x, order), rtol=1e-4).tensor.n_params, "parameters")

# %%
# A function of ten variables from few evaluations
# ------------------------------------------------
# Ten resistors with twenty values each: the array would have ten million million entries. Cross approximation asks
# for those that it needs. It hands over rows of indices, many at a time.

values = np.geomspace(1.0, 100.0, 20)
batches = []


def ladder(indices):
    batches.append(len(indices))
    return resistance(values[indices].T)


result = tnet.tt_cross(ladder, (20,) * 10, rtol=1e-6, rng=0)
print(f"{sum(batches):,} evaluations in {len(batches)} calls, of {20**10:,} entries")
result

# %%
# The stated error is an estimate, from random entries that had no part in the train. More of them, drawn anew,
# agree:

indices = np.random.default_rng(1).integers(20, size=(20_000, 10))
row = np.ones((len(indices), 1))
for core, i in zip(result.tensor.cores, indices.T, strict=True):
    row = np.einsum("na,anb->nb", row, core[:, i, :])
exact = ladder(indices)
print(f"{np.linalg.norm(row[:, 0] - exact) / np.linalg.norm(exact):.1e}")

# %%
# What the array could never answer, the train does: the mean over all ladders is a product of ten small matrices.

mean = np.ones((1, 1))
for core in result.tensor.cores:
    mean = mean @ core.mean(axis=1)
print(f"mean resistance {mean.item():.4f}")
print(f"of 20,000 random ladders {exact.mean():.2f}, give or take {exact.std() / len(exact) ** 0.5:.2f}")

# %%
# What you saw
# ------------
# * Ask each format for the error that you can bear, and count parameters.
# * Tucker suits few modes. With many modes take a train or a tree, with neighbours next to each other.
# * A function of many indices needs no array: :func:`tnet.tt_cross`.
#
# References: :cite:t:`vannieuwenhoven2012` for Tucker, :cite:t:`oseledets2011` for trains, :cite:t:`grasedyck2010`
# for trees, :cite:t:`dolgov2020` for the cross approximation.
