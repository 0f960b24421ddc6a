"""Read a safetensors file whose header was checked first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from tnet.arrays import Array
from tnet.errors import FormatError, InputError, MissingDependencyError
from tnet.io.digests import SEAL_KEY, Described, check_seal, tensor_digest
from tnet.io.safetensors_header import Header, TensorEntry, open_regular, parse_header
from tnet.io.safetensors_writer import DTYPE_NAMES

__all__ = ["Library", "read_safetensors", "read_sealed", "verify_sealed"]

Library = Literal["numpy", "torch"]

_CHUNK = 1 << 20
_LIBRARY_DTYPES = {dtype: name for name, dtype in DTYPE_NAMES.items()}
_NUMPY_LACKS = frozenset(name for name in DTYPE_NAMES if name.startswith(("bfloat16", "float8")))


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
        No such file, or a dtype that the library lacks, such as float8 in NumPy.
    FormatError
        A damaged or hostile file, see :func:`read_header`, or bytes that do not match their digest.
    MissingDependencyError
        ``library="torch"`` without torch.

    Notes
    -----
    The file is opened once and copied into memory, so a writer that replaces it meanwhile, or cuts it
    short, cannot mix old and new.
    """
    return _read(path, library, must_be_sealed=False)


def read_sealed(
    path: str | os.PathLike[str], *, library: Library = "numpy"
) -> tuple[dict[str, Array], dict[str, str]]:
    """Read like :func:`read_safetensors`, and refuse a file without digests.

    For files that only tnet writes: there a missing digest is damage.
    """
    return _read(path, library, must_be_sealed=True)


def verify_sealed(path: str | os.PathLike[str]) -> None:
    """Raise FormatError unless every byte of a file that tnet wrote matches its digest."""
    with open_regular(path) as file:
        header = parse_header(file, path)
        digests = (_digest_of_payload(file, entry) for entry in header.tensors.values())
        _check(header, list(digests), path, must_be_sealed=True)


def _read(
    path: str | os.PathLike[str], library: Library, must_be_sealed: bool
) -> tuple[dict[str, Array], dict[str, str]]:
    if library not in ("numpy", "torch"):
        raise InputError(f"library={library!r}: give 'numpy' or 'torch'.")
    torch = _torch_namespace() if library == "torch" else None
    tensors: dict[str, Array] = {}
    digests: list[str] = []
    with open_regular(path) as file:
        header = parse_header(file, path)
        _require_readable(header.tensors, library, path)
        file.seek(header.payload_offset)
        for name, entry in header.tensors.items():
            data = np.fromfile(file, dtype=np.uint8, count=entry.nbytes)
            if data.nbytes != entry.nbytes:
                raise FormatError(f"{str(path)!r} became shorter while it was read.")
            if SEAL_KEY in header.metadata:
                digests.append(tensor_digest(data.data))
            tensors[name] = _numpy_array(data, entry) if torch is None else _torch_tensor(torch, data, entry)
    _check(header, digests, path, must_be_sealed)
    return tensors, {key: value for key, value in header.metadata.items() if key != SEAL_KEY}


def _check(header: Header, digests: list[str], path: str | os.PathLike[str], must_be_sealed: bool) -> None:
    metadata = dict(header.metadata)
    seal = metadata.pop(SEAL_KEY, None)
    if seal is None:
        if must_be_sealed:
            raise FormatError(f"{str(path)!r} has no digests: it was not written by tnet, or is damaged.")
        return
    entries = header.tensors.items()
    described: list[Described] = [
        (name, entry.dtype, entry.shape, digest) for (name, entry), digest in zip(entries, digests, strict=True)
    ]
    check_seal(seal, described, metadata, str(path))


def _digest_of_payload(file: BinaryIO, entry: TensorEntry) -> str:
    digest = hashlib.sha256()
    file.seek(entry.offset)
    left = entry.nbytes
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _torch_namespace() -> Any:
    try:
        import array_api_compat.torch as torch_namespace
    except ImportError as error:
        raise MissingDependencyError(
            "library='torch' needs torch, which is not installed: pip install 'tnet-tensors[torch]'."
        ) from error
    return torch_namespace


def _require_readable(entries: Mapping[str, TensorEntry], library: Library, path: str | os.PathLike[str]) -> None:
    for name, entry in entries.items():
        known = _LIBRARY_DTYPES.get(entry.dtype)
        if known is None or (library == "numpy" and known in _NUMPY_LACKS and known != "bfloat16"):
            remedy = "convert the file first" if known is None else "pass library='torch'"
            raise InputError(f"{str(path)!r}: {name[:80]!r} has dtype {entry.dtype}, unknown to {library}: {remedy}.")


def _numpy_array(data: NDArray[np.uint8], entry: TensorEntry) -> NDArray[Any]:
    if entry.dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry.shape)
    stored = np.dtype(_LIBRARY_DTYPES[entry.dtype]).newbyteorder("<")
    return data.view(stored).astype(stored.newbyteorder("="), copy=False).reshape(entry.shape)


def _torch_tensor(torch: Any, data: NDArray[np.uint8], entry: TensorEntry) -> Array:
    dtype = getattr(torch, _LIBRARY_DTYPES[entry.dtype])
    if entry.nbytes == 0:
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(data).view(dtype).reshape(entry.shape)
