"""Products of matrices and stacks, with gradients that are single products where torch would sum a stack."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["matrix_product"]


def matrix_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    r"""Return ``left @ right``: two matrices, two stacks, or one matrix times each of a stack.

    Notes
    -----
    The gradient of the one matrix, :math:`\sum_p Y_p S_p^T`, is one product over all p: autograd of a broadcast
    product would form every term and then add them.
    """
    if left.ndim == 2 and right.ndim == 3 and left.requires_grad and torch.is_grad_enabled():
        if left.device.type != "meta" and torch.is_autocast_enabled(left.device.type):
            dtype = torch.get_autocast_dtype(left.device.type)
            left, right = left.to(dtype), right.to(dtype)
        return _MatrixTimesStack.apply(left, right)  # pyright: ignore[reportReturnType]
    return torch.matmul(left, right)


class _MatrixTimesStack(torch.autograd.Function):
    """``(N, K) @ (P, K, C) -> (P, N, C)``."""

    @staticmethod
    def forward(matrix: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
        return torch.matmul(matrix, stack)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        matrix, stack = ctx.saved_tensors
        (gradient,) = gradients
        of_matrix = of_stack = None
        if ctx.needs_input_grad[0]:
            n, k = matrix.shape
            of_matrix = gradient.transpose(0, 1).reshape(n, -1) @ stack.transpose(1, 2).reshape(-1, k)
        if ctx.needs_input_grad[1]:
            of_stack = matrix_product(matrix.mT, gradient)
        return of_matrix, of_stack
