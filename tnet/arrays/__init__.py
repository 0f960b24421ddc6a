"""The one room that knows array libraries.

Everything above speaks the Python array API standard through :func:`array_namespace`; what the
standard lacks stands here: the way in and out of a library, checks that cost no extra pass,
linear algebra, random numbers and the registry of hot kernels.
"""

from __future__ import annotations

from tnet.arrays.checks import Scaled, balanced_scale, check_finite, scale_by_power_of_two, squared_norm
from tnet.arrays.einsum import contract_pair, einsum, reduce_single
from tnet.arrays.hals import hals
from tnet.arrays.kernels import mode_product, mttkrp, ttm_chain
from tnet.arrays.linalg import (
    TruncatedSVD,
    cholesky_solve_gram,
    eigh_descending,
    gram,
    gram_factor,
    gram_truncated,
    khatri_rao,
    qr,
    solve_triangular,
    svd_truncated,
    truncated_eigh,
    tsqr,
    tsqr_truncated,
)
from tnet.arrays.namespace import (
    Array,
    Namespace,
    adjoint,
    array_namespace,
    as_array,
    astype,
    common_dtype,
    compute_dtype,
    conj,
    device_kind,
    device_of,
    dtype_name,
    from_numpy_like,
    is_complex,
    is_torch,
    library_name,
    real_dtype,
    require_floating,
    resolve_dtype,
    to_compute,
    to_device,
    to_numpy,
    total_size,
)
from tnet.arrays.pytrees import register_torch_pytree
from tnet.arrays.random import resolve_rng, standard_normal
from tnet.arrays.registry import lookup, register

__all__ = [
    "Array",
    "Namespace",
    "Scaled",
    "TruncatedSVD",
    "adjoint",
    "array_namespace",
    "as_array",
    "astype",
    "balanced_scale",
    "check_finite",
    "cholesky_solve_gram",
    "common_dtype",
    "compute_dtype",
    "conj",
    "contract_pair",
    "device_kind",
    "device_of",
    "dtype_name",
    "eigh_descending",
    "einsum",
    "from_numpy_like",
    "gram",
    "gram_factor",
    "gram_truncated",
    "hals",
    "is_complex",
    "is_torch",
    "khatri_rao",
    "library_name",
    "lookup",
    "mode_product",
    "mttkrp",
    "qr",
    "real_dtype",
    "reduce_single",
    "register",
    "register_torch_pytree",
    "require_floating",
    "resolve_dtype",
    "resolve_rng",
    "scale_by_power_of_two",
    "solve_triangular",
    "squared_norm",
    "standard_normal",
    "svd_truncated",
    "to_compute",
    "to_device",
    "to_numpy",
    "total_size",
    "truncated_eigh",
    "tsqr",
    "tsqr_truncated",
    "ttm_chain",
]
