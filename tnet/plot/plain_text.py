"""Text from files and models, made harmless before it is shown."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["plain_text"]

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and other strings: titles, links, clipboard
    r"|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
# Controls, formats (such as the reversal of the writing direction), lone surrogates, line separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def plain_text(value: object, *, keep: str = "") -> str:
    r"""Return text without escape sequences, control and formatting characters.

    Parameters
    ----------
    value : object
        Shown through ``str``.
    keep : str
        Characters that stay although they are controls, such as ``"\n"``.

    Returns
    -------
    str

    Examples
    --------
    >>> from tnet.plot.plain_text import plain_text
    >>> plain_text("layer\x1b[31m.0\n\u202egpj")
    'layer.0gpj'
    """
    text = _ESCAPE_SEQUENCE.sub("", str(value))
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in _HIDDEN)
