"""extend_context on configs and loaded models."""

import json
import logging
import re
import warnings

import numpy as np
import pytest
import torch
from rope_models import SIZES, llama_31_config, tiny_configs, tiny_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    Olmo3Config,
    Phi3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ultralong_hf import extend_context
from ultralong_hf.errors import LengthError, ModelError, RopeError
from ultralong_hf.rope import METHODS, RopeWarning
from ultralong_hf.rope.families import FAMILIES, RECORD_KEY, rope_parameters_of
from ultralong_hf.rope.frequencies import attention_temperature, inverse_frequencies
from ultralong_hf.rope.stretch import both_key_generations, is_stretched, plan_stretch, stretched_frequencies

TARGETS = {"1M": 128, "2M": 256, "4M": 512}
# transformers-4 has no yarn or llama3 for these, and every other reader a temperature of its own for Phi-3.
TOLD_OF_READERS = "ignore::ultralong_hf.rope.extend.RopeWarning"
INPUT_IDS = torch.arange(3, 51)[None]


@pytest.fixture
def transformers_log(caplog):
    """What transformers logs at warning level or above; it does not propagate by default."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize(("target", "factor"), TARGETS.items())
def test_llama_3_1_gets_the_factors_of_the_paper_on_8192(target, factor):
    extended = extend_context(llama_31_config(), target)
    assert extended.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 500_000.0,
        "factor": float(factor),
        "original_max_position_embeddings": 8192,
        "beta_slow": 1.0,
        "beta_fast": 4.0,
    }
    assert extended.max_position_embeddings == factor * 8192
    assert type(extended.max_position_embeddings) is int


@pytest.mark.parametrize(("target", "factor"), TARGETS.items())
def test_the_llama3_method_replaces_the_scaling_of_llama_3_1_whole(target, factor):
    extended = extend_context(llama_31_config(), target, method="llama3")
    assert extended.rope_parameters == {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": float(factor),
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 128.0}),
        (
            "ntk",
            {"rope_type": "default", "rope_theta": pytest.approx(500_000 * 128 ** (128 / 126), rel=1e-14)},
        ),
        ("none", {"rope_type": "default", "rope_theta": 500_000.0}),
    ],
)
def test_other_methods_leave_no_key_of_the_old_scaling(method, parameters):
    assert extend_context(llama_31_config(), "1M", method=method).rope_parameters == parameters


def test_a_config_given_is_unchanged():
    config = llama_31_config()
    before = config.to_dict()
    extended = extend_context(config, "1M")
    assert config.to_dict() == before
    assert extended is not config
    assert type(extended) is type(config)


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(tiny_configs()))
def test_every_family_turns_by_the_frequencies_of_the_method(name, method):
    """The buffers of a model made from the written config, against the arithmetic in float64."""
    config = tiny_configs()[name]
    stretch = plan_stretch(config, 4096, method=method)
    extended = extend_context(config, 4096, method=method)
    buffers = dict(tiny_model(extended).named_buffers())
    (stretched,) = (b for n, b in buffers.items() if re.search(r"rotary_emb\.(full_attention_)?inv_freq", n))
    assert stretch.scale == 16
    np.testing.assert_allclose(stretched.double().numpy(), stretched_frequencies(stretch), rtol=1e-5)
    assert stretched.dtype == torch.float32


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("name", ["llama", "phi3", "gemma3_text"])
def test_the_temperature_of_yarn_reaches_transformers(name):
    extended = extend_context(tiny_configs()[name], 4096)
    parameters = rope_parameters_of(extended, FAMILIES[name])
    layer_type = "full_attention" if name == "gemma3_text" else None
    _, temperature = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](extended, layer_type=layer_type)
    assert temperature == pytest.approx(attention_temperature("yarn", 16), rel=1e-12)


@pytest.mark.parametrize("name", ["gemma3_text", "olmo3"])
@pytest.mark.filterwarnings(TOLD_OF_READERS)
def test_layers_with_a_sliding_window_keep_their_rope(name):
    config = tiny_configs()[name]
    extended = extend_context(config, 4096)
    assert extended.rope_parameters["sliding_attention"] == config.rope_parameters["sliding_attention"]
    assert extended.rope_parameters["full_attention"]["rope_type"] == "yarn"


def test_a_multimodal_config_is_changed_in_its_language_model_alone():
    config = Gemma3Config(text_config=tiny_configs()["gemma3_text"].to_dict(), vision_config={})
    extended = extend_context(config, 4096)
    assert extended.text_config.max_position_embeddings == 4096
    assert extended.text_config.rope_parameters["full_attention"]["rope_type"] == "yarn"
    assert extended.vision_config.to_dict() == config.vision_config.to_dict()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(tiny_configs()))
@pytest.mark.filterwarnings(TOLD_OF_READERS)
def test_the_written_config_reloads_silently_with_the_same_angles(name, method, tmp_path, transformers_log):
    extended = extend_context(tiny_configs()[name], 4096, method=method, output_dir=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reloaded = AutoConfig.from_pretrained(tmp_path / "out")
    assert [r.getMessage() for r in transformers_log.records if r.levelno >= logging.WARNING] == []
    assert {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"} <= set(written)

    ours, theirs = (rope_parameters_of(c, FAMILIES[name]) for c in (extended, reloaded))
    assert {k: v for k, v in theirs.items() if k != "type"} == ours
    assert reloaded.max_position_embeddings == extended.max_position_embeddings == 4096
    assert getattr(reloaded, RECORD_KEY) == getattr(extended, RECORD_KEY)
    assert is_stretched(reloaded, 4096, method=method)
    assert not is_stretched(reloaded, 8192, method=method)
    assert not is_stretched(tiny_configs()[name], 4096, method=method)


def test_both_key_generations_say_the_same():
    written = both_key_generations(extend_context(llama_31_config(), "1M").to_dict())
    scaling = {"factor": 128.0, "original_max_position_embeddings": 8192, "beta_slow": 1.0, "beta_fast": 4.0}
    assert written["rope_scaling"] == {"rope_type": "yarn", "type": "yarn", **scaling}
    assert written["rope_parameters"] == {"rope_type": "yarn", "rope_theta": 500_000.0, **scaling}
    assert written["rope_theta"] == 500_000.0
    assert both_key_generations(written) == written


@pytest.mark.parametrize("config", [{"model_type": "bloom"}, {"model_type": "llama"}, {}])
def test_a_config_without_known_rope_comes_back_as_it_is(config):
    assert both_key_generations(config) == config


@pytest.mark.filterwarnings(TOLD_OF_READERS)
def test_old_keys_of_partial_and_local_rope_are_written_too():
    phi = both_key_generations(extend_context(tiny_configs()["phi"], 4096).to_dict())
    assert phi["partial_rotary_factor"] == 0.5
    assert "partial_rotary_factor" not in phi["rope_scaling"]
    gemma = both_key_generations(extend_context(tiny_configs()["gemma3_text"], 4096).to_dict())
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"]) == (1_000_000.0, 10_000.0)
    assert gemma["rope_scaling"]["rope_type"] == "yarn"


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("method", ["none", "ntk"])
def test_plain_rope_has_no_old_scaling_key(method):
    written = both_key_generations(extend_context(llama_31_config(), "1M", method=method).to_dict())
    assert written["rope_scaling"] is None
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"]


# --- the length that an extension starts from


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("first", METHODS)
def test_extending_again_starts_from_the_length_before_the_first_extension(first):
    """Whatever the first method was, ntk's new base included, two extensions equal the second alone."""
    config = tiny_configs()["llama"]
    once = extend_context(config, 4096, method=first)
    with pytest.warns(RopeWarning, match="extended before, to 4K tokens: .* the length before that, 256"):
        twice = extend_context(once, "16K", method="yarn")
    assert twice.to_dict() == extend_context(config, "16K", method="yarn").to_dict()
    assert twice.rope_parameters["factor"] == 64.0


