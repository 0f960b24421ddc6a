"""Training of the bases of projected keys and values, by distillation at ranks drawn at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tnet.errors import InputError
from tnet.nn.attention.matryoshka_kv import KVProjection, check_tokens

__all__ = ["MatryoshkaTraining", "cayley", "mean_divergence"]


@dataclass(frozen=True)
class MatryoshkaTraining:
    r"""Settings of the training of :class:`KVProjection`'s bases.

    Every basis is :math:`U = U_0\, (I - S)(I + S)^{-1}` with a skew-symmetric S, zero at the start, so it stays
    orthogonal. The loss is :math:`\mathrm{KL}(p \,\|\, p_r)` a token between the predictions of the model itself and
    those with all keys and values cut to random ranks r; small ranks are nested in large ones, so one training
    serves every budget. The weights of the model are not changed.

    Parameters
    ----------
    steps : int
        Steps of Adam.
    batch_size : int
        Sequences a step.
    learning_rate : float
        The highest; it rises over the first tenth of the steps and falls to zero along a cosine.
    shares : tuple of float
        Each step draws one level from this range, as a share of d.
    spread : float
        Each rank is drawn from the level plus or minus this, and cut to 1 ... d.

    References
    ----------
    Lin et al., MatryoshkaKV, arXiv:2410.14731. The distribution of the ranks is tnet's choice.
    """

    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 1e-3
    shares: tuple[float, float] = (0.3, 0.8)
    spread: float = 0.2

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("batch_size", self.batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}: give an integer of at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate={self.learning_rate!r}: give a positive number.")
        if len(self.shares) != 2 or not 0 < self.shares[0] <= self.shares[1] <= 1 or not 0 <= self.spread <= 1:
            raise InputError(
                f"shares={self.shares}, spread={self.spread}: give a range within 0 ... 1 and a spread of at most 1."
            )

    def fit(
        self, projection: KVProjection, tokens: torch.Tensor, *, rng: int | np.random.Generator = 0
    ) -> list[float]:
        """Train the bases of ``projection`` in place; the ranks stay as they are.

        Parameters
        ----------
        projection : KVProjection
            From :func:`project_kv`.
        tokens : torch.Tensor, shape (n, length)
            Token ids without padding.
        rng : int or numpy Generator
            Draws batches and ranks.

        Returns
        -------
        list of float
            The loss of each step, at ranks of its own.

        Raises
        ------
        ShapeError
            If there is no table of tokens.
        InputError
            If the loss stops being finite; the bases are those of the start then.
        """
        tokens = check_tokens(tokens, projection.model)
        draw = np.random.default_rng(rng)
        start = projection.bases.float()
        raw = torch.zeros_like(start, requires_grad=True)
        optimizer = torch.optim.Adam([raw], lr=self.learning_rate, betas=(0.9, 0.99))
        full = torch.ones(start.shape[:-1], device=start.device, dtype=projection.bases.dtype)
        losses = []
        for step in range(self.steps):
            batch = tokens[torch.as_tensor(_rows(draw, len(tokens), self.batch_size), device=tokens.device)]
            masks = self._masks(draw, full)
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * _schedule(step, self.steps)
            with torch.no_grad():
                target = projection.logits(batch, masks=full)
            bases = (start @ cayley(raw)).to(full.dtype)
            loss = mean_divergence(target, projection.logits(batch, bases, masks))
            (raw.grad,) = torch.autograd.grad(loss, [raw])
            optimizer.step()
            losses.append(loss.detach())
        history = torch.stack(losses).tolist()
        trained = (start.double() @ cayley(raw.detach().double())).float()
        if not all(math.isfinite(loss) for loss in history) or not bool(torch.isfinite(trained).all()):
            raise InputError(f"the loss is not finite; lower learning_rate={self.learning_rate}.")
        projection.set_bases(trained)
        return history

    def _masks(self, draw: np.random.Generator, full: torch.Tensor) -> torch.Tensor:
        """Return ``(L, 2, g, d)``, 1 for the coordinates below a random rank."""
        *units, width = full.shape
        shares = draw.uniform(*self.shares) + draw.uniform(-self.spread, self.spread, units)
        ranks = np.clip(np.rint(shares * width), 1, width)
        return torch.as_tensor(np.arange(width) < ranks[..., None], device=full.device).to(full.dtype)


def cayley(raw: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`(I - S)(I + S)^{-1}` with :math:`S = P - P^T`, orthogonal with determinant 1.

    Parameters
    ----------
    raw : torch.Tensor, shape (..., d, d)
        P.

    Returns
    -------
    torch.Tensor, shape (..., d, d)
    """
    skew = raw - raw.mT
    eye = torch.eye(raw.shape[-1], device=raw.device, dtype=raw.dtype)
    # I + S is never singular, its eigenvalues are 1 + i t; and the two factors commute.
    return torch.linalg.solve(eye + skew, eye - skew)


def mean_divergence(target: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return ``KL(softmax(target) || softmax(given))`` in nats, the mean over all tokens, in float32."""
    log_p, log_q = (torch.log_softmax(logits.flatten(0, -2).float(), dim=-1) for logits in (target, given))
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def _rows(draw: np.random.Generator, n: int, batch_size: int) -> np.ndarray:
    return draw.choice(n, min(n, batch_size), replace=False)


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / max(1, steps // 10))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
