"""
The free energy of the Ising model
==================================

A large two-dimensional network cannot be contracted exactly: the intermediate tensors grow exponentially with its
width. Boundary contraction keeps their bonds below a limit, and says how much was cut.
"""

import matplotlib.pyplot as plt
import numpy as np

from tnet.contraction import contract_boundary
from tnet.formats import TensorNetwork

# %%
# A network of spins
# ------------------
# The partition function of the Ising model, :math:`Z = \sum_s \exp(\beta \sum_{ij} s_i s_j)`, is a network with an
# index for each spin and a Boltzmann matrix for each pair of neighbours. Nothing has to be prepared: a spin is an
# index that up to four matrices share. The matrices stand at the place of their left or upper spin.


def ising(n: int, beta: float) -> tuple[TensorNetwork, list[list[tuple[int, ...]]]]:
    boltzmann = np.exp(beta * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    indices, sites = [], []
    for i in range(n):
        sites.append([])
        for j in range(n):
            ahead = [(a, b) for a, b in ((i + 1, j), (i, j + 1)) if a < n and b < n]
            sites[-1].append(tuple(range(len(indices), len(indices) + len(ahead))))
            indices += [(f"s{i}.{j}", f"s{a}.{b}") for a, b in ahead]
    return TensorNetwork((boltzmann,) * len(indices), tuple(indices), output=()), sites


critical = np.log(1 + np.sqrt(2)) / 2
network, sites = ising(24, critical)
result = contract_boundary(network, sites=sites, max_bond=12, rng=0)
result

# %%
# :math:`Z` is beyond the range of floating point for lattices not much larger, so the result holds a mantissa and an
# exponent. ``error`` is an estimate, from what the compressions cut. In partition functions the true error is nearer
# to its square, as the next figures show.

# %%
# How many bonds are enough
# -------------------------
# At the critical point correlations reach over the whole lattice, and bonds are needed most. The value of the largest
# bond serves as reference.

bonds = [2, 3, 4, 6, 8, 12, 16]
reference = contract_boundary(network, sites=sites, max_bond=24, rng=0).log_abs
found = [contract_boundary(network, sites=sites, max_bond=bond, rng=0) for bond in bonds]
errors = [abs(np.expm1(r.log_abs - reference)) for r in found]
estimates = [r.error for r in found]
for bond, error, estimate in zip(bonds, errors, estimates, strict=True):
    print(f"max_bond {bond:3d}   error of Z {error:.1e}   estimate {estimate:.1e}   its square {estimate**2:.1e}")
assert all(error < estimate for error, estimate in zip(errors, estimates, strict=True))

# %%
# Against Onsager
# ---------------
# The free energy of a spin in the infinite lattice was found by :cite:t:`onsager1944`. The edges of a finite lattice
# cost a free energy of their own, in proportion to their length. Both that and the share of the corners drop out of
# the second difference of :math:`\log Z(n)`: divided by twice the squared step it is that of a spin in the bulk, up
# to what decays exponentially with the size.


def onsager(beta: float) -> float:
    k = 2 * np.sinh(2 * beta) / np.cosh(2 * beta) ** 2
    angles = (np.arange(4000) + 0.5) * np.pi / 4000
    return np.log(2 * np.cosh(2 * beta)) + np.mean(np.log((1 + np.sqrt(1 - (k * np.sin(angles)) ** 2)) / 2)) / 2


sizes, step = (12, 16, 20), 4
for beta in (0.2, 0.3):
    of_a_spin = {}
    for max_bond in (2, 4, 8):
        log_z = []
        for n in sizes:
            lattice, places = ising(n, beta)
            log_z.append(contract_boundary(lattice, sites=places, max_bond=max_bond, rng=0).log_abs)
        of_a_spin[max_bond] = (log_z[0] - 2 * log_z[1] + log_z[2]) / (2 * step**2)
    exact = onsager(beta)
    text = ", ".join(f"{bond}: {abs(value - exact):.1e}" for bond, value in of_a_spin.items())
    print(f"beta {beta}   Onsager {exact:.10f}   error with max_bond {text}")
    assert abs(of_a_spin[8] - exact) < 1e-9

# %%
# Errors against bonds
# --------------------

figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
axes.plot(bonds, errors, marker="o", label="error of Z")
axes.plot(bonds, estimates, marker="s", label="estimate")
axes.plot(bonds, np.square(estimates), ls=":", color="gray", label="estimate, squared")
axes.set(
    yscale="log", xlabel="max_bond", ylabel="relative error",
    title="A bond of 16 gives ten digits of Z at 576 critical spins",
)  # fmt: skip
axes.legend()
axes.grid(alpha=0.3)
plt.show()

# %%
# What you saw
# ------------
# * Spins that several matrices share need no preparation; ``sites=`` says which tensors stand together. With one
#   tensor at each place, the arrangement is found.
# * The error falls exponentially with ``max_bond``; the estimate follows it from above.
# * Values may have any exponent: ``log_abs`` is their logarithm.
#
# The rows are absorbed by the method of boundary trains of :cite:t:`verstraete2004`.
