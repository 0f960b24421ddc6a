from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies import close, random_array
from tnet.arrays import lookup, mode_product, mttkrp, register, ttm_chain
from tnet.arrays.registry import _KERNELS

SHAPES = [(4, 3), (2, 3, 4), (5, 1, 3), (2, 3, 2, 4), (6, 2, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_mttkrp_every_mode(convert, shape, dtype):
    rng = np.random.default_rng(0)
    x = random_array(rng, shape, dtype)
    factors = [random_array(rng, (n, 3), dtype) for n in shape]
    letters = "abcd"[: len(shape)]
    for mode in range(len(shape)):
        others = [k for k in range(len(shape)) if k != mode]
        spec = f"{letters},{','.join(letters[k] + 'r' for k in others)}->{letters[mode]}r"
        expected = np.einsum(spec, x, *(factors[k] for k in others))
        close(mttkrp(convert(x), [convert(f) for f in factors], mode), expected, dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_mode_products(convert, shape):
    rng = np.random.default_rng(0)
    x = random_array(rng, shape)
    matrices = [random_array(rng, (m, n)) for m, n in zip((2, 1, 5, 3), shape, strict=False)]
    expected = x
    for mode, matrix in enumerate(matrices):
        single = np.moveaxis(np.tensordot(matrix, x, axes=(1, mode)), 0, mode)
        close(mode_product(convert(x), convert(matrix), mode), single)
        expected = np.moveaxis(np.tensordot(matrix, expected, axes=(1, mode)), 0, mode)
    modes = range(len(shape))
    close(ttm_chain(convert(x), [convert(m) for m in matrices], modes), expected)
    backwards = [convert(m) for m in reversed(matrices)]
    close(ttm_chain(convert(x), backwards, list(reversed(modes))), expected)


def test_special_kernels_come_first(monkeypatch):
    monkeypatch.setattr("tnet.arrays.registry._KERNELS", dict(_KERNELS))
    x = np.ones(2)
    reference = lookup("mttkrp", x)
    register("mttkrp", "numpy")(len)
    assert lookup("mttkrp", x) is len
    register("mttkrp", "numpy", "cpu")(abs)
    assert lookup("mttkrp", x) is abs
    assert lookup("mttkrp", torch.ones(2)) is reference
    register("mttkrp", device="meta")(max)
    assert lookup("mttkrp", torch.ones(2, device="meta")) is max


def test_public_functions_use_the_registry(monkeypatch):
    monkeypatch.setattr("tnet.arrays.registry._KERNELS", dict(_KERNELS))
    x = np.ones((2, 2))
    register("mttkrp", "numpy")(lambda x, factors, mode: "fast mttkrp")
    register("ttm_chain", "numpy")(lambda x, matrices, modes: "fast chain")
    assert mttkrp(x, [x, x], 0) == "fast mttkrp"
    assert ttm_chain(x, [x], [0]) == "fast chain"


def test_unknown_kernel():
    with pytest.raises(KeyError, match=r"no kernel 'fly'; registered are .*hals, .*mttkrp, .*ttm_chain"):
        lookup("fly", np.ones(1))
