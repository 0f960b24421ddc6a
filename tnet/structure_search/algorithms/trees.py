"""Tree search: plan on the singular values of all cuts, decompose only the best, and learn from their true errors."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tnet.arrays import array_namespace
from tnet.errors import InputError
from tnet.structure_search.algorithms.tree_guide import ErrorModel, TreeGuide
from tnet.structure_search.losses import SquaredError
from tnet.structure_search.proposals import Problem, Proposals
from tnet.structure_search.space import SearchSpace
from tnet.structure_search.spectra import CutSpectra, cut_spectra
from tnet.structure_search.structure import Structure
from tnet.structure_search.trees.moves import tree_moves, with_links
from tnet.structure_search.trees.topology import Tree, tree_of
from tnet.structure_search.trials import Trial

__all__ = ["TreeSearch"]

Asking = Generator[Sequence[Structure], Sequence[Trial], bool]

TreeKey = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape and cuts of a tree."""

_FIT = 6  # rounds that one tree gets to meet the budget
_NEAREST = 2  # trees that the search for a price of errors ends with
_MARGIN = 1e-3  # of the error budget, kept when a prediction was too hopeful


@dataclass(frozen=True)
class TreeSearch:
    r"""The best of all trees over the modes, with internal cores, for a budget of error or of parameters.

    Parameters
    ----------
    slacks : tuple of float
        How many times less than the sum of tails the true error is assumed to be at first.
    n_draws : int
        Trees that are best when the tails are disturbed, in one round; there are rounds as long as they bring
        better ones.
    noise : float
        Standard deviation of the logarithms of that disturbance.
    n_finalists : int
        Trees whose ranks are adjusted by the errors that lowering each of them causes.

    Notes
    -----
    A tree of bonds cuts the modes in two at each, and

    .. math:: \max_e t_e(r_e) \le \mathrm{RSE} \le \sum_e t_e(r_e)

    with the tails t of the squared singular values (``spectra.cut_spectra``). So parameters plus
    a price times the sum of tails can be had for any tree without decomposing it, and the best of *all* trees with
    all ranks follows from dynamic programming over sets of modes
    (``tree_topology.cheapest_tree``), where the program synthesis of Guo et al. [1]_
    lists sketches of trees and solves an integer programme for each. The ranks of one tree within a budget are exact
    (``tree_ranks.fewest_params``). The rest is a dialogue: the true error is below the
    sum of tails, by a factor that each tree shows when it is evaluated, and its ranks are chosen again with that
    factor. In the end every rank of the best trees is lowered by one; what that costs weighs the tails of each bond,
    and the ranks are chosen again, until that brings nothing more.

    It ends as soon as the best score is one that no tree can beat (``TreeGuide.bound``), and returns that bound
    where the space is of trees.

    References
    ----------
    .. [1] Z. Guo, A. Deshpande, B. Kiedrowski, X. Wang, A. Gorodetsky, "Tensor network structure search with program
       synthesis", arXiv:2502.02711.
    """

    slacks: tuple[float, ...] = (1.0, 1.4, 2.0)
    n_draws: int = 8
    noise: float = 0.25
    n_finalists: int = 3

    def __post_init__(self) -> None:
        if not self.slacks or any(not (math.isfinite(s) and s >= 1) for s in self.slacks):
            raise InputError(f"slacks={self.slacks}: give numbers of at least 1; the true error is at most the sum.")
        if self.n_draws < 0 or self.n_finalists < 1 or not (math.isfinite(self.noise) and self.noise >= 0):
            raise InputError(
                f"n_draws={self.n_draws}, noise={self.noise}, n_finalists={self.n_finalists}: give n_draws >= 0, "
                "noise >= 0 and n_finalists >= 1."
            )

    def propose(self, problem: Problem, rng: np.random.Generator) -> Proposals:
        """Return the dialogue.

        Raises
        ------
        InputError
            The loss has no singular values to plan with.
        """
        guides = _guides(problem)
        hunt = _Hunt(problem, guides)
        bounds = [guide.bound() for guide in guides]
        bound = min(-math.inf if one is None else one for one in bounds)
        yield from self._opening(hunt)
        if problem.space.kind != "ranks":
            while not hunt.has_reached(bound) and (yield from self._vary(hunt, rng)):
                pass
        for _ in range(self.n_finalists):
            finalist = hunt.next_finalist()
            if finalist is None or hunt.has_reached(bound):
                break
            yield from hunt.adjust(finalist)
        return bound if problem.space.kind == "trees" and bound > -math.inf else None

    def _opening(self, hunt: _Hunt) -> Asking:
        """Ask for the best trees of each shape at several slacks, each with the ranks that its true error allows."""
        plans: dict[TreeKey, _Plan] = {}
        for slack in self.slacks:
            for guide in hunt.guides:
                if plans and hunt.problem.expired():
                    break
                for tree in hunt.trees(guide, slack):
                    plans.setdefault((guide.shape, tree.key), _Plan(guide, tree, _uniform(tree, slack)))
        return (yield from hunt.fit(list(plans.values())))

    def _vary(self, hunt: _Hunt, rng: np.random.Generator) -> Asking:
        """Ask for trees near the best ones, and for the best where tails are disturbed; return whether one wins."""
        plans: dict[TreeKey, _Plan] = {}
        for best in hunt.leaders(self.n_finalists):
            if hunt.problem.expired():
                break
            guide, price = best.plan.guide, best.price
            moved = tree_moves(
                best.plan.tree, max_internal=hunt.problem.space.n_internal, max_degree=guide.max_degree
            )
            for tree in guide.cheapest(hunt.allowed(guide, moved), price)[: self.n_draws]:
                plans.setdefault((guide.shape, tree.key), _Plan(guide, tree, _uniform(tree, best.slack)))
            for _ in range(self.n_draws):
                factors = np.exp(self.noise * rng.standard_normal(len(guide.cuts)))
                found = guide.best_tree(
                    price, best.plan.tree.degree, dict(zip(guide.cuts, factors.tolist(), strict=True))
                )
                for tree in hunt.allowed(guide, [found[0]] if found else []):
                    plans.setdefault((guide.shape, tree.key), _Plan(guide, tree, _uniform(tree, best.slack)))
        return (yield from hunt.fit([plan for plan in plans.values() if hunt.is_promising(plan)]))


