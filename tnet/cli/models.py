"""Language models on the disk: looked at without trust, then loaded by transformers, which runs no code of theirs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tnet.errors import FormatError, InputError, TnetError, UnsafeFileError
from tnet.io.strict_json import parse_json

__all__ = ["ModelSource", "load_model", "locate_model", "read_config", "texts_for"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


@dataclass(frozen=True)
class ModelSource:
    """Where a model is.

    Parameters
    ----------
    name : str
        A folder, or the name of a model on the hub.
    gguf_file : str or None
        The file in the folder that holds everything, for a GGUF model.
    causal : bool or None
        Whether it is a causal language model, an encoder otherwise; None: known only once the hub has answered.
    """

    name: str
    gguf_file: str | None = None
    causal: bool | None = None


def locate_model(model: str) -> ModelSource:
    """Find out what MODEL is and whether its files are safe to open.

    Parameters
    ----------
    model : str
        A folder in the layout of transformers, a folder with exactly one ``.gguf`` file, such a file, or the name
        of a model on the hub (``organisation/name``).

    Returns
    -------
    ModelSource

    Raises
    ------
    InputError
        There is no such model, or files are missing.
    UnsafeFileError
        Weights only as pickles, or an index whose shards lie outside the folder.
    """
    path = Path(model)
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return ModelSource(str(path.absolute().parent), path.name, True)
        if any(path.match(pattern) for pattern in _PICKLES):
            raise UnsafeFileError(f"{model!r} is a pickle, which can run any program when it is read. {_CONVERT}")
        raise InputError(f"{model!r} is a file; give the folder with config.json, or a .gguf file.")
    if path.is_dir():
        return _locate_in_folder(path)
    if _HUB_ID.fullmatch(model) and not path.parent.is_dir():
        return ModelSource(model)
    raise InputError(
        f"there is no model folder {model!r}; give a folder with config.json, a .gguf file, or a name on the "
        "hub such as 'organisation/name'."
    )


_CONVERT = "Convert it where you trust it: load it with transformers and save_pretrained(folder) as safetensors."


def _locate_in_folder(folder: Path) -> ModelSource:
    if (folder / "config.json").exists():
        config = read_config(folder)
        _check_weights(folder)
        return ModelSource(str(folder), None, _is_causal(config))
    found = sorted(entry.name for entry in folder.glob("*.gguf"))
    if len(found) == 1:
        return ModelSource(str(folder), found[0], True)
    if found:
        raise InputError(f"{str(folder)!r} holds {len(found)} .gguf files; give one of them, such as {found[0]!r}.")
    raise InputError(f"{str(folder)!r} holds neither config.json nor a .gguf file: it is no model folder.")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FormatError(f"{str(folder / 'config.json')!r} cannot be read as JSON: {error}.") from None
    if not isinstance(config, dict):
        raise FormatError(f"{str(folder / 'config.json')!r} holds a {type(config).__name__}, not an object.")
    return config


def _is_causal(config: dict[str, Any]) -> bool:
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise InputError(
            'config.json names no "architectures", so the kind of model is unknown; save the model anew with '
            "save_pretrained of its own class."
        )
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def _check_weights(folder: Path) -> None:
    if (folder / _INDEX).exists():
        for shard in _shards(folder):
            _check_shard(folder, shard)
    elif not (folder / _WEIGHTS).exists():
        pickles = sorted(entry.name for pattern in _PICKLES for entry in folder.glob(pattern))
        if pickles:
            raise UnsafeFileError(
                f"{str(folder)!r} holds its weights only as a pickle ({pickles[0]}), which can run any program when "
                f"it is read. {_CONVERT}"
            )
        raise InputError(f"{str(folder)!r} holds no weights: neither {_WEIGHTS} nor {_INDEX}.")


def _shards(folder: Path) -> list[str]:
    what = repr(str(folder / _INDEX))
    index = parse_json((folder / _INDEX).read_bytes(), what)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) and shard for shard in shards.values()):
        raise FormatError(f"{what} has no weight_map from tensor names to file names.")
    return sorted(set(shards.values()))


def _check_shard(folder: Path, shard: str) -> None:
    """Refuse a name that leaves the folder, by itself or through a link; the hub's cache links within itself."""
    parts = {*PurePosixPath(shard).parts, *PureWindowsPath(shard).parts}
    absolute = PurePosixPath(shard).is_absolute() or PureWindowsPath(shard).is_absolute()
    root = folder.resolve()
    allowed = root.parent.parent if root.parent.name == "snapshots" else root
    if absolute or ".." in parts or not (folder / shard).resolve().is_relative_to(allowed):
        raise UnsafeFileError(
            f"{str(folder / _INDEX)!r} names the file {shard!r}, which lies outside the model's folder; "
            "do not use this model, or repair the index."
        )
    if not (folder / shard).is_file():
        raise InputError(
            f"{str(folder / _INDEX)!r} names the file {shard!r}, which is missing; fetch the model again."
        )


def load_model(source: ModelSource) -> tuple[Any, Any]:
    """Load model and tokenizer, the weights as float32.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, on the CPU.
    tokenizer : transformers tokenizer
    """
    import torch
    import transformers

    import tnet.compression  # noqa: F401 - registers compressed models

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    safe = {"trust_remote_code": False, **gguf}
    try:
        causal = source.causal
        if causal is None:
            causal = _is_causal(transformers.AutoConfig.from_pretrained(source.name, **safe).to_dict())
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        weights = {"dtype": torch.float32} | ({} if gguf else {"use_safetensors": True})
        model = kind.from_pretrained(source.name, **safe, **weights)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.name, **safe)
    except TnetError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"transformers cannot load {source.name!r}: {first[0]}") from error
    return model.eval(), tokenizer


def texts_for(text: str, causal: bool) -> list[str]:
    """Return calibration text as the library wants it: whole for a causal model, by line for an encoder."""
    return [text] if causal else [line for line in text.splitlines() if line.strip()]
