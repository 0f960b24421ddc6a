"""Ten sweeps of CP-ALS of 200^3 at rank 20 take at most 1/1.8 of the best peer's time, from the same start."""

from __future__ import annotations

from cp_peers import als_contenders, noisy_cp
from race import main

SHAPE, RANK = (200, 200, 200), 20

if __name__ == "__main__":
    contenders = als_contenders(SHAPE, RANK, 10, lambda: noisy_cp(SHAPE, RANK))
    main("cp_als_200", (__doc__ or "").strip(), contenders, bar=1.8)
