"""What cannot be used is refused in under a second, with the remedy, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tnet.cli import app
from tnet.cli.inputs import CANDIDATES, DTYPES, parse_share
from tnet.cli.models import locate_model
from tnet.errors import FormatError, InputError, UnsafeFileError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model until somebody loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def _index(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))


Change = Callable[[Path], None]

BAD_OPTIONS = {
    "no budget": ([], "neither given"),
    "two budgets": (["--ratio", "0.5", "--max-bytes", "1MB"], "both given"),
    "ratio 0": (["--ratio", "0"], "(0, 1]"),
    "ratio above 1": (["--ratio", "1.2"], "(0, 1]"),
    "ratio negative": (["--ratio", "-0.5"], "(0, 1]"),
    "ratio nan": (["--ratio", "nan"], "(0, 1]"),
    "ratio no number": (["--ratio", "half"], "number"),
    "bytes without sense": (["--max-bytes", "many"], "--max-bytes"),
    "bytes 0": (["--max-bytes", "0"], "--max-bytes"),
    "dtype": (["--ratio", "0.5", "--dtype", "int4"], "bfloat16, float16, float32"),
    "device": (["--ratio", "0.5", "--device", "gpu"], "cuda"),
    "targets": (["--ratio", "0.5", "--targets", "(q_proj"], "regular expression"),
    "candidates": (["--ratio", "0.5", "--candidates", "mpo,svd"], "'svd'"),
    "sensitivity": (["--ratio", "0.5", "--sensitivity", "none"], "fisher"),
    "gate": (["--ratio", "0.5", "--max-ppl-increase", "-5%"], "0.05, or 5%"),
    "sequence length": (["--ratio", "0.5", "--sequence-length", "1"], "2"),
    "batch size": (["--ratio", "0.5", "--batch-size", "0"], "1"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options(case: str, model: Path, texts: Path, tmp_path: Path, runner: CliRunner) -> None:
    options, message = BAD_OPTIONS[case]
    calibration = ["--calibration", str(texts / "calibration.txt")]
    _refused(runner, [str(model), str(tmp_path / "out"), *options, *calibration], message, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "no such file"),
        ("empty.txt", "is empty"),
        ("binary.txt", "UTF-8"),
        ("short.txt", "shorter than one sequence of 256"),
        (".", "is a folder"),
    ],
)
@pytest.mark.parametrize("option", ["--calibration", "--evaluation"])
def test_texts(
    name: str, message: str, option: str, model: Path, texts: Path, tmp_path: Path, runner: CliRunner
) -> None:
    given = {"--calibration": str(texts / "calibration.txt"), option: str(texts / name)}
    options = [word for pair in given.items() for word in pair]
    _refused(runner, [str(model), str(tmp_path / "out"), "--ratio", "0.5", *options], message, tmp_path)


def test_no_calibration(model: Path, tmp_path: Path, runner: CliRunner) -> None:
    _refused(runner, [str(model), str(tmp_path / "out"), "--ratio", "0.5"], "--calibration", tmp_path)


@pytest.mark.parametrize(("out", "message"), [("model", "never overwritten"), ("no/where", "does not exist")])
def test_places_to_write(out: str, message: str, model: Path, texts: Path, tmp_path: Path, runner: CliRunner) -> None:
    options = ["--ratio", "0.5", "--calibration", str(texts / "calibration.txt")]
    _refused(runner, [str(model), str(tmp_path / out), *options], message, tmp_path)
    _refused(
        runner, [str(model), str(tmp_path / "new"), *options, "--report", str(tmp_path / out)], message, tmp_path
    )


BAD_MODELS: dict[str, tuple[Change, type[Exception], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), InputError, "neither config.json nor a .gguf"),
    "config no json": (lambda f: _write(f / "config.json", "{"), FormatError, "JSON"),
    "config no object": (lambda f: _write(f / "config.json", "[]"), FormatError, "not an object"),
    "no architecture": (lambda f: _write(f / "config.json", "{}"), InputError, "architectures"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), InputError, "no weights"),
    "pickled weights": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin") and None,
        UnsafeFileError,
        "pickle",
    ),
    "shard above": (lambda f: _index(f, "../model.safetensors"), UnsafeFileError, "outside"),
    "shard above, inside": (lambda f: _index(f, "a/../model.safetensors"), UnsafeFileError, "outside"),
    "shard absolute": (lambda f: _index(f, "/etc/passwd"), UnsafeFileError, "outside"),
    "shard absolute, Windows": (lambda f: _index(f, "C:\\x.safetensors"), UnsafeFileError, "outside"),
    "shard above, Windows": (lambda f: _index(f, "..\\x.safetensors"), UnsafeFileError, "outside"),
    "shard missing": (lambda f: _index(f, "x.safetensors"), InputError, "missing"),
    "shard no text": (lambda f: _index(f, 3), FormatError, "weight_map"),
    "index no json": (lambda f: _write(f / "model.safetensors.index.json", "{"), FormatError, "index.json"),
    "two ggufs": (
        lambda f: [(f / "config.json").unlink(), _write(f / "a.gguf", ""), _write(f / "b.gguf", "")] and None,
        InputError,
        "2 .gguf",
    ),
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models(case: str, model: Path, texts: Path, tmp_path: Path, runner: CliRunner) -> None:
    change, error, message = BAD_MODELS[case]
    change(model)
    with pytest.raises(error):
        locate_model(str(model))
    options = ["--ratio", "0.5", "--calibration", str(texts / "calibration.txt")]
    _refused(runner, [str(model), str(tmp_path / "out"), *options], message, tmp_path)


def test_a_link_that_leaves_the_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    _index(model, "shard.safetensors")
    (model / "shard.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError, match="outside"):
        locate_model(str(model))


def test_the_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "models--a--b" / "blob").write_bytes(b"")
    (snapshot / "s.safetensors").symlink_to(tmp_path / "models--a--b" / "blob")
    _index(snapshot, "s.safetensors")
    assert locate_model(str(snapshot)).causal is False


@pytest.mark.parametrize("name", ["no-such-folder", "./no/where", "/no/where", "a/b/c", "bad name/x", "../x"])
def test_a_folder_that_is_not_there_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="no model folder"):
        locate_model(name)


def test_names_on_the_hub_and_ggufs_are_recognised(tmp_path: Path) -> None:
    assert locate_model("organisation/name-1.5").causal is None
    (tmp_path / "x.gguf").write_bytes(b"")
    for given in (tmp_path, tmp_path / "x.gguf"):
        source = locate_model(str(given))
        assert (source.gguf_file, source.causal) == ("x.gguf", True)


@pytest.mark.parametrize(("name", "error"), [("w.pt", UnsafeFileError), ("w.txt", InputError)])
def test_files_that_are_no_models(name: str, error: type[Exception], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(error):
        locate_model(str(tmp_path / name))


def test_a_refusal_does_not_wait_for_slow_imports(model: Path, texts: Path, tmp_path: Path) -> None:
    """What would take it past a second: torch, transformers and numba take seconds to import."""
    options = ["--ratio", "2", "--calibration", str(texts / "calibration.txt")]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tnet", "compress", str(model), str(tmp_path / "out"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rsplit("|", 1)[1].strip() for line in lines}
    assert "numpy" in imported
    assert imported.isdisjoint({"torch", "transformers", "numba", "scipy.linalg", "matplotlib"})


def test_the_words_are_those_of_the_library() -> None:
    from tnet.compression.catalogue import CANDIDATES as candidates
    from tnet.compression.settings import STORAGE_DTYPES

    assert candidates == CANDIDATES
    assert tuple(STORAGE_DTYPES) == DTYPES


@pytest.mark.parametrize(
    ("text", "value"), [("0.05", 0.05), ("5%", 0.05), (" 12.5 % ", 0.125), (".5", 0.5), (None, None)]
)
def test_shares(text: str | None, value: float | None) -> None:
    assert parse_share(text, "--x") == value


def _refused(runner: CliRunner, arguments: list[str], message: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = runner.invoke(app, ["compress", *arguments])
    assert result.exit_code == 2, result.output
    flat = " ".join(result.stderr.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert sorted(folder.rglob("*")) == before
