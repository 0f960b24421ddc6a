"""The header of a safetensors file, parsed without trust.

A file is ``n`` (8 bytes, little-endian), then ``n`` bytes of JSON, then the payload. The JSON maps each name
to ``{"dtype", "shape", "data_offsets": [begin, end]}`` and ``"__metadata__"`` to a dict of strings.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from tnet.errors import FormatError, InputError
from tnet.io.strict_json import parse_json

__all__ = [
    "BITS",
    "MAX_HEADER_BYTES",
    "MAX_NAME",
    "MAX_TENSORS",
    "METADATA_KEY",
    "Header",
    "TensorEntry",
    "open_regular",
    "parse_header",
    "read_header",
]

MAX_HEADER_BYTES = 16 << 20
METADATA_KEY = "__metadata__"
MAX_TENSORS = 40_000
MAX_NAME = 1024
_MAX_NDIM = 64  # NumPy's limit

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one element, by the name of the dtype in the file."""


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor.

    Parameters
    ----------
    dtype : str
        In the file's words: ``"F32"``, ``"BF16"`` ...
    shape : tuple of int
    offset : int
        Where its bytes begin, from the start of the file.
    nbytes : int
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds, known without reading the payload.

    Parameters
    ----------
    tensors : mapping of str to TensorEntry
        In the order of the payload.
    metadata : mapping of str to str
    payload_offset : int
        Where the payload begins, from the start of the file.
    """

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    payload_offset: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in the order of the payload."""
        return tuple(self.tensors)

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtype of each tensor, in the file's words."""
        return {name: entry.dtype for name, entry in self.tensors.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: entry.shape for name, entry in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the payload, header excluded."""
        return sum(entry.nbytes for entry in self.tensors.values())


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Header
        Names, dtypes, shapes, bytes and metadata.

    Raises
    ------
    InputError
        No such file, or a folder.
    FormatError
        The header is longer than 16 MiB or than the file, is no strict JSON (see
        ``strict_json.parse_json``), has an unknown dtype or field, a shape that does not fit
        its bytes, or tensors that overlap or do not cover the payload exactly.

    Notes
    -----
    Reads the header only, however large the file. The safetensors package alone would accept a key that
    stands twice and any amount of metadata.
    """
    with open_regular(path) as file:
        return parse_header(file, path)


def parse_header(file: BinaryIO, path: str | os.PathLike[str]) -> Header:
    """Read and check the header of an open file; ``path`` is only for messages."""
    size = os.fstat(file.fileno()).st_size
    length_bytes = file.read(8)
    length = int.from_bytes(length_bytes, "little")
    if len(length_bytes) < 8 or length > size - 8:
        raise FormatError(f"{str(path)!r} is no safetensors file, or is cut short: {size} bytes.")
    if length > MAX_HEADER_BYTES:
        raise FormatError(f"{str(path)!r} declares a header of {length} bytes; at most 16 MiB are read.")
    text = file.read(length)
    what = f"the header of {str(path)!r}"
    if not text.startswith(b"{"):
        raise FormatError(f"{what} is damaged: it does not begin with '{{'.")
    # Only an object can come of a text that begins with a brace.
    content: dict[str, Any] = parse_json(text, what)
    metadata = _metadata(content.pop(METADATA_KEY, {}), what)
    if len(content) > MAX_TENSORS:
        raise FormatError(f"{what} lists {len(content)} tensors; at most {MAX_TENSORS} are read.")
    start = 8 + length
    entries = [(name, _entry(name, fields, start, what)) for name, fields in content.items()]
    entries.sort(key=lambda item: (item[1].offset, item[1].nbytes))
    _require_cover(entries, start, size, what)
    return Header(dict(entries), metadata, start)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a folder, a missing file, a pipe or a device is an InputError."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{str(path)!r}: there is no such file.") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{str(path)!r} is no regular file: give the name of a file.")
    return open(path, "rb")


def _metadata(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise FormatError(f"{what} is damaged: {METADATA_KEY} is no dict of strings.")
    return value


def _entry(name: str, fields: object, start: int, what: str) -> TensorEntry:
    shown = repr(name[:80])
    if len(name) > MAX_NAME:
        raise FormatError(f"{what}: the name {shown}... has {len(name)} characters, at most {MAX_NAME}.")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what} is damaged: {shown} has not exactly dtype, shape and data_offsets.")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FormatError(f"{what}: {shown} has the unknown dtype {str(dtype)[:40]!r}; known: {', '.join(BITS)}.")
    if not _are_sizes(shape) or len(shape) > _MAX_NDIM or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{what} is damaged: {shown} has no usable shape and data_offsets.")
    begin, end = offsets
    bits = BITS[dtype] * math.prod(shape)
    if BITS[dtype] * math.prod(max(n, 1) for n in shape) >= 1 << 66:
        raise FormatError(f"{what}: {shown} has the shape {tuple(shape)}, too large for any array.")
    if bits != 8 * (end - begin):
        raise FormatError(
            f"{what} is damaged: {shown} of shape {tuple(shape)} and dtype {dtype} does not fill the "
            f"{end - begin} bytes given to it."
        )
    return TensorEntry(dtype, tuple(shape), start + begin, end - begin)


def _are_sizes(values: object) -> bool:
    # bool is an int to isinstance: compare the type itself.
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in values)


def _require_cover(entries: list[tuple[str, TensorEntry]], start: int, size: int, what: str) -> None:
    position = start
    for name, entry in entries:
        if entry.offset != position:
            raise FormatError(f"{what} is damaged: {name[:80]!r} overlaps another tensor or leaves a gap.")
        position += entry.nbytes
    if position != size:
        raise FormatError(f"{what} declares {position} bytes, the file has {size}: it is cut short or damaged.")
