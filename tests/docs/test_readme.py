"""README.md: its Python example prints what it says, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tnet.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands(first: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    return [words for words in lines if words and words[0] == first]


def without_timings(text: str) -> str:
    return re.sub(r"seconds +\S+", "seconds", text)


def test_the_example_prints_what_is_shown():
    (code,), (shown,) = blocks("python"), blocks("text")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert without_timings(ran.stdout) == without_timings(shown)


def test_the_commands_of_run_exist():
    usage = subprocess.run(["sh", str(ROOT / "run")], capture_output=True, text=True, timeout=60).stderr
    found = commands("./run")
    assert {words[1] for words in found} >= {"demo", "test"}
    for words in found:
        assert f"./run {words[1]}" in usage


def test_the_commands_of_tnet_are_parsed():
    group = typer.main.get_command(app)
    found = commands("tnet")
    assert found
    for words in found:
        command = group.commands[words[1]]
        context = command.make_context(words[1], words[2:])
        assert context.params


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_to_files(target: str):
    assert (ROOT / target).exists()
