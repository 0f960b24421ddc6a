"""The report: one file, well formed, nothing fetched, nothing run, strings taken literally."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tnet.errors import InputError
from tnet.plot.plain_text import plain_text

Make = Callable[..., Any]

HOSTILE = "</pre><script>alert('x')</script>&\x1b[31m\u202e\x00<img src=//evil>"


def _written(path: Path) -> tuple[str, ET.Element]:
    text = path.read_text(encoding="utf-8")
    # The page is XML too, so a parser that forgives nothing can judge it; this is our own file.
    return text, ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


@pytest.fixture
def page(make_result: Make, tmp_path: Path) -> tuple[str, ET.Element]:
    tnet.plot.report(
        make_result(prefix="model.<b>$.layers"),
        tmp_path / "report.html",
        others={f"plain {HOSTILE}": make_result(900.0)},
        samples={HOSTILE: f"line one\nline two {HOSTILE}"},
        file_sizes={"4-bit GGUF": 98_000_000},
        tokens_per_second={"original": 100.0, "tnet": 120.0},
        title=HOSTILE,
    )
    return _written(tmp_path / "report.html")


def test_no_element_of_a_string_survives(page: tuple[str, ET.Element]) -> None:
    text, tree = page
    names = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert not names & {"script", "img", "iframe", "object", "embed", "link", "b"}
    assert not {"\x1b", "\x00", "\u202e"} & set(text)
    assert "line one\nline two" in text


def test_nothing_is_fetched_or_run(page: tuple[str, ET.Element]) -> None:
    text, tree = page
    for element in tree.iter():
        for name, value in element.attrib.items():
            bare = name.rpartition("}")[2]
            assert not bare.startswith("on")
            if bare in ("href", "src", "data"):
                assert value.startswith("#")
    assert not re.search(r"url\((?!['\"]?#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_identifiers_are_unique_and_references_resolve(page: tuple[str, ET.Element]) -> None:
    text, tree = page
    names = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    assert len(names) == len(set(names))
    targets = {value[1:] for e in tree.iter() for name, value in e.attrib.items() if name.endswith("href")}
    targets |= set(re.findall(r"url\(['\"]?#([^'\")]+)", text))
    assert targets <= set(names)


def test_every_method_and_file_has_a_row(page: tuple[str, ET.Element]) -> None:
    _, tree = page
    table = next(element for element in tree.iter() if element.tag.endswith("tbody"))
    rows = [["".join(cell.itertext()) for cell in row] for row in table]
    assert rows[0][0] == "original"
    assert rows[2][:3] == ["tnet", "896", "58.3%"]
    assert rows[2][-1] == "120"
    assert rows[3][0] == "4-bit GGUF"
    assert rows[3][3] == "98.0"
    assert rows[1][-1] == "-"
    assert len({len(row) for row in rows}) == 1


def test_the_report_says_what_it_is_against(page: tuple[str, ET.Element]) -> None:
    assert "low rank alone does not beat int4" in page[0]
    assert "bfloat16" in page[0]


def test_an_encoder_has_its_own_measures(make_result: Make, tmp_path: Path) -> None:
    tnet.plot.report(make_result(encoder=True), tmp_path / "r.html")
    text, _ = _written(tmp_path / "r.html")
    assert "Spearman" in text
    assert "tokens/s" not in text


def test_a_report_needs_a_folder(make_result: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        tnet.plot.report(make_result(), tmp_path / "no" / "r.html")


@given(st.text())
def test_plain_text_is_printable_and_idempotent(text: str) -> None:
    plain = plain_text(text)
    assert plain_text(plain) == plain
    assert not any(c < " " or c == "\x7f" or "\x80" <= c < "\xa0" for c in plain)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x9b31mx", "31mx"),
        ("a\nb\tc", "abc"),
    ],
)
def test_escape_sequences_go_as_a_whole(text: str, shown: str) -> None:
    assert plain_text(text) == shown
