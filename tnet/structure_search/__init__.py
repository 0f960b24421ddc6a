"""Search for the structure of a tensor network: topology, ranks and order of the modes, within a budget."""

from __future__ import annotations

from tnet.structure_search.budget import Budget, Ending
from tnet.structure_search.core_shapes.tree import TreeCoreShape, tree_core_shape
from tnet.structure_search.core_shapes.tucker import CoreShape, core_shape
from tnet.structure_search.latency import LayerLatency
from tnet.structure_search.latent_dimension import LatentDimension, latent_dimension
from tnet.structure_search.losses import DifferentiableLoss, MaskedError, SquaredError, WeightedError
from tnet.structure_search.objective import FewestParams, LatencyAndError, LeastError, Objective, SizeAndError
from tnet.structure_search.proposals import Algorithm, Candidate, Problem, Solver, Start
from tnet.structure_search.result import SearchResult, Solution
from tnet.structure_search.search import search
from tnet.structure_search.space import SearchSpace, default_max_rank
from tnet.structure_search.structure import Structure
from tnet.structure_search.trials import Evaluation, Trial

__all__ = [
    "Algorithm",
    "Budget",
    "Candidate",
    "CoreShape",
    "DifferentiableLoss",
    "Ending",
    "Evaluation",
    "FewestParams",
    "LatencyAndError",
    "LatentDimension",
    "LayerLatency",
    "LeastError",
    "MaskedError",
    "Objective",
    "Problem",
    "SearchResult",
    "SearchSpace",
    "SizeAndError",
    "Solution",
    "Solver",
    "SquaredError",
    "Start",
    "Structure",
    "TreeCoreShape",
    "Trial",
    "WeightedError",
    "core_shape",
    "default_max_rank",
    "latent_dimension",
    "search",
    "tree_core_shape",
]
