"""Published recipes with one ratio for every layer, to compare with: plain SVD, plain MPO, whitened SVD.

They are installed in the layers that these recipes store: two plain factors, or MPO cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch

from tnet.compression.allocation import Choice
from tnet.compression.catalogue import Problem, metric_of
from tnet.compression.fitting import contiguous
from tnet.compression.job import Job, moments_of, prepare
from tnet.compression.moments import Moments
from tnet.compression.mpo_candidates import bonds_for
from tnet.compression.pipeline import finish
from tnet.compression.result import CompressionResult
from tnet.compression.settings import Settings
from tnet.compression.surgery import install
from tnet.compression.whitening import Metric, Shrinkage, factorise
from tnet.decompositions import mpo
from tnet.errors import InputError
from tnet.nn import FactorisedLinear, LowRankLinear, MPOLinear
from tnet.nn.digits import balanced_digits

__all__ = ["compress_uniform"]

Method = Literal["svd", "mpo", "whitened"]

_N_CORES = 3
#: SVD-LLM adds only enough to the second moment to make it positive definite.
_SVD_LLM = Shrinkage(inputs=1e-6, outputs=0.0)


def compress_uniform(
    model: Any,
    *,
    ratio: float,
    method: Method,
    calibration: Iterable[Any],
    evaluation: Iterable[Any] | None = None,
    tokenizer: Any | None = None,
    targets: str | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    sequence_length: int = 256,
    batch_size: int = 4,
    device: str | torch.device | None = None,
    rng: int = 0,
    progress: bool = True,
) -> CompressionResult:
    """Compress every target layer to the same ratio by a published recipe, in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Changed in place.
    ratio : float
        Kept elements of every layer, in (0, 1).
    method : {"svd", "mpo", "whitened"}
        ``"svd"``: truncated SVD of the weight. ``"mpo"``: TT-SVD of the weight as a three-core matrix
        product operator. ``"whitened"``: truncated SVD in the norm of the input moment, the recipe of SVD-LLM
        [wang2024]_ with its uniform ratio.
    calibration, evaluation, tokenizer, targets, dtype, sequence_length, batch_size, device, rng, progress
        As in :func:`tnet.compress`; only ``"whitened"`` uses the calibration data for more than the report.

    Returns
    -------
    CompressionResult
        Measured as :func:`tnet.compress` does.

    Raises
    ------
    InputError
        As :func:`tnet.compress`, or for an unknown method.

    References
    ----------
    .. [wang2024] X. Wang, Y. Zheng, Z. Wan, M. Zhang, "SVD-LLM: Truncation-aware singular value decomposition
       for large language model compression", ICLR 2025.
    """
    if method not in ("svd", "mpo", "whitened"):
        raise InputError(f'method={method!r}: give "svd", "mpo" or "whitened".')
    settings = Settings.checked(
        ratio=ratio, max_bytes=None, targets=targets, sensitivity="output", dtype=dtype,
        sequence_length=sequence_length, batch_size=batch_size, refine=False, seed=rng,
    )  # fmt: skip
    job = prepare(model, calibration, evaluation, tokenizer, None, device, progress, settings)
    try:
        moments = moments_of(job, "first", job.statistics) if method == "whitened" else None
        choices = [
            _replace(job, group, name, ratio, method, moments) for group in job.problem.groups for name in group
        ]
        return finish(job, tuple(choices))
    except BaseException:
        job.original.put_back(model)
        raise


def _replace(
    job: Job, group: tuple[str, ...], name: str, ratio: float, method: Method, moments: Moments | None
) -> Choice:
    problem = job.problem
    weight = problem.weights[name].to(torch.float64)
    m, n = weight.shape
    bias = job.original.bias(name)
    ranks: tuple[int, ...]
    if method == "mpo":
        rows, columns = balanced_digits(m, _N_CORES), balanced_digits(n, _N_CORES)
        ranks = bonds_for(rows, columns, int(ratio * m * n))
        tensor = mpo(weight, rows, columns, ranks).tensor
        module: FactorisedLinear = MPOLinear.from_tensor(tensor, None if bias is None else bias.to(torch.float64))
        n_params, macs = tensor.n_params, module.macs
    else:
        ranks = (max(1, int(ratio * m * n / (m + n))),)
        left, right = _factors(problem, group, name, weight, ranks[0], moments)
        module = LowRankLinear.from_factors(left, right, None if bias is None else bias.to(torch.float64))
        n_params = macs = ranks[0] * (m + n)
    like = problem.weights[name]
    module.conv1d = problem.targets[name].conv1d
    install(job.model, name, contiguous(module.to(device=like.device, dtype=like.dtype)))
    kind = "mpo" if method == "mpo" else "low_rank"
    return Choice((name,), kind, ranks, n_params, n_params * problem.itemsize, macs, 0.0)


def _factors(
    problem: Problem, group: tuple[str, ...], name: str, weight: torch.Tensor, rank: int, moments: Moments | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if moments is None:
        n = weight.shape[1]
        metric = Metric(torch.eye(n).to(weight), (None,), torch.zeros(n).to(weight))
    else:
        metric = metric_of(problem, moments, group, (name,), _SVD_LLM)
    (left,), right = factorise([weight], metric, rank)
    return left, right
