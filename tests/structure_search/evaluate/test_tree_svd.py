"""TreeSVD: exact errors between the bounds of the cuts, the errors of trains and hierarchical Tucker, any library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tests.strategies import seeds
from tests.structure_search.trees.random_trees import planted, random_tree
from tnet.arrays import library_name, to_numpy
from tnet.errors import InputError
from tnet.structure_search.bounds import lower_bounds, tree_upper_bound
from tnet.structure_search.evaluate.tree_svd import TreeSVD
from tnet.structure_search.losses import MaskedError, SquaredError
from tnet.structure_search.proposals import Start
from tnet.structure_search.spectra import cut_spectra
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation


def solved(x: Any, structure: Structure, solver: TreeSVD | None = None) -> Evaluation:
    (found,) = (solver or TreeSVD()).solve(x, SquaredError(), [Start(structure, 0)])
    return found


def dense(found: Evaluation) -> np.ndarray:
    assert found.cores is not None
    cores = [to_numpy(core) for core in found.cores]
    return np.asarray(found.structure.to_network(cores).to_dense())


@given(seeds, st.integers(2, 5), st.integers(0, 2), st.booleans())
def test_error_is_exact_and_between_the_bounds(seed: int, n_modes: int, n_internal: int, is_complex: bool) -> None:
    rng = np.random.default_rng(seed)
    structure = random_tree(rng, n_modes, min(n_internal, n_modes - 1))
    dropped = structure.bonds[int(rng.integers(len(structure.bonds)))]
    structure = structure.with_rank(*dropped[:2], 1) if rng.random() < 0.3 else structure  # a forest
    x = rng.standard_normal(structure.shape) * np.linspace(1, 3, structure.shape[-1])
    x = x + 1j * rng.standard_normal(structure.shape) if is_complex else x
    found = solved(x, structure)
    assert found.cores is not None
    assert [core.shape for core in found.cores] == list(structure.core_shapes)
    residual = np.linalg.norm(x - dense(found)) ** 2 / np.linalg.norm(x) ** 2
    assert found.rse == pytest.approx(residual, rel=1e-8, abs=1e-25)
    spectra = cut_spectra(x)
    assert lower_bounds(spectra, [structure.canonical()])[0] <= found.rse + 1e-12
    assert found.rse <= tree_upper_bound(spectra, structure) + 1e-12


@given(seeds, st.integers(2, 5), st.integers(0, 2))
def test_planted_tree_is_recovered(seed: int, n_modes: int, n_internal: int) -> None:
    rng = np.random.default_rng(seed)
    structure = random_tree(rng, n_modes, min(n_internal, n_modes - 1))
    assert solved(planted(rng, structure), structure).rse < 1e-24


def test_chain_has_the_error_of_the_tensor_train() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5, 2))
    found = solved(x, Structure(x.shape, ((0, 1, 2), (1, 2, 3), (2, 3, 2))))
    assert math.sqrt(found.rse) <= 1.05 * tnet.tt(x, (2, 3, 2)).error
    assert solved(x, Structure(x.shape, ((2, 3, 2),))).rse > found.rse


def test_balanced_tree_has_the_error_of_hierarchical_tucker() -> None:
    x = np.random.default_rng(1).standard_normal((4, 4, 4, 4))
    bonds = ((0, 4, 3), (1, 4, 3), (2, 5, 3), (3, 5, 3), (4, 5, 2))
    assert math.sqrt(solved(x, Structure(x.shape, bonds, 2)).rse) == pytest.approx(
        tnet.ht(x, (2, 3, 3, 2, 3, 3)).error, rel=0.02
    )


def test_star_is_sequentially_truncated_tucker() -> None:
    x = np.random.default_rng(2).standard_normal((4, 5, 6))
    found = solved(x, Structure(x.shape, ((0, 3, 2), (1, 3, 2), (2, 3, 2)), 1))
    assert math.sqrt(found.rse) == pytest.approx(tnet.tucker(x, (2, 2, 2)).error, rel=0.02)


def test_one_bond_is_the_best_matrix_of_its_rank() -> None:
    x = np.random.default_rng(3).standard_normal((6, 7))
    s = np.linalg.svd(x, compute_uv=False)
    assert solved(x, Structure(x.shape, ((0, 1, 3),))).rse == pytest.approx(np.sum(s[3:] ** 2) / np.sum(s**2))


def test_libraries_agree(library: str, convert: Callable[[np.ndarray], Any]) -> None:
    x = np.random.default_rng(4).standard_normal((3, 4, 2, 3))
    structure = Structure(x.shape, ((0, 4, 2), (1, 4, 3), (2, 3, 2), (2, 4, 3)), 1)
    expected = solved(x, structure)
    given_x = convert(x)
    found = solved(given_x, structure)
    assert found.cores is not None
    assert {library_name(core) for core in found.cores} == {library_name(given_x)}
    assert found.rse == pytest.approx(expected.rse, rel=1e-10)
    np.testing.assert_allclose(dense(found), dense(expected), atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "gram", "tsqr", "svd"])
def test_methods_agree(method: Any) -> None:
    x = np.random.default_rng(5).standard_normal((3, 4, 5))
    structure = Structure(x.shape, ((0, 1, 2), (1, 2, 3)))
    assert solved(x, structure, TreeSVD(method)).rse == pytest.approx(solved(x, structure).rse, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_does_not_matter(scale: float) -> None:
    x = np.random.default_rng(6).standard_normal((3, 4, 5))
    structure = Structure(x.shape, ((0, 1, 2), (1, 2, 3)))
    found = solved(scale * x, structure)
    assert found.rse == pytest.approx(solved(x, structure).rse, rel=1e-9)
    np.testing.assert_allclose(dense(found) / scale, dense(solved(x, structure)), atol=1e-10)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_tiny_errors_come_from_the_residual(scale: float) -> None:
    x = np.einsum("i,j,k->ijk", *(np.arange(1.0, n) for n in (4, 5, 6)))
    assert solved(scale * x, Structure(x.shape)).rse < 1e-28


def test_single_precision_stays_and_half_is_judged_as_stored() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(np.random.default_rng(7).standard_normal((3, 4, 5)), dtype=torch.bfloat16)
    structure = Structure((3, 4, 5), ((0, 1, 3), (1, 2, 5)))
    found = solved(x, structure)
    assert found.cores is not None
    assert {core.dtype for core in found.cores} == {torch.bfloat16}
    wide = [core.double() for core in found.cores]
    residual = torch.linalg.norm(x.double() - structure.to_network(wide).to_dense()) ** 2 / x.double().norm() ** 2
    assert found.rse == pytest.approx(float(residual), rel=1e-3)


def test_superfluous_ranks_and_internal_cores_are_filled() -> None:
    x = np.random.default_rng(8).standard_normal((2, 3, 2))
    structure = Structure(x.shape, ((0, 3, 5), (1, 3, 4), (2, 3, 3), (4, 5, 2)), 3)
    found = solved(x, structure)
    assert found.rse < 1e-28
    assert [core.shape for core in found.cores or ()] == list(structure.core_shapes)


def test_another_shape_of_the_same_entries() -> None:
    x = np.random.default_rng(9).standard_normal((4, 6))
    structure = Structure((2, 2, 6), ((0, 1, 2), (1, 2, 2)))
    assert solved(x, structure).rse == pytest.approx(solved(x.reshape(2, 2, 6), structure).rse)


def test_zero_tensor_has_no_error() -> None:
    assert solved(np.zeros((2, 3)), Structure((2, 3))).rse == 0.0


def test_loop_and_wrong_size_are_failures_with_a_reason() -> None:
    x = np.ones((2, 2, 2))
    loop = solved(x, Structure(x.shape, ((0, 1, 2), (0, 2, 2), (1, 2, 2))))
    assert math.isinf(loop.rse)
    assert "loop" in loop.message
    assert loop.cores is None
    other = solved(x, Structure((2, 2, 3)))
    assert math.isinf(other.rse)
    assert "8 entries" in other.message


def test_bad_input() -> None:
    x = np.ones((2, 2))
    with pytest.raises(InputError, match="MaskedError"):
        TreeSVD().solve(x, MaskedError(x > 0), [])
    with pytest.raises(InputError, match="non-finite"):
        solved(np.array([[1.0, np.nan], [0.0, 1.0]]), Structure((2, 2)))
    with pytest.raises(InputError, match="method"):
        TreeSVD("qr")  # type: ignore[arg-type]
