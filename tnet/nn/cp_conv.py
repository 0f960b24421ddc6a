"""Convolution whose kernel is a sum of rank-one tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from tnet.errors import RankError
from tnet.nn.conv_geometry import PaddingMode, Size, pair
from tnet.nn.cp_model import cp_model
from tnet.nn.factorised_conv import ConvArguments, FactorisedConv2d, Path, Stage, dense_kernel, pointwise
from tnet.nn.factorised_linear import check_factors, check_size, parameter_of
from tnet.nn.network_map import NetworkMap
from tnet.nn.weighted_fit import fit_factors

if TYPE_CHECKING:
    from tnet.formats import CPTensor

__all__ = ["CPConv2d"]

_SEPARABLE, _DENSE = 0, 2  # ways to apply the layer; 1 takes rows and columns in one step


class CPConv2d(FactorisedConv2d):
    r"""Convolution in four steps: 1 x 1 to R channels, each over rows, each over columns, 1 x 1 to all outputs.

    .. math:: W[o, i, y, x] = \sum_{r=1}^R U_1[o, r]\, U_2[i, r]\, U_3[y, r]\, U_4[x, r]

    Parameters
    ----------
    in_channels, out_channels : int
        ``I`` and ``O``.
    kernel_size : int or (int, int)
    rank : int
        R, the number of terms.
    stride, padding, dilation, padding_mode
        As in ``torch.nn.Conv2d``.
    bias : bool
        Whether to add a bias.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    factors : torch.nn.ParameterList
        ``(O, R)``, ``(I, R)``, ``(k_h, R)``, ``(k_w, R)``.

    Raises
    ------
    ShapeError, RankError, InputError
        If a size, the rank or another argument is out of its range.

    Notes
    -----
    ``R (O + I + k_h + k_w)`` parameters and, at stride 1, as many multiply-adds for each place of the output. The two
    spatial steps are one where that is faster, or the whole kernel is formed; see :class:`FactorisedConv2d`.

    References
    ----------
    V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets, V. Lempitsky, "Speeding-up convolutional neural networks using
    fine-tuned CP-decomposition", ICLR 2015, arXiv:1412.6553.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        rank: int,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        arguments = ConvArguments(stride, padding, dilation, padding_mode)
        super().__init__(in_channels, out_channels, kernel_size, arguments)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise RankError(f"rank={rank!r}: give an integer of at least 1.")
        self.rank = rank
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(n, rank, device=device, dtype=dtype))
            for n in (out_channels, in_channels, *self.kernel_size)
        )
        self._new_bias(bias, device, dtype)
        axes = ("o", "i", "y", "x")
        self._network = NetworkMap.of([(axis, "r") for axis in axes], ("o",), axes[1:], self._factors())
        self._paths = self._ways()
        self.reset_parameters()

    @staticmethod
    def rank_within(in_channels: int, out_channels: int, kernel_size: Size, max_params: int) -> int:
        """Return the largest rank of a new layer whose factors have at most ``max_params`` elements.

        Raises
        ------
        RankError, ShapeError
            If not even one term fits, or a size is no positive integer.
        """
        sizes = (check_size("in_channels", in_channels), check_size("out_channels", out_channels))
        one = sum(sizes) + sum(pair("kernel_size", kernel_size))
        if check_size("max_params", max_params) < one:
            raise RankError(f"max_params={max_params}: one term takes {one} already; give at least as many.")
        return max_params // one

    @classmethod
    def from_tensor(cls, tensor: CPTensor, arguments: ConvArguments, bias: torch.Tensor | None = None) -> CPConv2d:
        """Build the layer from a CP model of the kernel ``(O, I, k_h, k_w)``; weights are shared out over factors."""
        weights, factors = tensor.weights, tensor.factors
        check_factors(weights=weights, **{f"factors[{k}]": factor for k, factor in enumerate(factors)}, bias=bias)
        n_o, n_i, height, width = (int(n) for n in tensor.shape)
        layer = cls(
            n_i,
            n_o,
            (height, width),
            int(weights.shape[0]),
            arguments.stride,
            arguments.padding,
            arguments.dilation,
            bias is not None,
            arguments.padding_mode,
            "meta",
            weights.dtype,
        )
        share = weights.abs() ** (1 / len(factors))
        scaled = [factors[0] * (share * weights.sign()), *(factor * share for factor in factors[1:])]
        layer.factors = nn.ParameterList(parameter_of(factor, weights) for factor in scaled)
        if bias is not None:
            layer.bias = parameter_of(bias, weights)
        return layer

    @classmethod
    def from_dense(
        cls,
        conv: nn.Module,
        rank: int | None = None,
        *,
        rtol: float | None = None,
        max_params: int | None = None,
        weight: torch.Tensor | None = None,
    ) -> CPConv2d:
        r"""Approximate a convolution by :func:`tnet.cp`.

        Parameters
        ----------
        conv : torch.nn.Conv2d
            Of one group; left unchanged.
        rank : int
            Number of terms.
        rtol : float
            Relative Frobenius error of the kernel, instead of ``rank``: ranks are doubled until it is met, then
            bisected.
        max_params : int
            Elements of the factors, instead of ``rank``.
        weight : tensor, shape (I k_h k_w, I k_h k_w), optional
            C, the second moment of the patches that ``torch.nn.functional.unfold`` makes of the inputs: all
            factors are then fitted to ``||(W - W') C^(1/2)||``.

        Returns
        -------
        CPConv2d
            With dtype, device and mode of the dense layer.

        Raises
        ------
        RankError, ShapeError, InputError
            If not exactly one of rank, rtol and max_params is given, one is out of range, C does not fit, the layer
            is no convolution of one group, or no rank with fewer parameters than the kernel meets ``rtol``.
        """
        kernel, bias, arguments = dense_kernel(conv)
        if max_params is not None:
            if rank is not None or rtol is not None:
                raise RankError("rank=, rtol= and max_params=: more than one given; give exactly one of them.")
            n_o, n_i, height, width = kernel.shape
            rank = cls.rank_within(n_i, n_o, (height, width), max_params)
        layer = cls.from_tensor(cp_model(kernel, rank, rtol), arguments, bias).train(conv.training)
        if weight is not None:
            fit_factors(layer, kernel.flatten(1), weight)
        return layer

    def dense_weight(self) -> torch.Tensor:
        """Return the kernel ``(O, I, k_h, k_w)``."""
        return self._kernels(_DENSE)[0]

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Factors 1 to 3 weigh I, ``k_h`` and ``k_w`` entries in every term; the first one sums over the R terms."""
        sizes = (self.in_channels, *self.kernel_size)
        inner = {f"factors.{k + 1}": (n, 1) for k, n in enumerate(sizes)}
        return inner | {"factors.0": (self.rank, self.out_channels)}

    def _factors(self) -> list[torch.Tensor]:
        return [cast("torch.Tensor", factor) for factor in self.factors]

    def _ways(self) -> tuple[Path, ...]:
        r, (height, width) = self.rank, self.kernel_size
        first, last = Stage(self.in_channels, r), Stage(r, self.out_channels)
        rows = Stage(r, r, (height, 1), (True, False), depthwise=True)
        columns = Stage(r, r, (1, width), (False, True), depthwise=True)
        both = Stage(r, r, (height, width), (True, True), depthwise=True)
        whole = Stage(self.in_channels, self.out_channels, (height, width), (True, True))
        return (Path((first, rows, columns, last)), Path((first, both, last)), Path((whole,), (self._network,)))

    def _kernels(self, path: int) -> list[torch.Tensor]:
        factors = self._factors()
        if path == _DENSE:
            matrix = self._network.weight(factors)
            return [matrix.reshape(self.out_channels, self.in_channels, *self.kernel_size)]
        last, first, rows, columns = factors
        rows = rows.T.reshape(self.rank, 1, -1, 1)
        columns = columns.T.reshape(self.rank, 1, 1, -1)
        spatial = [rows, columns] if path == _SEPARABLE else [rows * columns]
        return [pointwise(first.T), *spatial, pointwise(last)]

    def _described(self) -> dict[str, object]:
        return {"rank": self.rank}
