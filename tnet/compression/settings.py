"""The options of one compression, checked once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from tnet.compression.catalogue import check_kinds
from tnet.compression.moments import Sensitivity
from tnet.contraction.memory import parse_bytes
from tnet.errors import InputError

__all__ = ["STORAGE_DTYPES", "Settings"]

STORAGE_DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True)
class Settings:
    """What :func:`tnet.compress` was asked for, in plain values.

    Parameters
    ----------
    ratio : float or None
        Elements that the replaced layers may store, over those of the targets' dense weights; in (0, 1].
    max_bytes : int or None
        Ceiling on the bytes of the saved checkpoint's tensors. Exactly one of the two.
    targets : str or None
        Regular expression on module names.
    candidates : "auto" or tuple of str
    sensitivity : {"fisher", "output"}
    dtype : {"bfloat16", "float16", "float32"}
        In which the checkpoint will be stored.
    sequence_length, batch_size : int
        Tokens a sequence, and sequences a forward call.
    refine : bool
        Whether moments are estimated again on the compressed model, and blocks refitted.
    seed : int
    """

    ratio: float | None
    max_bytes: int | None
    targets: str | None
    candidates: Literal["auto"] | tuple[str, ...]
    sensitivity: Sensitivity
    dtype: str
    sequence_length: int
    batch_size: int
    refine: bool
    seed: int

    @classmethod
    def checked(
        cls,
        *,
        ratio: float | None,
        max_bytes: int | str | None,
        targets: str | None = None,
        candidates: str | Iterable[str] = "auto",
        sensitivity: str = "fisher",
        dtype: str = "bfloat16",
        sequence_length: int = 256,
        batch_size: int = 4,
        refine: bool = True,
        seed: int = 0,
    ) -> Settings:
        """Return the settings, or raise InputError naming the option, what it may be and what to do."""
        if (ratio is None) == (max_bytes is None):
            given = "neither" if ratio is None else "both"
            raise InputError(f"ratio= and max_bytes=: {given} given; give exactly one of them.")
        if ratio is not None and not (_is_number(ratio) and 0 < ratio <= 1):
            raise InputError(f"ratio={ratio!r}: give the share of parameters to keep, in (0, 1].")
        if sensitivity not in ("fisher", "output"):
            raise InputError(f'sensitivity={sensitivity!r}: give "fisher" or "output".')
        if dtype not in STORAGE_DTYPES:
            raise InputError(f"dtype={dtype!r}: give one of {', '.join(STORAGE_DTYPES)}.")
        for name, value, least in (("sequence_length", sequence_length, 2), ("batch_size", batch_size, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}: give an integer of at least {least}.")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InputError(f"rng={seed!r}: give an integer, the seed of the sampled labels.")
        if candidates != "auto":
            candidates = check_kinds(candidates)
        return cls(
            ratio=ratio,
            max_bytes=parse_bytes(max_bytes, "max_bytes"),
            targets=targets,
            candidates="auto" if candidates == "auto" else tuple(candidates),
            sensitivity="fisher" if sensitivity == "fisher" else "output",
            dtype=dtype,
            sequence_length=sequence_length,
            batch_size=batch_size,
            refine=refine,
            seed=seed,
        )

    @property
    def unit(self) -> Literal["params", "bytes"]:
        """What the budget counts."""
        return "bytes" if self.ratio is None else "params"

    @property
    def storage(self) -> torch.dtype:
        """The storage dtype."""
        return STORAGE_DTYPES[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of one stored weight."""
        return self.storage.itemsize

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