class _Plan(NamedTuple):
    """A tree, and what is thought of its errors."""

    guide: TreeGuide
    tree: Tree
    model: ErrorModel


class _Found(NamedTuple):
    """A tree with ranks, and what came of it."""

    plan: _Plan
    ranks: tuple[int, ...]
    trial: Trial

    @property
    def slack(self) -> float:
        """Sum of tails over the true error."""
        total = float(np.sum(self.plan.guide.tails(self.plan.tree, self.ranks)))
        return max(1.0, total / self.trial.rse) if 0 < self.trial.rse < math.inf else 1.0

    @property
    def price(self) -> float:
        """Parameters that a unit of the sum of tails is worth here."""
        return self.plan.guide.exchange_rate(self.plan.tree, self.ranks)


@dataclass(eq=False)
class _Hunt:
    """The state of one dialogue."""

    problem: Problem
    guides: list[TreeGuide]
    found: dict[Structure, _Found] = field(default_factory=dict)
    canonical: dict[tuple[Tree, tuple[int, ...]], Structure] = field(default_factory=dict)
    tried: set[TreeKey] = field(default_factory=set)
    adjusted: set[TreeKey] = field(default_factory=set)
    best: _Found | None = None

    def trees(self, guide: TreeGuide, slack: float) -> list[Tree]:
        """Return the trees to begin with: of a template that is a tree just that one."""
        space = self.problem.space
        if space.kind == "ranks":
            structure = Structure(guide.shape, tuple((i, j, 2) for i, j in sorted(space.template)))
            tree = tree_of(structure) if structure.is_tree else None
            return [tree] if tree is not None and guide.is_known(tree) else []
        found: dict[Tree, None] = {}
        for degree in (2, 3, None):
            for tree, _ in guide.topologies(slack, degree)[:_NEAREST]:
                found.update(dict.fromkeys(self.allowed(guide, [tree])))
        return list(found)

    def allowed(self, guide: TreeGuide, trees: Sequence[Tree]) -> list[Tree]:
        """Return the trees with the fixed bonds of the space put in, as far as their cuts are known."""
        fixed = [(i, j) for i, j, rank in self.problem.space.fixed if rank > 1]
        changed = dict.fromkeys(other for tree in trees for other in with_links(tree, fixed))
        return [tree for tree in changed if guide.is_known(tree)]

    def ask(
        self, wanted: Iterable[tuple[_Plan, tuple[int, ...]]]
    ) -> Generator[Sequence[Structure], Sequence[Trial], list[_Found]]:
        """Ask for structures that are new and allowed; return what came of all that are known now."""
        new: dict[Structure, tuple[_Plan, tuple[int, ...]]] = {}
        keys = []
        for plan, ranks in wanted:
            structure = self._canonical(plan.tree, ranks)
            keys.append(structure)
            if structure not in self.found and self.problem.space.allows(structure):
                new.setdefault(structure, (plan, ranks))
        if new:
            trials = yield list(new)
            for trial, (structure, (plan, ranks)) in zip(trials, new.items(), strict=True):
                one = _Found(plan, ranks, trial)
                self.tried.add((plan.guide.shape, plan.tree.key))
                self.found[structure] = one
                if self.best is None or trial.score < self.best.trial.score:
                    self.best = one
        return [self.found[key] for key in keys if key in self.found]

    def _canonical(self, tree: Tree, ranks: tuple[int, ...]) -> Structure:
        """Return the canonical structure, remembered: its internal cores are brought into all orders."""
        place = (tree, ranks)
        if place not in self.canonical:
            self.canonical[place] = tree.structure(ranks).canonical()
        return self.canonical[place]

    def fit(self, plans: Sequence[_Plan]) -> Asking:
        """Let each tree show how far its error is below the sum of tails, and choose its ranks by that, repeatedly.

        Return whether the best score fell.
        """
        before = math.inf if self.best is None else self.best.trial.score
        for _ in range(_FIT):
            wanted = []
            for plan in plans:
                chosen = plan.guide.ranks(plan.tree, plan.model)
                if chosen is not None:
                    wanted.append((plan, chosen.ranks))
            known = set(self.found)
            answers = yield from self.ask(wanted)
            if not set(self.found) - known:
                break
            best = before if self.best is None else self.best.trial.score
            plans = [
                plan
                for plan in (_recalibrated(one) for one in answers if math.isfinite(one.trial.rse))
                if self._expected(plan) < 1.1 * best
            ]
        return self.best is not None and self.best.trial.score < before

    def _expected(self, plan: _Plan) -> float:
        """Return the score that the model promises for good ranks of a tree."""
        chosen = plan.guide.ranks(plan.tree, plan.model, is_exact=False)
        if chosen is None:
            return math.inf
        rse = min(1.0, max(0.0, plan.model.offset + chosen.tails))
        return self.problem.objective.score(plan.tree.structure(chosen.ranks), rse)

    def is_promising(self, plan: _Plan) -> bool:
        """Return whether a tree is new and could come near the best."""
        if (plan.guide.shape, plan.tree.key) in self.tried:
            return False
        return self.best is None or self._expected(plan) < 1.1 * self.best.trial.score

    def has_reached(self, bound: float) -> bool:
        """Return whether the best score is that of the best tree there may be."""
        return self.best is not None and self.best.trial.score <= bound

    def leaders(self, count: int) -> list[_Found]:
        """Return the best structure of each of the best trees."""
        leaders: dict[TreeKey, _Found] = {}
        for one in sorted(self.found.values(), key=lambda one: one.trial.score):
            leaders.setdefault((one.plan.guide.shape, one.plan.tree.key), one)
        return list(leaders.values())[:count]

    def next_finalist(self) -> _Found | None:
        """Return the best structure of the trees whose ranks were not adjusted yet."""
        left = [one for one in self.found.values() if (one.plan.guide.shape, one.plan.tree.key) not in self.adjusted]
        return min(left, key=lambda one: one.trial.score, default=None)

    def adjust(self, start: _Found) -> Asking:
        """Weigh the tail of each bond by the error that lowering its rank causes, and choose all ranks again."""
        guide, tree = start.plan.guide, start.plan.tree
        self.adjusted.add((guide.shape, tree.key))
        here, gained = start, False
        while True:
            lower = [
                (start.plan, tuple(r - (k == e) for k, r in enumerate(here.ranks)))
                for e, rank in enumerate(here.ranks)
                if rank > 1
            ]
            answers = yield from self.ask(lower)
            better = min([here, *answers], key=lambda one: one.trial.score)
            model = _local_model(here, {one.ranks: one for one in answers})
            for margin in (0.0, *(_MARGIN * 4**k for k in range(5))):
                hopeful = model._replace(offset=model.offset + margin * abs(here.trial.rse))
                chosen = guide.ranks(tree, hopeful)
                if chosen is None:
                    break
                (one,) = (yield from self.ask([(start.plan, chosen.ranks)])) or [here]
                better = min(better, one, key=lambda found: found.trial.score)
                if one.trial.score <= here.trial.score:
                    break
            if better.trial.score >= here.trial.score:
                return gained
            here, gained = better, True


