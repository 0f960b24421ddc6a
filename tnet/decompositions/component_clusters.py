"""Which components of several fits are the same one, and how clearly."""

from __future__ import annotations

import numpy as np

__all__ = ["cluster_silhouettes", "matched_components"]

_MATCHING_ROUNDS = 100


def matched_components(cosines: np.ndarray, start: int) -> np.ndarray:
    """Return labels, shape (P, R): a permutation for each fit, improved in turn until none changes.

    Clustering with one member of each fit: an assignment by the mean cosine to the other members.

    Parameters
    ----------
    cosines : array, shape (P, R, P, R)
        Between component r of fit p and component s of fit q.
    start : int
        The fit whose components begin the clusters.
    """
    from scipy.optimize import linear_sum_assignment

    P, R = cosines.shape[:2]
    labels = np.stack([linear_sum_assignment(-cosines[p, :, start, :])[1] for p in range(P)])
    for _ in range(_MATCHING_ROUNDS):
        before = labels.copy()
        for p in range(P):
            likeness = np.zeros((R, R))  # component of fit p, cluster
            for q in range(P):
                if q != p:
                    likeness[:, labels[q]] += cosines[p, :, q, :]
            labels[p] = linear_sum_assignment(-likeness)[1]
        if np.array_equal(labels, before):
            break
    return labels


def cluster_silhouettes(cosines: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r"""Return the mean silhouette of each of R >= 2 clusters, shape (R,), with :math:`1 - \cos` as the distance.

    Parameters
    ----------
    cosines : array, shape (P, R, P, R)
    labels : array, shape (P, R)
        Of :func:`matched_components`.
    """
    P, R = labels.shape
    member = np.zeros((P * R, R))
    member[np.arange(P * R), labels.reshape(-1)] = 1.0
    sums = np.maximum(1.0 - cosines.reshape(P * R, P * R), 0.0) @ member  # of distances; that to itself is 0
    own = np.sum(sums * member, axis=1) / (P - 1)
    other = np.min(np.where(member > 0, np.inf, sums), axis=1) / P
    widest = np.maximum(np.maximum(own, other), np.finfo(float).tiny)
    return member.T @ ((other - own) / widest) / P
