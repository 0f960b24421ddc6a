"""Decompositions as scikit-learn transformers: samples on the first mode, the other modes learned by ``fit``.

Needs scikit-learn: ``pip install 'tnet-tensors[sklearn]'``.
"""

from __future__ import annotations

from tnet.errors import MissingDependencyError

try:
    from tnet.sklearn.cp_transformer import CPTransformer
    from tnet.sklearn.tensor_transformer import TensorTransformer
    from tnet.sklearn.tucker_transformer import TuckerTransformer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise
    raise MissingDependencyError("tnet.sklearn needs scikit-learn: pip install 'tnet-tensors[sklearn]'.") from None

__all__ = ["CPTransformer", "TensorTransformer", "TuckerTransformer"]
