"""Token sequences: from texts or from dictionaries of tensors to what a model accepts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from tnet.errors import InputError

__all__ = ["TokenSequence", "batches", "hold_out", "n_tokens", "to_sequences"]

#: One sequence as the model's keyword arguments, without the batch axis.
TokenSequence = dict[str, torch.Tensor]


def to_sequences(
    data: Iterable[Any], *, name: str, tokenizer: Any | None, length: int, causal: bool
) -> list[TokenSequence]:
    """Turn calibration or evaluation data into single sequences.

    Parameters
    ----------
    data : iterable of str, or iterable of mapping
        Texts, or keyword arguments of the model with a leading batch axis (``input_ids`` of shape
        ``(batch, length)`` ...). ``labels`` are dropped: tnet makes its own.
    name : str
        The argument's name, for the messages.
    tokenizer : callable or None
        A transformers tokenizer; needed for texts.
    length : int
        Tokens a sequence. For a causal model texts are joined and cut into full pieces, the rest is left
        out; for an encoder each text is one sequence, cut off at this length.
    causal : bool
        Which of the two.

    Returns
    -------
    list of dict
        Sequences in the order of the data.

    Raises
    ------
    InputError
        If there is nothing, a text comes without a tokenizer, the text is shorter than one sequence, a sequence
        has nothing to predict, or an item is of another kind.
    """
    if isinstance(data, (str, bytes, Mapping)):
        raise InputError(
            f"{name}= is one {type(data).__name__}; give an iterable of texts or of dicts, such as [text]."
        )
    items = list(data)
    if not items:
        raise InputError(f"{name}= is empty; give at least one text, or one dict with input_ids.")
    if all(isinstance(item, str) for item in items):
        return _from_texts(items, name, tokenizer, length, causal)
    if all(isinstance(item, Mapping) for item in items):
        return [sequence for item in items for sequence in _from_mapping(item, name, causal)]
    kinds = sorted({type(item).__name__ for item in items})
    raise InputError(f"{name}= holds {', '.join(kinds)}; give only texts or only dicts of tensors.")


def _from_texts(
    texts: Sequence[str], name: str, tokenizer: Any | None, length: int, causal: bool
) -> list[TokenSequence]:
    if tokenizer is None:
        raise InputError(f"{name}= holds texts; pass tokenizer= to turn them into tokens.")
    texts = [text for text in texts if text.strip()]
    if not causal:
        encoded = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
        sequences = [_sequence(ids) for ids in encoded if len(ids) > 0]
    else:
        ids = tokenizer("\n\n".join(texts))["input_ids"] if texts else []
        sequences = [_sequence(ids[i : i + length]) for i in range(0, len(ids) - length + 1, length)]
        if not sequences:
            raise InputError(
                f"{name}= has {len(ids)} tokens, shorter than one sequence of {length}; "
                "give more text or a smaller sequence_length."
            )
    if not sequences:
        raise InputError(f"{name}= holds only empty texts; give some that have words in them.")
    return sequences


def _sequence(ids: Sequence[int]) -> TokenSequence:
    input_ids = torch.tensor(list(ids), dtype=torch.long)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _from_mapping(item: Mapping[str, Any], name: str, causal: bool) -> Iterator[TokenSequence]:
    ids = item.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.numel() == 0:
        given = f"shape {tuple(ids.shape)}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise InputError(f"{name}= has a dict whose input_ids is {given}; give a tensor of shape (batch, length).")
    tensors = {key: value for key, value in item.items() if isinstance(value, torch.Tensor) and key != "labels"}
    wrong = [key for key, value in tensors.items() if value.ndim == 0 or value.shape[0] != ids.shape[0]]
    if wrong:
        raise InputError(
            f"{name}= has a dict whose {wrong[0]} has shape {tuple(tensors[wrong[0]].shape)}; "
            f"its first axis must be the batch of {ids.shape[0]}, as in input_ids."
        )
    mask = tensors.setdefault("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape:
        raise InputError(
            f"{name}= has a dict whose attention_mask has shape {tuple(mask.shape)}; "
            f"give that of input_ids, {tuple(ids.shape)}."
        )
    fewest, least = int(mask.sum(1).min()), 2 if causal else 1
    if fewest < least:
        raise InputError(
            f"{name}= has a sequence with {fewest} tokens that are no padding; give at least {least} in each."
        )
    for row in range(ids.shape[0]):
        yield {key: value[row] for key, value in tensors.items()}


def hold_out(sequences: list[TokenSequence], share: float) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """Split off the last ``share`` of the sequences, at least one; the first part keeps at least one too."""
    if len(sequences) < 2:
        raise InputError(
            f"there are {len(sequences)} calibration sequences, and one part must be held out to measure the "
            "loss; give at least 2 sequences (more text, or a smaller sequence_length)."
        )
    n = min(max(1, round(share * len(sequences))), len(sequences) - 1)
    return sequences[:-n], sequences[-n:]


def n_tokens(sequences: Iterable[TokenSequence]) -> int:
    """Count the tokens that are no padding."""
    return sum(int(sequence["attention_mask"].sum()) for sequence in sequences)


def batches(
    sequences: Sequence[TokenSequence], size: int, device: torch.device | str
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield keyword arguments for the model, ``size`` sequences each, padded on the right with mask 0."""
    for start in range(0, len(sequences), size):
        part = sequences[start : start + size]
        yield {key: _stack([sequence[key] for sequence in part]).to(device) for key in part[0]}


def _stack(rows: list[torch.Tensor]) -> torch.Tensor:
    if len({tuple(row.shape) for row in rows}) == 1:
        return torch.stack(rows)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
