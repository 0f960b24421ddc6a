"""Versions of tnet, Python and the packages it can use."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["show_versions", "versions"]

_PACKAGES = (
    "numpy", "scipy", "numba", "array-api-compat", "opt_einsum", "safetensors",
    "torch", "transformers", "tokenizers", "cupy", "matplotlib", "tensorly",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the version of tnet, Python and each package that is installed, imported or not."""
    found = {"tnet": "", "python": sys.version.split()[0], "platform": platform.platform()}
    for package in ("tnet-tensors", *_PACKAGES):
        try:
            found["tnet" if package == "tnet-tensors" else package] = version(package)
        except PackageNotFoundError:
            continue
    if not found["tnet"]:
        from tnet import __version__

        found["tnet"] = __version__
    return found


def show_versions() -> None:
    """Print the versions, one a line, for a bug report."""
    sys.stdout.write("\n".join(f"{name:18s}{value}" for name, value in versions().items()) + "\n")
