"""What each layer could become: one menu a layer, with parameters, bytes, multiply-adds and loss of each entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnet.compression.targets import Target

__all__ = ["Menu", "Site", "concatenate", "dense_menu", "interpolative_menu", "mpo_menu", "shared_menu"]

#: Bytes of one entry of the column order that the interpolative gauge stores.
INDEX_BYTES = 4


@dataclass(frozen=True, eq=False)
class Menu:
    """Candidates for one layer, or for several that are replaced together.

    Parameters
    ----------
    members : tuple of str
        The layers that one choice decides.
    kinds : tuple of str
        "dense", "interpolative", "shared" or "mpo", by entry.
    ranks : tuple of tuple of int
        Rank, or bonds of the MPO, by entry; empty for dense.
    n_params, n_bytes, macs : ndarray of int
        Elements stored, bytes stored, multiply-adds a token (original biases on no side).
    loss : ndarray of float
        Predicted damage: nats a token, 1 - cosine a sentence, or relative squared output error.
    """

    members: tuple[str, ...]
    kinds: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    n_params: np.ndarray
    n_bytes: np.ndarray
    macs: np.ndarray
    loss: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True, eq=False)
class Site:
    """Layers that read the same input: either each from its own menu, or all from the joint one.

    Parameters
    ----------
    separate : tuple of Menu
        One a member.
    joint : Menu or None
        Entries that replace all members at once.
    """

    separate: tuple[Menu, ...]
    joint: Menu | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(name for menu in self.separate for name in menu.members)


def dense_menu(target: Target, itemsize: int) -> Menu:
    """Return the menu with the one entry that leaves the layer alone."""
    n = target.n_params
    one = np.array([n], dtype=np.int64)
    return Menu((target.name,), ("dense",), ((),), one, one * itemsize, one, np.zeros(1))


def interpolative_menu(target: Target, squared_singular_values: np.ndarray, itemsize: int) -> Menu:
    """Return every rank below full, in the gauge that stores ``r (m + n - r)`` elements and n indices.

    The loss at rank r is half the sum of the squared singular values from r on.
    """
    m, n = target.out_features, target.in_features
    rank = np.arange(1, len(squared_singular_values), dtype=np.int64)
    factors = rank * (m + n - rank)
    return _useful(
        Menu(
            members=(target.name,),
            kinds=("interpolative",) * len(rank),
            ranks=tuple((int(r),) for r in rank),
            n_params=factors + n,
            n_bytes=factors * itemsize + n * INDEX_BYTES,
            macs=factors,
            loss=_tails(squared_singular_values)[1:-1],
        ),
        m * n,
    )


def shared_menu(targets: Sequence[Target], squared_singular_values: np.ndarray, itemsize: int) -> Menu:
    """Return every rank at which the stacked layers share their right factor.

    Each layer evaluates the shared factor for itself, so that its multiply-adds count once a member.
    """
    n = targets[0].in_features
    m = sum(target.out_features for target in targets)
    rank = np.arange(1, len(squared_singular_values), dtype=np.int64)
    factors = rank * (m + n - rank)
    return _useful(
        Menu(
            members=tuple(target.name for target in targets),
            kinds=("shared",) * len(rank),
            ranks=tuple((int(r),) for r in rank),
            n_params=factors + n,
            n_bytes=factors * itemsize + n * INDEX_BYTES,
            macs=rank * m + len(targets) * rank * (n - rank),
            loss=_tails(squared_singular_values)[1:-1],
        ),
        m * n,
    )


def mpo_menu(target: Target, entries: Sequence[tuple[tuple[int, ...], int, int, float]], itemsize: int) -> Menu:
    """Return fitted MPOs, given as (bonds, elements, multiply-adds, loss)."""
    n_params = np.array([entry[1] for entry in entries], dtype=np.int64)
    return Menu(
        members=(target.name,),
        kinds=("mpo",) * len(entries),
        ranks=tuple(entry[0] for entry in entries),
        n_params=n_params,
        n_bytes=n_params * itemsize,
        macs=np.array([entry[2] for entry in entries], dtype=np.int64),
        loss=np.array([entry[3] for entry in entries]),
    )


def concatenate(menus: Sequence[Menu]) -> Menu:
    """Join menus of the same members."""
    return Menu(
        members=menus[0].members,
        kinds=sum((menu.kinds for menu in menus), ()),
        ranks=sum((menu.ranks for menu in menus), ()),
        n_params=np.concatenate([menu.n_params for menu in menus]),
        n_bytes=np.concatenate([menu.n_bytes for menu in menus]),
        macs=np.concatenate([menu.macs for menu in menus]),
        loss=np.concatenate([menu.loss for menu in menus]),
    )


def _tails(values: np.ndarray) -> np.ndarray:
    """Half the sum of the values from each position on, with a closing 0."""
    return 0.5 * np.append(np.cumsum(values[::-1])[::-1], 0.0)


def _useful(menu: Menu, dense: int) -> Menu:
    """Drop the entries that store no less than the dense layer."""
    keep = np.flatnonzero(menu.n_params < dense)
    return Menu(
        members=menu.members,
        kinds=tuple(menu.kinds[i] for i in keep),
        ranks=tuple(menu.ranks[i] for i in keep),
        n_params=menu.n_params[keep],
        n_bytes=menu.n_bytes[keep],
        macs=menu.macs[keep],
        loss=menu.loss[keep],
    )
