import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ultralong_hf.errors import BatchError
from ultralong_hf.training.padding import WithoutPaddingMask

COLLATOR = DataCollatorForLanguageModeling(pad_token_id=0)
SAMPLES = [{"input_ids": [3, 4, 5, 6], "labels": [-100, 4, 5, 6]}, {"input_ids": [7, 8], "labels": [-100, 8]}]


def test_only_the_mask_differs_and_it_hides_nothing():
    ours, theirs = WithoutPaddingMask(COLLATOR)(SAMPLES), COLLATOR(SAMPLES)
    assert theirs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert ours["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    for key in ("input_ids", "labels"):
        assert torch.equal(ours[key], theirs[key])
    assert ours["labels"].tolist() == [[-100, 4, 5, 6], [-100, 8, -100, -100]]


def test_loss_and_gradients_are_those_with_the_mask():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    found = []
    for collator in (COLLATOR, WithoutPaddingMask(COLLATOR)):
        model.zero_grad()
        loss = model(**collator(SAMPLES)).loss
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert len(found[0]) > 10
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_padding_before_tokens_is_refused():
    left = DataCollatorForLanguageModeling(pad_token_id=0)

    def padded_left(samples):
        return {key: value.flip(1) for key, value in left(samples).items()}

    with pytest.raises(BatchError, match="padding_side = 'right'"):
        WithoutPaddingMask(padded_left)(SAMPLES)


def test_batches_without_a_mask_stay_as_they_are():
    batch = {"input_ids": torch.tensor([[1, 2]])}
    assert WithoutPaddingMask(lambda samples: batch)([]) is batch
