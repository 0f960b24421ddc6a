"""Safetensors files: round trips, agreement with the safetensors package, and files that mean harm."""

from __future__ import annotations

import json
import os
import struct
import sys

import array_api_strict
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tnet.errors import BackendError, FormatError, InputError, MissingDependencyError, TnetError
from tnet.io import read_header, read_safetensors, write_safetensors
from tnet.io.safetensors_reader import read_sealed, verify_sealed

NUMPY_DTYPES = "bool u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8 c8".split()
TORCH_DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16,
]  # fmt: skip


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def raw_file(path, header, payload=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)
    return path


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NUMPY_DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0))))
def test_numpy_round_trip_is_bit_for_bit(tmp_path_factory, x):
    path = tmp_path_factory.mktemp("st") / "x.safetensors"
    write_safetensors(path, {"x": x, "again": x.T}, {"note": "é ☃"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"note": "é ☃"}
    assert same_bits(tensors["x"], x)
    assert same_bits(tensors["again"], np.ascontiguousarray(x.T).reshape(x.T.shape))
    theirs = safetensors.numpy.load_file(path)
    assert same_bits(theirs["x"], x)


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3)])
def test_torch_round_trip_is_bit_for_bit(tmp_path, dtype, shape):
    x = torch.arange(-3.0, 3.0)[: max(1, int(np.prod(shape)))].to(dtype)
    x = torch.empty(shape, dtype=dtype) if 0 in shape else x.reshape(shape)
    write_safetensors(tmp_path / "x", {"x": x})
    (found,) = read_safetensors(tmp_path / "x", library="torch")[0].values()
    theirs = safetensors.torch.load_file(tmp_path / "x")["x"]
    for y in (found, theirs):
        assert y.dtype == dtype
        assert y.shape == x.shape
        assert torch.equal(y.reshape(-1).view(torch.uint8), x.reshape(-1).view(torch.uint8)) or 0 in shape


def test_reads_what_the_package_writes(tmp_path):
    x = {"b": np.arange(6.0).reshape(2, 3), "a": np.array([True]), "e": np.zeros((0, 2), np.float32)}
    safetensors.numpy.save_file(x, tmp_path / "x", {"k": "v"})
    tensors, metadata = read_safetensors(tmp_path / "x")
    assert metadata == {"k": "v"}
    assert tensors.keys() == x.keys()
    assert all(same_bits(tensors[k], x[k]) for k in x)
    with pytest.raises(FormatError, match="no digests"):
        read_sealed(tmp_path / "x")
    with pytest.raises(FormatError, match="no digests"):
        verify_sealed(tmp_path / "x")


def test_layouts_and_libraries(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    odd = {
        "transposed": base.T,
        "reversed": base[::-1, ::2],
        "broadcast": np.broadcast_to(base[0], (3, 6)),
        "big endian": base.astype(">f8"),
        "strict": array_api_strict.asarray(base),
        "conjugate": torch.tensor([1 + 2j, 3j]).conj(),
        "gradient": torch.ones(2, requires_grad=True),
        "slice": torch.arange(6.0).reshape(2, 3).T[1:],
    }
    before = base.copy()
    write_safetensors(tmp_path / "x", odd)
    tensors, _ = read_safetensors(tmp_path / "x")
    for name, x in odd.items():
        wanted = x.detach().resolve_conj().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
        assert np.array_equal(tensors[name], wanted)
        assert tensors[name].flags.writeable
    assert np.array_equal(base, before)


def test_bfloat16_widens_exactly_in_numpy(tmp_path):
    x = torch.randn(50).bfloat16()
    write_safetensors(tmp_path / "x", {"x": x})
    found = read_safetensors(tmp_path / "x")[0]["x"]
    assert same_bits(found, x.float().numpy())


def test_header_without_payload(tmp_path):
    write_safetensors(tmp_path / "x", {"a": np.zeros((2, 3)), "b": np.zeros(5, np.float32)}, {"k": "v"})
    header = read_header(tmp_path / "x")
    assert header.names == ("a", "b")
    assert header.dtypes == {"a": "F64", "b": "F32"}
    assert header.shapes == {"a": (2, 3), "b": (5,)}
    assert header.nbytes == 68
    assert header.metadata["k"] == "v"
    assert header.payload_offset % 8 == 0


def test_empty_file_of_tensors(tmp_path):
    write_safetensors(tmp_path / "x", {})
    assert read_safetensors(tmp_path / "x") == ({}, {})


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "text"),
    [
        ({"": np.zeros(1)}, None, InputError, "tensor name"),
        ({"__metadata__": np.zeros(1)}, None, InputError, "tensor name"),
        ({"a" * 1025: np.zeros(1)}, None, InputError, "tensor name"),
        ({"\ud800": np.zeros(1)}, None, InputError, "tensor name"),
        ({3: np.zeros(1)}, None, InputError, "tensor name"),
        ({"a": np.zeros(1, complex)}, None, BackendError, "'a' has dtype complex128"),
        ({"a": np.array(["x"])}, None, BackendError, "'a' has dtype"),
        ({"a": [1.0]}, None, BackendError, "not an array"),
        ({"a": torch.zeros(2, device="meta")}, None, BackendError, "'a' is a sparse or meta"),
        ({"a": torch.eye(2).to_sparse()}, None, BackendError, "'a' is a sparse or meta"),
        ({}, {"a": 1}, InputError, "metadata 'a'"),
        ({}, {"a": "\ud800"}, InputError, "metadata 'a'"),
        ({}, {"tnet.sha256": "x"}, InputError, "leave it out"),
        ({}, {"a": "x" * (16 << 20)}, InputError, "put less into the metadata"),
        ({}, {"a": "," * 480_001}, InputError, "put less into the metadata"),
    ],
)
def test_writer_refuses(tmp_path, tensors, metadata, error, text):
    with pytest.raises(error, match=text):
        write_safetensors(tmp_path / "x", tensors, metadata)
    assert list(tmp_path.iterdir()) == []


