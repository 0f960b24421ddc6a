"""``python -m tnet``: the same as the command ``tnet``."""

from __future__ import annotations

from tnet.cli import main

if __name__ == "__main__":
    main()
