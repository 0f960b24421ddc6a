"""Fixtures for all tests: the array libraries, and one Hypothesis profile that repeats itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "tnet",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tnet")

NAMESPACES = {
    "numpy": "array_api_compat.numpy",
    "torch": "array_api_compat.torch",
    "array-api-strict": "array_api_strict",
}


@pytest.fixture(params=list(NAMESPACES))
def xp(request: pytest.FixtureRequest) -> Any:
    """The namespace of each array library in turn."""
    return importlib.import_module(NAMESPACES[request.param])


@pytest.fixture
def convert(xp: Any) -> Callable[[np.ndarray], Any]:
    """A function that brings a NumPy array into the library of ``xp``, with its own memory."""
    return lambda array: xp.asarray(np.array(array))