def _guides(problem: Problem) -> list[TreeGuide]:
    """Return a guide for each shape that the tensor may have."""
    spectra = problem.spectra
    if spectra is None and not isinstance(problem.loss, SquaredError):
        raise InputError(
            f"TreeSearch plans with the singular values of all entries, which {type(problem.loss).__name__} has no "
            "use for: choose another algorithm."
        )
    xp = array_namespace(problem.x)
    guides = []
    for shape in dict.fromkeys((problem.shape, *problem.space.reshapes)):
        known = spectra if isinstance(spectra, CutSpectra) and spectra.shape == shape else None
        spectra_here = cut_spectra(xp.reshape(problem.x, shape)) if known is None else known
        guides.append(TreeGuide(spectra_here, problem.objective, problem.space, _degree(problem.space)))
    return guides


def _degree(space: SearchSpace) -> int | None:
    """Return the most bonds of a core that the space allows."""
    degrees = [] if space.max_degree is None else [space.max_degree]
    if space.template:
        cores = [core for pair in space.template for core in pair]
        degrees.append(max(cores.count(core) for core in cores))
    return min(degrees, default=None)


def _uniform(tree: Tree, slack: float) -> ErrorModel:
    return ErrorModel(np.full(len(tree.bonds), 1.0 / slack))


