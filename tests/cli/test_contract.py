"""``tnet contract``: files in, a file or a number out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import tnet
from tnet.cli import app, terminal
from tnet.io import write_safetensors


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Matrices of 8x9 and 9x7 as .npy, and of 7x8 as .npz."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.normal(size=(8, 9)))
    np.save(tmp_path / "b.npy", rng.normal(size=(9, 7)))
    np.savez(tmp_path / "c.npz", c=rng.normal(size=(7, 8)))
    return [str(tmp_path / name) for name in ("a.npy", "b.npy", "c.npz")]


def product(files: list[str]) -> np.ndarray:
    return np.load(files[0]) @ np.load(files[1])


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_the_result_is_written(suffix: str, files: list[str], tmp_path: Path, runner: CliRunner) -> None:
    out = tmp_path / f"y{suffix}"
    done = runner.invoke(app, ["contract", "ab,bc->ca", *files[:2], "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert f"saved {out}" in done.stdout
    found = np.load(out) if suffix == ".npy" else tnet.io.read_safetensors(out)[0]["result"]
    assert np.allclose(found, product(files).T)


def test_a_number_is_printed(files: list[str], runner: CliRunner) -> None:
    wanted = float(np.trace(product(files) @ np.load(files[2])["c"]))
    done = runner.invoke(app, ["contract", "ab,bc,ca->", *files])
    assert done.exit_code == 0, done.output
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(wanted)
    done = runner.invoke(app, ["contract", "ab,bc,ca->", *files, "--json"])
    account = json.loads(done.stdout)
    assert account["value"] == pytest.approx(wanted)
    assert account["output_shape"] == []


def test_a_complex_number_is_two_in_json(tmp_path: Path, runner: CliRunner) -> None:
    np.save(tmp_path / "z.npy", np.array([1 + 2j, 3 - 1j]))
    done = runner.invoke(app, ["contract", "i->", str(tmp_path / "z.npy"), "--json"])
    assert json.loads(done.stdout)["value"] == [4.0, 1.0]


def test_safetensors_are_read(files: list[str], tmp_path: Path, runner: CliRunner) -> None:
    write_safetensors(tmp_path / "d.safetensors", {"d": np.load(files[1])})
    out = tmp_path / "y.npy"
    done = runner.invoke(app, ["contract", "ab,bc->ac", files[0], str(tmp_path / "d.safetensors"), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert np.allclose(np.load(out), product(files))


def test_a_saved_plan_is_used(tmp_path: Path, runner: CliRunner) -> None:
    arrays = [np.random.default_rng(k).normal(size=(64, 64)) for k in range(4)]
    names = [str(tmp_path / f"{k}.npy") for k in range(4)]
    for name, array in zip(names, arrays, strict=True):
        np.save(name, array)
    equation, plan, out = "ab,bc,cd,da->ac", str(tmp_path / "plan.json"), tmp_path / "y.npy"
    made = runner.invoke(
        app, ["plan", equation, "--sizes", "a=64,b=64,c=64,d=64", "--memory", "210KiB", "-o", plan, "--json"]
    )
    assert made.exit_code == 0, made.output
    checkpoint = tmp_path / "job"
    done = runner.invoke(
        app,
        ["contract", equation, *names, "--plan", plan, "-o", str(out), "--checkpoint", str(checkpoint), "--json"],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_slices"] == json.loads(made.stdout)["n_slices"] > 1
    assert np.allclose(np.load(out), np.einsum(equation, *arrays, optimize=True))
    assert not checkpoint.exists()
    other = runner.invoke(app, ["contract", "ab,bc,cd,da->bd", *names, "--plan", plan, "-o", str(tmp_path / "z.npy")])
    assert other.exit_code == 2
    assert "was made for ab,bc,cd,da->ac" in other.stderr


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["-o", "y.txt"], ".npy or .safetensors"),
        (["-o", "/nowhere/y.npy"], "does not exist"),
        ([], "give --out"),
        (["-o", "NEW", "--executor", "many"], "--executor many"),
        (["-o", "NEW", "--executor", "0"], "--executor 0"),
        (["-o", "NEW", "--plan", "no.json"], "no such file"),
        (["-o", "NEW", "--plan", "no.json", "--memory", "1GB"], "leave out --memory"),
        (["-o", "NEW", "--plan", "no.json", "--seed", "0"], "and --seed"),
        (["-o", "NEW", "--memory", "1KiB"], "cannot be met"),
        (["-o", "NEW", "--checkpoint", "/nowhere/at/all"], "does not exist"),
        (["-o", "NEW", "--planner", "best"], "planner"),
    ],
)
def test_bad_options_end_with_2(
    options: list[str], word: str, files: list[str], tmp_path: Path, runner: CliRunner
) -> None:
    options = [str(tmp_path / "new.npy") if option == "NEW" else option for option in options]
    done = runner.invoke(app, ["contract", "ab,bc->ac", *files[:2], *options])
    assert done.exit_code == 2, done.output
    assert word in done.stderr
    assert not (tmp_path / "new.npy").exists()


@pytest.mark.parametrize(
    ("equation", "chosen", "word"),
    [
        ("ab,bc->ac", [0, 2], "index 'b' has size 9 in operand 0 and size 7 in operand 1"),
        ("ab,bc,cd->ad", [0, 1], "3 operands, but 2"),
        ("ab,b->a", [0, 1], "operand 1"),
        ("ab,bc->az", [0, 1], "'z'"),
        ("ab,bc->ac", [0, 3], "no such file"),
    ],
)
def test_bad_operands_end_with_2(
    equation: str, chosen: list[int], word: str, files: list[str], tmp_path: Path, runner: CliRunner
) -> None:
    names = [[*files, "absent.npy"][k] for k in chosen]
    done = runner.invoke(app, ["contract", equation, *names, "-o", str(tmp_path / "y.npy")])
    assert done.exit_code == 2, done.output
    assert word in done.stderr


def test_a_file_with_several_tensors_is_refused(tmp_path: Path, runner: CliRunner) -> None:
    write_safetensors(tmp_path / "d.safetensors", {"x": np.ones(2), "y": np.ones(2)})
    done = runner.invoke(app, ["contract", "a->", str(tmp_path / "d.safetensors")])
    assert done.exit_code == 2
    assert "holds 2 tensors (x, y)" in done.stderr


def test_what_has_no_place_is_refused_before_the_search(
    files: list[str], tmp_path: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("tnet.contraction.api.search_or_resume", search)
    np.save(tmp_path / "z.npy", np.ones((9, 7), complex))
    done = runner.invoke(app, ["contract", "ab,bc->ac", *files[:2]])
    assert (done.exit_code, "give --out" in done.stderr) == (2, True)
    names = [files[0], str(tmp_path / "z.npy"), "-o", str(tmp_path / "y.safetensors")]
    done = runner.invoke(app, ["contract", "ab,bc->ac", *names])
    assert (done.exit_code, "complex128" in done.stderr) == (2, True)


def test_a_result_that_cannot_be_written_is_kept_in_the_checkpoint(
    files: list[str], tmp_path: Path, runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, job = tmp_path / "y.npy", tmp_path / "job"
    line = ["contract", "ab,bc->ac", *files[:2], "-o", str(out), "--checkpoint", str(job)]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tnet.io.atomic_write", full)
        assert runner.invoke(app, line).exit_code != 0
    assert job.is_dir()
    monkeypatch.setattr("tnet.contraction.distribute._run_task", None)  # nothing is left to compute
    done = runner.invoke(app, line)
    assert done.exit_code == 0, done.output
    assert np.allclose(np.load(out), product(files))
    assert not job.exists()


def test_a_bar_is_drawn_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.progress_bar("slices") as callback:
        assert callback is None
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress_bar("slices") as callback:
        assert callback is not None
        callback(3, 8)
    shown = capsys.readouterr()
    assert "3/8" in shown.err
    assert not shown.out


def test_ctrl_c_ends_with_130_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = []
    for k in range(4):
        names.append(str(tmp_path / f"{k}.npy"))
        np.save(names[-1], rng.integers(0, 9, size=(1024, 1024)))  # integers have no BLAS: seconds of work
    out, job = tmp_path / "y.npy", tmp_path / "job"
    command = ["contract", "ab,bc,cd,da->ac", *names, "-o", str(out), "--memory", "50MiB"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tnet", *command, "--checkpoint", str(job)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "dumb"},
    )
    deadline = time.monotonic() + 60
    while not (job / "job.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same line again" in said
    assert (job / "job.json").exists()
    assert not out.exists()
