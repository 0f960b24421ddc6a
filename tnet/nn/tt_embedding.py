"""Embedding whose table is a tensor train over the digits of the token and of the feature."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from tnet.decompositions import mpo
from tnet.errors import InputError, RankError, ShapeError
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, check_size, parameter_of
from tnet.nn.state import FactorModule

__all__ = ["TTEmbedding"]

_N_DIGITS = 3


class TTEmbedding(FactorModule):
    r"""Embedding of V tokens in n features whose table of shape ``(V, n)`` is a chain of small cores.

    .. math:: E_{(v_1 \dots v_d), (j_1 \dots j_d)} = A_1[v_1, :, j_1, :] \cdots A_d[v_d, :, j_d, :]

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        V and n.
    ranks : int or sequence of int
        The ``d - 1`` inner bonds; one number for all.
    row_shape : sequence of int, optional
        Digits of the token; their product is V or more. Three about equal ones by default.
    column_shape : sequence of int, optional
        As many digits of the feature, with product n; balanced by default.
    padding_idx : int, optional
        A token whose row is zero and has no gradient.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    cores : torch.nn.ParameterList
        Core k of shape ``(v_k, r_(k-1), n_k, r_k)``, with ``r_0 = r_d = 1``.

    Raises
    ------
    ShapeError, RankError, InputError
        If digits, ranks or ``padding_idx`` do not fit.

    Notes
    -----
    The table is never formed. A lookup joins the first digits of the token, and the last, to tables of their own
    where the batch is so large that this takes fewer multiply-adds, and multiplies what each token needs. On the CPU
    tokens out of range raise; elsewhere, and under ``torch.compile``, they end as in ``torch.nn.Embedding``.

    References
    ----------
    O. Hrinchuk, V. Khrulkov, L. Mirvakhabova, E. Orlova, I. Oseledets, "Tensorized embedding layers", Findings of
    EMNLP 2020, arXiv:1901.10787.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        ranks: int | Sequence[int],
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = check_size("num_embeddings", num_embeddings)
        self.embedding_dim = check_size("embedding_dim", embedding_dim)
        self.row_shape, self.column_shape = _digits(num_embeddings, embedding_dim, row_shape, column_shape)
        inner = len(self.row_shape) - 1
        self.ranks = (ranks,) * inner if isinstance(ranks, int) else tuple(ranks)
        if len(self.ranks) != inner:
            raise RankError(f"ranks={self.ranks}: got {len(self.ranks)} for {inner + 1} cores, give one less.")
        if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in self.ranks):
            raise RankError(f"ranks={self.ranks}: give integers of at least 1.")
        self.padding_idx = _padding(padding_idx, num_embeddings)
        bonds = (1, *self.ranks, 1)
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(v, bonds[k], n, bonds[k + 1], device=device, dtype=dtype))
            for k, (v, n) in enumerate(zip(self.row_shape, self.column_shape, strict=True))
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new cores, all of one scale: entries of the table have variance 1, as those of ``nn.Embedding``."""
        std = math.prod(self.ranks) ** (-0.5 / len(self.row_shape))
        for core in self.cores:
            nn.init.normal_(core, std=std)

    @classmethod
    def from_dense(
        cls,
        embedding: nn.Module,
        rank: int | Sequence[int] | None = None,
        *,
        rtol: float | None = None,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
    ) -> TTEmbedding:
        """Approximate an embedding by :func:`tnet.mpo`; rows of zeros fill the table up to the product of the digits.

        Parameters
        ----------
        embedding : torch.nn.Embedding
            Without ``max_norm``; left unchanged.
        rank : int or sequence of int
            Largest inner bond, or one for each inner bond.
        rtol : float
            Relative Frobenius error of the table, instead of ``rank``.
        row_shape, column_shape : sequence of int, optional
            Digits, as in the constructor.

        Returns
        -------
        TTEmbedding
            With dtype, device, mode and ``padding_idx`` of the dense layer.

        Raises
        ------
        ShapeError, RankError, InputError
            If digits or ranks do not fit, the table is not finite, or the layer is no plain embedding.
        """
        if not isinstance(embedding, nn.Embedding):
            raise InputError(f"{type(embedding).__name__} is no dense embedding: give a torch.nn.Embedding.")
        if embedding.max_norm is not None:
            raise InputError(f"max_norm={embedding.max_norm}: rows in factors cannot be renormalised; set None.")
        table = embedding.weight.detach()
        check_factors(weight=table)
        rows, columns = _digits(int(table.shape[0]), int(table.shape[1]), row_shape, column_shape)
        padded = F.pad(table, (0, 0, 0, math.prod(rows) - table.shape[0]))
        cores = mpo(padded, rows, columns, rank, rtol=rtol).tensor.cores
        layer = cls(
            table.shape[0],
            table.shape[1],
            [int(core.shape[-1]) for core in cores[:-1]],
            rows,
            columns,
            embedding.padding_idx,
            "meta",
            table.dtype,
        )
        layer.cores = nn.ParameterList(parameter_of(core.permute(1, 0, 2, 3), table) for core in cores)
        return layer.train(embedding.training)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        """Map tokens of any shape ``(...)`` to ``(..., n)``."""
        if indices.dtype not in (torch.int64, torch.int32):
            raise InputError(f"tokens of {indices.dtype}: give int64 or int32.")
        flat = indices.reshape(-1)
        if flat.device.type == "cpu" and not torch.compiler.is_compiling() and flat.numel():
            low, high = (int(value) for value in flat.aminmax())
            if low < 0 or high >= self.num_embeddings:
                raise InputError(f"tokens from {low} to {high}: give 0 to {self.num_embeddings - 1}.")
        rows = self._rows(flat, _cheapest(self._sizes(), int(flat.shape[0])))
        if self.padding_idx is not None:
            rows = rows.masked_fill((flat == self.padding_idx)[:, None], 0)
        return rows.reshape(*indices.shape, self.embedding_dim)

    def _rows(self, flat: torch.Tensor, split: Split) -> torch.Tensor:
        """Return rows of the table: what the first digits say, times core after core, times what the last say."""
        cores = [cast("torch.Tensor", core) for core in self.cores]
        d, rest = len(cores), math.prod(self.row_shape[split.first :])
        # A token beyond V has digits, too, unless V is their product: it is sent out of the table of the first.
        place = torch.where(flat < self.num_embeddings, flat // rest, math.prod(self.row_shape[: split.first]))
        y = _joined(cores[: split.first]).index_select(0, place)
        for k in range(split.first, d - split.last):
            rest //= self.row_shape[k]
            y = _times(y, cores[k].index_select(0, flat // rest % self.row_shape[k]))
        if split.last:
            y = _times(y, _joined(cores[d - split.last :]).index_select(0, flat % rest))
        return y.reshape(flat.shape[0], self.embedding_dim)

    def _sizes(self) -> tuple[tuple[int, int, int, int], ...]:
        bonds = (1, *self.ranks, 1)
        return tuple(zip(self.row_shape, bonds[:-1], self.column_shape, bonds[1:], strict=True))

    def dense_weight(self) -> torch.Tensor:
        """Return the table ``(V, n)``, differentiable in the cores."""
        table = _joined([cast("torch.Tensor", core) for core in self.cores])
        table = table.reshape(-1, self.embedding_dim)[: self.num_embeddings]
        if self.padding_idx is not None:
            rows = torch.arange(self.num_embeddings, device=table.device)
            table = table.masked_fill((rows == self.padding_idx)[:, None], 0)
        return table

    @property
    def weight(self) -> torch.Tensor:
        """The table, formed anew at every access: for code that reads ``layer.weight`` of an embedding."""
        return self.dense_weight()

    def to_dense(self) -> nn.Embedding:
        """Return an ``nn.Embedding`` with the same rows; nothing is shared with this layer."""
        with torch.no_grad():
            table = self.dense_weight()
        dense = nn.Embedding(
            self.num_embeddings, self.embedding_dim, self.padding_idx, device="meta", dtype=table.dtype
        )
        dense.weight = nn.Parameter(table.clone())
        return dense.train(self.training)

    @property
    def n_params(self) -> int:
        """Elements stored."""
        return sum(core.numel() for core in self.cores)

    @property
    def macs(self) -> int:
        """Multiply-adds for one token among many, tables of some digits not counted."""
        return min(_token_macs(self._sizes(), split) for split in _splits(len(self.row_shape)))

    def extra_repr(self) -> str:
        """Sizes, parameters and multiply-adds a token, as ``print`` shows them."""
        padding = "" if self.padding_idx is None else f"padding_idx={self.padding_idx}, "
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, row_shape={self.row_shape}, "
            f"column_shape={self.column_shape}, ranks={self.ranks}, {padding}"
            f"n_params={self.n_params}, macs={self.macs}"
        )


class Split(NamedTuple):
    """How many digits from the front, and from the back, have tables of their own."""

    first: int
    last: int


def _times(y: torch.Tensor, core: torch.Tensor) -> torch.Tensor:
    """Multiply ``(B, 1, D, r)`` by ``(B, r, n, s)`` to ``(B, 1, D n, s)``."""
    b, _, D, r = y.shape
    _, _, n, s = core.shape
    return torch.bmm(y.reshape(b, D, r), core.reshape(b, r, n * s)).reshape(b, 1, D * n, s)


def _joined(cores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return neighbouring cores as one, of their joint digits."""
    table = cores[0]
    for core in cores[1:]:
        (v, q, n, r), (w, _, m, s) = table.shape, core.shape
        product = table.reshape(v * q * n, r) @ core.permute(1, 0, 2, 3).reshape(r, w * m * s)
        table = product.reshape(v, q, n, w, m, s).permute(0, 3, 1, 2, 4, 5).reshape(v * w, q, n * m, s)
    return table


