"""The examples of the user guide print what they show, its commands run."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tnet.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def examples(page: Path) -> str:
    return "\n".join(blocks(page, "pycon"))


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


def test_the_commands_on_contraction_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        np.save(name, np.eye(64))
    lines = [line for block in blocks(GUIDE / "contraction.md", "sh") for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        ran = CliRunner().invoke(app, shlex.split(line)[1:])
        assert ran.exit_code == 0, ran.output
    assert ran.output.splitlines()[-1] == "64.0"
