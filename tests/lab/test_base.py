import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.errors import ModelError
from ultralong_hf.lab.base import TRAINING_LOG, WINDOW, base_model_path, folder_digests, recall, train_base
from ultralong_hf.lab.tokenizer import VOCAB_SIZE, train_tokenizer


@pytest.fixture(scope="module")
def base():
    folder = base_model_path()
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def log():
    return json.loads((base_model_path() / TRAINING_LOG).read_text())


def test_shipped_files_are_those_that_the_log_tells_of(log):
    assert folder_digests(base_model_path()) == log["digests"]


def test_shipped_base_is_small_and_reads_256_tokens(base, log):
    model, tokenizer = base
    assert sum(file.stat().st_size for file in base_model_path().iterdir()) < 5_000_000
    assert model.config.max_position_embeddings == tokenizer.model_max_length == WINDOW == 256
    assert sum(p.numel() for p in model.parameters()) == log["parameters"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_shipped_base_recalls_what_its_log_says(base, log):
    model, tokenizer = base
    for length, share in log["recall"].items():
        assert recall(model, tokenizer, int(length)) == pytest.approx(share, abs=0.02)
        assert share >= 0.95


def test_chat_template_marks_the_assistants_part(base):
    _, tokenizer = base
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|begin|><|user|>What?<|end|><|assistant|>That.<|end|>"
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    assert tokenizer.decode([token for token, is_answer in marked if is_answer]) == "That.<|end|>"


def test_tokenizer_groups_digits_by_two_with_the_blank_before():
    tokenizer = train_tokenizer(WINDOW)
    assert len(tokenizer) == VOCAB_SIZE
    tokens = tokenizer.tokenize("is 40713.")
    assert [token.replace("Ġ", " ") for token in tokens] == ["is", " 40", "71", "3", "."]
    text = "def f(x):\n\treturn 'é 12 😀'\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_training_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelError, match="not an empty folder"):
        train_base(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["precious"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_base_made_again_reaches_the_same_recall(tmp_path, log):
    again = train_base(tmp_path / "base", seed=1)
    assert {stage["stage"]: stage["goal_reached"] for stage in again["stages"][:2]} == {
        "copy 64": True,
        "copy 256": True,
    }
    for length, share in log["recall"].items():
        assert again["recall"][int(length)] >= share - 0.05