def _recalibrated(one: _Found) -> _Plan:
    """Return the plan of a tree whose true error is known."""
    total = float(np.sum(one.plan.guide.tails(one.plan.tree, one.ranks)))
    if total <= 0:
        return one.plan
    weight = min(1.0, max(one.trial.rse, 1e-3 * total) / total)
    return one.plan._replace(model=ErrorModel(np.full(len(one.ranks), weight)))


def _local_model(here: _Found, lower: dict[tuple[int, ...], _Found]) -> ErrorModel:
    """Return the model that is right at a structure, and at those with one rank lowered, bond by bond."""
    guide, tree = here.plan.guide, here.plan.tree
    tails = guide.tails(tree, here.ranks)
    total = float(np.sum(tails))
    weights = np.full(len(here.ranks), min(1.0, here.trial.rse / total) if total > 0 else 1.0)
    for e in range(len(here.ranks)):
        ranks = tuple(r - (k == e) for k, r in enumerate(here.ranks))
        one = lower.get(ranks)
        if one is not None and math.isfinite(one.trial.rse):
            step = float(guide.tails(tree, ranks)[e] - tails[e])
            if step > 0:
                weights[e] = min(2.0, max(1e-3, (one.trial.rse - here.trial.rse) / step))
    return ErrorModel(weights, here.trial.rse - float(np.dot(weights, tails)))
