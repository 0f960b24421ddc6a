"""
Which network fits a tensor?
============================

A tensor train has the modes in a row, a ring closes it, a tree branches. Which one needs the fewest numbers depends
on which modes of the data belong together, and that is seldom known. This tutorial lets :func:`tnet.search` find out:
first for a tensor whose structure we know, then for a photograph.
"""

import itertools

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import tnet
from tnet.structure_search import SearchSpace, Structure

# %%
# A known structure
# -----------------
# Six modes in a ring, but nobody tells in which order: modes 0, 3, 2, 1, 4, 5 are neighbours. Core k carries mode k.

planted = Structure((3,) * 6, ((0, 3, 3), (0, 5, 2), (1, 2, 2), (1, 4, 2), (2, 3, 4), (4, 5, 3)))
draw = np.random.default_rng(0).standard_normal
x = planted.to_network([draw(shape) for shape in planted.core_shapes]).to_dense()
x.shape, planted.n_params

# %%
# The search may bind any two cores. It asks for the fewest parameters at a relative error of one in ten thousand.

found = tnet.search(x, rtol=1e-4, rng=0)
found

# %%
# The singular values over all 31 cuts of the tensor bound the error of every structure from below. Structures that
# the bound rules out are never computed; that is why so few evaluations were enough, and why the answer is proven.

found.plot()

# %%
# Formats with the modes in the order given cannot see it:

{
    "tensor train": tnet.tt(x, rtol=1e-4).tensor.n_params,
    "tensor ring": tnet.tr(x, rtol=1e-4).tensor.n_params,
    "hierarchical Tucker": tnet.ht(x, rtol=1e-4).tensor.n_params,
    "search": found.best.n_params,
}

# %%
# A photograph
# ------------
# 64 x 64 grey pixels, both axes cut into three digits of 4: a tensor of order 6. Digits of one length scale, such as
# the coarse ones of rows and columns, belong together; the tensor train below tries every order of them.

image = load_sample_image("china.jpg").mean(axis=2)[100:164, 200:264] / 255
pixels = image.reshape((4,) * 6)
rtol = 0.1

orders = itertools.permutations(range(6))
trains = {order: tnet.tt(pixels.transpose(order), rtol=rtol).tensor.n_params for order in orders}

# %%
# Trees: the singular values over the cuts bound their error from both sides, and their cores need no iteration.

by_trees = tnet.search(
    pixels, rtol=rtol, algorithm="trees", space=SearchSpace("trees", max_rank=32, n_internal=2), rng=0
)
by_trees.plot()

# %%
# The gap says what is left open: on data without an exact structure the bound is not tight.

by_trees

# %%
# All of them side by side:

sizes = {
    "tensor train, given order": trains[tuple(range(6))],
    "tensor train, best order": min(trains.values()),
    "hierarchical Tucker": tnet.ht(pixels, rtol=rtol).tensor.n_params,
    "search over trees": by_trees.best.n_params,
}
_, ax = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
ax.barh(list(sizes)[::-1], list(sizes.values())[::-1], color="#2f6fde")
ax.bar_label(ax.containers[0], padding=3)
ax.set_xlabel(f"parameters at a relative error of {rtol}")
ax.spines[["top", "right"]].set_visible(False)
