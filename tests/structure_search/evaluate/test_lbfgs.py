"""L-BFGS: least squares as ALS finds them, any differentiable loss, failures as evaluations."""

from __future__ import annotations

import numpy as np
import pytest

from tnet.errors import BackendError, InputError
from tnet.structure_search.evaluate.als import ALS
from tnet.structure_search.evaluate.lbfgs import LBFGS
from tnet.structure_search.losses import DifferentiableLoss, MaskedError, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.structure import Structure

SHAPE = (3, 4, 3)
CHAIN = Structure(SHAPE, ((0, 1, 2), (1, 2, 2)))
STAR = Structure(SHAPE, ((0, 3, 2), (1, 3, 2), (2, 3, 2)), 1)
X = np.random.default_rng(0).standard_normal(SHAPE)


@pytest.mark.parametrize("structure", [Structure(SHAPE), CHAIN, STAR], ids=["no bond", "chain", "star"])
@pytest.mark.parametrize("loss", [SquaredError(), MaskedError(np.random.default_rng(1).random(SHAPE) < 0.8)])
def test_squares_are_as_least_as_by_als(structure, loss):
    solver = LBFGS(n_starts=4, change=1e-12)
    (found,) = solver.solve(X, loss, [Start(structure, 3)])
    (by_als,) = ALS().solve(X, loss, [Start(structure, 3)])
    assert found.rse == pytest.approx(by_als.rse, rel=1e-3)
    assert found.cores is not None
    assert tuple(core.shape for core in found.cores) == structure.core_shapes
    difference = X - structure.to_network(found.cores).to_dense()
    kept = np.where(loss.mask, 1, 0) if isinstance(loss, MaskedError) else 1
    assert np.sum((kept * difference) ** 2) / np.sum((kept * X) ** 2) == pytest.approx(found.rse)


def test_a_warm_start_is_gone_on_with_and_a_target_ends():
    (first,) = LBFGS().solve(X, SquaredError(), [Start(CHAIN, 0)])
    (warm,) = LBFGS().solve(X, SquaredError(), [Start(CHAIN, 1, warm=first.cores, n_starts=0)])
    assert warm.rse <= first.rse * (1 + 1e-9)
    assert len(warm.start_errors) == 1
    (early,) = LBFGS().solve(X, SquaredError(), [Start(CHAIN, 0, target=0.99)])
    assert len(early.start_errors) == 1


def test_functions_of_torch():
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)
    loss = DifferentiableLoss(lambda y: torch.mean(torch.log(torch.cosh(y - x))))
    (found,) = LBFGS().solve(x, loss, [Start(CHAIN, 0)])
    assert found.rse == pytest.approx(float(loss.function(CHAIN.to_network(found.cores).to_dense())))
    (nothing,) = LBFGS().solve(x, loss, [Start(Structure(SHAPE), 0)])
    assert found.rse < 0.8 * nothing.rse


def test_a_function_that_raises_or_gives_nan_fails_its_trial():
    torch = pytest.importorskip("torch")
    x = torch.asarray(X)

    def broken(y):
        raise KeyError("a mistake of the user")

    for function, word in ((broken, "a mistake"), (lambda y: torch.nan * torch.sum(y), "finite")):
        (failed,) = LBFGS(n_starts=1).solve(x, DifferentiableLoss(function), [Start(CHAIN, 0)])
        assert failed.rse == np.inf
        assert failed.cores is None
        assert word in failed.message


@pytest.mark.parametrize("options", [{"n_starts": 0}, {"max_iter": 1.5}, {"change": -1.0}, {"change": 1.0}])
def test_bad_settings_are_refused(options):
    with pytest.raises(InputError):
        LBFGS(**options)


def test_complex_tensors_are_refused():
    with pytest.raises(BackendError, match="ALS"):
        LBFGS().solve(X + 1j, SquaredError(), [Start(CHAIN, 0)])