def test_as_many_tensors_as_allowed(tmp_path):
    x = np.zeros((1, 1, 1), np.uint8)
    names = [f"model.layers.{k}.self_attention.weight" for k in range(40_001)]
    with pytest.raises(InputError, match="at most 40000"):
        write_safetensors(tmp_path / "x", dict.fromkeys(names, x))
    write_safetensors(tmp_path / "x", dict.fromkeys(names[1:], x))
    assert len(read_header(tmp_path / "x").names) == 40_000


GOOD = entry(0, 4)
HOSTILE = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "huge length": struct.pack("<Q", 1 << 60) + b"{}",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "zero length": struct.pack("<Q", 0),
    "array": (b"[]", b""),
    "leading space": (b" {}", b""),
    "not utf-8": (b'{"\xff": 1}', b""),
    "byte order mark": (b"\xef\xbb\xbf{}", b""),
    "not json": (b"{'a': 1}", b""),
    "trailing text": (b"{} {}", b""),
    "trailing payload": ({}, b"x"),
    "deep lists": (b'{"a":' + b"[" * 100_000, b""),
    "deep dicts": (b'{"a":' * 100_000, b""),
    "many values": (b'{"a":[' + b"1," * 500_000 + b"1]}", b""),
    "many texts": (b'{"a":[' + b'"xy",' * 350_000 + b"1]}", b""),
    "metadata bomb": (
        b'{"__metadata__":{' + b",".join(b'"%d":"%d"' % (k, k) for k in range(200_000)) + b"}}",
        b"",
    ),
    "nan": (b'{"a": NaN}', b""),
    "infinity": (b'{"a": {"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', b"1234"),
    "overflowing float": (b'{"a": {"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}}', b"1234"),
    "integer of 5000 digits": (
        b'{"a": {"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "lone surrogate": (b'{"\\ud800": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    "surrogate in metadata": (b'{"__metadata__":{"a":"\\udc00"}}', b""),
    "duplicate name": (
        b'{"a":%b,"a":%b}' % (json.dumps(GOOD).encode(), json.dumps(entry(4, 8)).encode()),
        b"12345678",
    ),
    "duplicate metadata": (b'{"__metadata__":{"a":"1","a":"2"}}', b""),
    "duplicate field": (b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', b"1234"),
    "metadata is a list": ({"__metadata__": []}, b""),
    "metadata holds a number": ({"__metadata__": {"a": 1}}, b""),
    "entry is a list": ({"a": []}, b""),
    "entry lacks the shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"),
    "entry has more": ({"a": {**GOOD, "x": 1}}, b"1234"),
    "unknown dtype": ({"a": {**GOOD, "dtype": "F33"}}, b"1234"),
    "dtype is a list": ({"a": {**GOOD, "dtype": ["F32"]}}, b"1234"),
    "shape is a number": ({"a": {**GOOD, "shape": 1}}, b"1234"),
    "shape holds a bool": ({"a": {**GOOD, "shape": [True]}}, b"1234"),
    "shape holds a float": ({"a": {**GOOD, "shape": [1.0]}}, b"1234"),
    "negative shape": ({"a": {**GOOD, "shape": [-1]}}, b"1234"),
    "negative squared": ({"a": {**GOOD, "shape": [-1, -1]}}, b"1234"),
    "2^63 in the shape": ({"a": {**GOOD, "shape": [1 << 63]}}, b"1234"),
    "overflowing product": ({"a": {**GOOD, "shape": [1 << 32, 1 << 32, 1]}}, b"1234"),
    "empty but huge": ({"a": entry(0, 0, (1 << 62, 0, 1 << 62))}, b""),
    "65 axes": ({"a": entry(0, 4, (1,) * 65)}, b"1234"),
    "shape does not fit": ({"a": entry(0, 4, (2,))}, b"1234"),
    "half a byte": ({"a": entry(0, 1, (1,), "F4")}, b"1"),
    "offsets reversed": ({"a": entry(4, 0, (0,))}, b"1234"),
    "one offset": ({"a": {**GOOD, "data_offsets": [4]}}, b"1234"),
    "overlap": ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"),
    "shared bytes": ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"),
    "gap": ({"a": entry(0, 4), "b": entry(6, 10)}, b"1234567890"),
    "gap at the start": ({"a": entry(4, 8)}, b"12345678"),
    "beyond the end": ({"a": entry(0, 8, (2,))}, b"1234"),
    "name of 2000 letters": ({"a" * 2000: GOOD}, b"1234"),
    "40,001 tensors": ({f"{k:05d}": entry(0, 0, (0,)) for k in range(40_001)}, b""),
}


def peak_memory():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path, case):
    content = HOSTILE[case]
    path = tmp_path / "x.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        raw_file(path, *content)
    memory = peak_memory()
    for read in (read_header, read_safetensors):
        with pytest.raises(FormatError, match=r"x\.safetensors") as info:
            read(path)
        assert len(str(info.value)) < 1000
    assert peak_memory() - memory < 64 << 20


