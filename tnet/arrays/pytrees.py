"""Registration of classes that hold arrays as torch pytrees, once torch is loaded."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["register_torch_pytree"]

_REGISTERED: set[type] = set()


def register_torch_pytree(cls: type, array_fields: tuple[str, ...]) -> None:
    """Register ``cls`` as a torch pytree whose children are the named fields; once for each class.

    Parameters
    ----------
    cls : type
        A frozen dataclass.
    array_fields : tuple of str
        Fields that hold arrays or tuples of arrays; the other fields of the class are carried
        along as constants, which must be comparable.

    Notes
    -----
    A tree may hold any leaves, such as None or shapes, so rebuilding skips the checks of the
    constructor. Nothing happens while torch is not loaded.
    """
    if cls in _REGISTERED or "torch" not in sys.modules:
        return
    from torch.utils import _pytree

    names = tuple(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    constant = tuple(name for name in names if name not in array_fields)

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        context = tuple(getattr(value, name) for name in constant)
        return [getattr(value, name) for name in array_fields], context

    def unflatten(children: Any, context: tuple[Any, ...]) -> Any:
        value = object.__new__(cls)
        for name, child in zip((*array_fields, *constant), (*children, *context), strict=True):
            object.__setattr__(value, name, child)
        return value

    _pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    _REGISTERED.add(cls)
