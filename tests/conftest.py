"""Fixtures for all tests: the array libraries, and one Hypothesis profile that repeats itself."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Started in the background of a script, the runner ignores Ctrl-C, and so would every process that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "tnet",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("tnet")

# Name of a parameter: namespace, and where torch puts its tensors. With -m gpu, all tests that use
# `xp` or `convert` run on a CUDA device.
LIBRARIES = {
    "numpy": ("array_api_compat.numpy", None),
    "torch": ("array_api_compat.torch", "cpu"),
    "array-api-strict": ("array_api_strict", None),
    "torch-cuda": ("array_api_compat.torch", "cuda"),
    "cupy": ("array_api_compat.cupy", None),
}


_GPU = [pytest.param(name, marks=pytest.mark.gpu) for name in ("torch-cuda", "cupy")]


@pytest.fixture(params=["numpy", "torch", "array-api-strict", *_GPU])
def library(request: pytest.FixtureRequest) -> str:
    """Name of each array library in turn."""
    return request.param


@pytest.fixture
def xp(library: str) -> Any:
    """The namespace of each array library in turn."""
    return importlib.import_module(LIBRARIES[library][0])


@pytest.fixture
def convert(library: str, xp: Any) -> Callable[[np.ndarray], Any]:
    """A function that brings a NumPy array into the library of ``xp``, with its own memory."""
    device = LIBRARIES[library][1]
    if device is None:
        return lambda array: xp.asarray(np.array(array))
    return lambda array: xp.asarray(np.array(array), device=device)
