"""Names that stand in ``tnet`` itself are documented there, once; references by their room find them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import tnet


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Look up ``tnet.decompositions.cp``, or ``cp`` written in that room, as ``tnet.cp``, and neighbours likewise."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    here = str(node.get("py:module") or "")
    if not (target.startswith("tnet.") or here.startswith("tnet")):
        return None
    name = target.rpartition(".")[2]
    names = [f"tnet.{name}"] if name in tnet._HOME else []
    if here == "tnet":  # the docstring was written in a room, and means its neighbours there
        names += [f"tnet.{room}.{target}" for room in tnet._ROOMS]
    for candidate in names:
        found = env.domains.python_domain.resolve_xref(
            env, str(node["refdoc"]), app.builder, "obj", candidate, node, contnode
        )
        if isinstance(found, nodes.Element):
            return found
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", _resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
