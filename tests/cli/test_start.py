"""The command line as a process: fast to start, clean to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tnet


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["compress", "--help"]])
def test_nothing_heavy_is_imported_to_answer(arguments: list[str]) -> None:
    code = (
        "import sys, tnet.cli\n"
        f"sys.argv = ['tnet', *{arguments!r}]\n"
        "try:\n    tnet.cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = _python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_version_is_that_of_the_package() -> None:
    assert _python("-m", "tnet", "--version").stdout == f"tnet {tnet.__version__}\n"


def test_an_unknown_command_exits_with_2() -> None:
    done = _python("-m", "tnet", "no-such-command")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
    assert done.stdout == ""


def test_an_ascii_terminal_gets_output_all_the_same() -> None:
    golden = Path(__file__).parents[1] / "io" / "golden" / "cp_v1.safetensors"
    done = _python("-m", "tnet", "info", str(golden), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert "factors.0" in done.stdout


def test_a_closed_pipe_is_no_error_message() -> None:
    golden = Path(__file__).parents[1] / "io" / "golden" / "cp_v1.safetensors"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "tnet", "info", str(golden)],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
