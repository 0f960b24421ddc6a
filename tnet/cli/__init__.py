"""The command ``tnet``: one file a command; what is printed is decided here, what is computed is not."""

from __future__ import annotations

from tnet.cli.app import app, main

__all__ = ["app", "main"]
