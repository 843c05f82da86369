import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import SavedBytes, largest_difference, step, tiny_llama, tokens
from torch import nn
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from ultralong_hf.memory.tiling import LEAST_TILE, tile_modules, tile_tokens

ROUNDING = 1e-5


def count_forwards(model, kind=LlamaMLP):
    """Tokens that come through the modules of a kind, forward or recomputed."""
    seen = []
    for module in model.modules():
        if isinstance(module, kind):
            module.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2]))
    return seen


@pytest.mark.parametrize("tile", [7, 32, 1000])
@pytest.mark.parametrize("rows", [1, 3])
def test_tiles_of_any_size_leave_loss_and_gradients_as_they_are(tile, rows):
    model, ids = tiny_llama(), tokens(rows=rows)
    whole = step(model, ids)
    names = tile_modules(model, tile)
    assert [name for name in names if "layers.0" in name] == [
        "model.layers.0.mlp",
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
    ]
    assert (len(names), names[-1]) == (10, "model.norm")
    tiles = count_forwards(model)
    assert largest_difference(step(model, ids), whole) < ROUNDING
    assert max(tiles) == min(tile, 96)  # a batch that fits a tile is left whole


@pytest.mark.parametrize(
    ("model_class", "config_class"), [(Gemma2ForCausalLM, Gemma2Config), (Phi3ForCausalLM, Phi3Config)]
)
def test_other_families_are_tiled_too(model_class, config_class):
    """Gemma's norms add 1 to their weights, and it has four a layer; Phi-3 has gate and up in one matrix."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "vocab_size": 64}
    model = model_class(config_class(**sizes, **heads, attn_implementation="eager")).train()
    ids = tokens(40)
    whole = step(model, ids)
    assert sum(name.endswith("mlp") for name in tile_modules(model, 16)) == 2
    assert largest_difference(step(model, ids), whole) < ROUNDING


def test_the_activations_of_the_mlp_are_those_of_one_tile():
    model, ids = tiny_llama(num_hidden_layers=1, intermediate_size=512), tokens(512)
    saved = []
    for tile in (None, 64):
        if tile:
            tile_modules(model, tile)
        with SavedBytes().ignoring(model) as count:
            model.model(input_ids=ids, use_cache=False)
        saved.append(count.total)
    activations = 512 * 512 * 4  # of a token 512 numbers, float32
    assert saved[0] > 3 * activations  # gate, its sigmoid, up, their product
    assert saved[1] < activations


@pytest.mark.parametrize("tiled", [False, True])
def test_checkpointed_layers_run_a_tiled_mlp_no_oftener_than_a_whole_one(tiled):
    """Forward and backward, each once. Were the input kept after the MLP, it would be three times."""
    model, ids = tiny_llama(), tokens(96)
    model.activation_checkpointing_enable()
    whole = step(model, ids)
    if tiled:
        tile_modules(model, 16)
    seen = count_forwards(model)
    assert largest_difference(step(model, ids), whole) < ROUNDING
    assert sum(seen) == 2 * 3 * 96


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21.2
def test_tiles_repeat_the_dropout_of_the_forward():
    model, ids = tiny_llama(), tokens()
    adapters = LoraConfig(r=4, target_modules=["gate_proj", "down_proj"], lora_dropout=0.5)
    model = get_peft_model(model, adapters, autocast_adapter_dtype=False)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    tile_modules(model, 16)
    direction = {name: torch.randn_like(w) for name, w in model.named_parameters() if w.requires_grad}

    def loss_at(distance):
        """Along a direction, always with the same masks; in double, which transformers' own loss is not."""
        moved = copy.deepcopy(model).double()
        torch.manual_seed(3)
        for name, weight in moved.named_parameters():
            if name in direction:
                weight.data += distance * direction[name].double()
        loss = F.cross_entropy(moved(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])
        loss.backward()
        return loss.item(), {name: w.grad for name, w in moved.named_parameters() if w.grad is not None}

    grads = loss_at(0.0)[1]
    slope = sum((grads[name] * along).sum() for name, along in direction.items())
    measured = (loss_at(1e-4)[0] - loss_at(-1e-4)[0]) / 2e-4
    assert len(grads) == 2 * 2 * 3
    assert measured == pytest.approx(float(slope), rel=2e-3)  # Llama's norms are in float32


def test_frozen_weights_get_no_gradient_and_the_input_one_all_the_same():
    model, ids = tiny_llama(), tokens()
    for name, weight in model.named_parameters():
        weight.requires_grad_("embed" in name or "layers.0" in name)
    whole = step(model, ids)
    tile_modules(model, 16)
    tiled = step(model, ids)
    assert "model.layers.1.mlp.down_proj.weight" not in tiled
    assert largest_difference(tiled, whole) < ROUNDING


def test_a_norm_after_a_frozen_embedding_trains():
    """Its input has no gradient."""
    model, ids = tiny_llama(), tokens()
    for name, weight in model.named_parameters():
        weight.requires_grad_("input_layernorm" in name)
    whole = step(model, ids)
    tile_modules(model, 16)
    assert largest_difference(step(model, ids), whole) < ROUNDING


@pytest.mark.parametrize("checkpointing", [False, True])
def test_under_autocast_tiles_are_as_exact_as_the_whole(checkpointing):
    """Sums over tiles are in float32, and those of a whole matrix product too."""
    model, ids = tiny_llama(), tokens(256)
    exact = step(model, ids)
    if checkpointing:
        model.activation_checkpointing_enable()
    whole = largest_difference(step(model, ids, enabled=True, dtype=torch.bfloat16), exact)
    tile_modules(model, 32)
    tiled = largest_difference(step(model, ids, enabled=True, dtype=torch.bfloat16), exact)
    assert 0 < whole < 0.05
    assert tiled < 1.2 * whole


def test_weights_in_bfloat16_have_gradients_summed_in_float32():
    model, ids = tiny_llama(num_hidden_layers=1).bfloat16(), tokens(4096)
    exact = step(copy.deepcopy(model).float(), ids)
    name = "model.layers.0.mlp.down_proj.weight"
    whole = (step(model, ids)[name] - exact[name]).norm()
    tile_modules(model, 16)
    assert (step(model, ids)[name] - exact[name]).norm() < 1.2 * whole


def test_evaluation_runs_in_tiles_without_a_graph():
    model, ids = tiny_llama().eval(), tokens()
    whole = model(input_ids=ids).logits
    tile_modules(model, 10)
    seen = count_forwards(model)
    with torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, whole, atol=1e-5)
    assert max(seen) == 10


def test_a_copy_has_tiles_of_its_own():
    """As the reference of a preference stage is a deep copy of the policy."""
    model = tiny_llama()
    tile_modules(model, 16)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.model.layers[0].mlp.parameters():
            weight.zero_()
        hidden = torch.ones(1, 40, 32)
        assert other.model.layers[0].mlp(hidden).abs().max() == 0
        assert model.model.layers[0].mlp(hidden).abs().max() > 0


def test_a_tile_is_the_hidden_size_unless_that_is_small():
    assert [tile_tokens(4096), tile_tokens(128), tile_tokens(4096, 512)] == [4096, LEAST_TILE, 512]
