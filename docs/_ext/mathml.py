"""Formulas as MathML, which browsers draw themselves: no script, no font, no network.

docutils translates the LaTeX; what it cannot translate is a warning, hence an error of the build with ``-W``.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Commands of LaTeX and amsmath that docutils lacks, and what it has in their place.
_SPELLINGS = {r"\dots": r"\ldots", r"\dotsb": r"\cdots", r"\dotsc": r"\ldots"}


def translate(tex: str, *, block: bool) -> str:
    """Return one formula as a ``<math>`` element; raises MathError."""
    for there, here in _SPELLINGS.items():
        tex = re.sub(re.escape(there) + r"(?![A-Za-z])", lambda _, here=here: here, tex)
    # TeX reads one digit without braces, docutils a whole number.
    tex = re.sub(r"(\\[td]?frac)(\d)(\d)", r"\1{\2}{\3}", tex)
    return tex2mathml(tex, as_block=block)


def _write(translator: Any, node: nodes.Element, *, block: bool) -> None:
    try:
        translator.body.append(translate(node.astext(), block=block))
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node)
    raise nodes.SkipNode


def _visit_inline(translator: Any, node: nodes.Element) -> None:
    _write(translator, node, block=False)


def _visit_block(translator: Any, node: nodes.Element) -> None:
    _write(translator, node, block=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
