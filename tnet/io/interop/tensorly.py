"""Exchange with TensorLy: CP, Tucker, tensor train and tensor train matrix; arrays are shared, not copied."""

from __future__ import annotations

import importlib
from typing import Any

from tnet.errors import InputError, MissingDependencyError
from tnet.formats import CPTensor, MatrixProductOperator, TensorTrain, TuckerTensor

__all__ = ["from_tensorly", "to_tensorly"]

_CLASSES = {
    "CPTensor": ("tensorly.cp_tensor", CPTensor),
    "TuckerTensor": ("tensorly.tucker_tensor", TuckerTensor),
    "TTTensor": ("tensorly.tt_tensor", TensorTrain),
    "TTMatrix": ("tensorly.tt_matrix", MatrixProductOperator),
}


def to_tensorly(tensor: CPTensor | TuckerTensor | TensorTrain | MatrixProductOperator) -> Any:
    """Return the same tensor as an object of TensorLy.

    Parameters
    ----------
    tensor : CPTensor, TuckerTensor, TensorTrain or MatrixProductOperator
        Its arrays must be of the library that is TensorLy's global backend (NumPy unless set).

    Returns
    -------
    tensorly CPTensor, TuckerTensor, TTTensor or TTMatrix

    Raises
    ------
    InputError
        TensorLy has no such format.
    MissingDependencyError
        TensorLy is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from tnet.formats import CPTensor
    >>> from tnet.io.interop import from_tensorly, to_tensorly
    >>> cp = CPTensor(np.ones(2), (np.ones((3, 2)), np.ones((4, 2))))
    >>> to_tensorly(cp).shape
    (3, 4)
    >>> from_tensorly(to_tensorly(cp)).shape
    (3, 4)
    """
    for name, (module, kind) in _CLASSES.items():
        if isinstance(tensor, kind):
            theirs = getattr(_import(module), name)
            if isinstance(tensor, CPTensor):
                return theirs((tensor.weights, list(tensor.factors)))
            if isinstance(tensor, TuckerTensor):
                return theirs((tensor.core, list(tensor.factors)))
            return theirs(list(tensor.cores))
    known = ", ".join(kind.__name__ for _, kind in _CLASSES.values())
    raise InputError(f"to_tensorly: {type(tensor).__name__} has no counterpart; {known} have one.")


def from_tensorly(tensor: Any) -> CPTensor | TuckerTensor | TensorTrain | MatrixProductOperator:
    """Return an object of TensorLy as a format of tnet.

    Parameters
    ----------
    tensor : tensorly CPTensor, TuckerTensor, TTTensor or TTMatrix

    Returns
    -------
    CPTensor, TuckerTensor, TensorTrain or MatrixProductOperator
        With the same arrays.

    Raises
    ------
    InputError
        Another object, such as a bare tuple of factors, which does not say what it stands for.
    MissingDependencyError
        TensorLy is not installed.
    """
    for name, (module, kind) in _CLASSES.items():
        if isinstance(tensor, getattr(_import(module), name)):
            if kind in (CPTensor, TuckerTensor):
                first, factors = tensor
                return kind(first, tuple(factors))
            return kind(tuple(tensor.factors))
    raise InputError(
        f"from_tensorly: {type(tensor).__name__} is none of tensorly's {', '.join(_CLASSES)}; "
        "build the format of tnet.formats from its parts."
    )


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError("tensorly is not installed: pip install 'tnet-tensors[interop]'.") from error
