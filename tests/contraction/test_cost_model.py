"""Rates of this host: measured once, kept on disk, never trusted blindly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import tnet
from tnet.contraction import rates
from tnet.contraction.cost_model import program_seconds


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rates.host_rates.cache_clear()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "tnet").glob("rates-*.json"))


def test_rates_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rates.host_rates("float32")
    assert len(files(tmp_path)) == 1
    rates.host_rates.cache_clear()
    monkeypatch.setattr(rates, "_measure", lambda dtype: pytest.fail("measured again"))
    assert rates.host_rates("float32") == first
    assert rates.host_rates("float16") == first  # is computed in float32


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", "[" * 5000, "null", '{"step": 1}'])
def test_damaged_files_are_measured_again(tmp_path: Path, damage: str) -> None:
    first = rates.host_rates("float32")
    (path,) = files(tmp_path)
    path.write_text(damage)
    rates.host_rates.cache_clear()
    again = rates.host_rates("float32")
    assert len(again.mac) == len(first.mac)
    assert json.loads(path.read_text())


def test_values_that_no_host_has_are_measured_again(tmp_path: Path) -> None:
    first = rates.host_rates("float32")
    (path,) = files(tmp_path)
    path.write_text(json.dumps(first._replace(step=-1.0)))
    rates.host_rates.cache_clear()
    assert rates.host_rates("float32").step > 0


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rates.host_rates("float32").macs > 0


def test_predictions_grow_with_the_work() -> None:
    found = rates.host_rates("float64")
    seconds = []
    for n in (2, 32, 256, 2048):
        plan = tnet.plan("ij,jk,kl->il", *((n, n),) * 3)
        seconds.append(program_seconds(plan._program, plan.dtypes, 1, found))
    assert seconds == sorted(seconds)
    assert seconds[-1] > 100 * seconds[0] > 0
    plan = tnet.plan("ij,jk->ik", (64, 64), (64, 64))
    one = program_seconds(plan._program, plan.dtypes, 1, found)
    assert 10 * one < program_seconds(plan._program, plan.dtypes, 100, found)


def test_a_table_shows_the_prediction() -> None:
    assert "s predicted for this host" in repr(tnet.plan("ij,jk->ik", (8, 8), (8, 8)))


def test_hopeless_plans_take_forever() -> None:
    outer = [part for k in range(40) for part in ((2,) * 60, [60 * k + axis for axis in range(60)])]
    assert tnet.plan(*outer).predicted_seconds == math.inf
