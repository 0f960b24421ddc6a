"""``tnet compress`` from end to end on tiny random models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tnet.cli import app, compress

SMALL = ["--sequence-length", "32", "--batch-size", "16", "--no-refine", "--candidates", "dense,interpolative"]


@pytest.fixture
def arguments(llama_folder: Path, texts: Path, tmp_path: Path) -> list[str]:
    return [
        "compress",
        str(llama_folder),
        str(tmp_path / "out"),
        "--calibration",
        str(texts / "calibration.txt"),
        *SMALL,
    ]


def test_a_model_is_compressed_measured_saved_and_loads_again(
    arguments: list[str], texts: Path, tmp_path: Path, runner: CliRunner
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = tmp_path / "report.html"
    evaluation = ["--evaluation", str(texts / "evaluation.txt")]
    done = runner.invoke(app, [*arguments, "--ratio", "0.6", "--json", *evaluation, "--report", str(report)])
    assert done.exit_code == 0, done.output
    account = json.loads(done.stdout)
    assert account["out"] == str(tmp_path / "out")
    assert account["ratio"] <= 0.6
    assert account["after"]["perplexity"] > 0
    assert account["before"]["kl"] == 0
    assert not (tmp_path / "out.partial").exists()
    assert "<svg" in report.read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("with", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(ids).logits).all()

    shown = runner.invoke(app, ["info", str(tmp_path / "out"), "--json"])
    layers = json.loads(shown.stdout)["layers"]
    chosen = [layer for layer in account["layers"] if layer["kind"] != "dense"]
    assert {layer["name"] for layer in layers} == {name for layer in chosen for name in layer["members"]}
    assert sum(layer["n_params"] for layer in layers) <= account["n_params"]
    table = runner.invoke(app, ["info", str(tmp_path / "out")])
    assert table.exit_code == 0
    assert "interpolative" in table.stdout
    assert "perplexity" in table.stdout


def test_the_result_is_printed_before_and_after(arguments: list[str], runner: CliRunner) -> None:
    done = runner.invoke(app, [*arguments, "--max-bytes", "110KiB", "--dense", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    for word in ("before", "after", "perplexity", "kl", "transformers alone"):
        assert word in done.stdout


def test_a_plan_writes_nothing(arguments: list[str], tmp_path: Path, runner: CliRunner) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = runner.invoke(app, [*arguments, "--ratio", "0.6", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["n_params"] <= 0.6 * plan["n_params_before"]
    assert sum(layer["n_params"] for layer in plan["layers"]) == plan["n_params"]
    done = runner.invoke(app, [*arguments, "--ratio", "0.6", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "q_proj" in done.stdout
    assert "nothing was written" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missed_gate_writes_nothing_exits_with_3_and_keeps_the_work(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner
) -> None:
    from tnet.compression import CompressionResult

    monkeypatch.setattr(CompressionResult, "increase", property(lambda _: 0.5))
    kept = tmp_path / "out.partial"

    def stamps() -> list[tuple[str, int]]:
        return sorted((file.name, file.stat().st_mtime_ns) for file in kept.glob("moments-*"))

    done = runner.invoke(app, [*arguments, "--ratio", "0.2", "--max-ppl-increase", "5%", "--json"])
    assert done.exit_code == 3, done.output
    assert "quality gate" in done.stderr
    assert str(kept) in done.stderr
    assert json.loads(done.stdout)["out"] is None
    assert not (tmp_path / "out").exists()
    first = stamps()
    assert first
    done = runner.invoke(app, [*arguments, "--ratio", "0.2", "--max-ppl-increase", "0.49"])
    assert done.exit_code == 3, done.output
    assert stamps() == first
    done = runner.invoke(app, [*arguments, "--ratio", "0.2", "--max-ppl-increase", "50%"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "config.json").exists()
    assert not kept.exists()


def test_an_encoder_is_measured_by_its_embeddings(
    bert_folder: Path, texts: Path, tmp_path: Path, runner: CliRunner
) -> None:
    paths = [str(bert_folder), str(tmp_path / "out"), "--calibration", str(texts / "calibration.txt")]
    done = runner.invoke(app, ["compress", *paths, *SMALL, "--ratio", "0.7", "--json"])
    assert done.exit_code == 0, done.output
    assert 0 < json.loads(done.stdout)["after"]["cosine"] <= 1 + 1e-9


def test_interrupts_and_mistakes_of_our_own(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, runner: CliRunner
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(compress, "_compress", interrupted)
    done = runner.invoke(app, [*arguments, "--ratio", "0.5"])
    assert done.exit_code == 130
    assert "run the same line again" in done.stderr
    monkeypatch.setattr(compress, "_compress", broken)
    done = runner.invoke(app, [*arguments, "--ratio", "0.5"])
    assert done.exit_code == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_device_that_is_not_there(arguments: list[str], runner: CliRunner) -> None:
    done = runner.invoke(app, [*arguments, "--ratio", "0.5", "--device", "cuda:7"])
    assert done.exit_code == 2
    assert "--device cuda:7" in done.stderr


def test_code_in_a_model_folder_is_never_run(
    llama_folder: Path, texts: Path, tmp_path: Path, runner: CliRunner
) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(llama_folder, evil)
    canary = tmp_path / "canary"
    (evil / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass EvilForCausalLM: pass\n")
    config = json.loads((evil / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}}
    (evil / "config.json").write_text(json.dumps(config))
    paths = [str(evil), str(tmp_path / "out"), "--calibration", str(texts / "calibration.txt")]
    done = runner.invoke(app, ["compress", *paths, "--ratio", "0.5", *SMALL])
    assert done.exit_code == 2, done.output
    assert "transformers cannot load" in done.stderr
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
