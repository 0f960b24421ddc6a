"""Read NumPy's ``.npy`` and ``.npz`` files without trust: no pickle, no bomb, no surprise.

A ``.npy`` file is a magic number, a short header that looks like a Python dict, and the raw elements. The
header is matched by a pattern, never evaluated. A ``.npz`` file is a zip archive of ``.npy`` members; what it
declares is added up before anything is unpacked, and nothing is ever extracted to the disk.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tnet.errors import FormatError, InputError, MemoryLimitError, UnsafeFileError
from tnet.io.safetensors_header import open_regular

__all__ = ["read_array"]

_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER = 10_000
_MAX_NDIM = 64
_MAX_MEMBERS = 10_000
# An archive may grow to this in any case, and beyond it to at most _MAX_RATIO times its own size.
_FREE_BYTES = 16 << 20
_MAX_RATIO = 100
_EXECUTABLE = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,250}")
_ITEM = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>descr|fortran_order|shape)(?P=quote)\s*:\s*
    (?P<value>'[^'\\]*'|"[^"\\]*"|True|False|\(\s*(?:\d{1,19}\s*,\s*)*(?:\d{1,19}\s*)?\))\s*(?:,|$)""",
    re.VERBOSE | re.ASCII,
)


class _NpyHeader(NamedTuple):
    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_array(path: str | os.PathLike[str], *, member: str | None = None) -> NDArray[Any]:
    """Read one array from a ``.npy`` or ``.npz`` file.

    Parameters
    ----------
    path : str or path
        What kind of file it is, is told by its content and not by its name.
    member : str, optional
        Which array of a ``.npz`` file, by the name given to ``numpy.savez``. May be left out when the file
        holds exactly one.

    Returns
    -------
    numpy.ndarray
        In memory, writable, in the machine's byte order.

    Raises
    ------
    InputError
        No such file, no such member, or several members and none chosen.
    FormatError
        A damaged file, or one that holds no numbers: text, dates, records.
    UnsafeFileError
        A pickle (``.pt``, ``.pkl``, ``.joblib`` ..., or an object array), a zip bomb, an encrypted archive,
        members that repeat a name, are links, or whose names leave the folder.
    MemoryLimitError
        The array does not fit into memory.

    Notes
    -----
    An archive may unpack to 16 MiB, and beyond that to at most 100 times its own size. ``numpy.load`` has
    neither this limit nor a check of the declared size against the file.
    """
    shown = repr(str(path))
    with open_regular(path) as file:
        start = file.read(len(_MAGIC))
        file.seek(0)
        _refuse_executable(Path(path), start, shown)
        if start == _MAGIC:
            if member is not None:
                raise InputError(f"member={member!r}: {shown} is a .npy file with one array; leave member out.")
            size = os.fstat(file.fileno()).st_size
            return _read_npy(file, size, shown)
        if start.startswith(b"PK"):
            return _read_npz(file, member, shown)
    raise FormatError(
        f"{shown} is neither a .npy nor a .npz file: write one with numpy.save. "
        "For safetensors use tnet.io.read_safetensors."
    )


