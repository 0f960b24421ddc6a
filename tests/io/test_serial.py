"""What is saved comes back bit for bit, whatever happens meanwhile to the process or the file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import array_api_strict
import numpy as np
import pytest
import torch
from make_golden import GOLDEN, golden_objects, numbers

import tnet
from tnet.errors import FormatError, InputError, MissingDependencyError
from tnet.formats import CPTensor, LowRank, TensorNetwork, TensorTrain
from tnet.io import load, read_safetensors, save, write_safetensors
from tnet.results import Decomposition, History, Status

OBJECTS = golden_objects()


def in_library(obj, convert):
    if isinstance(obj, Decomposition):
        return dataclasses.replace(obj, tensor=obj.tensor.map_arrays(convert))
    return obj.map_arrays(convert)


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, Decomposition):
        for field in ("error", "error_kind", "status", "history", "seconds", "rng_seed"):
            assert repr(getattr(a, field)) == repr(getattr(b, field))
        a, b = a.tensor, b.tensor
    for field in dataclasses.fields(a):
        if field.name not in a.array_fields:
            assert getattr(a, field.name) == getattr(b, field.name)
    for x, y in zip(a.arrays, b.arrays, strict=True):
        assert type(x) is type(y)
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("convert", [np.array, torch.asarray], ids=["numpy", "torch"])
def test_round_trip(tmp_path, name, convert):
    obj = in_library(OBJECTS[name], convert)
    tnet.save(obj, tmp_path / "x")
    assert_same(tnet.load(tmp_path / "x"), obj)


def test_bfloat16_and_gradients(tmp_path):
    left = torch.randn(4, 2, dtype=torch.bfloat16, requires_grad=True)
    save(LowRank(left, torch.randn(2, 3, dtype=torch.bfloat16)), tmp_path / "x")
    found = load(tmp_path / "x")
    assert found.left.dtype == torch.bfloat16
    assert not found.left.requires_grad
    assert torch.equal(found.left, left)


def test_other_libraries_come_back_as_numpy(tmp_path):
    obj = in_library(OBJECTS["tensor_train"], array_api_strict.asarray)
    save(obj, tmp_path / "x")
    assert_same(load(tmp_path / "x"), OBJECTS["tensor_train"])


@pytest.mark.parametrize("convert", [np.array, torch.asarray], ids=["numpy", "torch"])
def test_complex_numbers_keep_signs_and_infinities(tmp_path, convert):
    odd = np.array([complex(-0.0, math.inf), complex(math.nan, -0.0), complex(0.0, -0.0)])
    obj = in_library(TensorTrain((odd.reshape(1, 3, 1),)), convert)
    save(obj, tmp_path / "x")
    assert_same(load(tmp_path / "x"), obj)


@pytest.mark.parametrize("error", [0.1, 1e-300, 0.0, math.inf, math.nan])
@pytest.mark.parametrize("status", list(Status))
def test_accounts(tmp_path, error, status):
    result = Decomposition(OBJECTS["cp"], error, "exact", status, History(), 0.0, None)
    save(result, tmp_path / "x")
    assert_same(load(tmp_path / "x"), result)


def test_a_network_of_numbers(tmp_path):
    network = TensorNetwork((np.array(2.0), np.zeros((0, 2))), ((), ("a", "b")), ())
    save(network, tmp_path / "x")
    assert_same(load(tmp_path / "x"), network)


@pytest.mark.parametrize("name", OBJECTS)
def test_golden_files_of_version_1(name):
    assert_same(load(GOLDEN / f"{name}_v1.safetensors"), OBJECTS[name])


def test_any_reader_of_safetensors_opens_the_file():
    from safetensors.numpy import load_file

    tensors = load_file(GOLDEN / "cp_v1.safetensors")
    assert sorted(tensors) == ["factors.0", "factors.1", "factors.2", "weights"]
    assert np.array_equal(tensors["factors.1"], numbers(4, 2))


@pytest.mark.parametrize("obj", [np.zeros(3), None, [1], {"a": 1}, CPTensor])
def test_what_cannot_be_saved(tmp_path, obj):
    with pytest.raises(InputError, match="only CPTensor, "):
        save(obj, tmp_path / "x")
    with pytest.raises(InputError, match="Decomposition of "):
        save(Decomposition(obj, 0.0, "exact", Status.DIRECT, History(), 0.0), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_save_did_not_write(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.zeros(2)})
    with pytest.raises(FormatError, match=r"use tnet\.io\.read_safetensors"):
        load(tmp_path / "x")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "y")


def described(name="cp", **changes):
    tensors, metadata = read_safetensors(GOLDEN / f"{name}_v1.safetensors")
    return tensors, {**json.loads(metadata["tnet"]), **changes}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format_version": 2}, r"format_version 2; tnet .* reads up to 1"),
        ({"format_version": 0}, "format_version 0"),
        ({"format_version": True}, "format_version True"),
        ({"format_version": None}, "format_version None"),
        ({"library": "pickle"}, "library 'pickle'"),
        ({"kind": "Decomposition"}, "KeyError"),
        ({"kind": ["CPTensor"]}, "TypeError"),
        ({"kind": "TuckerTensor"}, "does not hold what it describes"),
        ({"fields": {"weights": None, "factors": 2}}, "belong to no field"),
        ({"fields": {"weights": None, "factors": 10**9}}, "has 1000000000 parts"),
        ({"fields": {"weights": None, "factors": True}}, "has True parts"),
        ({"fields": {"weights": None, "factors": -1}}, "has -1 parts"),
        ({"fields": {"weights": None, "other": 3}}, "KeyError"),
        ({"fields": None}, "does not hold"),
        ({"data": {"x": 1}}, "does not hold"),
        ({"complex128": ["weights"]}, "does not hold"),
        ({"complex128": ["none"]}, "KeyError"),
        ({"decomposition": {}}, "KeyError"),
        ({"decomposition": {"error": "x"}}, "does not hold"),
    ],
)
def test_descriptions_that_lie(tmp_path, changes, text):
    tensors, description = described(**changes)
    write_safetensors(tmp_path / "x", tensors, {"tnet": json.dumps(description)})
    with pytest.raises(FormatError, match=text):
        load(tmp_path / "x")


def test_complex_numbers_that_are_none(tmp_path):
    tensors, description = described("low_rank", complex128=["right"])
    write_safetensors(tmp_path / "x", tensors, {"tnet": json.dumps(description)})
    with pytest.raises(FormatError, match="complex numbers are not stored as pairs"):
        load(tmp_path / "x")


@pytest.mark.parametrize("key", ["rng_seed", "error_kind", "status", "error", "history"])
def test_accounts_that_lie(tmp_path, key):
    tensors, description = described("decomposition")
    description["decomposition"][key] = "nonsense"
    write_safetensors(tmp_path / "x", tensors, {"tnet": json.dumps(description)})
    with pytest.raises(FormatError, match="does not hold what it describes"):
        load(tmp_path / "x")


@pytest.mark.parametrize("text", ["[]", "1", "{", ""])
def test_descriptions_that_are_none(tmp_path, text):
    write_safetensors(tmp_path / "x", {}, {"tnet": text})
    with pytest.raises(FormatError):
        load(tmp_path / "x")


def test_torch_is_needed_for_torch_tensors_only(tmp_path, monkeypatch):
    save(in_library(OBJECTS["cp"], torch.asarray), tmp_path / "x")
    monkeypatch.setitem(sys.modules, "array_api_compat.torch", None)
    monkeypatch.delattr("array_api_compat.torch", raising=False)
    with pytest.raises(MissingDependencyError, match="torch"):
        load(tmp_path / "x")
    load(GOLDEN / "cp_v1.safetensors")


def test_loading_numpy_does_not_import_torch():
    code = "import sys, tnet; tnet.load(sys.argv[1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(GOLDEN / "cp_v1.safetensors")], check=True, timeout=60)


def test_a_file_replaced_between_header_and_payload(tmp_path, monkeypatch):
    import tnet.io.serial as serial

    save(OBJECTS["cp"], tmp_path / "x")
    read = serial.read_sealed

    def replaced(path, **kwargs):
        save(OBJECTS["low_rank"], path)
        return read(path, **kwargs)

    monkeypatch.setattr(serial, "read_sealed", replaced)
    with pytest.raises(FormatError, match="replaced while it was read"):
        load(tmp_path / "x")


def test_damage_is_found(tmp_path):
    content = (GOLDEN / "low_rank_v1.safetensors").read_bytes()
    path = tmp_path / "x"
    for n in range(0, len(content), 5):
        path.write_bytes(content[:n])
        with pytest.raises(FormatError):
            load(path)
    for bit in range(0, 8 * len(content), 23):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            found = load(path)
        except FormatError:
            continue
        assert_same(found, OBJECTS["low_rank"])


KILLED = """
import itertools, sys
import numpy as np
from tnet.formats import LowRank
from tnet.io import save
parts = [LowRank(np.full((300, 40), float(k)), np.full((40, 300), float(k))) for k in range(2)]
print("ready", flush=True)
for k in itertools.cycle((0, 1)):
    save(parts[k], sys.argv[1])
"""


def test_killed_while_saving(tmp_path):
    path = tmp_path / "x.safetensors"
    seeded = random.Random(0)
    save(LowRank(np.full((300, 40), 0.0), np.full((40, 300), 0.0)), path)
    seen = set()
    for attempt in range(60):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(seeded.uniform(0.0, 0.03 * (1 + attempt // 10)))  # a busy machine takes longer to write
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = load(path)
        values = {float(x) for part in found.arrays for x in np.unique(part)}
        assert len(values) == 1
        seen |= values
        if attempt >= 20 and len(seen) == 2:
            break
    assert seen == {0.0, 1.0}
    from tnet.io.atomic import sweep_stale

    sweep_stale(tmp_path, age=-1.0)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
