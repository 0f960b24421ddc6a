"""Plug-in for transformers: models with factorised layers save and load by its own methods.

Importing this module registers the method ``"tnet"``; after that ``AutoModel*.from_pretrained`` reads a
compressed model as it reads any other. Without the import transformers refuses the folder: it does not know
the method, and each replaced weight stands in the file as an empty tensor that fits no dense layer.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tnet.compression.surgery import LayerSpec, check_specs, factorised_layers, replace, restore_dense
from tnet.errors import FormatError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FORMAT_VERSION", "METHOD", "TnetConfig", "TnetQuantizer", "attach", "detach"]

METHOD = "tnet"
FORMAT_VERSION = 1


class TnetConfig(QuantizationConfigMixin):
    """The entry ``quantization_config`` of a compressed model's ``config.json``.

    Parameters
    ----------
    layers : mapping of str to LayerSpec
        What stands where, by module name.
    format_version : int
        Version of this entry; this tnet reads and writes version 1.
    quant_method : str
        ``"tnet"``.

    Raises
    ------
    FormatError
        If the version is another one or the layers are malformed.
    """

    def __init__(
        self,
        layers: Mapping[str, LayerSpec],
        format_version: int = FORMAT_VERSION,
        quant_method: str = METHOD,
    ) -> None:
        if type(format_version) is not int or format_version != FORMAT_VERSION:
            raise FormatError(
                f"quantization_config has format_version {format_version!r}; this tnet reads version "
                f"{FORMAT_VERSION}. Upgrade tnet, or compress the model anew."
            )
        if quant_method != METHOD:
            raise FormatError(f"quant_method={quant_method!r}: TnetConfig describes {METHOD!r} only.")
        self.quant_method: Any = quant_method
        self.format_version = format_version
        self.layers: dict[str, LayerSpec] = copy.deepcopy(dict(check_specs(layers)))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Read the entry; the signature, with its second return value on demand, is transformers' own."""
        if unknown := sorted(config_dict.keys() - {"layers", "format_version", "quant_method"}):
            raise FormatError(f"quantization_config has unknown entries: {', '.join(unknown)}.")
        if missing := sorted({"layers", "format_version"} - config_dict.keys()):
            raise FormatError(f"quantization_config lacks {', '.join(missing)}.")
        config = cls(config_dict["layers"], config_dict["format_version"])
        return (config, kwargs) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON data."""
        return {
            "quant_method": self.quant_method,
            "format_version": self.format_version,
            "layers": copy.deepcopy(self.layers),
        }


class TnetQuantizer(HfQuantizer):
    """Builds the factorised layers before transformers loads their values, and marks them when it saves."""

    quantization_config: TnetConfig
    requires_calibration = False
    requires_parameters_quantization = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to serve as a method that quantises while loading a dense model."""
        if not self.pre_quantized:
            raise InputError(
                "TnetConfig only describes a model that is compressed already; "
                "load the dense model without it and call tnet.compress(model, ...)."
            )

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        layers = _names_in(model, self.quantization_config.layers)
        replace(model, layers)
        self.quantization_config.layers = layers
        ignored = set(model._keys_to_ignore_on_load_unexpected or ())
        # Whether the file has the prefix of the body does not depend on whether this model has it.
        bare = {name.removeprefix(_prefix(model)) for name in layers}
        ignored |= {rf"(^|\.){re.escape(_marker(name))}$" for name in bare}
        _set(model, "_keys_to_ignore_on_load_unexpected", ignored)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        # Factors are ordinary floating parameters: casting and training are as free as in a dense model.
        _set(model, "is_quantized", False)
        return model

    def get_state_dict_and_metadata(self, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return the values to save, with an empty tensor in place of every replaced weight.

        A reader that does not know the method would otherwise keep random dense layers and only warn.
        """
        self.quantization_config.layers = factorised_layers(model)
        state = dict(model.state_dict())
        for name in self.quantization_config.layers:
            state[_marker(name)] = torch.empty(0)
        return state, {}

    def is_serializable(self) -> bool:
        """Whether ``save_pretrained`` works: yes."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether adapters may be trained on the model: yes."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Whether the layers themselves may be trained: yes."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Whether ``torch.compile`` takes the layers: yes."""
        return True

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        restore_dense(model)
        return model if dtype is None else cast("Any", model).to(dtype)


def attach(model: PreTrainedModel) -> None:
    """Make ``model.save_pretrained`` write the factorised layers of a model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With at least one factorised layer; gets ``config.quantization_config`` and ``hf_quantizer``. The
        layers are read again at each save, so that later changes need no second call.

    Raises
    ------
    InputError
        If the model has no factorised layer, or is quantised by another method.
    """
    layers = factorised_layers(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no factorised layer; it saves as it is.")
    other = getattr(model, "hf_quantizer", None)
    if other is not None and not isinstance(other, TnetQuantizer):
        raise InputError(
            f"{type(model).__name__} is quantised by {type(other).__name__}; compress the unquantised model instead."
        )
    config = TnetConfig(layers)
    model.config.quantization_config = config
    _set(model, "hf_quantizer", TnetQuantizer(config, pre_quantized=True))


def detach(model: PreTrainedModel) -> None:
    """Undo :func:`attach`, for a model whose layers are dense again; does nothing for other models."""
    quantizer = getattr(model, "hf_quantizer", None)
    if isinstance(quantizer, TnetQuantizer):
        quantizer.remove_quantization_config(model)


def _set(model: PreTrainedModel, name: str, value: object) -> None:
    # torch's types allow only tensors and modules as attributes of a module; transformers sets others too.
    setattr(model, name, value)


def _marker(name: str) -> str:
    return f"{name}.weight"


def _prefix(model: PreTrainedModel) -> str:
    return f"{model.base_model_prefix}." if model.base_model_prefix else ""


def _names_in(model: PreTrainedModel, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSpec]:
    """Translate names between a model with a head and its bare body, as transformers does for weights."""
    prefix = _prefix(model)
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    renamed: dict[str, str] = {}
    for name in layers:
        candidates = (name, name.removeprefix(prefix), prefix + name)
        found = next((candidate for candidate in candidates if candidate in modules), None)
        if found is None:
            raise FormatError(
                f"quantization_config names the layer {name!r}, which {type(model).__name__} does not have."
            )
        renamed[name] = found
    translated: dict[str, LayerSpec] = {}
    for name, spec in layers.items():
        translated[renamed[name]] = copy.deepcopy(spec)
        if "owner" in spec:
            translated[renamed[name]]["owner"] = renamed[spec["owner"]]
    return translated


def _register() -> None:
    # The names are free after the removal: importing or reloading this module twice is harmless.
    AUTO_QUANTIZATION_CONFIG_MAPPING.pop(METHOD, None)
    AUTO_QUANTIZER_MAPPING.pop(METHOD, None)
    register_quantization_config(METHOD)(TnetConfig)
    register_quantizer(METHOD)(TnetQuantizer)


_register()
