"""``tnet plan``: the cost of an equation and sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tnet
from tnet.cli import app
from tnet.contraction import ContractionPlan

RING = ["plan", "ab,bc,cd,da->", "--sizes", "a=64,b=64,c=64,d=64"]


def test_the_table_is_printed(runner: CliRunner) -> None:
    done = runner.invoke(app, ["plan", "ab,bc->ac", "--sizes", "a=64, b=32,c=16"])
    assert done.exit_code == 0, done.output
    assert repr(tnet.plan("ab,bc->ac", (64, 32), (32, 16))) in done.stdout
    assert done.stdout.count("predicted") == 1
    assert "planning" in done.stdout


def test_the_plan_is_saved_and_told_in_json(tmp_path: Path, runner: CliRunner) -> None:
    out = tmp_path / "plan.json"
    done = runner.invoke(app, [*RING, "--memory", "160KiB", "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    saved = ContractionPlan.load(out)
    assert account["n_slices"] == saved.n_slices > 1
    assert account["peak_bytes"] == saved.peak_bytes <= account["memory_limit"] == 160 * 1024
    assert account["macs"] == saved.macs == account["flops"] // 2
    assert account["splits"] == {saved.spec.labels[index]: parts for index, parts in saved.splits}
    assert [tuple(step) for step in account["path"]] == saved.path
    assert account["out"] == str(out)


@pytest.mark.parametrize("options", [["--dtype", "complex64"], ["--memory", "100000000"], ["--seconds", "1"]])
def test_options_reach_the_plan(options: list[str], runner: CliRunner) -> None:
    done = runner.invoke(app, [*RING, *options, "--json"])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["dtype"] == ("complex64" if "--dtype" in options else "float64")
    assert account["memory_limit"] == (100_000_000 if "--memory" in options else None)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["ab,bc->ac", "--sizes", "a=2,b=3"], "lacks index 'c' of operand 1"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4,d=5"], "'d'"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4,a=2"], "'a' twice"),
        (["ab,bc->ac", "--sizes", "a=2,b=x,c=4"], "b=x"),
        (["ab,bc->ac", "--sizes", "a=2,b=-3,c=4"], "b=-3"),
        (["ab,bc->ac", "--sizes", "a=2,b,c=4"], "'b'"),
        (["ab,bc->ac", "--sizes", ""], "a=64"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=" + "9" * 5000], "5000 digits"),
        ([*RING[1:], "--memory", "9" * 5000], "memory_limit"),
        (["a...,b->ab", "--sizes", "a=2,b=3"], "ellipsis"),
        (["ab,bc->az", "--sizes", "a=2,b=3,c=4"], "'z'"),
        (["ab-bc", "--sizes", "a=2,b=3,c=4"], "'->'"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4", "--memory", "much"], "memory_limit"),
        (["ab,bc->ac", "--sizes", "a=64,b=64,c=64", "--memory", "1KiB"], "cannot be met"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4", "--planner", "best"], "planner"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4", "--dtype", "float8"], "float8"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4", "--seconds", "0"], "max_planning_seconds"),
        (["ab,bc->ac", "--sizes", "a=2,b=3,c=4", "-o", "/nowhere/plan.json"], "does not exist"),
    ],
)
def test_bad_input_ends_with_2(arguments: list[str], word: str, runner: CliRunner) -> None:
    done = runner.invoke(app, ["plan", *arguments])
    assert done.exit_code == 2, done.output
    assert word in done.stderr


def test_a_file_is_never_overwritten(tmp_path: Path, runner: CliRunner) -> None:
    (tmp_path / "plan.json").write_text("mine")
    done = runner.invoke(app, [*RING, "-o", str(tmp_path / "plan.json")])
    assert done.exit_code == 2
    assert (tmp_path / "plan.json").read_text() == "mine"
