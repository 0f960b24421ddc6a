"""The examples of the user guide print what they show."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
EXAMPLES = re.compile(r"^```pycon\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    return "\n".join(EXAMPLES.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", sorted(page for page in GUIDE.glob("*.md") if examples(page)), ids=lambda p: p.stem)
def test_examples_print_what_is_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # examples write files
    test = doctest.DocTestParser().get_doctest(examples(page), {}, page.stem, str(page), 0)
    said: list[str] = []
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert found.attempted
    assert not found.failed, "".join(said)


def test_there_are_examples():
    assert examples(GUIDE / "contraction.md").count(">>>") > 20
