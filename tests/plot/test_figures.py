"""Figures show the numbers of the result, on the Axes that they were given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.collections import QuadMesh

import tnet
from tnet.decompositions import RankSelection
from tnet.errors import InputError, MissingDependencyError, ShapeError
from tnet.options import Stopping

Make = Callable[..., Any]


def test_importing_the_room_imports_neither_matplotlib_nor_torch() -> None:
    code = "import sys, tnet.plot; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, make_result: Make) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"tnet-tensors\[plot\]"):
        tnet.plot.allocation(make_result())


def test_allocation_shows_the_kept_share_of_each_layer(make_result: Make) -> None:
    _, ax = pyplot.subplots()
    assert tnet.plot.allocation(make_result(), ax) is ax
    (mesh,) = [child for child in ax.get_children() if isinstance(child, QuadMesh)]
    shares = np.asarray(mesh.get_array()).reshape(3, 2)
    assert np.allclose(shares, [[37.5, 37.5], [37.5, 37.5], [100, 100]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["attn.q_proj", "attn.k_proj", "mlp.up_proj"]


def test_sensitivity_stacks_the_losses_of_a_block(make_result: Make) -> None:
    ax = tnet.plot.sensitivity(make_result())
    tops = {}
    for bar in ax.patches:
        tops[round(bar.get_x() + bar.get_width() / 2)] = bar.get_y() + bar.get_height()  # pyright: ignore
    assert tops == pytest.approx({0: 0.02, 1: 0.03})


def test_layers_outside_the_blocks_have_a_column(make_result: Make) -> None:
    ax = tnet.plot.allocation(make_result(blocks=(-1, 0)))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-", "0"]


@pytest.mark.parametrize(("quantity", "y"), [("perplexity", [30.0, 12.0]), ("kl", [0.1, 0.1])])
@pytest.mark.parametrize(("against", "x"), [("parameters", [100 * 992 / 1536] * 2), ("bytes", [0.005] * 2)])
def test_quality_places_each_result(
    quantity: Any, y: list[float], against: Any, x: list[float], make_result: Make
) -> None:
    results = {"plain": make_result(30.0, rank=5), "tnet": make_result(12.0, rank=5)}
    ax = tnet.plot.quality(results, quantity=quantity, against=against)
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [np.asarray(line.get_xdata())[0] for line in points] == pytest.approx(x)
    assert [np.asarray(line.get_ydata())[0] for line in points] == pytest.approx(y)
    texts = [text.get_text() for text in ax.texts]
    assert any(text.startswith("plain") for text in texts)
    assert any(text.startswith("tnet") for text in texts)


def test_quality_takes_a_logarithm_when_a_method_fails(make_result: Make) -> None:
    assert tnet.plot.quality({"bad": make_result(1e4), "good": make_result(11.0)}).get_yscale() == "log"
    assert tnet.plot.quality({"good": make_result(11.0)}).get_yscale() == "linear"


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        (False, {"quantity": "cosine"}),
        (True, {"quantity": "kl"}),
        (False, {"quantity": "x"}),
        (False, {"against": "x"}),
    ],
)
def test_quality_refuses_what_was_not_measured(encoder: bool, options: dict[str, Any], make_result: Make) -> None:
    with pytest.raises(InputError):
        tnet.plot.quality(
            {"a": make_result(encoder=encoder)}, **({"quantity": "cosine"} if encoder else {}) | options
        )


def test_quality_of_nothing() -> None:
    with pytest.raises(InputError, match="no results"):
        tnet.plot.quality({})


def test_a_dollar_sign_begins_no_formula(make_result: Make) -> None:
    odd = make_result(prefix="model.$x_{.layers", blocks=(-1,))
    for draw in (tnet.plot.allocation, tnet.plot.sensitivity):
        draw(odd).figure.canvas.draw()
    tnet.plot.quality({"$x_{": odd}).figure.canvas.draw()


def test_history_shows_every_sweep() -> None:
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    found = tnet.cp(x, 2, rng=0, stopping=Stopping(max_iter=7, change=0.0))
    ax = tnet.plot.history(found)
    assert np.array_equal(ax.lines[0].get_ydata(), found.history.error)
    with pytest.raises(InputError, match="direct"):
        tnet.plot.history(tnet.tt(x, 2))


@pytest.mark.parametrize("method", ["core_consistency", "held_out", "stability"])
def test_rank_selection_shows_scores_choice_and_errors(method: Any) -> None:
    found = RankSelection(2, (1, 2, 3), (100.0, 90.0, -1e5), (0.5, 0.1, 0.09), method, "why", 0)
    ax = tnet.plot.rank_selection(found)
    scores, choice = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines)
    assert np.array_equal(scores, [100.0, 90.0, -20.0 if method == "core_consistency" else -1e5])
    assert ax.lines[1].get_xdata()[0] == 2
    assert choice.size == 2
    right = next(other for other in ax.figure.axes if other is not ax)
    assert np.array_equal(right.lines[0].get_ydata(), found.errors)
    assert tnet.plot.rank_selection(found, ax) is ax


def test_spectrum_shows_values_and_errors() -> None:
    ax = tnet.plot.spectrum([1.0, 4.0, 2.0, 0.0], rank=2)
    values, errors = (np.asarray(line.get_ydata(), dtype=float) for line in ax.lines[:2])
    assert np.allclose(values[:3], [1, 0.5, 0.25])
    assert np.allclose(errors[:2], [np.sqrt(5 / 21), np.sqrt(1 / 21)])
    assert np.isnan(errors[2:]).all()


@pytest.mark.parametrize(
    ("values", "error"),
    [([], ShapeError), ([[1.0]], ShapeError), ([-1.0], InputError), ([np.nan], InputError), ([0.0], InputError)],
)
def test_spectrum_refuses(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        tnet.plot.spectrum(values)
