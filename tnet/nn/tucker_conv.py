"""Convolution whose kernel is a Tucker model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from tnet.nn.conv_geometry import PaddingMode, Size, pair
from tnet.nn.factorised_conv import ConvArguments, FactorisedConv2d, Path, Stage, dense_kernel, pointwise
from tnet.nn.factorised_linear import check_factors, check_size, parameter_of
from tnet.nn.kernel_model import checked_ranks, kernel_model, proportional_ranks
from tnet.nn.network_map import NetworkMap
from tnet.nn.weighted_fit import fit_factors

__all__ = ["TuckerConv2d"]

_AXES, _BONDS = ("o", "i", "y", "x"), ("a", "b", "c", "d")  # of the kernel, and of its core
_KEPT = ((True, True), (True, False), (False, True), (False, False))  # factors (O, r_o), (I, r_i) with own products
_DENSE = 3  # place of the whole kernel among these


class TuckerConv2d(FactorisedConv2d):
    r"""Convolution with a small core: 1 x 1 to fewer channels, the core's convolution, 1 x 1 to all outputs.

    .. math:: W[o, i, y, x] = \sum_{a b c d} G[a, b, c, d]\, U_1[o, a]\, U_2[i, b]\, U_3[y, c]\, U_4[x, d]

    Parameters
    ----------
    in_channels, out_channels : int
        ``I`` and ``O``.
    kernel_size : int or (int, int)
    ranks : sequence of int
        ``(r_o, r_i)``, and ``(r_o, r_i, r_h, r_w)`` to compress the spatial modes, too.
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
    core : torch.nn.Parameter
        ``(r_o, r_i, k_h, k_w)``, or ``(r_o, r_i, r_h, r_w)``.
    factors : torch.nn.ParameterList
        ``(O, r_o)``, ``(I, r_i)``, and with four ranks ``(k_h, r_h)``, ``(k_w, r_w)``.
    ranks : tuple of int

    Raises
    ------
    ShapeError, RankError, InputError
        If a size, a rank or another argument is out of its range.

    Notes
    -----
    ``r_o r_i k_h k_w + O r_o + I r_i`` parameters and, at stride 1, as many multiply-adds for each place of the
    output. Where channels are few, the first or the last product is merged into the core; see
    :class:`FactorisedConv2d`.

    References
    ----------
    Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of deep convolutional neural networks for fast
    and low power mobile applications", ICLR 2016, arXiv:1511.06530.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        ranks: Sequence[int],
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
        shape = (out_channels, in_channels, *self.kernel_size)
        self.ranks = checked_ranks(ranks, shape)
        core = (*self.ranks, *shape[len(self.ranks) :])
        self.core = nn.Parameter(torch.empty(core, device=device, dtype=dtype))
        self.factors = nn.ParameterList(
            nn.Parameter(torch.empty(n, r, device=device, dtype=dtype))
            for n, r in zip(shape, self.ranks, strict=False)
        )
        self._new_bias(bias, device, dtype)
        self._set_paths()
        self.reset_parameters()

    @staticmethod
    def ranks_within(
        in_channels: int, out_channels: int, kernel_size: Size, max_params: int, spatial: bool = False
    ) -> tuple[int, ...]:
        """Return ranks for a new layer whose core and factors have at most ``max_params`` elements.

        Every rank is the same share of its mode, at least 1: the largest share that fits; four with ``spatial``.

        Raises
        ------
        RankError, ShapeError
            If not even ranks of 1 fit, or a size is no positive integer.
        """
        shape = (check_size("out_channels", out_channels), check_size("in_channels", in_channels))
        return proportional_ranks((*shape, *pair("kernel_size", kernel_size)), 4 if spatial else 2, max_params)

    @classmethod
    def from_dense(
        cls,
        conv: nn.Module,
        rank: int | Sequence[int] | None = None,
        *,
        rtol: float | None = None,
        max_params: int | None = None,
        spatial: bool = False,
        weight: torch.Tensor | None = None,
    ) -> TuckerConv2d:
        r"""Approximate a convolution by :func:`tnet.tucker`.

        Parameters
        ----------
        conv : torch.nn.Conv2d
            Of one group; left unchanged.
        rank : int or sequence of int
            One bound for all compressed modes, or two or four ranks.
        rtol : float
            Relative Frobenius error of the kernel, instead of ``rank``.
        max_params : int
            Elements of core and factors, instead of ``rank``: the ranks keep the most of the squared singular values
            of all compressed modes, as in :func:`~tnet.structure_search.core_shape`.
        spatial : bool
            Whether rows and columns of the kernel are compressed, too; four ranks say so themselves.
        weight : tensor, shape (I k_h k_w, I k_h k_w), optional
            C, the second moment of the patches that ``torch.nn.functional.unfold`` makes of the inputs: all
            factors are then fitted to ``||(W - W') C^(1/2)||``, with the ranks found without it.

        Returns
        -------
        TuckerConv2d
            With dtype, device and mode of the dense layer.

        Raises
        ------
        RankError, ShapeError, InputError
            If not exactly one of rank, rtol and max_params is given, one is out of range, C does not fit, or the
            layer is no convolution of one group.
        """
        kernel, bias, arguments = dense_kernel(conv)
        core, factors = kernel_model(kernel, rank, rtol, max_params, spatial)
        layer = cls.from_factors(core, factors, arguments, bias).train(conv.training)
        if weight is not None:
            fit_factors(layer, kernel.flatten(1), weight)
        return layer

    @classmethod
    def from_factors(
        cls,
        core: torch.Tensor,
        factors: Sequence[torch.Tensor],
        arguments: ConvArguments,
        bias: torch.Tensor | None = None,
    ) -> TuckerConv2d:
        """Build the layer from copies of core ``(r_o, r_i, ., .)`` and two or four factors."""
        check_factors(core=core, **{f"factors[{k}]": factor for k, factor in enumerate(factors)}, bias=bias)
        sizes = [int(factor.shape[0]) for factor in factors]
        shape = (*sizes, *map(int, core.shape[len(sizes) :]))
        layer = cls(
            shape[1],
            shape[0],
            (shape[2], shape[3]),
            [int(factor.shape[1]) for factor in factors],
            arguments.stride,
            arguments.padding,
            arguments.dilation,
            bias is not None,
            arguments.padding_mode,
            "meta",
            core.dtype,
        )
        layer.core = parameter_of(core, core)
        layer.factors = nn.ParameterList(parameter_of(factor, core) for factor in factors)
        if bias is not None:
            layer.bias = parameter_of(bias, core)
        return layer

    def replace_factors(self, core: torch.Tensor, factors: Sequence[torch.Tensor]) -> None:
        """Put copies of other factors, of any ranks, in the place of the layer's.

        Their parameters are new: an optimiser that holds the old ones no longer trains the layer.
        """
        self.core = parameter_of(core, self.core)
        self.factors = nn.ParameterList(parameter_of(factor, self.core) for factor in factors)
        self.ranks = tuple(int(factor.shape[1]) for factor in factors)
        self._set_paths()

    def dense_weight(self) -> torch.Tensor:
        """Return the kernel ``(O, I, k_h, k_w)``."""
        return self._kernels(_DENSE)[0]

    def factor_dims(self) -> dict[str, tuple[int, int]]:
        """Factors map I to ``r_i``, ``k_h`` to ``r_h``, ``k_w`` to ``r_w``, the core to ``r_o``, the first to O."""
        sizes = (self.out_channels, self.in_channels, *self.kernel_size)
        dims = {f"factors.{k}": (sizes[k], self.ranks[k]) for k in range(1, len(self.ranks))}
        dims["core"] = (math.prod(self.core.shape[1:]), self.ranks[0])
        return dims | {"factors.0": (self.ranks[0], self.out_channels)}

    def _set_paths(self) -> None:
        (r_o, r_i), kernel = self.ranks[:2], self.kernel_size
        self._networks = tuple(self._network(keep) for keep in _KEPT)
        paths: list[Path] = []
        for (keep_o, keep_i), network in zip(_KEPT, self._networks, strict=True):
            inputs, outputs = r_i if keep_i else self.in_channels, r_o if keep_o else self.out_channels
            stages = [Stage(inputs, outputs, kernel, (True, True))]
            if keep_i:
                stages.insert(0, Stage(self.in_channels, r_i))
            if keep_o:
                stages.append(Stage(r_o, self.out_channels))
            paths.append(Path(tuple(stages), () if network is None else (network,)))
        self._paths = tuple(paths)

    def _merged(self, keep: tuple[bool, bool]) -> list[int]:
        """Return the modes whose factors are merged into the core."""
        return [k for k in range(len(self.ranks)) if k > 1 or not keep[k]]

    def _network(self, keep: tuple[bool, bool]) -> NetworkMap | None:
        """Return the network of the core and the factors that are merged into it; None where there are none."""
        merged = self._merged(keep)
        if not merged:
            return None
        n = len(self.ranks)
        bonds = tuple(_BONDS[k] if k < n else _AXES[k] for k in range(4))
        axes = [_AXES[k] if k in merged or k >= n else _BONDS[k] for k in range(4)]
        indices = [bonds, *((_AXES[k], _BONDS[k]) for k in merged)]
        tensors = [self.core, *(self._factor(k) for k in merged)]
        return NetworkMap.of(indices, (axes[0],), tuple(axes[1:]), tensors)

    def _factor(self, k: int) -> torch.Tensor:
        return cast("torch.Tensor", self.factors[k])

    def _kernels(self, path: int) -> list[torch.Tensor]:
        keep, network = _KEPT[path], self._networks[path]
        middle = self.core
        if network is not None:
            matrix = network.weight([self.core, *(self._factor(k) for k in self._merged(keep))])
            middle = matrix.reshape(matrix.shape[0], -1, *self.kernel_size)
        kernels = [middle]
        if keep[1]:
            kernels.insert(0, pointwise(self._factor(1).T))
        if keep[0]:
            kernels.append(pointwise(self._factor(0)))
        return kernels

    def _described(self) -> dict[str, object]:
        return {"ranks": self.ranks}
