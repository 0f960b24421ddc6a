"""The seal of a safetensors file: SHA-256 of each tensor and of all that the header says.

It finds damage, such as a flipped bit; it is no signature and does not show who wrote the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from tnet.errors import FormatError
from tnet.io.strict_json import canonical_json, parse_json

__all__ = ["SEAL_KEY", "Described", "check_seal", "seal", "tensor_digest"]

SEAL_KEY = "tnet.sha256"

Described = tuple[str, str, tuple[int, ...], str]
"""Name, dtype in the file's words, shape and digest of one tensor."""


def tensor_digest(payload: memoryview) -> str:
    """Return the SHA-256 of a tensor's bytes, in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()


def seal(tensors: Iterable[Described], metadata: Mapping[str, str]) -> str:
    """Return the value of the metadata entry ``"tnet.sha256"``.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, digest)
    metadata : mapping of str to str
        All the other entries of the metadata.

    Returns
    -------
    str
        JSON ``{"header": digest, "tensors": {name: digest}}``; its length does not depend on the digests.
    """
    tensors = sorted(tensors)
    content = [dict(metadata), [[name, dtype, list(shape), digest] for name, dtype, shape, digest in tensors]]
    header = hashlib.sha256(canonical_json(content)).hexdigest()
    return json.dumps({"header": header, "tensors": {name: digest for name, _, _, digest in tensors}})


def check_seal(value: str, tensors: list[Described], metadata: Mapping[str, str], path: str) -> None:
    """Raise FormatError, naming the damaged tensor, unless ``value`` seals what was read."""
    if value == seal(tensors, metadata):
        return
    stored = parse_json(value.encode("utf-8"), f"the seal of {path!r}")
    digests = stored.get("tensors") if isinstance(stored, dict) else None
    if isinstance(digests, dict):
        for name, _, _, digest in tensors:
            if digests.get(name) != digest:
                raise FormatError(
                    f"{path!r} is damaged: the bytes of {name[:80]!r} do not match their SHA-256; "
                    "take the file from its source again."
                )
    raise FormatError(f"{path!r} is damaged: its header does not match its SHA-256; take it from its source again.")