def _splits(d: int) -> list[Split]:
    """Return all ways to share out d digits in which no table has all of them, unless there is but one.

    The table of one digit at the back would be the core itself.
    """
    return [Split(p, s) for p in range(1, d + 1) for s in range(d - p + 1) if s != 1 and (d == 1 or p < d)]


def _token_macs(sizes: Sequence[tuple[int, int, int, int]], split: Split) -> int:
    """Return the multiply-adds of each token."""
    D, total = math.prod(n for _, _, n, _ in sizes[: split.first]), 0
    end = len(sizes) - split.last
    for _, r, n, s in sizes[split.first : end]:
        total += D * r * n * s
        D *= n
    if split.last:
        total += D * sizes[end][1] * math.prod(n for _, _, n, _ in sizes[end:])
    return total


def _table_macs(sizes: Sequence[tuple[int, int, int, int]]) -> int:
    """Return the multiply-adds that join cores."""
    total, entries = 0, math.prod(sizes[0][:3]) if sizes else 0
    for v, r, n, s in sizes[1:]:
        total += entries * r * v * n * s
        entries *= v * n
    return total


@torch.compiler.assume_constant_result
def _cheapest(sizes: tuple[tuple[int, int, int, int], ...], tokens: int) -> Split:
    return _kept_cheapest(sizes, tokens)


