"""Every public name stands in the reference pages and has a docstring of numpydoc's form."""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpydoc.docscrape
import pytest

import tnet

DOCS = Path(__file__).parents[2] / "docs"
PAGES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.rst")))

ROOMS = (
    "algebra", "arrays", "batch", "cli", "compression", "compression.baselines", "contraction", "decompositions",
    "errors", "formats", "io", "io.interop", "nn", "nn.attention", "nn.init", "options", "parallel", "plot",
    "results", "sklearn", "structure_search", "structure_search.algorithms", "structure_search.evaluate", "versions",
)  # fmt: skip
#: Modules, aliases of types and the typer application have no call to describe.
NO_CALL = {"ALGORITHMS", "app", "Array", "ExecutorLike", "Namespace", "__version__"}
#: A function of so few arguments may say all in its summary.
_SHORT = 2


def public_names() -> list[tuple[str, str]]:
    found = [("tnet", name) for name in tnet.__all__]
    for room in ROOMS:
        module = importlib.import_module(f"tnet.{room}")
        found += [(module.__name__, name) for name in module.__all__]
    return found


@functools.cache
def listed() -> set[str]:
    """Full names in the autosummaries of the pages, and those that a page spells out."""
    found: set[str] = set(re.findall(r"``(tnet\.[\w.]+)``", PAGES))
    module = ""
    for line in PAGES.splitlines():
        if declared := re.match(r"\.\. (?:current)?module:: (\S+)", line):
            module = declared[1]
        elif entry := re.match(r"   (\w+)$", line):
            found.add(f"{module}.{entry[1]}")
    return found


@pytest.mark.parametrize(("module", "name"), public_names())
def test_stands_in_a_page(module: str, name: str):
    at_the_front_door = name in tnet.__all__ and getattr(tnet, name) is getattr(importlib.import_module(module), name)
    assert f"{module}.{name}" in listed() or (at_the_front_door and f"tnet.{name}" in listed())


def test_pages_name_nothing_that_is_gone():
    for full in sorted(listed()):
        module, _, name = full.rpartition(".")
        assert hasattr(importlib.import_module(module), name), full


@pytest.mark.parametrize(("module", "name"), public_names())
def test_has_a_numpydoc_docstring(module: str, name: str):
    found: Any = getattr(importlib.import_module(module), name)
    if name in NO_CALL:
        return
    text = inspect.getdoc(found) or ""
    doc = numpydoc.docscrape.NumpyDocString(text)
    assert doc["Summary"], "no summary"
    parameters = [] if _is_not_called(found) else list(inspect.signature(found).parameters)
    if len(parameters) > _SHORT and not re.search(r"[Tt]akes the options of|[Aa]s in :func:", text):
        written = " ".join(parameter.name for parameter in doc["Parameters"])
        missing = [p for p in parameters if not re.search(rf"(?<!\w){re.escape(p)}(?!\w)", written)]
        assert not missing, f"not described: {', '.join(missing)}"
    if inspect.isfunction(found) and inspect.signature(found).return_annotation not in (None, "None"):
        said = doc["Summary"][0].startswith(("Return", "Whether"))
        assert said or doc["Returns"] or doc["Yields"], "no Returns"


def _is_not_called(found: Any) -> bool:
    """Return whether users only catch, read or subclass it: its constructor is not part of what is promised."""
    return inspect.isclass(found) and (
        issubclass(found, (Exception, tuple, enum.Enum))
        or getattr(found, "_is_protocol", False)
        or inspect.isabstract(found)
        or "__init__" not in vars(found)
    )
