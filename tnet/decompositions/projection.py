"""Projection on a basis that measures what it leaves out, in the same pass over the data."""

from __future__ import annotations

from tnet.arrays import Array, adjoint, array_namespace, device_kind, real_part

__all__ = ["measured_projection"]

# Elements of a panel: on a host the panel, its image and the rest stay in a core's own cache; elsewhere few launches.
_PANEL_ON_HOST = 1 << 15
_PANEL_ON_DEVICE = 1 << 24


def measured_projection(Y: Array, U: Array, *, transposed: bool = False) -> tuple[Array, float]:
    r"""Return :math:`Z = U^H Y` and :math:`\|Y - U Z\|_F^2`.

    Parameters
    ----------
    Y : array, shape (m, n)
    U : array, shape (m, r)
        Orthonormal columns.
    transposed : bool
        Lay ``Z`` out in memory column by column.

    Returns
    -------
    Z : array, shape (r, n)
    left_out : float

    Notes
    -----
    The eigenvalues of a Gram matrix tell the squared norm of what is cut only to ``eps ||Y||^2``; this sum tells it
    to ``eps`` of its own size, and of ``eps^2 ||Y||^2``. Panel by panel the projection and that on the orthogonal
    complement are one matrix product, ``m^2 n`` multiply-adds, or ``2 m r n`` by the difference itself where that
    is much less.
    """
    xp = array_namespace(Y, U)
    m, n = Y.shape
    r = int(U.shape[1])
    by_complement = m <= 2 * r + 64
    Uh = adjoint(xp.linalg.qr(U, mode="complete")[0][:, r:]) if by_complement else adjoint(U)
    if by_complement:
        Uh = xp.concat([adjoint(U), Uh], axis=0)
    out = xp.empty((n, r) if transposed else (r, n), dtype=Y.dtype, device=Y.device)
    total = xp.zeros((), dtype=Y.dtype, device=Y.device)
    step = max(1, (_PANEL_ON_HOST if device_kind(Y) == "cpu" else _PANEL_ON_DEVICE) // m)
    for start in range(0, n, step):
        stop = min(start + step, n)
        panel = Y[:, start:stop]
        image = Uh @ panel
        kept = image[:r, :]
        if transposed:
            out[start:stop, :] = xp.matrix_transpose(kept)
        else:
            out[:, start:stop] = kept
        rest = xp.reshape(image[r:, :] if by_complement else panel - U @ image, (-1,))
        total = total + xp.vecdot(rest, rest)
    left_out = float(real_part(total))
    return (xp.matrix_transpose(out) if transposed else out), left_out
