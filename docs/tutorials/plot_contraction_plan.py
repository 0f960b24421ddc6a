"""
Plan an amplitude of a quantum circuit
======================================

The order of a contraction decides whether it takes a second or an hour. This tutorial plans an amplitude of a random
circuit, compares planners, looks at the plan, cuts it to a memory limit, and runs the slices with a checkpoint.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import tnet
from tnet.formats import TensorNetwork

# %%
# A circuit is a network
# ----------------------
# Qubits stand on a grid. Each layer applies random gates to neighbours: pairs along columns, then along rows, then
# those that were left out. A gate is a tensor with two indices in and two out; an index is named after its qubit and
# the number of gates before. Vectors close both ends: the contraction is the amplitude :math:`\langle 0|U|0\rangle`.


def amplitude(rows: int, columns: int, layers: int, seed: int = 0) -> TensorNetwork:
    rng = np.random.default_rng(seed)
    zero = np.array([1, 0], np.complex64)
    n_gates = {(r, c): 0 for r in range(rows) for c in range(columns)}

    def name(qubit: tuple[int, int]) -> str:
        return f"{qubit[0]}{qubit[1]}@{n_gates[qubit]}"

    tensors, indices = [zero] * len(n_gates), [(name(qubit),) for qubit in n_gates]
    for layer in range(layers):
        down, parity = ((True, 0), (False, 0), (True, 1), (False, 1))[layer % 4]
        for r, c in list(n_gates):
            first, second = (r, c), (r + 1, c) if down else (r, c + 1)
            if second in n_gates and (r if down else c) % 2 == parity:
                matrix = rng.normal(size=(4, 4)) + 1j * rng.normal(size=(4, 4))
                tensors.append(np.linalg.qr(matrix)[0].astype(np.complex64).reshape(2, 2, 2, 2))
                before = (name(first), name(second))
                n_gates[first] += 1
                n_gates[second] += 1
                indices.append((name(first), name(second), *before))
    tensors += [zero] * len(n_gates)
    indices += [(name(qubit),) for qubit in n_gates]
    return TensorNetwork(tuple(tensors), tuple(indices), output=())


network = amplitude(5, 6, layers=12)
print(f"{len(network.tensors)} tensors; the state of 30 qubits alone has {2**30 * 8 / 2**30:.0f} GiB")

# %%
# Compare planners
# ----------------
# Nothing is computed here: a plan needs shapes and dtypes. By default the planner is ``"auto"``, which takes one
# after another as long as planning pays; the others do a fixed amount of work, and give one plan for one ``rng``.

planners = ("greedy", "random-greedy", "elimination", "partition", "annealing")
plans = {name: tnet.plan(network, planner=name) for name in planners}
for name, plan in plans.items():
    print(f"{name:14} {plan.macs:.2e} multiply-adds  {plan.peak_bytes:14,d} bytes  {plan.predicted_seconds:6.2f} s")
best = min(plans.values(), key=lambda plan: plan.macs)
assert plans["greedy"].macs > 20 * best.macs

# %%
# Read the plan
# -------------
# Its table says what it will cost. :meth:`~tnet.contraction.ContractionPlan.plot` draws the tree over time, what each
# step costs, and what is held meanwhile: a few steps in the middle do nearly all of the work.

best.plot()
plt.show()
best

# %%
# Cut it
# ------
# With ``memory_limit`` some indices are cut, and their parts computed one after another: slices. Circuits slice well
# when order and cuts are chosen together. The amplitude is that of the plan without a limit, up to rounding.

cut = tnet.plan(network, planner="annealing", memory_limit="8MiB")
assert cut.peak_bytes <= 8 * 2**20
print(cut)
print(f"{best.peak_bytes / cut.peak_bytes:.0f} times less memory for {cut.macs / best.macs:.2f} times the work")

# %%
# Run it, break off, go on
# ------------------------
# ``run`` groups the slices into tasks. With ``executor=`` processes, threads or a Dask cluster share them; with
# ``checkpoint=`` a folder keeps the sum so far. Here the run breaks off when the first task is done, as it would by
# Ctrl-C, and goes on with the same line.

done = []


def break_off(n_done: int, n_slices: int) -> None:
    if n_done > 0:
        raise KeyboardInterrupt


with tempfile.TemporaryDirectory() as folder:
    cut.save(Path(folder, "plan.json"))
    try:
        cut.run(*network.tensors, checkpoint=Path(folder, "sum"), callback=break_off)
    except KeyboardInterrupt:
        print("broken off")
    same = tnet.contraction.ContractionPlan.load(Path(folder, "plan.json"))
    resumed = same.run(*network.tensors, checkpoint=Path(folder, "sum"), callback=lambda n, _: done.append(n))
print(f"went on at slice {done[0]} of {cut.n_slices}: {complex(resumed):.6e}")
assert 0 < done[0] < cut.n_slices

# %%
# The bits are those of a run without a break, whoever computes the tasks.

whole = cut.run(*network.tensors)
assert whole == resumed
unsliced = best(*network.tensors)
print(f"difference to the plan without a limit: {abs(whole / unsliced - 1):.1e}")
assert abs(whole / unsliced - 1) < 1e-3

# %%
# What you saw
# ------------
# * Planners differ by powers of ten. Their costs are known before anything is computed, so compare.
# * ``memory_limit`` is a promise: slices are chosen to keep it.
# * Long runs keep a checkpoint. Save the plan too: another search may find another order, to which the sum so far
#   does not belong.
#
# Annealing of trees is due to :cite:t:`kalachev2021`, slices chosen together with the order to :cite:t:`gray2021`.
