"""The built pages need no network and have no dead links.

Run after ``./run docs``: ``./run test -m slow tests/docs``.
"""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

HTML = Path(__file__).parents[2] / "docs" / "_build" / "html"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the docs are not built: ./run docs"),
]

#: What a browser fetches by itself, as opposed to a link that a reader follows.
FETCHED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
}


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.formulas = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.formulas += tag == "math"
        for name, value in attrs:
            if value is None:
                continue
            if name in ("id", "name"):
                self.anchors.add(value)
            if (tag, name) in FETCHED and not (tag == "link" and dict(attrs).get("rel") in ("canonical", "search")):
                self.fetched.append(value)
            if (tag, name) in FETCHED or (tag, name) == ("a", "href"):
                self.links.append(value)


@functools.cache
def page(path: Path) -> _Page:
    return _Page(path)


def pages() -> list[Path]:
    return sorted(path for path in HTML.rglob("*.html") if "_static" not in path.parts)  # a template of the theme


def test_nothing_is_fetched_from_elsewhere():
    remote = {(path.name, url) for path in pages() for url in page(path).fetched if urlsplit(url).netloc}
    assert not remote


def test_style_sheets_fetch_nothing_from_elsewhere():
    remote = re.compile(r"(?:@import\s+|url\()[\"']?(?:https?:)?//")
    assert not [path.name for path in HTML.rglob("*.css") if remote.search(path.read_text(encoding="utf-8"))]


def test_links_lead_somewhere():
    dead = []
    for path in pages():
        for url in page(path).links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                dead.append((path.name, url))
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in page(target).anchors:
                dead.append((path.name, url))
    assert not dead


def test_formulas_are_drawn():
    assert page(HTML / "guide" / "compression.html").formulas >= 5
    left = [path.name for path in pages() if re.search(r"\\\(|:math:`", _text(path))]
    assert not left


def _text(path: Path) -> str:
    body = re.sub(r"<(script|style|pre|code)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"<[^>]+>", "", body)


def test_each_tutorial_has_its_figure():
    for name in ("decompose", "memory_limit", "contraction_plan", "language_model"):
        assert (HTML / "_images" / f"sphx_glr_plot_{name}_001.png").exists()
