"""Layer that is quadratic in its input, and the eigendecomposition of its third-order tensor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from tnet.errors import InputError, ShapeError
from tnet.nn.cp_model import cp_model
from tnet.nn.factorised_linear import check_factors, check_rank, check_size, parameter_of
from tnet.nn.state import FactorModule

__all__ = ["BilinearEigen", "BilinearLayer", "OutputModes"]


class BilinearEigen(NamedTuple):
    r"""A quadratic form of the input as a sum of squares: :math:`\sum_k \lambda_k (v_k \cdot h)^2`.

    Parameters
    ----------
    values : tensor, shape (k,)
        :math:`\lambda`, largest modulus first.
    vectors : tensor, shape (n, k)
        Orthonormal columns :math:`v_k`, over the homogeneous input h.
    """

    values: torch.Tensor
    vectors: torch.Tensor

    def __call__(self, h: torch.Tensor) -> torch.Tensor:
        """Return the form of ``h (..., n)``."""
        return (h @ self.vectors).square() @ self.values

    def leading(self, rank: int) -> BilinearEigen:
        """Return the terms of largest modulus; the form changes by at most ``bound(rank) ||h||^2``."""
        return BilinearEigen(self.values[:rank], self.vectors[:, :rank])

    def bound(self, rank: int) -> float:
        """Return the modulus of the largest eigenvalue beyond ``rank`` terms."""
        return float(self.values[rank].abs()) if rank < len(self.values) else 0.0


class OutputModes(NamedTuple):
    r"""Higher-order SVD of the layer's tensor along its outputs.

    Parameters
    ----------
    values : tensor, shape (k,)
        Singular values, the largest first; the sum of their squares is the squared norm of the symmetric tensor.
    directions : tensor, shape (m, k)
        Orthonormal directions of the outputs; :meth:`BilinearLayer.eigen` of one is its form, of norm ``values``.
    """

    values: torch.Tensor
    directions: torch.Tensor


class BilinearLayer(FactorModule):
    r"""Gated layer without a nonlinearity: ``y = P ((W x) * (V x)) + b``, quadratic in x.

    .. math:: y_o = \sum_{ij} B_{oij} x_i x_j + b_o, \qquad B_{oij} = \sum_c P_{oc} W_{ci} V_{cj}

    so that every linear function of the outputs is a quadratic form, and has eigenvectors.

    Parameters
    ----------
    in_features, hidden_features, out_features : int
        n, the rows of W and V, and m.
    bias : bool
        Whether to add b.
    inner_bias : bool
        Whether W x and V x have biases: those of an input to which 1 is appended.
    device : torch.device or str or None
        Where the parameters live.
    dtype : torch.dtype or None
        Their dtype, the default dtype for None.

    Attributes
    ----------
    left, right : torch.nn.Parameter
        W and V of shape ``(hidden, n)``, or ``(hidden, n + 1)`` with ``inner_bias``.
    output : torch.nn.Parameter
        P of shape ``(m, hidden)``.
    bias : torch.nn.Parameter or None

    Raises
    ------
    ShapeError, InputError
        If a size is no positive integer, or parts do not fit.

    References
    ----------
    M. T. Pearce, T. Dooms, A. Rigg, J. Oramas, L. Sharkey, "Bilinear MLPs enable weight-based mechanistic
    interpretability", arXiv:2410.08417.

    Examples
    --------
    >>> import torch
    >>> from tnet.nn import BilinearLayer
    >>> layer = BilinearLayer(6, 8, 3, dtype=torch.float64)
    >>> x, u = torch.randn(5, 6, dtype=torch.float64), torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    >>> form = layer.eigen(u)
    >>> bool(torch.allclose(layer(x) @ u, form(x) + layer.bias @ u))
    True
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        bias: bool = True,
        inner_bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_size("in_features", in_features)
        self.hidden_features = check_size("hidden_features", hidden_features)
        self.out_features = check_size("out_features", out_features)
        self.inner_bias = inner_bias

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.left = new(hidden_features, in_features + inner_bias)
        self.right = new(hidden_features, in_features + inner_bias)
        self.output = new(out_features, hidden_features)
        self.register_parameter("bias", new(out_features) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new values: for inputs of variance 1 so have W x and V x, and y has 1/3, as of ``nn.Linear``."""
        for inner in (self.left, self.right):
            nn.init.normal_(inner, std=inner.shape[1] ** -0.5)
        nn.init.normal_(self.output, std=(3 * self.hidden_features) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_linears(cls, left: nn.Linear, right: nn.Linear, output: nn.Linear) -> BilinearLayer:
        """Build the layer from copies of three linear layers, such as gate, up and down projection of a gated MLP.

        Raises
        ------
        ShapeError, BackendError, InputError
            If their sizes, dtypes or devices do not fit, or a value is not finite.
        """
        sizes = [(part.in_features, part.out_features) for part in (left, right, output)]
        if sizes[0] != sizes[1] or sizes[0][1] != sizes[2][0]:
            raise ShapeError(f"linear layers of sizes {sizes}: give n to c, n to c, and c to m.")
        check_factors(left=left.weight, right=right.weight, output=output.weight, bias=output.bias)
        check_factors(left=left.bias, right=right.bias)
        inner = left.bias is not None or right.bias is not None
        layer = cls(*sizes[0], sizes[2][1], output.bias is not None, inner, "meta", left.weight.dtype)
        parts = []
        for part in (left, right):
            shift = torch.zeros_like(part.weight[:, 0]) if part.bias is None else part.bias
            parts.append(torch.cat([part.weight, shift[:, None]], 1) if inner else part.weight)
        layer.left, layer.right = (parameter_of(part, left.weight) for part in parts)
        layer.output = parameter_of(output.weight, left.weight)
        if output.bias is not None:
            layer.bias = parameter_of(output.bias, left.weight)
        return layer.train(left.training)

    @classmethod
    def from_dense(cls, bilinear: nn.Module, rank: int | None = None, *, rtol: float | None = None) -> BilinearLayer:
        """Approximate an ``nn.Bilinear`` of two equal inputs by :func:`tnet.cp` of its symmetric part.

        Parameters
        ----------
        bilinear : torch.nn.Bilinear
            With ``in1_features == in2_features``; left unchanged.
        rank : int
            Hidden features.
        rtol : float
            Relative Frobenius error of the symmetric part, instead of ``rank``.

        Raises
        ------
        ShapeError, RankError, InputError
            If the layer is another one or not square, is not finite, or rank or rtol is out of range.
        """
        if not isinstance(bilinear, nn.Bilinear):
            raise InputError(f"{type(bilinear).__name__} is no dense bilinear layer: give a torch.nn.Bilinear.")
        if bilinear.in1_features != bilinear.in2_features:
            sizes = (bilinear.in1_features, bilinear.in2_features)
            raise ShapeError(f"inputs of sizes {sizes}: only a layer of two equal inputs is quadratic in one.")
        weight = bilinear.weight.detach()
        check_factors(weight=weight, bias=bilinear.bias)
        weights, (output, left, right) = cp_model((weight + weight.mT) / 2, rank, rtol)
        m, n, hidden = output.shape[0], left.shape[0], weights.shape[0]
        layer = cls(n, hidden, m, bilinear.bias is not None, False, "meta", weight.dtype)
        root = weights.abs().sqrt()
        layer.left, layer.right = (parameter_of((root * factor).T, weight) for factor in (left, right))
        layer.output = parameter_of(output * weights.sign(), weight)
        if bilinear.bias is not None:
            layer.bias = parameter_of(bilinear.bias, weight)
        return layer.train(bilinear.training)

    def homogeneous(self, x: torch.Tensor) -> torch.Tensor:
        """Return h: x itself, or with ``inner_bias`` x with 1 appended."""
        if x.shape[-1] != self.in_features:
            raise ShapeError(f"input of shape {tuple(x.shape)}: the last axis must be {self.in_features}.")
        return torch.cat([x, torch.ones_like(x[..., :1])], -1) if self.inner_bias else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., n)`` to ``(..., m)``."""
        h = self.homogeneous(x)
        hidden = nn.functional.linear(h, self.left) * nn.functional.linear(h, self.right)
        return nn.functional.linear(hidden, self.output, self.bias)

    def dense_tensor(self) -> torch.Tensor:
        """Return the symmetric part of B, ``(m, n, n)``, or with n + 1 for ``inner_bias``; differentiable."""
        tensor = torch.einsum("oc,ci,cj->oij", self.output, self.left, self.right)
        return (tensor + tensor.mT) / 2

    def to_dense(self) -> nn.Bilinear:
        """Return an ``nn.Bilinear``: of ``(h, h)``, ``h = homogeneous(x)``, it is this layer; nothing is shared."""
        with torch.no_grad():
            tensor = self.dense_tensor()
        m, n, _ = tensor.shape
        dense = nn.Bilinear(n, n, m, bias=self.bias is not None, device="meta", dtype=tensor.dtype)
        dense.weight = nn.Parameter(tensor)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone())
        return dense.train(self.training)

    @torch.no_grad()
    def eigen(self, u: torch.Tensor) -> BilinearEigen:
        r"""Return eigenvalues and eigenvectors of a direction u of the outputs.

        .. math:: u \cdot (y - b) = h^T Q h = \sum_k \lambda_k (v_k \cdot h)^2, \qquad
            Q = \tfrac12 (W^T D V + V^T D W), \quad D = \operatorname{diag}(P^T u)

        Parameters
        ----------
        u : tensor, shape (m,)

        Returns
        -------
        BilinearEigen
            All eigenvalues, or the ``2 hidden`` that may differ from zero where these are fewer, in the layer's
            dtype. Exact up to rounding.

        Notes
        -----
        In double precision. ``O(n^3)``, and ``O(n hidden^2)`` for ``2 hidden < n``: then Q is projected on the range
        of ``[W^T, V^T]``, and never formed.
        """
        if tuple(u.shape) != (self.out_features,):
            raise ShapeError(f"u of shape {tuple(u.shape)}: give a direction of the outputs, ({self.out_features},).")
        W, V = self.left.double(), self.right.double()
        gates = self.output.double().T @ u.to(W)
        _check_finite(W, V, gates)
        if 2 * self.hidden_features < W.shape[1]:
            basis = torch.linalg.qr(torch.cat([W, V]).T)[0]
            values, vectors = _symmetric_eigen(W @ basis, V @ basis, gates)
            vectors = basis @ vectors
        else:
            values, vectors = _symmetric_eigen(W, V, gates)
        order = torch.argsort(values.abs(), descending=True)
        return BilinearEigen(values[order].to(self.left.dtype), vectors[:, order].to(self.left.dtype))

    @torch.no_grad()
    def output_modes(self) -> OutputModes:
        r"""Return the singular values of B, symmetric, unfolded along the outputs, and their directions.

        Notes
        -----
        From the Gram matrix of the forms of the hidden features, :math:`\tfrac12 (W W^T * V V^T + W V^T * V W^T)`, in
        double precision: ``O(n hidden^2 + m hidden (m + hidden))``; no ``n x n`` matrix is formed. Values below 1e-8
        of the largest are roundoff.
        """
        W, V, P = self.left.double(), self.right.double(), self.output.double()
        cross = W @ V.T
        _check_finite(W, V, P)
        gram = P @ ((W @ W.T) * (V @ V.T) + cross * cross.T) @ P.T / 2
        squares, directions = torch.linalg.eigh(gram)
        values = squares.flip(0).clamp(min=0).sqrt()
        return OutputModes(values.to(self.left.dtype), directions.flip(1).to(self.left.dtype))

    @torch.no_grad()
    def truncated(self, rank: int) -> BilinearLayer:
        r"""Return the layer in which each output keeps the ``rank`` eigenvectors of largest modulus.

        Its hidden features are these eigenvectors, ``rank`` for each output, and W = V. Output o changes by at most
        :math:`|\lambda_{o, rank + 1}| \|h\|^2`.
        """
        most = min(self.left.shape[1], 2 * self.hidden_features)
        check_rank(rank, most, "the number of eigenvalues that may differ from zero")
        m = self.out_features
        directions = torch.eye(m, dtype=torch.float64, device=self.left.device)
        forms = [self.eigen(u).leading(rank) for u in directions]
        layer = BilinearLayer(
            self.in_features, m * rank, m, self.bias is not None, self.inner_bias, "meta", self.left.dtype
        )
        vectors = torch.cat([form.vectors for form in forms], 1).T
        layer.left, layer.right = parameter_of(vectors, self.left), parameter_of(vectors, self.left)
        layer.output = parameter_of(torch.block_diag(*(form.values[None] for form in forms)), self.left)
        if self.bias is not None:
            layer.bias = parameter_of(self.bias, self.left)
        return layer.train(self.training)

    @property
    def n_params(self) -> int:
        """Elements stored."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def macs(self) -> int:
        """Multiply-adds for one token."""
        return self.left.numel() + self.right.numel() + self.hidden_features + self.output.numel()

    def extra_repr(self) -> str:
        """Sizes, parameters and multiply-adds a token, as ``print`` shows them."""
        return (
            f"in_features={self.in_features}, hidden_features={self.hidden_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}, inner_bias={self.inner_bias}, "
            f"n_params={self.n_params}, macs={self.macs}"
        )


def _check_finite(*parts: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise InputError("the layer or u has non-finite values: no eigenvalues.")


def _symmetric_eigen(W: torch.Tensor, V: torch.Tensor, gates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    Q = W.T @ (gates[:, None] * V)
    values, vectors = torch.linalg.eigh((Q + Q.T) / 2)
    return values, vectors
