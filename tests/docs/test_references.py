"""References: each cited, each key known; versions agree."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import tnet

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_every_reference_is_cited_and_every_key_is_known():
    known = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), flags=re.MULTILINE))
    files = [*DOCS.glob("guide/*.md"), *DOCS.glob("tutorials/*.py")]
    found = re.findall(r"(?:\{cite:[pt]\}|:cite:[pt]:)`([\w, ]+)`", "\n".join(f.read_text() for f in files))
    assert {key.strip() for keys in found for key in keys.split(",")} == known


def test_citation_file_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == tnet.__version__


def test_changelog_names_this_version():
    assert f"## [{tnet.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
