"""Which starts of which structures go on: races between the starts of a structure, ends and new rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tnet.arrays import Array
from tnet.structure_search.evaluate.stacks import Member
from tnet.structure_search.trials import Evaluation

__all__ = ["Race", "RaceSettings"]

# The best there is seems found when this many starts end within this share of each other; some false minima attract
# half the starts, so that one round does not tell.
_AGREEMENT = 1e-3
_STARTS_TO_AGREE = 3
_ROUNDS_TO_AGREE = 2
# Squared errors up to so many times the one to beat are judged by their pace and scatter. Those above may stand still
# long before they fall by orders of magnitude, as where a planted network is found.
_NEAR = 4.0
_TIMES_ITS_LOOKS = 2.0  # the gain since the last look that a start is granted at most
_DEVIATIONS = 1.0  # below the best that another start is granted


class RaceSettings(Protocol):
    """The rules."""

    @property
    def max_starts(self) -> int: ...  # noqa: D102
    @property
    def race_sweeps(self) -> int: ...  # noqa: D102
    @property
    def n_kept(self) -> int: ...  # noqa: D102
    @property
    def max_sweeps(self) -> int: ...  # noqa: D102
    @property
    def change(self) -> float: ...  # noqa: D102


class Race:
    """The account of a stack: arrays over its structures, and over the starts that are under way.

    Attributes
    ----------
    owners : array of int
        Structure of each start under way.
    n_sweeps : array of int
        Of each structure, over all its starts.
    """

    def __init__(self, targets: np.ndarray, beats: np.ndarray, goes_on: np.ndarray, settings: RaceSettings) -> None:
        n = len(targets)
        self._targets = targets
        self._beats = beats
        self._goes_on = goes_on
        self._settings = settings
        self._best = np.full(n, math.inf)
        self._n_starts = np.zeros(n, dtype=int)
        self._n_rounds = np.zeros(n, dtype=int)
        self._reached: list[dict[int, float]] = [{} for _ in range(n)]  # by start, when it ended
        self._settled: list[list[float]] = [[] for _ in range(n)]  # of starts that were not ended by the race
        self.n_sweeps = np.zeros(n, dtype=int)
        self.owners = np.zeros(0, dtype=int)
        self._starts = np.zeros(0, dtype=int)
        self._sweeps = np.zeros(0, dtype=int)
        self._errors = np.zeros(0)

    def new_starts(self, n_starts: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return (structure, round, number of random starts) for the structures that begin a round now."""
        busy = np.bincount(self.owners, minlength=len(self._best)) > 0
        rounds = []
        for k in np.flatnonzero(~busy).tolist():
            left = self._settings.max_starts - int(self._n_starts[k])
            wanting = self._goes_on[k] and self._best[k] > self._targets[k]
            wanting = wanting and not self._agree(k) and not self._scatter_too_little(k)
            if self._n_rounds[k] == 0:
                rounds.append((k, 0, n_starts[k]))
            elif wanting and min(n_starts[k], left) > 0:
                rounds.append((k, int(self._n_rounds[k]), min(n_starts[k], left)))
        return rounds

    def admit(self, structure: int, n_starts: int) -> None:
        """Begin so many starts of a structure."""
        first = int(self._n_starts[structure])
        self._n_starts[structure] += n_starts
        self._n_rounds[structure] += 1
        self.owners = np.concatenate([self.owners, np.full(n_starts, structure)])
        self._starts = np.concatenate([self._starts, np.arange(first, first + n_starts)])
        self._sweeps = np.concatenate([self._sweeps, np.zeros(n_starts, dtype=int)])
        self._errors = np.concatenate([self._errors, np.full(n_starts, math.inf)])

    def bests_of(self, errors: np.ndarray) -> np.ndarray:
        """Return for each structure the start under way that beats all before, -1 where none does."""
        errors = np.where(np.isfinite(errors), errors, math.inf)
        places = np.full(len(self._best), -1)
        order = np.lexsort((errors, self.owners))
        first = order[np.unique(self.owners[order], return_index=True)[1]]
        better = first[errors[first] < self._best[self.owners[first]]]
        places[self.owners[better]] = better
        return places

    def judged(self, errors: np.ndarray) -> np.ndarray:
        """Take the errors after a few more sweeps, and return the places of the starts that go on.

        A structure ends with the first start that reaches its target. A start ends when it has converged, swept often
        enough, or is too slow to beat what is known; of those that were looked at for the first time only the best
        few of each structure go on.
        """
        rules = self._settings
        errors = np.where(np.isfinite(errors), errors, math.inf)
        np.minimum.at(self._best, self.owners, errors)
        self._sweeps = self._sweeps + rules.race_sweeps
        np.add.at(self.n_sweeps, self.owners, rules.race_sweeps)
        known = np.isfinite(self._errors)
        before = np.where(known, self._errors, 1.0)
        gain = before - np.where(np.isfinite(errors), errors, 0.0)
        converged = known & ((gain < rules.change * before) | self._too_slow(errors, gain))
        won = (self._best <= self._targets)[self.owners]
        settled = converged | (self._sweeps >= rules.max_sweeps) | ~np.isfinite(errors)
        goes_on = ~won & ~settled & self._within_race(errors)
        for item in np.flatnonzero(~goes_on).tolist():
            owner = int(self.owners[item])
            self._reached[owner][int(self._starts[item])] = float(errors[item])
            if settled[item]:
                self._settled[owner].append(float(errors[item]))
        places = np.flatnonzero(goes_on)
        self.owners, self._starts, self._sweeps = self.owners[places], self._starts[places], self._sweeps[places]
        self._errors = errors[places]
        return places

    def evaluation(self, k: int, member: Member, cores: tuple[Array, ...], seconds: float) -> Evaluation:
        """Return the account of one structure, at so many seconds a sweep."""
        if not math.isfinite(self._best[k]):
            message = "no start gave a finite error"
            return Evaluation(member.structure, math.inf, n_sweeps=int(self.n_sweeps[k]), message=message)
        return Evaluation(
            structure=member.structure,
            rse=float(self._best[k]),
            cores=cores,
            start_errors=tuple(error for _, error in sorted(self._reached[k].items())),
            n_sweeps=int(self.n_sweeps[k]),
            seconds=seconds * int(self.n_sweeps[k]),
        )

    def _too_slow(self, errors: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Return which starts, near the error to beat, will not reach it at the pace of the last sweeps."""
        rules = self._settings
        beats = self._beats[self.owners]
        near = (self._best[self.owners] > beats) & (errors <= _NEAR * beats)
        left = np.minimum(rules.max_sweeps - self._sweeps, _TIMES_ITS_LOOKS * self._sweeps) / rules.race_sweeps
        return near & (errors - left * gain > beats)

    def _scatter_too_little(self, k: int) -> bool:
        """Return whether the error to beat is near, but out of reach as the ends of the starts scatter."""
        best, beat = self._best[k], self._beats[k]
        ends = [error for error in self._settled[k] if math.isfinite(error)]
        if len(ends) < 2 or not beat < best <= _NEAR * beat:
            return False
        return bool(best - _DEVIATIONS * np.std(ends, ddof=1) > beat)

    def _within_race(self, errors: np.ndarray) -> np.ndarray:
        """Return which starts are old, or among the best few new ones of their structure."""
        new = self._sweeps == self._settings.race_sweeps
        order = np.lexsort((errors, self.owners, ~new))
        owners = self.owners[order]
        first = np.flatnonzero(np.r_[True, (owners[1:] != owners[:-1]) | (new[order][1:] != new[order][:-1])])
        places = np.empty(len(order), dtype=int)
        places[order] = np.arange(len(order)) - np.repeat(first, np.diff(np.r_[first, len(order)]))
        return ~new | (places < self._settings.n_kept)

    def _agree(self, k: int) -> bool:
        """Return whether the best starts of two rounds or more that ended by themselves came to the same error."""
        if self._n_rounds[k] < _ROUNDS_TO_AGREE or len(self._settled[k]) < _STARTS_TO_AGREE:
            return False
        first, *_, last = sorted(self._settled[k])[:_STARTS_TO_AGREE]
        return last - first <= _AGREEMENT * last
