"""Write a safetensors file whole or not at all, sealed by digests."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tnet.arrays import Array, array_namespace, dtype_name, is_torch, library_name, to_numpy
from tnet.errors import BackendError, InputError
from tnet.io.atomic import atomic_write
from tnet.io.digests import SEAL_KEY, Described, seal, tensor_digest
from tnet.io.safetensors_header import BITS, MAX_HEADER_BYTES, MAX_NAME, MAX_TENSORS, METADATA_KEY
from tnet.io.strict_json import is_too_rich

__all__ = ["DTYPE_NAMES", "write_safetensors"]

DTYPE_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""The file's name of each dtype that can be written."""

_ZERO_DIGEST = "0" * 64


class _Slot(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays to one safetensors file.

    Parameters
    ----------
    path : str or path
        The file to make or replace, atomically.
    tensors : mapping of str to array
        NumPy, torch or any array that converts to NumPy; any layout and device. Never changed.
    metadata : mapping of str to str, optional
        Kept in the header. The entry ``"tnet.sha256"`` is added: the SHA-256 of each tensor and of
        the header, which :func:`read_safetensors` checks.

    Raises
    ------
    InputError
        A name or metadata that the format cannot hold.
    BackendError
        A dtype that the format cannot hold (complex128 among them), sparse or meta tensors.

    Notes
    -----
    One pass over the payload; beside the arrays it needs a contiguous copy of one of them, and only when
    that is not contiguous or lies on another device. The layout is that of the safetensors package:
    wide dtypes first, header padded to 8 bytes, so each tensor is aligned.
    """
    metadata = _checked_metadata({} if metadata is None else metadata)
    slots = sorted((_slot(name, x) for name, x in tensors.items()), key=lambda s: (-BITS[s.dtype], s.name))
    empty = _header(slots, [_ZERO_DIGEST] * len(slots), metadata)
    length = len(empty)
    if length > MAX_HEADER_BYTES or len(slots) > MAX_TENSORS or is_too_rich(empty):
        raise InputError(
            f"{len(slots)} tensors with a header of {length} bytes; at most {MAX_TENSORS} tensors and 16 MiB "
            "are read back: split them over several files, or put less into the metadata."
        )

    def write(file: BinaryIO) -> None:
        file.write(bytes(length))
        digests: list[str] = []
        for slot in slots:
            data = _payload(tensors[slot.name])
            digests.append(tensor_digest(data))
            file.write(data)
        # Digests have a fixed length, so the finished header fits the room left for it.
        file.seek(0)
        file.write(_header(slots, digests, metadata))

    atomic_write(path, write)


def _payload(x: Array) -> memoryview:
    """Return the bytes of an array in C order and little-endian, uncopied where possible."""
    if is_torch(x):
        dense = x.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return memoryview(dense.view(array_namespace(dense).uint8).numpy())
    array: NDArray[Any] = np.ascontiguousarray(to_numpy(x)).reshape(-1)
    flat: Any = array.astype(array.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    return memoryview(flat)


def _slot(name: str, x: Array) -> _Slot:
    if not isinstance(name, str) or not name or name == METADATA_KEY or len(name) > MAX_NAME or not _encodes(name):
        raise InputError(f"tensor name {name!r:.100}: give a text of 1 to 1024 characters, not {METADATA_KEY!r}.")
    array_namespace(x)
    # NumPy's own name, for an array in foreign byte order has the dtype ">f8".
    kind: str = x.dtype.name if library_name(x) == "numpy" else dtype_name(x)
    if kind not in DTYPE_NAMES:
        raise BackendError(f"{name!r} has dtype {kind}; the file holds {', '.join(DTYPE_NAMES)}: convert it.")
    if is_torch(x) and (str(x.layout) != "torch.strided" or x.device.type == "meta"):
        raise BackendError(f"{name!r} is a sparse or meta tensor: pass a dense tensor that has values.")
    dtype = DTYPE_NAMES[kind]
    shape = tuple(int(n) for n in x.shape)
    return _Slot(name, dtype, shape, math.prod(shape) * BITS[dtype] // 8)


def _checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    for key, value in metadata.items():
        if not (isinstance(key, str) and isinstance(value, str) and _encodes(key) and _encodes(value)):
            raise InputError(f"metadata {key!r:.100}: {value!r:.100}: both must be text; use json.dumps.")
        if key == SEAL_KEY:
            raise InputError(f"metadata {SEAL_KEY!r} is written by tnet itself: leave it out.")
    return dict(metadata)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _header(slots: list[_Slot], digests: list[str], metadata: dict[str, str]) -> bytes:
    described: list[Described] = [(s.name, s.dtype, s.shape, d) for s, d in zip(slots, digests, strict=True)]
    content: dict[str, Any] = {METADATA_KEY: {**metadata, SEAL_KEY: seal(described, metadata)}}
    position = 0
    for slot in slots:
        offsets = [position, position + slot.nbytes]
        content[slot.name] = {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": offsets}
        position += slot.nbytes
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