def _refuse_executable(path: Path, start: bytes, shown: str) -> None:
    # Protocol 2 and later of pickle begin with 0x80 and their number.
    if path.suffix.lower() in _EXECUTABLE or (start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        raise UnsafeFileError(
            f"{shown} is a pickle, which can run any program when it is read. Convert it where you trust it: "
            "torch.load(file, weights_only=True), then safetensors.torch.save_file or numpy.save."
        )


def _read_npy(file: IO[bytes], size: int, shown: str) -> NDArray[Any]:
    """Read from a stream of exactly ``size`` bytes."""
    header, header_size = _read_npy_header(file, shown)
    if header_size + header.nbytes != size:
        raise FormatError(
            f"{shown} declares shape {header.shape} of {header.dtype}, {header.nbytes} bytes, but holds "
            f"{size - header_size}: it is cut short or damaged."
        )
    try:
        flat: NDArray[Any] = np.empty(math.prod(header.shape), header.dtype)
    except MemoryError:
        raise MemoryLimitError(f"{shown} needs {header.nbytes} bytes, more than there is.") from None
    view = memoryview(flat.view(np.uint8).data)
    done = 0
    while done < header.nbytes:
        chunk = file.read(min(header.nbytes - done, 1 << 20))
        if not chunk:
            raise FormatError(f"{shown} became shorter while it was read.")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    array = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def _read_npy_header(file: IO[bytes], shown: str) -> tuple[_NpyHeader, int]:
    start = file.read(8)
    version = tuple(start[6:8])
    if start[:6] != _MAGIC or version not in ((1, 0), (2, 0)):
        raise FormatError(f"{shown} is damaged, or a .npy of version {version}; versions 1.0 and 2.0 are read.")
    width = 2 if version == (1, 0) else 4
    length_bytes = file.read(width)
    length = int.from_bytes(length_bytes, "little")
    if length > _MAX_NPY_HEADER:
        raise UnsafeFileError(f"{shown} declares a header of {length} bytes; at most {_MAX_NPY_HEADER} are read.")
    text = file.read(length)
    if len(length_bytes) < width or len(text) < length:
        raise FormatError(f"{shown} is cut short: it ends inside its header.")
    return _parse_npy_header(text.decode("latin-1"), shown), 8 + width + length


def _parse_npy_header(text: str, shown: str) -> _NpyHeader:
    text = text.strip()
    items: dict[str, str] = {}
    position, end = 1, len(text) - 1
    if text[:1] != "{" or text[-1:] != "}":
        raise FormatError(f"{shown} is damaged: its header is no dict.")
    while text[position:end].strip():
        match = _ITEM.match(text, position, end)
        if match is None or match["key"] in items:
            # A structured dtype is a list of fields, which the pattern does not know.
            raise FormatError(f"{shown} is damaged, or holds records: its header is {text[:120]!r}.")
        items[match["key"]] = match["value"]
        position = match.end()
    if items.keys() != {"descr", "fortran_order", "shape"} or items["fortran_order"] not in ("True", "False"):
        raise FormatError(f"{shown} is damaged: its header is {text[:120]!r}.")
    dtype = _number_dtype(items["descr"], shown)
    if items["shape"][0] != "(":
        raise FormatError(f"{shown} is damaged: its shape is {items['shape'][:80]}.")
    shape = tuple(int(n) for n in re.findall(r"\d+", items["shape"]))
    if len(shape) > _MAX_NDIM or math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 1 << 63:
        raise FormatError(f"{shown} has the shape {items['shape'][:80]}, which no array can have.")
    return _NpyHeader(dtype, items["fortran_order"] == "True", shape)


def _number_dtype(quoted: str, shown: str) -> np.dtype[Any]:
    name = quoted[1:-1]
    if re.fullmatch(r"[|<>=]?O\d*", name):
        raise UnsafeFileError(
            f"{shown} holds Python objects, which are pickled and can run any program: "
            "convert it to numbers where you trust it, with numpy.save(file, array.astype(float))."
        )
    if re.fullmatch(r"[|<>=]?(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32))", name) is None:
        raise FormatError(f"{shown} has the dtype {name[:40]!r}; real and complex numbers and bool are read.")
    try:
        return np.dtype(name)
    except TypeError:
        raise FormatError(f"{shown} has the dtype {name!r}, which this machine does not have.") from None


def _read_npz(file: IO[bytes], member: str | None, shown: str) -> NDArray[Any]:
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            info = _chosen(_checked_members(archive, size, shown), member, shown)
            with archive.open(info) as stream:
                return _read_npy(stream, info.file_size, f"{shown}, member {info.filename!r},")
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise FormatError(f"{shown} is damaged: {error}.") from error


def _checked_members(archive: zipfile.ZipFile, size: int, shown: str) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MAX_MEMBERS:
        raise UnsafeFileError(f"{shown} lists {len(infos)} members; at most {_MAX_MEMBERS} are read.")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        # orig_filename: zipfile cuts filename at the first NUL.
        name = info.orig_filename
        if _MEMBER_NAME.fullmatch(name) is None or not name.endswith(".npy"):
            raise UnsafeFileError(
                f"{shown} has a member {name[:80]!r}; names are letters, digits, '_', '-' and '.', "
                "then '.npy'. Write the file with numpy.savez and such names."
            )
        key = name.removesuffix(".npy")
        if key in members:
            raise UnsafeFileError(f"{shown} has the member {name!r} twice.")
        if info.flag_bits & 0x1:
            raise UnsafeFileError(f"{shown} is encrypted: decrypt it first.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UnsafeFileError(f"{shown} has the member {name!r}, which is a link.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(f"{shown} is compressed in a way that numpy.savez does not use.")
        members[key] = info
    total = sum(info.file_size for info in infos)
    if total > max(_FREE_BYTES, _MAX_RATIO * size):
        raise UnsafeFileError(
            f"{shown} has {size} bytes and would unpack to {total}, more than {_MAX_RATIO} times as many: "
            "write it with numpy.savez, uncompressed, if it is no bomb."
        )
    return members


def _chosen(members: dict[str, zipfile.ZipInfo], member: str | None, shown: str) -> zipfile.ZipInfo:
    names = ", ".join(sorted(members)[:20])
    if member is not None:
        if member not in members:
            raise InputError(f"member={member!r} is not in {shown}; it holds: {names}.")
        return members[member]
    if len(members) != 1:
        raise InputError(
            f"{shown} holds {len(members)} arrays ({names}): choose one with member=, or give a file with one."
        )
    return next(iter(members.values()))
