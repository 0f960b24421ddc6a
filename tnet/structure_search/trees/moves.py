"""Trees one move away from a tree."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from tnet.structure_search.structure import Structure
from tnet.structure_search.trees.topology import Tree, tree_of

__all__ = ["tree_moves", "with_links"]

Links = frozenset[tuple[int, int]]


def tree_moves(tree: Tree, *, max_internal: int, max_degree: int | None = None) -> list[Tree]:
    """Return the trees that differ by one move, each once.

    Two modes change places; a branch is hung at another core; two bonds of a core move to a new core between them
    and it; an internal core is merged with a neighbour.

    Parameters
    ----------
    tree : Tree
    max_internal : int
        Cores without a mode.
    max_degree : int, optional
        Bonds of a core.
    """
    n_modes = len(tree.shape)
    links = frozenset((min(bond), max(bond)) for bond in tree.bonds)
    found: dict[tuple[int, ...], Tree] = {}
    for moved in itertools.chain(
        _exchanged(links, n_modes), _hung(links), _split(links, n_modes + tree.n_internal), _merged(links, n_modes)
    ):
        kept, n_internal = _tidied(moved, n_modes)
        degrees = [sum(core in link for link in kept) for core in range(n_modes + n_internal)]
        if n_internal <= max_internal and (max_degree is None or max(degrees) <= max_degree):
            bonds = tuple((i, j, 2) for i, j in sorted(kept))
            other = tree_of(Structure(tree.shape, bonds, n_internal))
            found.setdefault(other.key, other)
    found.pop(tree.key, None)
    return list(found.values())


def with_links(tree: Tree, wanted: Iterable[tuple[int, int]]) -> list[Tree]:
    """Return trees that have the bonds wanted, one more for every bond that each of them may replace.

    Parameters
    ----------
    tree : Tree
    wanted : iterable of (int, int)
        Pairs of cores, the lower number first, without a loop. Internal cores among them make no new tree.
    """
    kept = frozenset(wanted)
    found = [frozenset((min(bond), max(bond)) for bond in tree.bonds)]
    for link in sorted(kept):
        found = [changed for links in found for changed in _with_link(links, link, kept)]
    trees: dict[Tree, None] = {}
    for links in found:
        bonds = tuple((i, j, 2) for i, j in sorted(links))
        trees.setdefault(tree_of(Structure(tree.shape, bonds, tree.n_internal)))
    return list(trees)


def _with_link(links: Links, link: tuple[int, int], kept: Links) -> Iterator[Links]:
    cores = {core for pair in links for core in pair}
    if link in links or not set(link) <= cores:
        yield links
        return
    for other in sorted(links - kept):
        without = links - {other}
        if link[1] not in _reached(without, link[0]):
            yield without | {link}


def _renamed(links: Iterable[tuple[int, int]], name: dict[int, int]) -> Links:
    pairs = ((name.get(i, i), name.get(j, j)) for i, j in links)
    return frozenset((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1])


def _exchanged(links: Links, n_modes: int) -> Iterator[Links]:
    for i, j in itertools.combinations(range(n_modes), 2):
        yield _renamed(links, {i: j, j: i})


def _hung(links: Links) -> Iterator[Links]:
    cores = sorted({core for link in links for core in link})
    for link in sorted(links):
        others = links - {link}
        for root, branch in (link, link[::-1]):
            beyond = _reached(others, branch)
            for core in cores:
                if core not in beyond and core != root:
                    yield others | {(min(core, branch), max(core, branch))}


def _reached(links: Links, start: int) -> set[int]:
    reached, ahead = {start}, [start]
    while ahead:
        core = ahead.pop()
        for i, j in links:
            for here, there in ((i, j), (j, i)):
                if here == core and there not in reached:
                    reached.add(there)
                    ahead.append(there)
    return reached


def _split(links: Links, new: int) -> Iterator[Links]:
    cores = sorted({core for link in links for core in link})
    for core in cores:
        near = sorted(other for link in links if core in link for other in link if other != core)
        if len(near) > 2:
            for pair in itertools.combinations(near, 2):
                old = {(min(core, other), max(core, other)) for other in pair}
                yield (links - old) | {(core, new)} | {(min(other, new), max(other, new)) for other in pair}


def _merged(links: Links, n_modes: int) -> Iterator[Links]:
    for i, j in sorted(links):
        if j >= n_modes:
            yield _renamed(links, {j: i})


def _tidied(links: Links, n_modes: int) -> tuple[Links, int]:
    """Return the links with internal cores of two bonds taken out of the way, and the others numbered anew."""
    while True:
        cores = sorted({core for link in links for core in link if core >= n_modes})
        thin = [core for core in cores if sum(core in link for link in links) < 3]
        if not thin:
            return _renamed(links, {core: n_modes + k for k, core in enumerate(cores)}), len(cores)
        near = [other for link in links if thin[0] in link for other in link if other != thin[0]]
        links = frozenset(link for link in links if thin[0] not in link)
        if len(near) == 2:
            links |= {(min(near), max(near))}