def test_extending_what_others_have_extended_by_yarn_starts_from_its_original_length():
    parameters = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "beta_fast": 32}
    config = LlamaConfig(
        max_position_embeddings=131_072,
        rope_parameters={**parameters, "original_max_position_embeddings": 32_768},
    )
    with pytest.warns(RopeWarning, match="extended before, to 128K .*, 32K"):
        extended = extend_context(config, "1M")
    assert extended.rope_parameters["factor"] == 32.0


def test_linear_scaling_of_others_needs_the_original_length():
    parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    config = LlamaConfig(max_position_embeddings=16_384, rope_parameters=parameters)
    with pytest.raises(RopeError, match=r"'linear' and does not say how long .* Give original_length"):
        extend_context(config, "64K")
    assert extend_context(config, "64K", original_length="4K").rope_parameters["factor"] == 16.0


def test_gemma_3_starts_from_the_32k_tokens_before_its_makers_factor_of_8():
    config = tiny_configs()["gemma3_text"]
    config.max_position_embeddings = 131_072
    config.rope_parameters["full_attention"].update(rope_type="linear", factor=8.0)
    with pytest.warns(RopeWarning, match="32K"):
        extended = extend_context(config, "1M")
    full = extended.rope_parameters["full_attention"]
    assert (full["factor"], full["original_max_position_embeddings"]) == (32.0, 32_768)


