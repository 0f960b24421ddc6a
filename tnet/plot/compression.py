"""Figures of a compressed model: where the parameters went, where it hurts, and quality against size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tnet.errors import InputError
from tnet.plot.canvas import ACCENT, MUTED, PALETTE, axes_or_new, literal
from tnet.plot.plain_text import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tnet.compression import CompressionResult

__all__ = ["allocation", "quality", "sensitivity"]


def allocation(result: CompressionResult, ax: Axes | None = None) -> Axes:
    """Draw the kept share of every target layer: block from left to right, type of layer from top to bottom.

    Parameters
    ----------
    result : CompressionResult
    ax : matplotlib Axes or None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Notes
    -----
    Layers factorised together show the share of the group. 100 % is a layer left dense.
    """
    ax = axes_or_new(ax, (9.0, 3.2))
    blocks, kinds, kept = _grid(result, _kept_shares(result))
    top = max(1.0, float(np.nanmax(kept)))
    mesh = ax.pcolormesh(100 * kept, cmap="viridis", vmin=0, vmax=100 * top, edgecolors="face", linewidth=0.2)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.015)
    bar.set_label("parameters kept (%)")
    if bar.solids is not None:
        bar.solids.set(rasterized=False, edgecolor="face")  # as shapes: an SVG needs no embedded image then
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] - a Spine, which the stubs take for a call
    _label_grid(ax, blocks, kinds)
    ax.set_title(f"{result.ratio:.0%} of the parameters, spread over the layers")
    return ax


def sensitivity(result: CompressionResult, ax: Axes | None = None) -> Axes:
    """Draw the predicted loss of every target layer as chosen, stacked by block.

    Parameters
    ----------
    result : CompressionResult
    ax : matplotlib Axes or None

    Returns
    -------
    matplotlib Axes

    Notes
    -----
    The loss of a layer is the quadratic estimate of its part of the divergence from the original: nats a token,
    or 1 - cosine for an encoder. The loss of a group is shared equally among its members.
    """
    ax = axes_or_new(ax, (9.0, 3.2))
    blocks, kinds, loss = _grid(result, _losses(result))
    loss = np.nan_to_num(loss)
    base = np.zeros(len(blocks))
    for index, kind in enumerate(kinds):
        colour = PALETTE[index % len(PALETTE)]
        ax.bar(np.arange(len(blocks)), loss[index], bottom=base, width=0.82, color=colour, label=kind)
        base += loss[index]
    ax.set_xticks(_some(len(blocks)), [blocks[i] for i in _some(len(blocks))])
    ax.set_xlabel("transformer block")
    ax.set_ylabel("predicted loss")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_ylim(0, 1.3 * max(float(base.max()), 1e-12))
    legend = ax.legend(frameon=False, fontsize="small", ncols=4, loc="upper left")
    literal(legend.get_texts())
    ax.set_title("Where the compression costs quality")
    return ax


def quality(
    results: Mapping[str, CompressionResult],
    ax: Axes | None = None,
    *,
    quantity: Literal["perplexity", "kl", "cosine"] = "perplexity",
    against: Literal["parameters", "bytes"] = "parameters",
) -> Axes:
    """Draw the quality of several compressions against their size; the last one given is emphasised.

    Parameters
    ----------
    results : mapping of str to CompressionResult
        By the name to show.
    ax : matplotlib Axes or None
    quantity : {"perplexity", "kl", "cosine"}
        The last one for encoders.
    against : {"parameters", "bytes"}
        Kept share of the targets' parameters, or megabytes of the whole checkpoint.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InputError
        If there is no result, or one lacks the quantity.
    """
    if not results:
        raise InputError("quality() got no results; give at least one, as {'name': result}.")
    points = {name: (_size(result, against), _value(result, quantity)) for name, result in results.items()}
    ax = axes_or_new(ax, (6.4, 4.0))
    *_, last = points
    for name, (x, y) in points.items():
        colour = ACCENT if name == last else MUTED
        ax.plot([x], [y], "o", markersize=9 if name == last else 7, color=colour)
        note = ax.annotate(
            f"{plain_text(name)}  {y:.3g}",
            (x, y),
            xytext=(9, 7),
            textcoords="offset points",
            va="center",
            color=colour,
        )
        literal([note])
    original = _value(next(iter(results.values())), quantity, before=True)
    ax.axhline(original, color=MUTED, linewidth=1, linestyle="--")
    ax.annotate(
        f"original  {original:.3g}", (0.01, original), xycoords=("axes fraction", "data"), xytext=(0, 4),
        textcoords="offset points", color=MUTED, fontsize="small",
    )  # fmt: skip
    values = [y for _, y in points.values()]
    if quantity == "perplexity" and max(values) > 5 * original:
        ax.set_yscale("log")
    sizes = [x for x, _ in points.values()]
    # Budgets that are equal but for rounding should look equal.
    reach = max(max(sizes) - min(sizes), 0.1 * max(sizes))
    ax.set_xlim(min(sizes) - 0.3 * reach, max(sizes) + 0.7 * reach)
    ax.margins(y=0.2)
    ax.set_xlabel("parameters kept in the target layers (%)" if against == "parameters" else "checkpoint (MB)")
    ax.set_ylabel(
        {"perplexity": "held-out perplexity", "kl": "KL from the original (nats a token)"}.get(quantity, quantity)
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _size(result: CompressionResult, against: str) -> float:
    if against not in ("parameters", "bytes"):
        raise InputError(f'against={against!r}: give "parameters" or "bytes".')
    return 100 * result.ratio if against == "parameters" else result.bytes_after / 1e6


def _value(result: CompressionResult, quantity: str, *, before: bool = False) -> float:
    measured: Any = result.before if before else result.after
    if quantity not in ("perplexity", "kl", "cosine") or not hasattr(measured, quantity):
        raise InputError(
            f"quantity={quantity!r}: {type(measured).__name__} has no such value; give perplexity or kl for a causal "
            "model, cosine for an encoder."
        )
    return float(getattr(measured, quantity))


def _kept_shares(result: CompressionResult) -> dict[str, float]:
    dense = {target.name: target.n_params for target in result.targets}
    shares = dict.fromkeys(dense, 1.0)
    for choice in result.choices:
        share = choice.n_params / sum(dense[name] for name in choice.members)
        shares.update(dict.fromkeys(choice.members, share))
    return shares


def _losses(result: CompressionResult) -> dict[str, float]:
    losses = {target.name: 0.0 for target in result.targets}
    for choice in result.choices:
        losses.update(dict.fromkeys(choice.members, choice.loss / len(choice.members)))
    return losses


def _grid(result: CompressionResult, values: dict[str, float]) -> tuple[list[str], list[str], np.ndarray]:
    """Return block labels, layer types and the values as a table, NaN where a block has no such layer."""
    blocks = sorted({target.block for target in result.targets})
    places = [(target.block, _type_of(target.name, target.block), target.name) for target in result.targets]
    kinds = list(dict.fromkeys(kind for _, kind, _ in places))
    table = np.full((len(kinds), len(blocks)), np.nan)
    for block, kind, name in places:
        table[kinds.index(kind), blocks.index(block)] = values[name]
    return ["-" if block < 0 else str(block) for block in blocks], [plain_text(kind) for kind in kinds], table


def _type_of(name: str, block: int) -> str:
    """Return what follows the number of the block: ``model.layers.7.mlp.up_proj`` is an ``mlp.up_proj``."""
    head, number, tail = name.partition(f".{block}.")
    return tail if number and block >= 0 else head


def _label_grid(ax: Axes, blocks: list[str], kinds: list[str]) -> None:
    shown = _some(len(blocks))
    ax.set_xticks([i + 0.5 for i in shown], [blocks[i] for i in shown])
    ax.set_yticks(np.arange(len(kinds)) + 0.5, kinds)
    literal(ax.get_yticklabels())
    ax.invert_yaxis()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("transformer block")


def _some(n: int) -> list[int]:
    """At most about sixteen of n positions, evenly spaced from the first."""
    return list(range(0, n, max(1, -(-n // 16))))
