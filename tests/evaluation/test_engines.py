import random
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from evaluation_models import make_model
from transformers import MistralConfig, MistralForCausalLM

from ultralong_hf.errors import EvaluationError, ModelError
from ultralong_hf.evaluation.engines import TransformersEngine, kv_cache, local, memory
from ultralong_hf.evaluation.engines.attention import NAME as UNMASKED
from ultralong_hf.evaluation.engines.memory import kv_bytes_per_token, prefill_chunk


def _prompts(count, length, seed=0):
    rng = random.Random(seed)
    return [[rng.randrange(4, 320) for _ in range(length)] for _ in range(count)]


def _generate_by_transformers(model, prompt, new_tokens):
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    answer = out[0, len(prompt) :].tolist()
    return answer[: answer.index(1)] if 1 in answer else answer


@pytest.mark.parametrize("length", [1, 7, 100])
def test_answers_equal_those_of_transformers(model, tokenizer, length):
    prompts = _prompts(4, length)
    answers = TransformersEngine(model, tokenizer).generate(prompts, 12)
    assert answers == [_generate_by_transformers(model, prompt, 12) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) > 1


def test_answers_of_a_sliding_window_model_equal_those_of_transformers(tokenizer):
    torch.manual_seed(1)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=16,
            initializer_range=0.3,
            max_position_embeddings=512,
            eos_token_id=1,
        )
    ).eval()
    prompts = _prompts(3, 90)
    expected = [_generate_by_transformers(model, prompt, 8) for prompt in prompts]
    assert TransformersEngine(model, tokenizer).generate(prompts, 8) == expected
    assert TransformersEngine(model, tokenizer, prefill_chunk_size=25).generate(prompts, 8) == expected


@pytest.mark.parametrize("chunk", [1, 13, 64, 200])
def test_chunked_prefill_equals_a_single_pass(model, tokenizer, chunk):
    prompts = _prompts(3, 200)
    whole = TransformersEngine(model, tokenizer).generate(prompts, 8)
    assert TransformersEngine(model, tokenizer, prefill_chunk_size=chunk).generate(prompts, 8) == whole


def test_chunked_prefill_gives_the_logits_of_a_single_pass(model, tokenizer):
    ids = torch.tensor(_prompts(2, 150))
    with torch.inference_mode():
        expected = model(ids).logits[:, -1]
        for chunk in (17, 150):
            engine = TransformersEngine(model, tokenizer, prefill_chunk_size=chunk)
            found = engine._read(ids.numpy(), kv_cache.roomy_cache(model, 150, rows=2), 0)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 50])