def test_original_length_and_scale_can_be_given():
    config = LlamaConfig(max_position_embeddings=40_960, rope_parameters={"rope_theta": 1e6})
    extended = extend_context(config, "128K", original_length=32_768)
    assert extended.rope_parameters["factor"] == 4.0
    extended = extend_context(config, "128K", original_length="32K", scale=5)
    assert extended.rope_parameters["factor"] == 5.0


# --- what is told


def test_an_attention_factor_is_written_and_told_that_sglang_drops_it():
    with pytest.warns(RopeWarning, match=r"sglang .* drops attention_factor 1.25"):
        extended = extend_context(llama_31_config(), "1M", attention_factor=1.25)
    assert extended.rope_parameters["attention_factor"] == 1.25


def test_an_int_attention_factor_is_written_as_a_float():
    with pytest.warns(RopeWarning):
        extended = extend_context(llama_31_config(), "1M", attention_factor=1)
    assert type(extended.rope_parameters["attention_factor"]) is float


def test_a_sliding_window_stays_and_is_told():
    with pytest.warns(RopeWarning, match="sliding_window 4,096 stays as it is"):
        extended = extend_context(MistralConfig(), "1M")
    assert extended.sliding_window == 4096


def test_method_none_tells_that_it_takes_the_models_own_scaling_away():
    with pytest.warns(RopeWarning, match=r"takes away the model's own RoPE scaling \(llama3\)"):
        extend_context(llama_31_config(), "1M", method="none")


