"""``tnet search``: goals, spaces, files, and searches that go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tnet
from tnet.cli import app


@pytest.fixture
def array(tmp_path: Path) -> Path:
    """A chain of ranks 2 and 2, its modes in another order."""
    draw = np.random.default_rng(0).standard_normal
    x = np.einsum("ia,ajb,bk->jki", draw((4, 2)), draw((2, 5, 2)), draw((2, 4)))
    path = tmp_path / "x.npy"
    np.save(path, x)
    return path


def run(runner: CliRunner, *arguments: object) -> dict:
    done = runner.invoke(app, ["search", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("options", [[], ["--space", "trees"], ["--space", "train"], ["--algorithm", "trees"]])
def test_the_structure_is_found_and_saved(options: list[str], array: Path, tmp_path: Path, runner: CliRunner) -> None:
    out = tmp_path / "y.safetensors"
    told = run(runner, array, "--rtol", 1e-5, *options, "--out", out)
    assert told["n_params"] == 4 * 2 + 2 * 5 * 2 + 2 * 4
    assert told["feasible"]
    assert told["error"] <= 1e-5
    assert told["structure"]["bonds"] == [[0, 1, 2], [0, 2, 2]] or told["structure"]["n_internal"] == 0
    network = tnet.load(out)
    assert np.allclose(np.asarray(network.to_dense()), np.load(array), atol=1e-4)


def test_other_goals(array: Path, runner: CliRunner) -> None:
    assert run(runner, array, "--max-params", 30)["n_params"] <= 30
    told = run(runner, array, "--weight", 5, "--budget", 20)
    assert told["evaluations"] <= 20
    assert told["score"] < 1


def test_it_goes_on_with_its_log(array: Path, tmp_path: Path, runner: CliRunner) -> None:
    options = [
        array,
        "--weight",
        5,
        "--algorithm",
        "tnls",
        "--space",
        "ring",
        "--max-rank",
        3,
        "--resume",
        tmp_path / "log",
    ]
    first = run(runner, *options, "--budget", 10)
    more = run(runner, *options, "--budget", 25)
    assert first["evaluations"] == 10
    assert more["evaluations"] == 25
    assert more["score"] <= first["score"]
    whole = run(runner, *options[:-2], "--budget", 25)
    assert {key: more[key] for key in ("score", "structure", "cached")} == {
        key: whole[key] for key in ("score", "structure", "cached")
    }


def test_a_search_that_goes_on_replaces_the_file_it_wrote_and_no_other(
    array: Path, tmp_path: Path, runner: CliRunner
) -> None:
    options = [
        array,
        "--weight",
        5,
        "--algorithm",
        "greedy",
        "--resume",
        tmp_path / "log",
        "--out",
        tmp_path / "found.safetensors",
    ]
    first = run(runner, *options, "--budget", 1)
    more = run(runner, *options, "--budget", 20)
    assert more["score"] < first["score"]
    assert tnet.load(tmp_path / "found.safetensors").n_params == more["n_params"]
    (tmp_path / "other.safetensors").write_text("mine")
    options[-1] = tmp_path / "other.safetensors"
    result = runner.invoke(app, ["search", *map(str, options), "--budget", "20"])
    assert result.exit_code == 2
    assert (tmp_path / "other.safetensors").read_text() == "mine"


def test_the_report_is_shown_and_modes_are_split(array: Path, runner: CliRunner) -> None:
    done = runner.invoke(app, ["search", str(array), "--rtol", "0.5", "--reshape", "5,4,2,2", "--budget", "30"])
    assert done.exit_code == 0, done.output
    assert "SearchResult  Structure(5x4x2x2" in done.stdout


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--rtol"),
        (["--rtol", "0.1", "--weight", "2"], "exactly one"),
        (["--rtol", "2"], "rtol=2"),
        (["--max-params", "0"], "max_params=0"),
        (["--weight", "-1"], "weight=-1"),
        (["--rtol", "0.1", "--budget", "0"], "evaluations=0"),
        (["--rtol", "0.1", "--reshape", "7,7"], "--reshape"),
        (["--rtol", "0.1", "--reshape", "a,b"], "--reshape"),
        (["--rtol", "0.1", "--space", "ring", "--internal", "1"], "--internal"),
        (["--rtol", "0.1", "--reshape", "80"], "two modes"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: list[str], word: str, array: Path, runner: CliRunner) -> None:
    done = runner.invoke(app, ["search", str(array), *options])
    assert done.exit_code == 2, done.output
    assert word in done.stderr