@functools.lru_cache(maxsize=1 << 12)
def _kept_cheapest(sizes: tuple[tuple[int, int, int, int], ...], tokens: int) -> Split:
    """Return the split of fewest multiply-adds, tables included."""

    def macs(split: Split) -> int:
        tables = _table_macs(sizes[: split.first]) + _table_macs(sizes[len(sizes) - split.last :])
        return tables + tokens * _token_macs(sizes, split)

    return min(_splits(len(sizes)), key=macs)


def _digits(
    n_rows: int, n_columns: int, row_shape: Sequence[int] | None, column_shape: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    count = len(row_shape or column_shape or (0,) * _N_DIGITS)
    columns = checked_digits("column_shape", column_shape, n_columns, count)
    if row_shape is None:
        return _covering(n_rows, count), columns
    rows = tuple(row_shape)
    for k, digit in enumerate(rows):
        check_size(f"row_shape[{k}]", digit)
    if math.prod(rows) < n_rows:
        raise ShapeError(
            f"row_shape={rows} multiplies to {math.prod(rows)}, less than {n_rows} tokens: "
            f"give {_covering(n_rows, count)}, for example."
        )
    return rows, columns


def _covering(n: int, count: int) -> tuple[int, ...]:
    """Return digits that differ by one at most and multiply to n or little more."""
    digits = [math.ceil(n ** (1 / count) - 1e-9)] * count
    for k in range(count):
        if math.prod(digits) // digits[k] * (digits[k] - 1) >= n:
            digits[k] -= 1
    return tuple(digits)


def _padding(padding_idx: int | None, n: int) -> int | None:
    if padding_idx is None:
        return None
    if not -n <= padding_idx < n:
        raise InputError(f"padding_idx={padding_idx}: give a token from 0 to {n - 1}.")
    return padding_idx % n
