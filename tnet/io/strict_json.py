"""JSON from files that may be damaged or hostile: plain values only, no name twice, bounded work."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from tnet.errors import FormatError

__all__ = ["canonical_json", "is_too_rich", "parse_json"]

# A value needs a separator and a text needs two quotes, so these two bound the memory of the parsed tree
# (about 40 MB) before any of it is built. The header of 40,000 tensors stays below both.
_MAX_SEPARATORS = 480_000
_MAX_QUOTES = 640_000


def is_too_rich(text: bytes) -> bool:
    """Return whether JSON holds more values than :func:`parse_json` is willing to build."""
    separators = sum(text.count(separator) for separator in (b",", b"[", b"{"))
    return separators > _MAX_SEPARATORS or text.count(b'"') > _MAX_QUOTES


def parse_json(text: bytes, what: str) -> Any:
    """Parse UTF-8 JSON.

    Parameters
    ----------
    text : bytes
        What the file holds.
    what : str
        What to call it in an error, such as ``"the header of 'a.safetensors'"``.

    Returns
    -------
    dict, list, str, int, float, bool or None

    Raises
    ------
    FormatError
        Not UTF-8, not JSON, a key twice in one object, NaN or Infinity, an integer of thousands of digits,
        a lone surrogate, nesting beyond Python's recursion limit, or more than about 480,000 values.
    """
    if is_too_rich(text):
        raise FormatError(f"{what} holds hundreds of thousands of values: no file that tnet reads needs so many.")
    try:
        decoded = text.decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=_object, parse_float=_finite, parse_constant=_refuse)
        if "\\u" in decoded:
            # An escape can smuggle in half a character, which no later step could write or print.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise FormatError(f"{what} is damaged: it is nested too deeply.") from None
    except ValueError as error:  # UnicodeError and JSONDecodeError are ValueErrors
        raise FormatError(f"{what} is damaged: {error}.") from None
    return value


def canonical_json(value: Any) -> bytes:
    """Return the one spelling of ``value`` that its digest is taken of: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
