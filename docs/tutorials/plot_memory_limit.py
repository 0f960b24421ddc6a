"""
Contract under a memory limit
=============================

Contracting a network can need far more memory than its tensors. A plan tells how much before anything is
computed, and cuts the contraction into slices until it fits.
"""

import matplotlib.pyplot as plt
import numpy as np

import tnet
from tnet.formats import TensorNetwork

# %%
# A network with a known answer
# -----------------------------
# The partition function of the Potts model on an L x L lattice is one network: a matrix of Boltzmann factors for
# each pair of neighbours, an index for each site, whose spin has q values. Four matrices share the index of an
# inner site; the output has no index, so all spins are summed over.

L, q, coupling = 7, 6, 1.0
boltzmann = np.exp(coupling * np.eye(q))
pairs = [((i, j), (i + 1, j)) for i in range(L - 1) for j in range(L)]
pairs += [((i, j), (i, j + 1)) for i in range(L) for j in range(L - 1)]
indices = tuple(tuple(f"s{i}.{j}" for i, j in pair) for pair in pairs)
network = TensorNetwork((boltzmann,) * len(pairs), indices, output=())

# %%
# Plan first
# ----------
# A plan is made from shapes alone. ``peak_bytes`` counts inputs, live intermediates, copies and result at the
# worst moment; ``macs`` are the multiply-adds. The planner is named here so that every plan below does the same
# amount of searching; the default, ``"auto"``, would stop at once, for this contraction takes milliseconds.

free = tnet.plan(network, planner="annealing")
free

# %%
# Calling the plan runs it. The transfer matrix of the lattice, applied row by row, gives the same number.


def by_transfer_matrix():
    spins = np.indices((q,) * L, dtype=np.int8).reshape(L, -1)
    within_row = np.exp(coupling * np.sum(spins[1:] == spins[:-1], axis=0))
    state = within_row
    for _ in range(L - 1):
        for _ in range(L):  # one site of the next row; after L of them the order is as before
            state = (state.reshape(q, -1).T @ boltzmann).reshape(-1)
        state = state * within_row
    return state.sum()


z = free(*network.tensors)
print(f"log Z / L^2 = {np.log(z) / L**2:.12f}")
print(f"relative difference to the transfer matrix: {abs(z / by_transfer_matrix() - 1):.1e}")

# %%
# Now with less memory
# --------------------
# With ``memory_limit`` indices are cut into parts, and the slices are added up. What slices repeat costs work: the
# plan says how much. Cuts and order are chosen together, so that now and then a limit even finds a cheaper order.

limits = [free.peak_bytes // 2**k for k in range(9)]
plans = [tnet.plan(network, planner="annealing", memory_limit=limit) for limit in limits]
for limit, plan in zip(limits, plans, strict=True):
    value = plan(*network.tensors)
    assert plan.peak_bytes <= limit
    assert abs(value / z - 1) < 1e-10
    work = plan.macs / free.macs
    print(f"limit {limit:10,d}  peak {plan.peak_bytes:10,d}  slices {plan.n_slices:4d}  work x {work:.2f}")

# %%
# A limit that even the inputs exceed is refused before any work is done, and the message says what would do.

try:
    tnet.plan(network, planner="annealing", memory_limit="10KiB")
except tnet.errors.MemoryLimitError as error:
    print(type(error).__name__, "-", str(error)[:80], "...")

# %%
# Memory against work
# -------------------

figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
peaks = [plan.peak_bytes / free.peak_bytes for plan in plans]
work = [plan.macs / free.macs for plan in plans]
assert min(w for w, peak in zip(work, peaks, strict=True) if peak < 1 / 8) < 1.2 < max(work)
axes.plot(peaks, work, marker="o")
axes.set(
    xscale="log", ylim=(0, 1.1 * max(work)), xlabel="peak memory, as a share of the unsliced contraction",
    ylabel="multiply-adds, as a multiple of it", title="An eighth of the memory is nearly free, a hundredth is not",
)  # fmt: skip
axes.grid(alpha=0.3)
plt.show()

# %%
# What you saw
# ------------
# * A plan knows its memory, its work and its predicted seconds before it runs.
# * ``memory_limit`` is met by slicing; the result is the same up to rounding.
# * Down to an eighth memory is nearly free here; far below, each halving costs more than the one before.
#
# Slices chosen together with the order are due to :cite:t:`gray2021`;
# :doc:`/auto_tutorials/plot_contraction_plan` goes on from here.
