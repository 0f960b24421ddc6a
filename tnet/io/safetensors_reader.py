"""Read a safetensors file after its header was checked here."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from tnet.arrays import Array
from tnet.errors import FormatError, InputError, MissingDependencyError
from tnet.io.digests import SEAL_KEY, Described, check_seal, tensor_digest
from tnet.io.safetensors_header import TensorEntry, read_header
from tnet.io.safetensors_writer import payload

__all__ = ["Library", "read_safetensors", "read_sealed"]

Library = Literal["numpy", "torch"]

_NUMPY_READS = frozenset(
    ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64", "C64")
)
_TORCH_READS = _NUMPY_READS | {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


def read_safetensors(
    path: str | os.PathLike[str], *, library: Library = "numpy"
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read all tensors of a safetensors file.

    Parameters
    ----------
    path : str or path
    library : {"numpy", "torch"}
        Which arrays to make; torch tensors are on the CPU. NumPy has no bfloat16: such tensors come
        as float32, which is exact.

    Returns
    -------
    tensors : dict of str to array
        In the order of the payload.
    metadata : dict of str to str
        Without the digests, which are checked when the file has them.

    Raises
    ------
    InputError
        No such file, or a dtype (float8) that NumPy lacks.
    FormatError
        A damaged or hostile file, see :func:`read_header`, or bytes that do not match their digest.
    MissingDependencyError
        ``library="torch"`` without torch.
    """
    return _read(path, library, must_be_sealed=False)


def read_sealed(
    path: str | os.PathLike[str], *, library: Library = "numpy"
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read like :func:`read_safetensors`, and refuse a file without digests.

    For files that only tnet writes: there a missing digest is damage.
    """
    return _read(path, library, must_be_sealed=True)


def _read(
    path: str | os.PathLike[str], library: Library, must_be_sealed: bool
) -> tuple[dict[str, Array], dict[str, str]]:
    if library not in ("numpy", "torch"):
        raise InputError(f"library={library!r}: give 'numpy' or 'torch'.")
    header = read_header(path)
    metadata = dict(header.metadata)
    seal = metadata.pop(SEAL_KEY, None)
    if must_be_sealed and seal is None:
        raise FormatError(f"{str(path)!r} has no digests: it was not written by tnet, or is damaged.")
    _require_readable(header.tensors, library, path)
    tensors: dict[str, Array] = {}
    described: list[Described] = []
    try:
        with safe_open(path, framework="np" if library == "numpy" else "pt") as file:
            for name, entry in header.tensors.items():
                raw = _bfloat16_bits(path, entry) if _widens(entry, library) else file.get_tensor(name)
                if seal is not None:
                    described.append((name, entry.dtype, entry.shape, tensor_digest(payload(raw))))
                tensors[name] = _widened(raw) if _widens(entry, library) else raw
    except SafetensorError as error:
        raise FormatError(f"{str(path)!r} cannot be read: {error}.") from error
    if seal is not None:
        check_seal(seal, described, metadata, str(path))
    return tensors, metadata


def _require_readable(
    entries: Mapping[str, TensorEntry], library: Library, path: str | os.PathLike[str]
) -> None:
    if library == "torch" and "torch" not in sys.modules and importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("library='torch' needs torch: pip install 'tnet-tensors[torch]'.")
    known = _NUMPY_READS if library == "numpy" else _TORCH_READS
    for name, entry in entries.items():
        if entry.dtype not in known:
            remedy = "pass library='torch'" if entry.dtype in _TORCH_READS else "convert the file first"
            raise InputError(
                f"{str(path)!r}: {name[:80]!r} has dtype {entry.dtype}, unknown to {library}: {remedy}."
            )


def _widens(entry: TensorEntry, library: Library) -> bool:
    return library == "numpy" and entry.dtype == "BF16"


def _bfloat16_bits(path: str | os.PathLike[str], entry: TensorEntry) -> NDArray[np.uint16]:
    bits = np.fromfile(path, dtype="<u2", count=entry.nbytes // 2, offset=entry.offset)
    if bits.nbytes != entry.nbytes:
        raise FormatError(f"{str(path)!r} became shorter while it was read.")
    return bits.reshape(entry.shape)


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    # A bfloat16 is the upper half of a float32.
    return (bits.astype(np.uint32) << 16).view(np.float32)