def test_a_declared_header_of_more_than_16_mib(tmp_path):
    path = tmp_path / "x"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", (16 << 20) + 1))
        file.truncate(20 << 20)  # sparse: needs no disk
    with pytest.raises(FormatError, match="at most 16 MiB"):
        read_header(path)


@pytest.mark.parametrize("name", ["none", "none/none", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(InputError, match="file"):
        read_safetensors(tmp_path / name)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_header(tmp_path / "pipe")


def test_unknown_library(tmp_path):
    with pytest.raises(InputError, match="library='jax'"):
        read_safetensors(tmp_path / "x", library="jax")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "dtype", "text"),
    [
        ("numpy", "F8_E4M3", "pass library='torch'"),
        ("numpy", "F8_E8M0", "convert"),
        ("torch", "F8_E8M0", "convert"),
    ],
)
def test_dtypes_that_a_library_lacks(tmp_path, library, dtype, text):
    path = raw_file(tmp_path / "x", {"a": entry(0, 1, (1,), dtype)}, b"1")
    assert read_header(path).dtypes == {"a": dtype}
    with pytest.raises(InputError, match=text):
        read_safetensors(path, library=library)


def test_without_torch(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "x", {"a": np.zeros(2)})
    monkeypatch.setitem(sys.modules, "array_api_compat.torch", None)
    monkeypatch.delattr("array_api_compat.torch", raising=False)
    with pytest.raises(MissingDependencyError, match=r"tnet-tensors\[torch\]"):
        read_safetensors(tmp_path / "x", library="torch")


def small_file(path):
    rng = np.random.default_rng(0)
    write_safetensors(path, {"a": rng.random((8, 8)), "b": rng.random(40).astype("f4")}, {"note": "a b"})
    return path.read_bytes()


def test_truncation_at_every_byte(tmp_path):
    path = tmp_path / "x"
    content = small_file(path)
    assert 1000 < len(content) < 4000
    for n in range(len(content)):
        path.write_bytes(content[:n])
        with pytest.raises(FormatError):
            read_sealed(path)


def test_flipped_bits(tmp_path):
    path = tmp_path / "x"
    content = small_file(path)
    original, metadata = read_sealed(path)
    bits = range(0, 8 * len(content), 7)  # 7 and 8 have no common divisor: each bit of a byte in turn
    survived = 0
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        try:
            tensors, found = read_sealed(path)
        except FormatError:
            continue
        # A flip may turn a space of the padding into another blank; nothing else can go unseen.
        survived += 1
        assert found == metadata
        assert all(same_bits(tensors[k], original[k]) for k in original)
    assert survived <= 4


def test_the_damaged_tensor_is_named(tmp_path):
    path = tmp_path / "x"
    content = bytearray(small_file(path))
    content[-1] ^= 1
    path.write_bytes(content)
    for read in (read_safetensors, verify_sealed):
        with pytest.raises(FormatError, match=r"bytes of 'b' do not match"):
            read(path)


@pytest.mark.parametrize("value", ["1", "[]", '{"tensors": []}', '{"tensors": {}}', "{"])
def test_a_seal_that_is_none(tmp_path, value):
    path = raw_file(tmp_path / "x", {"__metadata__": {"tnet.sha256": value}, "a": GOOD}, b"1234")
    with pytest.raises(FormatError):
        read_safetensors(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=20))
def test_random_bytes(tmp_path_factory, text, payload):
    path = tmp_path_factory.mktemp("st") / "x"
    raw_file(path, b"{" + text, payload)
    try:
        tensors, _ = read_safetensors(path)
    except TnetError:
        return
    assert tensors == {}


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_safetensors(path, {"a": np.zeros(1000)})
    fromfile = np.fromfile

    def shrink(file, **kwargs):
        os.truncate(path, 600)
        return fromfile(file, **kwargs)

    monkeypatch.setattr(np, "fromfile", shrink)
    with pytest.raises(FormatError, match="became shorter"):
        read_safetensors(path)
