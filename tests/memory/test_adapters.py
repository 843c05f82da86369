import copy

import pytest
import torch
from peft import get_peft_model
from tiny_models import tiny_llama, tokens
from torch import nn

from ultralong_hf.errors import ModelError
from ultralong_hf.memory.adapters import adapter_config, merged_weights
from ultralong_hf.recipes.schema import LoraSection

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21.2


def adapted(section, **changes):
    """A model with adapters, and everything that trains moved somewhere."""
    model = tiny_llama(**changes)
    model = get_peft_model(model, adapter_config(model, section))
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.1)
    return model.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_merged_weights_are_those_of_pefts_own_merge(tied, whole):
    section = LoraSection(rank=4, alpha=12, target_modules="all-linear", trainable_embeddings_and_norms=whole)
    model = adapted(section, tie_word_embeddings=tied)
    ours = merged_weights(model)
    expected = copy.deepcopy(model).merge_and_unload().state_dict()
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name
    fresh = tiny_llama(tie_word_embeddings=tied).eval()
    fresh.load_state_dict(ours)
    with torch.no_grad():
        logits = model(input_ids=tokens()).logits
        assert torch.allclose(fresh(input_ids=tokens()).logits, logits, atol=1e-4)


def test_what_trains_is_adapters_embeddings_and_norms():
    model = adapted(LoraSection(rank=2))
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    kinds = {
        "lora_" if "lora_" in name else name.split(".modules_to_save")[0].split(".")[-1] for name in names
    }
    assert kinds == {"lora_", "embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"}
    alone = adapted(LoraSection(rank=2, trainable_embeddings_and_norms=False))
    assert all("lora_" in name for name, weight in alone.named_parameters() if weight.requires_grad)


def test_a_module_that_the_model_lacks_is_named():
    with pytest.raises(ModelError, match="LlamaForCausalLM has no module c_attn"):
        adapter_config(tiny_llama(), LoraSection(target_modules=["q_proj", "c_attn"]))