def test_no_mask_and_no_logits_of_the_whole_prompt_are_built(model, tokenizer, monkeypatch, chunk):
    masks, logits = [], []
    attention = F.scaled_dot_product_attention

    def spy(*args, attn_mask=None, **options):
        masks.append(attn_mask)
        return attention(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    handle = model.register_forward_hook(lambda *hooked: logits.append(hooked[2].logits.shape[1]))
    try:
        TransformersEngine(model, tokenizer, prefill_chunk_size=chunk).generate(_prompts(2, 200), 3)
    finally:
        handle.remove()
    assert masks
    assert set(masks) == {None}
    assert set(logits) == {1}


def test_the_model_keeps_its_own_attention(model, tokenizer):
    engine = TransformersEngine(model, tokenizer)
    engine.generate(_prompts(1, 20), 2)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    try:
        engine.release()
        eager = engine.generate(_prompts(2, 90), 6)
        assert model.config._attn_implementation == "eager"
    finally:
        model.set_attn_implementation("sdpa")
    assert TransformersEngine(model, tokenizer, prefill_chunk_size=20).generate(_prompts(2, 90), 6) == eager


def test_prompts_of_several_lengths_are_answered_in_their_order(model, tokenizer):
    prompts = [*_prompts(2, 30), *_prompts(1, 20), *_prompts(2, 30, seed=5)]
    one_by_one = [TransformersEngine(model, tokenizer).generate([prompt], 6)[0] for prompt in prompts]
    assert TransformersEngine(model, tokenizer, batch_size=2).generate(prompts, 6) == one_by_one


def test_stops_at_any_end_token(tokenizer):
    model = make_model()
    prompts = _prompts(3, 40)
    full = TransformersEngine(model, tokenizer).generate(prompts, 12)
    stop = full[0][3]
    model.generation_config.eos_token_id = [stop, 1]
    stopped = TransformersEngine(model, tokenizer).generate(prompts, 12)
    assert stopped[0] == full[0][: full[0].index(stop)]
    for short, long in zip(stopped, full, strict=True):
        assert short == (long[: long.index(stop)] if stop in long else long)


def test_out_of_memory_halves_the_batch(model, tokenizer, monkeypatch):
    engine = TransformersEngine(model, tokenizer, batch_size=8)
    generate, sizes = engine._generate_batch, []

    def scarce(prompts, new_tokens):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return generate(prompts, new_tokens)

    monkeypatch.setattr(engine, "_generate_batch", scarce)
    prompts = _prompts(6, 20)
    assert engine.generate(prompts, 3) == TransformersEngine(model, tokenizer).generate(prompts, 3)
    assert sizes == [6, 4, 2, 2, 2]


def test_a_single_prompt_that_does_not_fit_is_an_error(model, tokenizer, monkeypatch):
    engine = TransformersEngine(model, tokenizer, batch_size=1)

    def never(prompts, new_tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "_generate_batch", never)
    with pytest.raises(EvaluationError, match="single prompt of 20 tokens does not fit"):
        engine.generate(_prompts(1, 20), 3)


def test_other_errors_are_not_taken_for_memory(model, tokenizer, monkeypatch):
    engine = TransformersEngine(model, tokenizer)

    def broken(prompts, new_tokens):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine, "_generate_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.generate(_prompts(1, 20), 3)


def test_prompts_beyond_the_window_need_leave(tokenizer, capfd):
    model = make_model(window=64)
    with pytest.raises(EvaluationError, match=r"65 tokens are more than the model's window of 64"):
        TransformersEngine(model, tokenizer).generate(_prompts(1, 60), 5)
    capfd.readouterr()
    answers = TransformersEngine(model, tokenizer, beyond_window=True).generate(_prompts(1, 100), 5)
    assert 1 <= len(answers[0]) <= 5
    assert capfd.readouterr() == ("", "")


def test_auto_batches_fit_the_free_memory(model, tokenizer, monkeypatch):
    assert (
        kv_bytes_per_token(model) == 2 * 2 * 2 * 8 * 4
    )  # keys and values, layers, heads, head size, float32
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * 256 * 1_000)
    engine = TransformersEngine(model, tokenizer)
    assert engine.batch_size(990, 10) == 4
    assert engine.batch_size(100_000, 10) == 1
    assert engine.batch_size(10, 10) == local.LARGEST_BATCH


def test_the_mask_of_a_chunk_stays_small():
    assert prefill_chunk(4_096, "sdpa") == 8_192
    assert prefill_chunk(1_048_576, "flash_attention_2") == prefill_chunk(1_048_576, UNMASKED) == 8_192
    for length in (131_072, 1_048_576, 4_194_304):
        assert prefill_chunk(length, "sdpa") * length <= memory.MASK_BYTES
    assert prefill_chunk(1_048_576, "sdpa") == 256


def test_identity_tells_checkpoints_apart(tokenizer, model, model_folder):
    identity = TransformersEngine(model, tokenizer).identity()
    assert TransformersEngine.from_pretrained(model_folder).identity() == identity
    other = TransformersEngine(make_model(seed=1), tokenizer).identity()
    assert other["config"] == identity["config"]
    assert other["weights"] != identity["weights"]


def test_refuses_what_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="cannot be read as a model"):
        TransformersEngine.from_pretrained(tmp_path)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": "some"}, {"prefill_chunk_size": 0}])
def test_refuses_sizes_that_make_no_sense(model, tokenizer, options):
    with pytest.raises(EvaluationError, match=next(iter(options))):
        TransformersEngine(model, tokenizer, **options)


def _grid(lengths=(40, 90, 150), depths=(0.0, 0.3, 0.9, 1.0)):
    """Prompts that share one text up to a marker of their own."""
    (text,) = _prompts(1, 200)
    places = sorted(((n, d) for n in lengths for d in depths), key=lambda p: p[0] * p[1], reverse=True)
    return [[*text[: int(n * d)], 5 + index, 6, *text[int(n * d) : n]] for index, (n, d) in enumerate(places)]


