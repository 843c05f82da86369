import pytest
import torch
import torch.nn.functional as F
from evaluation_models import make_model

from ultralong_hf.evaluation.engines.attention import attend_lower_right, without_masks
from ultralong_hf.evaluation.engines.kv_cache import roomy_cache


@pytest.mark.parametrize(("part", "total"), [(2, 3), (7, 100), (99, 100), (256, 700)])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_attends_to_all_before_it_as_with_a_mask(part, total, key_heads, dtype):
    torch.manual_seed(0)
    query = torch.randn(2, 4, part, 16, dtype=dtype)
    key, value = (torch.randn(2, key_heads, total, 16, dtype=dtype) for _ in range(2))
    mask = torch.ones(part, total, dtype=torch.bool).tril(total - part)
    repeated = [states.repeat_interleave(4 // key_heads, dim=1) for states in (key, value)]
    for scale in (None, 0.5):
        expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=scale)
        found = attend_lower_right(query, key, value, scale)
        tolerance = 2e-6 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_padding_is_still_masked():
    """A mask that is given is heeded."""
    model = make_model()
    ids = torch.randint(4, 300, (2, 40))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, :9] = 0
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).logits
        with without_masks(model):
            found = model(ids, attention_mask=mask).logits
            cache = roomy_cache(model, 40, rows=2)
            model(ids[:, :30], attention_mask=mask[:, :30], past_key_values=cache)
            continued = model(ids[:, 30:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, 9:], expected[1, 9:])
    torch.testing.assert_close(continued, expected[:, 30:], atol=1e-4, rtol=1e-4)
