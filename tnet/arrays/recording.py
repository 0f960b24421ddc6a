"""Whether torch would notice that something else than its own operations read a tensor."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["unrecorded"]


def unrecorded(*tensors: Any) -> bool:
    """Return whether all are ordinary tensors on the CPU, and neither gradients, traces nor modes look at them.

    Then their memory may be read through NumPy. Anything else must see operations of torch.
    """
    return not _are_watched() and all(_is_plain(x) for x in tensors)


def _are_watched() -> bool:
    """Return whether something of torch looks at all operations now: a compiler, a trace, a transform or a mode."""
    torch: Any = sys.modules["torch"]
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _is_plain(x: Any) -> bool:
    torch: Any = sys.modules["torch"]
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.device.type != "cpu":
        return False
    if x.is_conj() or x.is_neg() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        return False
    return not (x.requires_grad and torch.is_grad_enabled())
