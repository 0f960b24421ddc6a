from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.compression.sequences import batches, hold_out, n_tokens, to_sequences
from tnet.errors import InputError


def sequences_of(data, tokenizer=None, *, length=8, causal=True, name="calibration"):
    return to_sequences(data, name=name, tokenizer=tokenizer, length=length, causal=causal)


def test_causal_texts_are_joined_and_cut_into_full_pieces(tiny_tokenizer):
    texts = ["abcdefgh", "ijklm", "nopqrstu"]
    sequences = sequences_of(texts, tiny_tokenizer)
    whole = tiny_tokenizer("\n\n".join(texts))["input_ids"]
    assert [len(s["input_ids"]) for s in sequences] == [8] * (len(whole) // 8)
    assert torch.cat([s["input_ids"] for s in sequences]).tolist() == whole[: 8 * len(sequences)]
    assert all(bool((s["attention_mask"] == 1).all()) for s in sequences)


def test_encoder_texts_are_one_sequence_each_and_cut_off(tiny_tokenizer):
    sequences = sequences_of(["abc", " ", "a much longer text"], tiny_tokenizer, causal=False)
    assert [len(s["input_ids"]) for s in sequences] == [3, 8]
    assert tiny_tokenizer.decode(sequences[1]["input_ids"]) == "a much l"


def test_dicts_are_split_into_rows_and_lose_their_labels():
    ids = torch.arange(12).reshape(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]])
    sequences = sequences_of([{"input_ids": ids, "attention_mask": mask, "labels": ids, "return_dict": True}])
    assert all(s.keys() == {"input_ids", "attention_mask"} for s in sequences)
    assert torch.equal(torch.stack([s["input_ids"] for s in sequences]), ids)
    assert n_tokens(sequences) == 8


def test_dicts_without_a_mask_get_one():
    (sequence,) = sequences_of([{"input_ids": torch.tensor([[5, 6]])}])
    assert sequence["attention_mask"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("one text", "one str.*iterable"),
        (b"bytes", "one bytes.*iterable"),
        ({"input_ids": torch.ones(1, 4)}, "one dict.*iterable"),
        ([], "empty.*at least one"),
        (iter(()), "empty.*at least one"),
        ([1, 2], "holds int.*only texts or only dicts"),
        (["text", {"input_ids": torch.ones(1, 4)}], "dict, str.*only texts or only dicts"),
        (["text"], "pass tokenizer="),
        ([{}], "input_ids is NoneType.*shape"),
        ([{"input_ids": [[1, 2]]}], "input_ids is list.*shape"),
        ([{"input_ids": torch.ones(4)}], r"input_ids is shape \(4,\)"),
        ([{"input_ids": torch.ones(0, 4)}], r"input_ids is shape \(0, 4\)"),
        ([{"input_ids": torch.ones(2, 4), "attention_mask": torch.ones(1, 4)}], "attention_mask.*batch of 2"),
        ([{"input_ids": torch.ones(2, 4), "scale": torch.tensor(1.0)}], "scale.*batch of 2"),
    ],
)
@pytest.mark.parametrize("name", ["calibration", "evaluation"])
def test_bad_data_is_refused_by_name(data, message, name):
    with pytest.raises(InputError, match=f"^{name}=.*{message}"):
        sequences_of(data, name=name)


@pytest.mark.parametrize(
    ("texts", "causal", "message"),
    [
        (["short"], True, "has 5 tokens, shorter than one sequence of 8.*sequence_length"),
        (["", "  \n"], True, "has 0 tokens"),
        (["", "  \n"], False, "only empty texts"),
    ],
)
def test_too_little_text_is_refused(tiny_tokenizer, texts, causal, message):
    with pytest.raises(InputError, match=f"^calibration=.*{message}"):
        sequences_of(texts, tiny_tokenizer, causal=causal)


def test_batches_pad_on_the_right_with_mask_zero():
    rows = [
        {"input_ids": torch.arange(1, k + 1), "attention_mask": torch.ones(k, dtype=torch.long)} for k in (2, 4, 3)
    ]
    first, second = batches(rows, 2, "cpu")
    assert first["input_ids"].tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert first["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert second["input_ids"].tolist() == [[1, 2, 3]]


@given(count=st.integers(2, 60), share=st.floats(0.01, 0.99))
def test_hold_out_takes_the_last_part_and_leaves_both_non_empty(count, share):
    sequences = [{"input_ids": torch.tensor([i])} for i in range(count)]
    first, last = hold_out(sequences, share)
    assert first + last == sequences
    assert len(first) >= 1
    assert len(last) == min(max(1, round(share * count)), count - 1)


@pytest.mark.parametrize("count", [0, 1])
def test_hold_out_needs_two_sequences(count):
    with pytest.raises(InputError, match=f"there are {count} calibration sequences.*at least 2"):
        hold_out([{"input_ids": torch.tensor([1])}] * count, 0.1)
