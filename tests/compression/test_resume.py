"""The same call goes on after an interruption within a stage, and ends in the same model."""

from __future__ import annotations

import copy

import pytest
import torch

from tnet.compression import compress, job, moments, pipeline, plan_compression
from tnet.errors import InputError

IDS = torch.randint(3, 250, (40, 12), generator=torch.Generator().manual_seed(1))


def run(model, **options):
    options = {
        "ratio": 0.6,
        "calibration": [{"input_ids": IDS}],
        "candidates": ("dense", "interpolative", "shared"),
        "progress": False,
    } | options
    return compress(model, **options)


def interrupt_after(monkeypatch, module, name: str, count: int) -> list[int]:
    """Let the function work ``count`` times, then raise; returns the number of calls as a list of one."""
    original = getattr(module, name)
    calls = [0]

    def limited(*arguments, **options):
        calls[0] += 1
        if calls[0] > count:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, limited)
    return calls


def count_calls(monkeypatch, module, name: str, function) -> int:
    with monkeypatch.context() as patch:
        calls = interrupt_after(patch, module, name, 10**9)
        function()
    return calls[0]


@pytest.mark.parametrize(
    ("fixture", "count"), [("tiny_llama", 3), ("tiny_llama", 9), ("tiny_llama", 11), ("tiny_bert", 15)]
)
def test_a_pass_goes_on_with_the_batch_that_was_cut(request, fixture, tmp_path, monkeypatch, count):
    model = request.getfixturevalue(fixture)
    monkeypatch.setattr(job, "_CHECKPOINT_SECONDS", 0.0)
    whole = copy.deepcopy(model)
    expected = run(whole)
    needed = 17  # 8 batches, 1 of the validation part, 8 of the compressed model
    with monkeypatch.context() as patch:
        interrupt_after(patch, moments, "_differentiate", count)
        with pytest.raises(KeyboardInterrupt):
            run(model, checkpoint=tmp_path / "work")
    results = []
    resumed = count_calls(
        monkeypatch, moments, "_differentiate", lambda: results.append(run(model, checkpoint=tmp_path / "work"))
    )
    assert resumed == needed - count, "no batch is done twice"
    assert results[0].choices == expected.choices
    assert results[0].validation_losses == expected.validation_losses
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())
    with torch.no_grad():
        assert torch.equal(whole(input_ids=IDS[:2])[0], model(input_ids=IDS[:2])[0])
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("stage", ["_fit", "Judge", "ridge_target", "contiguous", "measure", "mean_damage"])
def test_late_stages_reuse_all_passes(tiny_llama, tmp_path, monkeypatch, stage):
    whole = copy.deepcopy(tiny_llama)
    expected = run(whole)
    with monkeypatch.context() as patch:
        interrupt_after(patch, pipeline, stage, 0)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_llama, checkpoint=tmp_path / "work")
    results = []
    passes = count_calls(
        monkeypatch, moments, "_differentiate", lambda: results.append(run(tiny_llama, checkpoint=tmp_path / "work"))
    )
    assert passes == (8 if stage == "_fit" else 0)
    assert results[0].choices == expected.choices
    assert all(torch.equal(value, tiny_llama.state_dict()[name]) for name, value in whole.state_dict().items())
    assert not (tmp_path / "work").exists()


@pytest.fixture
def begun(tiny_llama, tmp_path, monkeypatch):
    """A folder that an interrupted job has left behind."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, pipeline, "_fit", 0)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_llama, checkpoint=tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5}, "ratio was 0.6 and is now 0.5"),
        ({"ratio": None, "max_bytes": "100KB"}, "max_bytes was None and is now 100000"),
        ({"candidates": ("dense", "interpolative")}, "candidates was"),
        ({"targets": "mlp"}, "targets was None and is now 'mlp'"),
        ({"sensitivity": "output"}, "sensitivity was 'fisher'"),
        ({"rng": 1}, "seed was 0 and is now 1"),
        ({"dtype": "float32"}, "dtype was 'bfloat16'"),
        ({"batch_size": 2}, "batch_size was 4"),
        ({"calibration": [{"input_ids": IDS.flip(0)}]}, "data was"),
        ({"calibration": [{"input_ids": IDS, "attention_mask": (IDS != IDS[0, 0]).long()}]}, "data was"),
        ({"evaluation": [{"input_ids": IDS}]}, "data was"),
    ],
)
def test_another_job_is_refused_with_the_difference(tiny_llama, begun, options, message):
    before = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    parts = sorted(path.name for path in begun.iterdir())
    with pytest.raises(InputError, match=f"belongs to another job: .*{message}"):
        run(tiny_llama, checkpoint=begun, **options)
    assert sorted(path.name for path in begun.iterdir()) == parts
    assert all(torch.equal(value, before[name]) for name, value in tiny_llama.state_dict().items())


@pytest.mark.parametrize("part", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_another_model_is_refused(tiny_llama, begun, part):
    with torch.no_grad():
        dict(tiny_llama.named_parameters())[part][0, 0] += 1.0
    with pytest.raises(InputError, match="belongs to another job: model was"):
        run(tiny_llama, checkpoint=begun)


def test_a_damaged_part_is_done_again(tiny_llama, begun):
    whole = copy.deepcopy(tiny_llama)
    run(whole)
    path = begun / "moments-first.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged and will be done again"):
        run(tiny_llama, checkpoint=begun)
    assert all(torch.equal(value, tiny_llama.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_plan_leaves_its_work_for_the_compression(tiny_llama, tmp_path, monkeypatch):
    options = {
        "ratio": 0.6,
        "calibration": [{"input_ids": IDS}],
        "candidates": ("dense", "interpolative", "shared"),
        "progress": False,
        "checkpoint": tmp_path / "work",
    }
    plan = plan_compression(tiny_llama, **options)
    assert plan_compression(tiny_llama, **options).choices == plan.choices
    passes = count_calls(monkeypatch, moments, "_differentiate", lambda: compress(tiny_llama, **options))
    assert passes == 8, "only the pass over the compressed model"
