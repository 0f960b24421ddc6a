"""The script ``run`` on machines that lack something, without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: What the script may use besides Python.
TOOLS = ("sh", "sed", "cat", "cksum", "dirname", "env")

FAKE_PYTHON = """#!/bin/sh
# Answers as a Python of version $VERSION, with or without ensurepip; notes how it was called.
echo "$(basename "$0") $*" >>"{log}"
case "$*" in
    *version_info*) [ "{version}" = new ] ;;
    *ensurepip*) [ "{venv}" != missing ] ;;
    "-m venv"*)
        [ "{venv}" = works ] || {{ echo 'ensurepip is not available' >&2; exit 1; }}
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python ;;
    *) exit {status} ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what the script reads, in a folder whose name has a space."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "constraints", folder / "constraints")
    (folder / ".ci").mkdir()
    for name in ("run", "pyproject.toml", ".ci/run"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "bin").mkdir()
    for tool in (*TOOLS, "mkdir", "cp", "basename"):
        found = shutil.which(tool)
        assert found is not None
        (folder / "bin" / tool).symlink_to(found)
    return folder


def _add_python(clone: Path, name: str, *, version: str = "new", venv: str = "works", status: int = 0) -> None:
    path = clone / "bin" / name
    path.write_text(FAKE_PYTHON.format(log=clone / "log", version=version, venv=venv, status=status))
    path.chmod(0o755)


def _run(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(clone / "run"), *arguments],
        env={"PATH": str(clone / "bin"), **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _log(clone: Path) -> str:
    return (clone / "log").read_text() if (clone / "log").exists() else ""


@pytest.mark.parametrize("arguments", [[], ["help"], ["tset"]])
def test_the_commands_are_listed(arguments: list[str], clone: Path) -> None:
    done = _run(clone, *arguments)
    assert done.returncode == 2
    for command in ("demo", "test", "docs", "bench"):
        assert f"./run {command}" in done.stderr


def test_no_python(clone: Path) -> None:
    done = _run(clone, "demo")
    assert done.returncode == 2
    assert "found no Python" in done.stderr
    assert not (clone / ".venv").exists()


def test_only_an_old_python(clone: Path) -> None:
    _add_python(clone, "python3", version="old")
    done = _run(clone, "test")
    assert done.returncode == 2
    assert "python3 is older than Python 3.11" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_python_without_venv_names_the_package(clone: Path) -> None:
    _add_python(clone, "python3.11", venv="missing")
    done = _run(clone, "demo")
    assert done.returncode == 2
    assert "python3-venv" in done.stderr
    assert "python3.11-venv" in done.stderr


def test_a_venv_that_cannot_be_made_names_the_package(clone: Path) -> None:
    _add_python(clone, "python3", venv="fails")
    done = _run(clone, "demo")
    assert done.returncode == 2
    assert "ensurepip is not available" in done.stderr
    assert "python3-venv" in done.stderr


def test_a_python_that_can_is_preferred_to_one_that_cannot(clone: Path) -> None:
    _add_python(clone, "python3.11", venv="missing")
    _add_python(clone, "python3", version="old")
    _add_python(clone, "python3.12")
    assert _run(clone, "demo").returncode == 0
    assert "python3.12 -m venv" in _log(clone)


def test_the_environment_chooses_the_python(clone: Path) -> None:
    _add_python(clone, "python3.11")
    _add_python(clone, "my-python")
    assert _run(clone, "demo", PYTHON="my-python").returncode == 0
    assert "my-python -m venv" in _log(clone)


def test_everything_is_installed_once_until_something_changes(clone: Path) -> None:
    _add_python(clone, "python3")
    first = _run(clone, "demo", "--out", "x")
    assert first.returncode == 0, first.stderr
    assert "install -c constraints/py311.txt -e .[demo]" in _log(clone)
    assert "install --no-deps -r constraints/models.txt" in _log(clone)
    assert _log(clone).endswith("-m tnet demo --out x\n")
    (clone / "log").unlink()

    assert _run(clone, "demo").returncode == 0
    assert "install" not in _log(clone)

    assert _run(clone, "docs").returncode == 0
    assert "-e .[docs]" in _log(clone)
    assert _log(clone).endswith("-m sphinx -n -W -b html docs docs/_build/html\n")
    (clone / "log").unlink()

    (clone / "constraints" / "py311.txt").write_text("numpy==2.4.6\n")
    assert _run(clone, "demo").returncode == 0
    assert "-e .[demo]" in _log(clone)
    assert "-m venv" not in _log(clone)


def test_a_failed_installation_leaves_no_stamp(clone: Path) -> None:
    _add_python(clone, "python3", status=1)
    done = _run(clone, "demo")
    assert done.returncode == 2
    assert "could not install tnet[demo]" in done.stderr
    assert not list((clone / ".venv").glob(".installed-*"))


def test_a_missing_benchmark_is_named(clone: Path) -> None:
    _add_python(clone, "python3")
    done = _run(clone, "bench", "nothing")
    assert done.returncode == 2
    assert "benchmarks/bench_nothing.py" in done.stderr


def _fake_checks(clone: Path, failing: str = "", tests: int = 0) -> None:
    _add_python(clone, "python3")
    assert _run(clone, "demo").returncode == 0  # makes .venv
    stamp = clone / ".venv" / ".installed-demo"
    stamp.rename(stamp.with_name(".installed-dev"))
    for name in ("ruff", "lint-imports", "pyright"):
        script = clone / ".venv" / "bin" / name
        script.write_text(f"#!/bin/sh\necho {name} said something\n[ {name} != '{failing}' ]\n")
        script.chmod(0o755)
    python = clone / ".venv" / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho \"$*\"\necho '=== 3 passed in 0.1s ==='\nexit {tests}\n")


@pytest.mark.parametrize(
    ("failing", "tests", "code"), [("", 0, 0), ("pyright", 0, 1), ("ruff", 1, 1), ("", 1, 1), ("", 5, 5)]
)
def test_tests_end_with_the_line_of_pytest_and_fail_with_any_step(
    failing: str, tests: int, code: int, clone: Path
) -> None:
    _fake_checks(clone, failing, tests)
    done = _run(clone, "test")
    assert done.returncode == code
    assert done.stdout.splitlines() == ["-m pytest -n 2", "=== 3 passed in 0.1s ==="]
    assert ("FAILED" in done.stderr) == bool(failing)
    assert failing in done.stderr


def test_continuous_integration_is_the_same_command(clone: Path) -> None:
    _fake_checks(clone)
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, str(clone / ".ci" / "run")],
        env={"PATH": str(clone / "bin")},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "=== 3 passed in 0.1s ==="


@pytest.mark.parametrize("name", ["run", ".ci/run"])
def test_the_scripts_may_be_executed(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
