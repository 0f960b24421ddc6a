"""Linear layer whose weight is any tensor network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tnet.errors import IndexLabelError, InputError
from tnet.nn.digits import checked_digits
from tnet.nn.factorised_linear import check_factors, dense_parts, parameter_of
from tnet.nn.network_linear import NetworkLinear
from tnet.nn.weighted_fit import fit_factors
from tnet.structure_search import Budget

if TYPE_CHECKING:
    from tnet.formats import TensorNetwork

__all__ = ["TNLinear"]


class TNLinear(NetworkLinear):
    """Linear layer with any tensor network as weight, such as one that :func:`tnet.search` found.

    Parameters
    ----------
    network : TensorNetwork
        Torch tensors, copied. A name that two tensors share is summed over; a name in three or more, or in two and
        among ``rows`` or ``columns``, runs along.
    rows, columns : sequence of str
        Names of the axes that make the output and the input index, the first varies slowest; by default the first
        half of the network's output, and the rest.
    bias : tensor or None
        ``(m,)``.

    Attributes
    ----------
    tensors : torch.nn.ParameterList
        In the order of the network.

    Raises
    ------
    IndexLabelError
        If rows and columns are not the output of the network, or a name occurs twice in one tensor, or once in all
        and not in the output.
    BackendError, InputError
        If the tensors are no floating torch tensors of one kind, or not finite.

    Notes
    -----
    See :class:`NetworkLinear` for the order of products.
    """

    def __init__(
        self,
        network: TensorNetwork,
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        bias: torch.Tensor | None = None,
    ) -> None:
        half = len(network.output) // 2
        rows = network.output[:half] if rows is None else tuple(rows)
        columns = tuple(name for name in network.output if name not in rows) if columns is None else tuple(columns)
        _check_names(network, rows, columns)
        check_factors(**{f"tensors[{k}]": tensor for k, tensor in enumerate(network.tensors)}, bias=bias)
        sizes = {
            name: int(size)
            for axes, tensor in zip(network.indices, network.tensors, strict=True)
            for name, size in zip(axes, tensor.shape, strict=True)
        }
        super().__init__(math.prod(sizes[name] for name in columns), math.prod(sizes[name] for name in rows))
        self.tensors = nn.ParameterList(parameter_of(tensor, tensor) for tensor in network.tensors)
        like = network.tensors[0]
        self._new_bias(bias is not None, like.device, like.dtype)
        if bias is not None:
            self.bias = parameter_of(bias, like)
        self.indices = network.indices
        self._set_network(network.indices, rows, columns)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Module,
        *,
        rtol: float | None = None,
        max_params: int | None = None,
        weight: torch.Tensor | None = None,
        row_shape: Sequence[int] | None = None,
        column_shape: Sequence[int] | None = None,
        budget: Budget = Budget(evaluations=200),  # noqa: B008 - frozen
        rng: int = 0,
    ) -> TNLinear:
        """Search for the network over the digits of a dense layer with :func:`tnet.search`.

        Parameters
        ----------
        linear : torch.nn.Linear
            The dense layer; left unchanged.
        rtol : float
            Relative Frobenius error.
        max_params : int
            Elements of all tensors, instead of ``rtol``.
        weight : tensor, shape (n, n), optional
            C, the second moment of the inputs: the tensors of the network found without it are then fitted to
            ``||(W - W') C^(1/2)||``.
        row_shape, column_shape : sequence of int, optional
            Digits of rows and columns; two balanced ones by default.
        budget : Budget
            Of the search.
        rng : int
            Of the search.

        Returns
        -------
        TNLinear
            With dtype, device and mode of the dense layer.

        Raises
        ------
        ShapeError, InputError
            If the digits or C do not fit the weight, or not exactly one goal is given.
        """
        from tnet.structure_search.search import search

        if (rtol is None) == (max_params is None):
            raise InputError("rtol= and max_params=: give exactly one of them.")
        dense, bias = dense_parts(linear)
        rows = checked_digits("row_shape", row_shape, dense.shape[0])
        columns = checked_digits("column_shape", column_shape, dense.shape[1])
        found = search(dense.reshape(*rows, *columns), rtol=rtol, max_params=max_params, budget=budget, rng=rng)
        network = found.best.network
        p = len(rows)
        layer = cls(network, network.output[:p], network.output[p:], bias).train(linear.training)
        if weight is not None:
            fit_factors(layer, dense, weight)
        return layer

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Each tensor maps its columns, and the bonds to tensors before it, to its rows and the other bonds."""
        rows, columns = set(self._network.rows), set(self._network.columns)
        sizes, seen, dims = dict(self._network.sizes), set[str](), dict[str, tuple[int, int]]()
        for k, axes in enumerate(self.indices):
            inner = [name for name in axes if name in columns or (name in seen and name not in rows)]
            seen |= set(axes)
            d_in = math.prod(sizes[name] for name in inner)
            dims[f"tensors.{k}"] = d_in, math.prod(sizes[name] for name in axes) // d_in
        return dims

    def _cores(self) -> list[torch.Tensor]:
        return [cast("torch.Tensor", tensor) for tensor in self.tensors]

    def _described(self) -> dict[str, object]:
        network = ",".join("".join(f"({' '.join(axes)})") for axes in self.indices)
        return {"network": network, "rows": self._network.rows, "columns": self._network.columns}


def _check_names(network: TensorNetwork, rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
    if sorted(rows + columns) != sorted(network.output) or not rows or not columns:
        raise IndexLabelError(
            f"rows={rows}, columns={columns}: together they must be the output of the network, {network.output}, and "
            "neither empty."
        )
    counts: dict[str, int] = {}
    for axes in network.indices:
        if len(set(axes)) != len(axes):
            raise IndexLabelError(f"axes {axes}: a name twice in one tensor; take its diagonal first.")
        for name in axes:
            counts[name] = counts.get(name, 0) + 1
    alone = [name for name, count in counts.items() if count == 1 and name not in network.output]
    if alone:
        raise IndexLabelError(f"axes {alone} are in one tensor and not in the output; sum over them first.")