@pytest.mark.parametrize("method", ["yarn", "llama3"])
def test_the_papers_settings_are_told_nothing_of(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extended = extend_context(llama_31_config(), "4M", method=method)
    assert extended.max_position_embeddings == 4_194_304


# --- errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("1Q",), LengthError, "'1Q' is no length"),
        ((True,), LengthError, "True is no length"),
        ((0,), LengthError, "at least 1"),
        (("64K",), RopeError, "65,536 is below the present window of 131,072"),
        (("1M", {"method": "yarnn"}), RopeError, "Nearest: yarn"),
        (("1M", {"scale": 0.5}), RopeError, "scale 0.5 would shorten"),
        (("1M", {"scale": float("nan")}), RopeError, "scale nan"),
        (("1M", {"original_length": "2M"}), RopeError, "scale 0.5 = target 1,048,576 / original"),
        (("1M", {"original_length": "8Q"}), LengthError, "8Q"),
        (("1M", {"beta_fast": 1.0}), RopeError, "beta_fast 1 must be above beta_slow 1"),
        (("1M", {"beta_slow": 5}), RopeError, "beta_fast 4 must be above beta_slow 5"),
        (("1M", {"attention_factor": 1.2, "method": "llama3"}), RopeError, "belongs to method 'yarn'"),
        (("1M", {"attention_factor": 0.0}), RopeError, "above 0"),
    ],
)  # fmt: skip
def test_bad_arguments_are_our_errors_and_leave_no_folder(arguments, error, message, tmp_path):
    target, *options = arguments
    with pytest.raises(error, match=message):
        extend_context(
            llama_31_config(), target, **(options[0] if options else {}), output_dir=tmp_path / "o"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_extended_model_is_not_shortened():
    extended = extend_context(tiny_configs()["llama"], 4096)
    with pytest.raises(RopeError, match="1,024 is below the present window of 4,096"):
        extend_context(extended, 1024)


def test_what_is_no_model_is_a_model_error():
    with pytest.raises(ModelError, match="a int cannot be extended"):
        extend_context(3, "1M")


def test_a_failed_extension_leaves_a_model_as_it_was():
    model = tiny_model(tiny_configs()["llama"])
    before = model.config.to_dict()
    with pytest.raises(RopeError):
        extend_context(model, 128)
    assert model.config.to_dict() == before


# --- loaded models


@pytest.mark.filterwarnings(TOLD_OF_READERS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3_text", "mistral", "phi3", "olmo3"])
def test_a_model_extended_in_place_equals_one_loaded_from_the_written_folder(name, method, tmp_path):
    model = tiny_model(tiny_configs()[name])
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        before = model(INPUT_IDS).logits
    extend_context(tmp_path / "base", 4096, method=method, output_dir=tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()

    returned = extend_context(model, 4096, method=method)
    assert returned is model
    with torch.no_grad():
        in_place, from_folder = model(INPUT_IDS).logits, loaded(INPUT_IDS).logits
    assert torch.equal(in_place, from_folder)
    assert torch.equal(in_place, before) == (method == "none")
    assert model.config.max_position_embeddings == loaded.config.max_position_embeddings == 4096


def test_the_language_model_of_a_multimodal_model_is_extended_in_place():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = tiny_configs()["gemma3_text"]
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=63,
    )
    torch.manual_seed(0)
    model = extend_context(Gemma3ForConditionalGeneration(config).eval(), 4096)
    stretch = plan_stretch(text, 4096)
    rotary = model.model.language_model.rotary_emb
    np.testing.assert_allclose(
        rotary.full_attention_inv_freq.double().numpy(), stretched_frequencies(stretch), rtol=1e-5
    )
    plain = inverse_frequencies("none", theta=1e4, rotary_dim=16, scale=1, original_length=256)
    np.testing.assert_allclose(rotary.sliding_attention_inv_freq.double().numpy(), plain, rtol=1e-6)
    assert rotary.full_attention_attention_scaling == pytest.approx(attention_temperature("yarn", 16))


def test_rotary_buffers_stay_on_their_device_in_float32_in_a_bfloat16_model():
    model = tiny_model(tiny_configs()["llama"]).to("meta", torch.bfloat16)
    assert model.model.rotary_emb.inv_freq.dtype == torch.bfloat16  # what .to() does to them
    extend_context(model, 4096)
    for buffer in (model.model.rotary_emb.inv_freq, model.model.rotary_emb.original_inv_freq):
        assert (buffer.device.type, buffer.dtype) == ("meta", torch.float32)
    assert model.dtype == torch.bfloat16


def test_a_model_extended_twice_in_place_equals_one_extended_once():
    model, reference = (tiny_model(tiny_configs()["llama"]) for _ in range(2))
    extend_context(model, 1024)
    with pytest.warns(RopeWarning, match="extended before"):
        extend_context(model, 4096)
    extend_context(reference, 4096)
    with torch.no_grad():
        assert torch.equal(model(INPUT_IDS).logits, reference(INPUT_IDS).logits)


@pytest.mark.filterwarnings(TOLD_OF_READERS)
def test_factor_lists_of_an_earlier_extension_are_forgotten():
    """transformers keeps long factors once a forward has used them."""
    model, reference = (tiny_model(tiny_configs()["phi3"]) for _ in range(2))
    extend_context(model, 1024)
    model(INPUT_IDS)
    extend_context(model, 4096)
    extend_context(reference, 4096)
    far = torch.arange(3000, 3048)[None]
    with torch.no_grad():
        ours, expected = (m(INPUT_IDS, position_ids=far).logits for m in (model, reference))
    assert torch.equal(ours, expected)


def test_hooks_on_a_rotary_embedding_survive():
    """As accelerate puts them there for models spread over devices."""
    model, calls = tiny_model(tiny_configs()["llama"]), []
    rotary = model.model.rotary_emb
    rotary.register_forward_hook(lambda *_: calls.append(1))
    extend_context(model, 4096)
    model(INPUT_IDS)
    assert model.model.rotary_emb is rotary
    assert calls == [1]


@pytest.mark.parametrize(("limit", "expected"), [(256, 4096), (300, 4096), (64, 64), (None, None)])
def test_generation_limits_at_the_window_follow_it_in_place(limit, expected):
    model = tiny_model(tiny_configs()["llama"])
    model.generation_config = GenerationConfig(max_length=limit)
    assert extend_context(model, 4096).generation_config.max_length == expected


def test_a_model_with_an_output_folder_is_saved_there_with_both_key_generations(tmp_path):
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096, output_dir=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_scaling"]["factor"] == written["rope_parameters"]["factor"] == 16.0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(model(INPUT_IDS).logits, loaded(INPUT_IDS).logits)


def test_other_window_keys_follow():
    """vLLM takes the smallest of all that a config has."""
    extended = extend_context(LlamaConfig(**SIZES, max_sequence_length=256), 4096)
    assert extended.max_sequence_length == 4096


def test_an_original_length_beside_rope_parameters_follows(tmp_path):
    """transformers 5 prefers that key to the one inside, and would compute another ramp from it."""
    config = LlamaConfig(**SIZES, original_max_position_embeddings=256)
    extend_context(config, 4096, original_length=128, output_dir=tmp_path / "out")
    reloaded = AutoConfig.from_pretrained(tmp_path / "out")
    tiny_model(reloaded)  # standardises once more
    assert reloaded.rope_parameters["original_max_position_embeddings"] == 128


def test_phi_3_is_written_as_factor_lists_that_do_not_change_with_the_length():
    with pytest.warns(RopeWarning, match="vllm"):
        extended = extend_context(Phi3Config(**SIZES, original_max_position_embeddings=256), 4096)
    parameters = extended.rope_parameters
    assert parameters["rope_type"] == "longrope"
    assert parameters["short_factor"] == parameters["long_factor"]
    plain = inverse_frequencies("none", theta=1e4, rotary_dim=16, scale=1, original_length=256)
    yarn = inverse_frequencies("yarn", theta=1e4, rotary_dim=16, scale=16, original_length=256)
    np.testing.assert_allclose(plain / np.array(parameters["long_factor"]), yarn, rtol=1e-14)


def test_olmo_3_keeps_the_yarn_of_its_makers_out_of_the_new_one():
    makers = {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32, "attention_factor": 1.2079}
    config = Olmo3Config(
        max_position_embeddings=65_536,
        rope_parameters={
            "full_attention": {**makers, "rope_theta": 5e5, "original_max_position_embeddings": 8192},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
        },
    )
    with pytest.warns(RopeWarning, match="extended before, to 64K .*, 8K"):
        extended = extend_context(config, "1M", method="llama3")
    assert extended.rope_parameters["full_attention"] == {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 128.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
