"""Random networks for the tests of the contraction room."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class Case(NamedTuple):
    equation: str
    shapes: tuple[tuple[int, ...], ...]

    def arrays(self, dtype: str = "float64", seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        if np.dtype(dtype).kind == "c":
            return [(rng.normal(size=s) + 1j * rng.normal(size=s)).astype(dtype) for s in self.shapes]
        return [rng.normal(size=s).astype(dtype) for s in self.shapes]


@st.composite
def networks(draw: st.DrawFn, max_operands: int = 6, max_size: int = 4) -> Case:
    """Networks with traces, hyper-indices, batch outputs, lonely indices, scalars and sizes 0 and 1."""
    labels = "abcdefgh"[: draw(st.integers(1, 8))]
    sizes = {label: draw(st.integers(1, max_size)) for label in labels}
    if draw(st.integers(0, 19)) == 0:
        sizes[labels[0]] = 0
    terms = draw(st.lists(st.text(labels, max_size=4), min_size=1, max_size=max_operands))
    used = sorted(set("".join(terms)))
    output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    equation = f"{','.join(terms)}->{''.join(output)}"
    return Case(equation, tuple(tuple(sizes[label] for label in term) for term in terms))
