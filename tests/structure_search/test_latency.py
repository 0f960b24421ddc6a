"""The latency of a layer, measured once for each structure."""

from __future__ import annotations

import pytest

from tnet.errors import InputError
from tnet.structure_search.latency import LayerLatency
from tnet.structure_search.objective import LatencyAndError
from tnet.structure_search.structure import Structure

SMALL = Structure((64, 64), ((0, 1, 2),))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_structure_is_measured_once(library):
    like = None if library == "numpy" else pytest.importorskip("torch").zeros(1)
    seconds = LayerLatency(1, batch=4, like=like, repeats=3)
    assert seconds(SMALL) > 0
    assert seconds(SMALL) == seconds(SMALL)
    goal = LatencyAndError(0.5, seconds)
    assert goal.score(SMALL, 0.25) == seconds(SMALL) + 0.125


def test_internal_cores_and_lone_modes_are_measured_too():
    assert LayerLatency(1)(Structure((4, 5, 6), ((0, 3, 2), (1, 3, 2)), 1)) > 0


@pytest.mark.parametrize(
    "options", [{"n_columns": 0}, {"n_columns": 1, "batch": 0}, {"n_columns": 1, "repeats": 1.5}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError):
        LayerLatency(**options)
    with pytest.raises(InputError, match="n_columns=2"):
        LayerLatency(2)(SMALL)
