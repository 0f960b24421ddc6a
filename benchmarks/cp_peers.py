"""The contenders of the races of CP by alternating least squares: the same data, the same start, fixed sweeps."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from race import Job

import tnet
from tnet.formats import CPTensor

__all__ = ["als_contenders", "import_pytensorlab", "noisy_cp", "relative_error"]

Data = tuple[np.ndarray, CPTensor]


def als_contenders(shape: tuple[int, ...], rank: int, sweeps: int, data: Callable[[], Data]) -> Mapping[str, Any]:
    """Return the contenders for so many sweeps over ``data()``, a tensor and a start."""

    def job(make: Callable[[np.ndarray, CPTensor], Callable[[], CPTensor]]) -> Callable[[], Job]:
        def contender() -> Job:
            x, start = data()
            run = make(x, start)
            return Job(run, lambda model: {"error": relative_error(x, model)}, x.nbytes)

        return contender

    def ours(x: np.ndarray, start: CPTensor) -> Callable[[], CPTensor]:
        stopping = tnet.Stopping(max_iter=sweeps, change=0)
        return lambda: tnet.cp(x, rank, init=start, stopping=stopping).tensor

    def tensorly(x: np.ndarray, start: CPTensor) -> Callable[[], CPTensor]:
        from tensorly.decomposition import parafac

        def run() -> CPTensor:
            init = (np.ones(rank), [factor.copy() for factor in start.factors])
            weights, factors = parafac(x, rank, n_iter_max=sweeps, init=init, tol=0)  # tol=0: no error is computed
            return CPTensor(np.asarray(weights), tuple(factors))

        return run

    def pyttb(x: np.ndarray, start: CPTensor) -> Callable[[], CPTensor]:
        import pyttb as ttb

        tensor = ttb.tensor(x)

        def run() -> CPTensor:
            init = ttb.ktensor([factor.copy() for factor in start.factors])
            model = ttb.cp_als(tensor, rank, stoptol=-1, maxiters=sweeps, init=init, printitn=0)[0]
            return CPTensor(model.weights, tuple(model.factor_matrices))

        return run

    def pytensorlab(x: np.ndarray, start: CPTensor) -> Callable[[], CPTensor]:
        ptl = import_pytensorlab()
        options = ptl.CPDAlsOptions(max_iterations=sweeps, tol_relfval=0.0, tol_relstep=0.0, display=0)

        def run() -> CPTensor:
            model, _ = ptl.cpd_als(x, ptl.PolyadicTensor([factor.copy() for factor in start.factors]), options)
            return CPTensor(np.ones(rank), tuple(np.asarray(factor) for factor in model.factors))

        return run

    def floor() -> Job:
        x, _ = data()
        return Job(_products(x, rank, sweeps), lambda _: {"error": math.nan}, x.nbytes)

    return {
        "tnet": job(ours),
        "tensorly": job(tensorly),
        "pyttb": job(pyttb),
        "pytensorlab": job(pytensorlab),
        "floor": floor,
    }


def noisy_cp(shape: tuple[int, ...], rank: int, noise: float = 0.01, seed: int = 0) -> Data:
    """Return normal factors multiplied out plus so much relative noise, and a start of uniform factors."""
    rng = np.random.default_rng(seed)
    x = CPTensor(np.ones(rank), tuple(rng.standard_normal((n, rank)) for n in shape)).to_dense()
    E = rng.standard_normal(shape)
    x += noise * np.linalg.norm(x) / np.linalg.norm(E) * E
    return x, CPTensor(np.ones(rank), tuple(rng.random((n, rank)) for n in shape))


def relative_error(x: np.ndarray, model: CPTensor) -> float:
    """Return the relative Frobenius error of a model, whoever made it."""
    return float(np.linalg.norm(x - model.to_dense()) / np.linalg.norm(x))


def import_pytensorlab() -> ModuleType:
    """Import pytensorlab without its viewer of volumes, which no computation needs."""
    for name in ("vedo", "vedo.settings", "vtk", "pyvista"):
        sys.modules.setdefault(name, MagicMock())
    import pytensorlab

    return pytensorlab


def _products(x: np.ndarray, rank: int, sweeps: int) -> Callable[[], None]:
    """Return the large products of the dimension tree alone: d / (d - 1) for order 3, two for higher orders."""
    d = x.ndim
    rng = np.random.default_rng(0)
    n_groups = 3 if d == 3 else 2
    rows = int(np.prod(x.shape[: d // n_groups]))
    matrix, factor = x.reshape(rows, -1), rng.random((rank, rows))
    out = np.empty((rank, matrix.shape[1]))

    def run() -> None:
        for _ in range(math.ceil(sweeps * n_groups / (n_groups - 1))):
            np.matmul(factor, matrix, out=out)

    return run
