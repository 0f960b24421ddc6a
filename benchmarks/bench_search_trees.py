"""At a squared relative error of 0.01 a search over trees needs fewer parameters than trains and hierarchical Tucker.

Two photographs (china.jpg and flower.jpg of scikit-learn, the middle 256 x 256 pixels in grey, as 4^8 in Fortran
order) and a hyperspectral image (Indian Pines of tensorly, 144 x 144 x 200). TT-SVD gets the best order of the modes:
all are tried up to six modes; with eight, the 200 with the fewest parameters by the singular values of their cuts at
equal shares of the error. Hierarchical Tucker gets the best of all balanced trees.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402 - the threads are set before
import record  # noqa: E402

import tnet  # noqa: E402
from tnet.structure_search.algorithms.trees import TreeSearch  # noqa: E402
from tnet.structure_search.evaluate.tree_svd import TreeSVD  # noqa: E402
from tnet.structure_search.space import SearchSpace  # noqa: E402
from tnet.structure_search.spectra import cut_spectra  # noqa: E402

RTOL = 0.1
TENSORS = ("china", "flower", "indian pines")
_ORDERS_TRIED = 200
_ALL_ORDERS_UP_TO = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rows = [compare(name) for name in TENSORS if arguments.only in name]
    shown = ("tensor", "entries", "TT", "TT best order", "HT best tree", "tree search", "ratio", "RSE", "CPU s")
    print(record.table([{key: row[key] for key in shown} for row in rows]))
    if not arguments.only:
        settings = {"rtol": RTOL, "threads": 1, "seed": 0, "clock": "process CPU, singular values included"}
        print(record.write("search_trees", (__doc__ or "").strip().splitlines()[0], rows, settings))


def compare(name: str) -> dict[str, Any]:
    """Return what each format needs for one tensor."""
    x = tensor(name)
    order, train = best_train(x)
    tree, balanced = best_balanced_tree(x)
    space = SearchSpace("trees", max_rank=64, n_internal=x.ndim - 2)
    warm = np.random.default_rng(0).standard_normal((2, 2, 2))  # compiles
    for y in (warm, x):
        started = time.process_time()
        found = tnet.search(y, rtol=RTOL, algorithm=TreeSearch(), space=space, solver=TreeSVD(), rng=0)
        seconds = time.process_time() - started
    least: list[list[float]] = []
    for trial in found.trials:
        if trial.rse <= RTOL**2 and (not least or trial.structure.n_params < least[-1][1]):
            least.append([trial.number + 1, trial.structure.n_params])
    return {
        "tensor": name,
        "shape": list(x.shape),
        "entries": x.size,
        "TT": tnet.tt(x, rtol=RTOL).tensor.n_params,
        "TT best order": train,
        "HT best tree": balanced,
        "tree search": found.best.n_params,
        "ratio": min(train, balanced) / found.best.n_params,
        "RSE": float(found.best.rse),
        "CPU s": seconds,
        "evaluations": found.evaluations,
        "order": list(order),
        "balanced tree": str(tree),
        "structure": found.best.structure.to_json(),
        "best so far": least,
    }


def tensor(name: str) -> np.ndarray:
    if name == "indian pines":
        import tensorly

        path = Path(tensorly.__file__).parent / "datasets" / "data" / "Indian_pines_corrected.npy"
        return np.load(path).astype(float)[:144, :144].reshape(12, 12, 12, 12, 10, 20)
    from sklearn.datasets import load_sample_image

    grey = load_sample_image(f"{name}.jpg").astype(float).mean(axis=2) / 255
    top, left = ((n - 256) // 2 for n in grey.shape)
    return grey[top : top + 256, left : left + 256].reshape((4,) * 8, order="F")


def best_train(x: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Return the order of the modes whose TT-SVD has the fewest parameters, and their number."""
    orders = [order for order in itertools.permutations(range(x.ndim)) if order[0] < order[-1]]
    if x.ndim > _ALL_ORDERS_UP_TO:
        spectra = cut_spectra(x)
        needed = dict(zip(spectra.masks.tolist(), spectra.needed_ranks(RTOL**2 / (x.ndim - 1)).tolist(), strict=True))

        def size(order: Sequence[int]) -> int:
            masks = itertools.accumulate(1 << mode for mode in order[:-1])
            ranks = [1, *(needed[spectra.canonical_mask(mask)] for mask in masks), 1]
            return sum(ranks[k] * x.shape[mode] * ranks[k + 1] for k, mode in enumerate(order))

        orders = sorted(orders, key=size)[:_ORDERS_TRIED]
    sizes = {order: tnet.tt(np.ascontiguousarray(x.transpose(order)), rtol=RTOL).tensor.n_params for order in orders}
    best = min(sizes, key=sizes.__getitem__)
    return best, sizes[best]


def best_balanced_tree(x: np.ndarray) -> tuple[Any, int]:
    """Return the tree that halves the modes at every node with the fewest parameters, and their number."""
    best: tuple[Any, int] = (None, math.prod(x.shape))
    for tree in halved(tuple(range(x.ndim))):
        n_params = tnet.ht(x, rtol=RTOL, tree=tree).tensor.n_params
        if n_params < best[1]:
            best = (tree, n_params)
    return best


def halved(modes: tuple[int, ...]) -> Iterator[Any]:
    if len(modes) == 1:
        yield modes[0]
        return
    half = len(modes) // 2
    for left in itertools.combinations(modes, half):
        if 2 * half == len(modes) and left[0] != modes[0]:
            continue
        right = tuple(mode for mode in modes if mode not in left)
        yield from itertools.product(halved(left), halved(right))


if __name__ == "__main__":
    main()
