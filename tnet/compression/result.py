"""The account of a compression, and how it is saved."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tnet.compression.allocation import Choice
from tnet.compression.quality import CausalQuality, Quality
from tnet.compression.quantizer import attach, detach
from tnet.compression.settings import Settings
from tnet.compression.surgery import factorised_layers, restore_dense
from tnet.compression.targets import Target
from tnet.compression.whitening import Shrinkage
from tnet.io import atomic_write, staged_directory

__all__ = ["CompressionResult", "checkpoint_bytes"]

_FORMAT_VERSION = 1


def checkpoint_bytes(model: nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the model's saved tensors: floating ones in ``dtype``, shared storage once."""
    seen: set[int] = set()
    total = 0
    for tensor in model.state_dict().values():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        total += tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
    return total


@dataclass(frozen=True, eq=False)
class CompressionResult:
    """What :func:`tnet.compress` did to a model, and what it cost.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, changed in place.
    settings : Settings
    choices : tuple of Choice
        What became of the layers; empty if nothing was touched.
    targets : tuple of Target
    before, after : CausalQuality or EncoderQuality
        On held-out data.
    predicted_loss : float
        Sum of the quadratic losses of the first allocation: nats a token, or 1 - cosine.
    calibration_loss, held_out_loss : float
        Measured divergence on a little of the calibration text, and on the held-out text.
    validation_losses : dict of str to float
        Mean divergence on the validation part of the calibration data after each step of the refinement.
    shrinkage : Shrinkage or None
        Amounts by which the moments were shrunk.
    bytes_before, bytes_after : int
        Of the checkpoint's tensors in the storage dtype.
    seconds : dict of str to float
        Wall seconds by stage.
    """

    model: Any
    settings: Settings
    choices: tuple[Choice, ...]
    targets: tuple[Target, ...]
    before: Quality
    after: Quality
    predicted_loss: float
    calibration_loss: float
    held_out_loss: float
    validation_losses: dict[str, float]
    shrinkage: Shrinkage | None
    bytes_before: int
    bytes_after: int
    seconds: dict[str, float]

    @property
    def n_params_before(self) -> int:
        """Elements of the targets' dense weights."""
        return sum(target.n_params for target in self.targets)

    @property
    def n_params(self) -> int:
        """Elements that the target layers store now, original biases left out."""
        return sum(choice.n_params for choice in self.choices) if self.choices else self.n_params_before

    @property
    def ratio(self) -> float:
        """Kept share of the target elements."""
        return self.n_params / self.n_params_before

    @property
    def macs(self) -> int:
        """Multiply-adds a token in the target layers."""
        return sum(choice.macs for choice in self.choices) if self.choices else self.n_params_before

    @property
    def increase(self) -> float:
        """Relative increase of the perplexity, or 1 - mean cosine for an encoder."""
        if isinstance(self.after, CausalQuality):
            assert isinstance(self.before, CausalQuality)
            return self.after.perplexity / self.before.perplexity - 1.0
        return 1.0 - self.after.cosine

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the model as plain values for JSON; None stands for infinite or undefined."""
        account = {
            "format_version": _FORMAT_VERSION,
            "settings": self.settings.to_dict(),
            "ratio": self.ratio,
            "n_params_before": self.n_params_before,
            "n_params": self.n_params,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "macs": self.macs,
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "increase": self.increase,
            "predicted_loss": self.predicted_loss,
            "calibration_loss": self.calibration_loss,
            "held_out_loss": self.held_out_loss,
            "validation_losses": self.validation_losses,
            "shrinkage": None if self.shrinkage is None else dataclasses.asdict(self.shrinkage),
            "seconds": self.seconds,
            "layers": [dataclasses.asdict(choice) for choice in self.choices],
        }
        return _json_numbers(account)

    def save(self, path: str | Path, *, tokenizer: Any | None = None, dense: bool = False) -> None:
        """Write the model as a folder that ``from_pretrained`` reads, with this account in ``tnet.json``.

        Parameters
        ----------
        path : path
            A folder that does not exist yet; it appears whole or not at all.
        tokenizer : transformers tokenizer or None
            Saved along.
        dense : bool
            Multiply the factors out: as large as the original, readable without tnet. The model in memory is
            then dense too.

        Raises
        ------
        InputError
            If the folder exists.
        """
        with staged_directory(path) as folder:
            save_model(self.model, folder, self.settings.storage, dense=dense)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            text = json.dumps(self.to_dict(), indent=1)
            atomic_write(folder / "tnet.json", lambda file: file.write(text.encode()))

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for choice in self.choices:
            kinds[choice.kind] = kinds.get(choice.kind, 0) + len(choice.members)
        what = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "untouched"
        lines = [
            f"{type(self.model).__name__}: {len(self.targets)} target layers ({what})",
            f"  parameters   {self.n_params:,} of {self.n_params_before:,} in the targets ({self.ratio:.1%})",
            f"  bytes        {self.bytes_after:,} of {self.bytes_before:,} in {self.settings.dtype}",
        ]
        if isinstance(self.after, CausalQuality):
            assert isinstance(self.before, CausalQuality)
            lines += [
                f"  perplexity   {self.before.perplexity:.4g} -> {self.after.perplexity:.4g} "
                f"({self.increase:+.1%}) on {self.after.n_tokens} held-out tokens",
                f"  KL           {self.after.kl:.4f} nats a token (predicted {self.predicted_loss:.4f})",
                f"  top-1        {self.after.top1_agreement:.1%} agreement with the original",
            ]
        else:
            lines += [
                f"  cosine       {self.after.cosine:.4f} mean, {self.after.cosine_min:.4f} least, "
                f"over {self.after.n_sentences} held-out texts",
                f"  Spearman     {self.after.spearman:.4f} of the pairwise similarities",
            ]
        if self.validation_losses:
            steps = ", ".join(f"{loss:.4f} {step}" for step, loss in self.validation_losses.items())
            lines.append(f"  refinement   {steps}")
        lines.append(f"  seconds      {sum(self.seconds.values()):.1f}")
        return "\n".join(lines)


def _json_numbers(value: Any) -> Any:
    """Replace what JSON has no number for: a perplexity may be infinite, a rank correlation undefined."""
    if isinstance(value, dict):
        return {key: _json_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_model(model: Any, folder: Path, dtype: torch.dtype, *, dense: bool) -> None:
    """Write weights in ``dtype`` and a config that says how to rebuild the layers."""
    if dense:
        restore_dense(model)
    detach_gguf(model)
    if factorised_layers(model):
        attach(model)
    else:
        detach(model)
    saved = model.state_dict(keep_vars=True).values()
    floating = list({id(tensor): tensor for tensor in saved if tensor.is_floating_point()}.values())
    held = [tensor.data for tensor in floating]
    config_dtype = model.config.dtype
    try:
        for tensor in floating:
            tensor.data = tensor.data.to(dtype)
        model.save_pretrained(folder)
    finally:
        for tensor, data in zip(floating, held, strict=True):
            tensor.data = data
        model.config.dtype = config_dtype


def detach_gguf(model: Any) -> None:
    """Forget that a model was read from a GGUF file, once its weights are plain floating tensors."""
    if getattr(getattr(model, "hf_quantizer", None), "quantization_config", None) is None:
        return
    if "gguf" in str(model.hf_quantizer.quantization_config.quant_method).lower():
        model.hf_quantizer.remove_quantization_config(model)
