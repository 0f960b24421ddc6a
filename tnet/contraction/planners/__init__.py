"""Planners: each takes a :class:`PlanningNetwork` and returns the pairwise steps of a contraction tree.

Modules whose loops are compiled import Numba; they are imported when a network is large enough to need them.
"""
