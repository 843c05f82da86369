from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_tokenizers import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from ultralong_hf import LongContextCollator, prepare_dataset
from ultralong_hf.data.collator import find_separators
from ultralong_hf.errors import BatchError, LengthError, ParallelSizeError

ROWS = [{"input_ids": [5, 9, 6, 7]}, {"input_ids": [1, 2, 3, 9]}]


def as_lists(batch):
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    return {name: tensor.tolist() for name, tensor in batch.items()}


def test_a_batch_holds_ids_labels_a_full_mask_and_positions_over_the_whole_row():
    assert as_lists(LongContextCollator(4)(ROWS)) == {
        "input_ids": [[5, 9, 6, 7], [1, 2, 3, 9]],
        "labels": [[5, 9, 6, 7], [1, 2, 3, 9]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 3]],
    }


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_arrays_and_tensors_make_the_same_batch_as_lists(dtype):
    expected = as_lists(LongContextCollator()(ROWS))
    arrays = [{"input_ids": np.array(row["input_ids"], dtype=dtype)} for row in ROWS]
    assert as_lists(LongContextCollator()(arrays)) == expected
    tensors = [{"input_ids": torch.from_numpy(row["input_ids"])} for row in arrays]
    assert as_lists(LongContextCollator()(tensors)) == expected


@pytest.mark.parametrize("separator", ["|", {"kind": "none"}])
@pytest.mark.parametrize("row_format", ["numpy", "torch", None])
def test_rows_of_a_store_are_read_in_every_format(tmp_path, row_format, separator):
    rows = prepare_dataset(
        ["abcde", "f"],
        tokenizer=byte_tokenizer(),
        target_length=3,
        output_dir=tmp_path / "store",
        separator=separator,
    ).with_format(row_format)
    batch = LongContextCollator(3)([rows[0], rows[1]])
    assert byte_tokenizer().decode(batch["input_ids"].flatten()) == (
        "abcde|" if separator == "|" else "abcdef"
    )


def test_separators_can_be_left_out_of_the_loss():
    collator = LongContextCollator(4, separator_token_id=9, loss_on_separators=False)
    assert as_lists(collator(ROWS))["labels"] == [[5, -100, 6, 7], [1, 2, 3, -100]]
    two = LongContextCollator(separator_token_id=[9, 6], loss_on_separators=False)
    assert as_lists(two(ROWS))["labels"] == [[5, -100, -100, 7], [1, 2, 3, 9]]
    kept = LongContextCollator(4, separator_token_id=9)
    assert as_lists(kept(ROWS))["labels"] == [[5, 9, 6, 7], [1, 2, 3, 9]]


def test_separators_are_found_whole_and_without_overlap():
    assert find_separators(torch.tensor([7, 7, 7, 7, 7, 1, 7, 7]), [7, 7]).tolist() == [0, 2, 6]
    assert find_separators(torch.tensor([8, 5, 7, 8, 7]), [7, 8]).tolist() == [2]
    assert find_separators(torch.tensor([7]), [7, 8]).tolist() == []


def test_masked_documents_have_positions_of_their_own_and_no_mask():
    collator = LongContextCollator(6, separator_token_id=9, mask_documents=True)
    assert as_lists(collator([{"input_ids": [5, 6, 9, 7, 9, 8]}, {"input_ids": [9, 1, 2, 3, 4, 9]}])) == {
        "input_ids": [[5, 6, 9, 7, 9, 8], [9, 1, 2, 3, 4, 9]],
        "labels": [[-100, 6, 9, -100, 9, -100], [-100, -100, 2, 3, 4, 9]],
        "position_ids": [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]],
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_masked_document_is_read_as_if_it_stood_alone(attention):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        attn_implementation=attention,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).eval()
    first, second = [3, 4, 5, 9], [6, 7, 8, 2, 1]
    row = [{"input_ids": [*first, *second]}]
    with torch.no_grad():
        alone = model(torch.tensor([second])).logits[0]
        masked = model(**LongContextCollator(separator_token_id=9, mask_documents=True)(row)).logits[0]
        seen = model(**LongContextCollator()(row)).logits[0]
    torch.testing.assert_close(masked[len(first) :], alone)
    assert (seen[len(first) :] - alone).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "no rows"),
        ([{"labels": [1]}], r"row 0 of the batch has no input_ids, only \['labels'\]"),
        ([ROWS[0], {"input_ids": [1, 2, 3]}], "row 1 of the batch has 3 tokens, not 4"),
        ([{"input_ids": [1, 2, 3, 4, 5]}], "row 0 of the batch has 5 tokens, not 4"),
        ([{"input_ids": [1, 2, 3, 0], "attention_mask": [1, 1, 1, 0]}], "row 0 of the batch holds 1 padding"),
    ],
)
def test_refuses_rows_that_are_no_full_rows(rows, fault):
    with pytest.raises(BatchError, match=fault):
        LongContextCollator(4)(rows)


def test_rows_of_one_batch_must_be_of_one_length_when_none_is_given():
    with pytest.raises(BatchError, match="row 1 of the batch has 3 tokens, not 4"):
        LongContextCollator()([ROWS[0], {"input_ids": [1, 2, 3]}])


def test_a_length_may_be_a_text():
    assert LongContextCollator("1K", shards=2).target_length == 1024
    with pytest.raises(LengthError, match="'1Q' is no length"):
        LongContextCollator("1Q")


def test_a_full_mask_is_no_padding():
    assert LongContextCollator(4)([{**ROWS[0], "attention_mask": [1, 1, 1, 1]}])["input_ids"].shape == (1, 4)


def test_refuses_lengths_that_the_shards_do_not_divide():
    message = r"rows of 1,000,000 tokens do not split into 24 parts. Use 999,984 or 1,000,008 tokens"
    with pytest.raises(ParallelSizeError, match=message):
        LongContextCollator(1_000_000, shards=24)
    with pytest.raises(ParallelSizeError, match=r"rows of 4 tokens do not split into 3 parts. Use 3 or 6"):
        LongContextCollator(shards=3)(ROWS)
    with pytest.raises(ParallelSizeError, match="shards is 0"):
        LongContextCollator(4, shards=0)
    assert LongContextCollator(4, shards=2)(ROWS)["input_ids"].shape == (2, 4)


def test_refuses_settings_that_cannot_work_together():
    for options in ({"loss_on_separators": False}, {"mask_documents": True}):
        with pytest.raises(BatchError, match="needs separator_token_id"):
            LongContextCollator(4, **options)
    with pytest.raises(ParallelSizeError, match="cannot be masked"):
        LongContextCollator(4, mask_documents=True, separator_token_id=9, shards=2)
