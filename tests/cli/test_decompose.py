"""``tnet decompose`` and ``tnet info`` on arrays."""

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
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 2)) for n in (5, 6, 7)]
    path = tmp_path / "x.npy"
    np.save(path, np.einsum("ar,br,cr->abc", *factors))
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "cp", "--rank", "2"],
        ["--method", "tucker", "--rank", "2,2,2"],
        ["--method", "tucker", "--rtol", "1e-6"],
        ["--method", "tt", "--rank", "2"],
        ["--method", "tt", "--rtol", "1e-6"],
        ["--method", "tr", "--rank", "1,2,2"],
        ["--method", "tr", "--rtol", "1e-6"],
        ["--method", "ht", "--rank", "2"],
        ["--method", "ht", "--rtol", "1e-6"],
    ],
)
def test_an_array_of_rank_2_is_found_and_saved(
    options: list[str], array: Path, tmp_path: Path, runner: CliRunner
) -> None:
    out = tmp_path / "y.safetensors"
    done = runner.invoke(app, ["decompose", str(array), *options, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["error"] < 1e-4
    assert account["n_params"] < 5 * 6 * 7
    saved = tnet.load(out)
    assert np.allclose(np.asarray(saved.tensor.to_dense()), np.load(array), atol=1e-3)
    shown = runner.invoke(app, ["info", str(out)])
    assert shown.exit_code == 0, shown.output
    assert account["kind"] in shown.stdout
    assert "relative error" in shown.stdout


@pytest.mark.parametrize("method", ["mpo", "btt", "kronecker-sum"])
@pytest.mark.parametrize("size", [["--rank", "2"], ["--rtol", "1e-6"]])
def test_a_matrix_is_found_and_saved(method: str, size: list[str], tmp_path: Path, runner: CliRunner) -> None:
    rng = np.random.default_rng(0)
    # Of rank 2 as a sum of products, and in every block.
    left, right = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 1)) * rng.normal(size=(2, 1, 5))
    W = np.kron(left[0], right[0]) + np.kron(left[1], right[1])
    np.save(tmp_path / "w.npy", W)
    out = tmp_path / "y.safetensors"
    digits = ["--rows", "3,4", "--columns", "4,5"]
    done = runner.invoke(
        app, ["decompose", str(tmp_path / "w.npy"), "--method", method, *digits, *size, "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["error"] < 1e-6
    assert np.allclose(np.asarray(tnet.load(out).tensor), W)


def test_the_result_is_printed(array: Path, runner: CliRunner) -> None:
    done = runner.invoke(app, ["decompose", str(array), "--method", "tt", "--rank", "2"])
    assert done.exit_code == 0, done.output
    assert "TensorTrain of shape (5, 6, 7)" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "cp"], "--rank"),
        (["--method", "cp", "--rtol", "0.1"], "--rank"),
        (["--method", "cp", "--rank", "2,2,2"], "one integer"),
        (["--method", "tt"], "neither given"),
        (["--method", "tt", "--rank", "2", "--rtol", "0.1"], "both given"),
        (["--method", "tt", "--rank", "2.5"], "give an integer"),
        (["--method", "tt", "--rank", "0"], "at least 1"),
        (["--method", "tt", "--rtol", "-1"], "rtol"),
        (["--method", "svd", "--rank", "2"], "tucker"),
        (["--method", "mpo", "--rank", "2"], "need both"),
        (["--method", "btt", "--rank", "2", "--rows", "5"], "need both"),
        (["--method", "tt", "--rank", "2", "--rows", "5", "--columns", "7"], "take neither"),
        (["--method", "mpo", "--rank", "2", "--rows", "0", "--columns", "7"], "digits are at least 1"),
        (["--method", "mpo", "--rank", "2", "--rows", "a", "--columns", "7"], "--rows a"),
        (["--method", "ht", "--rank", "2,2"], "2 ranks for 4 nodes"),
        (["--method", "tt", "--rank", "2", "--out", "/no/where.safetensors"], "does not exist"),
    ],
)
def test_bad_options(options: list[str], message: str, array: Path, runner: CliRunner) -> None:
    done = runner.invoke(app, ["decompose", str(array), *options])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_nothing_is_overwritten(array: Path, runner: CliRunner) -> None:
    done = runner.invoke(app, ["decompose", str(array), "--method", "tt", "--rank", "2", "--out", str(array)])
    assert done.exit_code == 2
    assert "never overwritten" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\x93NUMPY\x01\x00", b"text"])
@pytest.mark.parametrize("command", [["decompose", "--method", "tt", "--rank", "2"], ["info"]])
def test_files_that_are_no_arrays(content: bytes, command: list[str], tmp_path: Path, runner: CliRunner) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    done = runner.invoke(app, [*command, str(path)])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output


def test_info_on_numpy_files(array: Path, tmp_path: Path, runner: CliRunner) -> None:
    np.savez_compressed(tmp_path / "two.npz", first=np.zeros((2, 3)), second=np.zeros(4, dtype=np.float32))
    done = runner.invoke(app, ["info", str(tmp_path / "two.npz"), "--json"])
    assert done.exit_code == 0, done.output
    arrays = json.loads(done.stdout)["arrays"]
    assert [(a["name"], a["dtype"], a["shape"]) for a in arrays] == [
        ("first", "float64", [2, 3]),
        ("second", "float32", [4]),
    ]
    assert "5 x 6 x 7" in runner.invoke(app, ["info", str(array)]).stdout


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path: Path, runner: CliRunner) -> None:
    name = "w\x1b[2J\x1b]0;title\x07\n[red]<b>\u202e"
    tnet.io.write_safetensors(tmp_path / "x.safetensors", {name: np.zeros(2)})
    done = runner.invoke(app, ["info", str(tmp_path / "x.safetensors")])
    assert done.exit_code == 0, done.output
    assert "w[red]<b>" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ({"quantization_config": {"quant_method": "tnet"}}, "damaged"),
        ({"quantization_config": {"quant_method": "tnet", "layers": {"a": 3}}}, "damaged"),
        ({"quantization_config": {"quant_method": "tnet", "layers": {"a": {"kind": "mpo"}}}}, "damaged"),
    ],
)
def test_info_on_folders_that_are_no_models(
    config: dict[str, object] | None, message: str, tmp_path: Path, runner: CliRunner
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    done = runner.invoke(app, ["info", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_info_on_nothing(tmp_path: Path, runner: CliRunner) -> None:
    assert runner.invoke(app, ["info", str(tmp_path / "nothing")]).exit_code == 2
