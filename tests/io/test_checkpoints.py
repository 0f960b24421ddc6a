"""A job goes on where it was, or says why it does not."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest
import torch

from tnet.errors import FormatError, InputError
from tnet.io import open_checkpoint

KEY = {"ratio": 0.8, "targets": ("q", "k"), "model": "abc", "limit": None}


@pytest.fixture
def job(tmp_path):
    return open_checkpoint(tmp_path / "job", KEY)


def test_parts(job):
    job.save_tensors("layer.0", {"w": np.arange(3.0)}, {"loss": "1"})
    job.save_json("stats", {"a": [1, 2.5, None], "é": "x"})
    again = open_checkpoint(str(job.directory), dict(reversed(KEY.items())))
    assert again.names == ("layer.0", "stats")
    assert repr(again).endswith("2 parts)")
    assert again.has("layer.0")
    assert again.has("stats")
    assert not again.has("layer.1")
    tensors, metadata = again.load_tensors("layer.0")
    assert np.array_equal(tensors["w"], np.arange(3.0))
    assert metadata == {"loss": "1"}
    assert again.load_json("stats") == {"a": [1, 2.5, None], "é": "x"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_torch_parts(job, dtype):
    x = torch.randn(5, 3).to(dtype)
    job.save_tensors("a", {"x": x})
    assert job.has("a")
    found = job.load_tensors("a", library="torch")[0]["x"]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), x.view(torch.uint8))


def test_both_kinds_under_one_name(job):
    job.save_tensors("a", {"x": np.zeros(1)})
    job.save_json("a", 1)
    assert job.names == ("a",)
    assert job.has("a")
    (job.directory / "a.json").write_text("x")
    with pytest.warns(UserWarning, match="'a' is damaged"):
        assert not job.has("a")
    assert job.has("a")


def test_another_key_is_refused_by_name(job):
    changed = {**KEY, "ratio": 0.7, "seed": 1}
    del changed["model"]
    with pytest.raises(InputError) as info:
        open_checkpoint(job.directory, changed)
    text = str(info.value)
    assert "ratio was 0.8 and is now 0.7" in text
    assert "model was 'abc' and is now 'nothing'" in text
    assert "seed was 'nothing' and is now 1" in text
    assert "targets" not in text
    assert "remove the folder to begin again" in text


@pytest.mark.parametrize(
    "key",
    [{"a": float("nan")}, {"a": object()}, {"a": {1: 2, "1": 3}}, {"a": "\ud800"}, {"a": np.float32(1)}],
)
def test_keys_that_are_no_json(tmp_path, key):
    with pytest.raises(InputError, match="JSON only"):
        open_checkpoint(tmp_path / "job", key)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match=r"holds files but no job\.json"):
        open_checkpoint(tmp_path, KEY)
    with pytest.raises(InputError, match="is a file"):
        open_checkpoint(tmp_path / "mine", KEY)
    with pytest.raises(InputError, match="does not exist; make it first"):
        open_checkpoint(tmp_path / "none" / "job", KEY)
    (tmp_path / "empty").mkdir()
    open_checkpoint(tmp_path / "empty", KEY)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "job", "a" * 201, "a\n", "é", 3])
def test_part_names(job, name):
    for call in (job.has, job.load_tensors, job.load_json):
        with pytest.raises(InputError, match="checkpoint part"):
            call(name)
    with pytest.raises(InputError, match="checkpoint part"):
        job.save_json(name, 1)


def test_missing_parts(job):
    with pytest.raises(InputError, match="no such file"):
        job.load_tensors("a")
    with pytest.raises(InputError, match="no such file"):
        job.load_json("a")


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_every_truncation_counts_as_missing(job, kind):
    job.save_tensors("a", {"x": np.arange(4.0)})
    job.save_json("a", {"x": [1.5, "text"]})
    other = job.directory / ("a.json" if kind == "safetensors" else "a.safetensors")
    other.unlink()
    path = job.directory / f"a.{kind}"
    content = path.read_bytes()
    for n in range(len(content) - (1 if kind == "json" else 0)):  # JSON ends in a newline that says nothing
        path.write_bytes(content[:n])
        with pytest.raises(FormatError):
            job.load_tensors("a") if kind == "safetensors" else job.load_json("a")
        with pytest.warns(UserWarning, match="will be done again"):
            assert not job.has("a")
        assert not path.exists()


def test_flipped_bits_count_as_missing(job):
    value = {"x": [1.5, "text"], "y": 10}
    job.save_json("a", value)
    path = job.directory / "a.json"
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if job.has("a"):
                assert job.load_json("a") == value


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"sha256":"","value":{}}', b'{"sha256":"x","value":1e999}', b"[" * 99999]
)
def test_a_damaged_job_file(job, content):
    (job.directory / "job.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"job\.json"):
        open_checkpoint(job.directory, KEY)


@pytest.mark.parametrize("value", [{"format_version": 2, "key": {}}, {"key": {}}, [], None])
def test_other_versions(job, value):
    from tnet.io.checkpoints import _write_json

    _write_json(job.directory / "job.json", value)
    with pytest.raises(FormatError, match=r"format_version .* this tnet reads 1"):
        open_checkpoint(job.directory, KEY)


def test_stale_temporaries_are_swept(job):
    old, young = job.directory / ".a.0.tnet-tmp", job.directory / ".b.0.tnet-tmp"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    open_checkpoint(job.directory, KEY)
    assert not old.exists()
    assert young.exists()


def test_a_job_killed_before_its_first_file(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / ".job.json.0.tnet-tmp").touch()
    open_checkpoint(folder, KEY)


def test_remove(job):
    job.save_tensors("a", {"x": np.zeros(1)})
    job.save_json("b", 1)
    (job.directory / ".c.0.tnet-tmp").touch()
    job.remove()
    assert not job.directory.exists()


def test_remove_keeps_the_files_of_others(job):
    job.save_json("b", 1)
    (job.directory / "notes.txt").write_text("mine")
    job.remove()
    assert [p.name for p in job.directory.iterdir()] == ["notes.txt"]


def test_json_is_plain(job):
    job.save_json("a", (1, 2))
    assert json.loads((job.directory / "a.json").read_text())["value"] == [1, 2]
    with pytest.raises(InputError, match="JSON only"):
        job.save_json("a", float("inf"))
    assert job.load_json("a") == [1, 2]