@pytest.mark.parametrize("kv_cache", ["model", "offloaded"])
@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_shared_prefixes_give_the_answers_of_whole_prompts(model, tokenizer, batch_size, kv_cache):
    prompts = _grid()
    whole = TransformersEngine(model, tokenizer, batch_size=1, share_prefixes=False)
    sharing = TransformersEngine(model, tokenizer, batch_size=batch_size, kv_cache=kv_cache)
    parts = [sharing.generate(prompts[at : at + 3], 6) for at in range(0, len(prompts), 3)]
    assert list(chain.from_iterable(parts)) == whole.generate(prompts, 6)
    assert sharing.prefilled_tokens < 0.65 * whole.prefilled_tokens == 0.65 * sum(map(len, prompts))


def test_logits_after_a_shared_prefix_are_those_of_the_whole_prompt(model, tokenizer):
    first, second = _grid(lengths=(150,), depths=(0.9, 0.3))
    engine = TransformersEngine(model, tokenizer)
    with torch.inference_mode():
        found, _, _ = engine._read_rows([np.asarray(first), np.asarray(second)], 4)
        for row, prompt in enumerate((first, second)):
            expected = model(torch.tensor([prompt])).logits[:, -1]
            torch.testing.assert_close(found[row : row + 1], expected, atol=1e-4, rtol=1e-4)
    assert engine.prefilled_tokens == len(first) + len(second) - 45


def test_a_prompt_asked_again_is_read_from_its_last_token(model, tokenizer):
    (prompt,) = _prompts(1, 50)
    engine = TransformersEngine(model, tokenizer)
    first = engine.generate([prompt], 8)
    assert engine.generate([prompt], 8) == first
    assert engine.prefilled_tokens == 51
    engine.release()
    assert engine.generate([prompt], 8) == first
    assert engine.prefilled_tokens == 101


def test_an_error_while_reading_leaves_no_wrong_prefix(model, tokenizer, monkeypatch):
    engine = TransformersEngine(model, tokenizer, prefill_chunk_size=10)
    prompts = _prompts(2, 60)
    expected = TransformersEngine(model, tokenizer).generate(prompts, 5)
    engine.generate(prompts[:1], 5)
    step, calls = engine.next_logits, []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise ValueError("stopped here")
        return step(*args, **options)

    monkeypatch.setattr(engine, "next_logits", failing)
    with pytest.raises(ValueError, match="stopped here"):
        engine.generate(prompts[1:], 5)
    assert engine.generate(prompts, 5) == expected


def test_a_greater_prompt_gets_a_greater_cache(model, tokenizer):
    short, long = _prompts(1, 30), _prompts(3, 200)
    engine = TransformersEngine(model, tokenizer)
    expected = [TransformersEngine(model, tokenizer).generate(prompts, 5) for prompts in (short, long)]
    assert [engine.generate(prompts, 5) for prompts in (short, long)] == expected


def test_a_cache_in_eight_bits_answers(model, tokenizer):
    engine = TransformersEngine(model, tokenizer, kv_cache="fp8", prefill_chunk_size=40)
    answers = engine.generate(_prompts(2, 100), 5)
    assert [1 <= len(answer) <= 5 for answer in answers] == [True, True]
    assert engine.identity()["kv_cache"] == "fp8"
    assert engine.batch_size(10_000_000, 0) >= TransformersEngine(model, tokenizer).batch_size(10_000_000, 0)


def test_a_cache_that_the_library_lacks_is_an_error(model, tokenizer):
    with pytest.raises(EvaluationError, match="kv_cache='int4' cannot be had here"):
        TransformersEngine(model, tokenizer, kv_cache="int4").generate(_prompts(1, 10), 2)
    with pytest.raises(EvaluationError, match="'int3' is none of model, offloaded, fp8, int4"):
        TransformersEngine(model, tokenizer, kv_cache="int3")


def test_a_model_spread_by_accelerate_answers_alike(model, tokenizer, model_folder):
    prompts = _prompts(3, 60)
    spread = TransformersEngine.from_pretrained(model_folder, device="auto")
    assert spread.generate(prompts, 6) == TransformersEngine(model, tokenizer).generate(prompts, 6)
