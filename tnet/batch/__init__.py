"""Many tensors of one shape decomposed in one call, by batched products and no loop over the tensors.

:func:`cp`, :func:`tucker` and :func:`tt` take an array whose first axis counts the tensors, and return a
:class:`BatchDecomposition`, whose ``tensor`` is a :class:`CPBatch`, a :class:`TuckerBatch` or a
:class:`TensorTrainBatch`.
"""

from __future__ import annotations

from tnet.batch.cp import cp
from tnet.batch.result import BatchDecomposition, BatchHistory
from tnet.batch.tensors import CPBatch, TensorBatch, TensorTrainBatch, TuckerBatch
from tnet.batch.tt import tt
from tnet.batch.tucker import tucker

__all__ = [
    "BatchDecomposition",
    "BatchHistory",
    "CPBatch",
    "TensorBatch",
    "TensorTrainBatch",
    "TuckerBatch",
    "cp",
    "tt",
    "tucker",
]
