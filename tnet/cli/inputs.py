"""Checks of what the user gave that need neither torch nor the model: they come first and take no time."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from pathlib import Path

from tnet.errors import InputError, MissingDependencyError

__all__ = [
    "CANDIDATES",
    "DTYPES",
    "check_budget",
    "check_device",
    "check_dtype",
    "check_new",
    "check_pattern",
    "parse_candidates",
    "parse_share",
    "read_text",
    "require",
]

#: The words that the library knows; stated here again because asking it would import torch.
CANDIDATES = ("dense", "interpolative", "shared", "mpo")
DTYPES = ("bfloat16", "float16", "float32")


def check_budget(ratio: float | None, max_bytes: str | None) -> None:
    """Require exactly one of the two, in its range."""
    if (ratio is None) == (max_bytes is None):
        given = "neither" if ratio is None else "both"
        raise InputError(f"--ratio and --max-bytes: {given} given; give exactly one of them.")
    if ratio is not None and not (math.isfinite(ratio) and 0 < ratio <= 1):
        raise InputError(f"--ratio {ratio}: give the share of parameters to keep, in (0, 1].")
    if max_bytes is not None:
        from tnet.contraction.memory import parse_bytes

        parse_bytes(int(max_bytes) if max_bytes.isdecimal() else max_bytes, "--max-bytes")


def check_dtype(dtype: str) -> None:
    """Require a storage dtype that the library writes."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: give one of {', '.join(DTYPES)}.")


def check_device(device: str | None) -> None:
    """Require a device name of torch's form; whether it is there is only known with torch."""
    if device is not None and re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", device) is None:
        raise InputError(f"--device {device}: give cpu, cuda, or one of several as cuda:1.")


def check_pattern(pattern: str | None) -> None:
    """Require a regular expression that compiles."""
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"--targets {pattern!r} is no regular expression: {error}.") from None


def parse_candidates(names: str) -> str | tuple[str, ...]:
    """Return "auto", or the names between commas."""
    if names == "auto":
        return names
    kinds = tuple(name.strip() for name in names.split(","))
    unknown = [name for name in kinds if name not in CANDIDATES]
    if unknown:
        raise InputError(
            f"--candidates: {unknown[0]!r} is unknown; give auto, or some of {', '.join(CANDIDATES)} between commas."
        )
    return kinds


def parse_share(text: str | None, option: str) -> float | None:
    """Return a non-negative share given as 0.05 or as 5%."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    if match is None:
        raise InputError(f"{option} {text}: give a number such as 0.05, or 5%.")
    return float(match[1]) / (100.0 if match[2] else 1.0)


def read_text(path: Path, option: str, *, at_least: int) -> str:
    """Return the text of a UTF-8 file; one token is at least one byte, so ``at_least`` bounds the bytes too."""
    shown = f"{option} {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{shown}: there is no such file; give a text file.") from None
    except IsADirectoryError:
        raise InputError(f"{shown} is a folder; give a text file.") from None
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is no UTF-8 text (byte {error.start}); convert it first.") from None
    if not text.strip():
        raise InputError(f"{shown} is empty; give text like that on which the model will be used.")
    n_bytes = len(text.encode())
    if n_bytes < at_least:
        raise InputError(
            f"{shown} has {n_bytes} bytes, shorter than one sequence of {at_least} tokens; give more text, or a "
            "smaller --sequence-length."
        )
    return text


def check_new(path: Path, what: str) -> None:
    """Require a path where nothing is yet, in a folder that exists."""
    if os.path.lexists(path):
        raise InputError(f"{what} {str(path)!r} exists and is never overwritten: remove it, or give another name.")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{what} {str(path)!r}: the folder {str(folder)!r} does not exist; make it first.")


def require(package: str, extra: str, purpose: str) -> None:
    """Require an optional package, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(f"{purpose} needs {package}: pip install 'tnet-tensors[{extra}]'.")
