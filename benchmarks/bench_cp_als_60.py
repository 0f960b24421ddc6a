"""Ten sweeps of CP-ALS of 60^4 at rank 20 take at most 1/3 of the best peer's time, from the same start."""

from __future__ import annotations

from cp_peers import als_contenders, noisy_cp
from race import main

SHAPE, RANK = (60, 60, 60, 60), 20

if __name__ == "__main__":
    contenders = als_contenders(SHAPE, RANK, 10, lambda: noisy_cp(SHAPE, RANK))
    main("cp_als_60", (__doc__ or "").strip(), contenders, bar=3.0)
