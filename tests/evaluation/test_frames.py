import pytest
from evaluation_models import make_tokenizer

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.prompts import build_frame, encode_plain, resolve_style

PIECES = {"before": "Intro.\n", "after": "\nWhich?", "answer_prefix": "It is"}


def _texts(tokenizer, frame):
    return tokenizer.decode(frame.head), tokenizer.decode(frame.tail)


def test_plain_prompts_end_with_the_answer_prefix(tokenizer):
    frame = build_frame(tokenizer, "plain", **PIECES)
    assert _texts(tokenizer, frame) == ("Intro.\n", "\nWhich? It is")


def test_chat_prompts_put_the_answer_prefix_after_the_template():
    tokenizer = make_tokenizer(chat=True)
    frame = build_frame(tokenizer, "chat", **PIECES)
    assert _texts(tokenizer, frame) == ("<|bos|><|user|>Intro.\n", "\nWhich?<|end|><|assistant|>It is")
    special = [tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<|assistant|>")]
    assert [token for token in frame.tail if token in special] == special


@pytest.mark.parametrize(("style", "chat"), [("chat", True), ("plain", True), ("plain", False)])
def test_bos_stands_once(style, chat):
    tokenizer = make_tokenizer(adds_bos=True, chat=chat)
    frame = build_frame(tokenizer, style, **PIECES)
    assert [*frame.head, *frame.tail].count(tokenizer.bos_token_id) == 1
    assert frame.head[0] == tokenizer.bos_token_id


def test_a_tokenizer_without_bos_gets_none(tokenizer):
    frame = build_frame(tokenizer, "plain", before="", after="\nWhich?", answer_prefix="It is")
    assert frame.head == ()


def test_auto_is_chat_where_there_is_a_template(tokenizer):
    assert resolve_style(tokenizer, "auto") == "plain"
    assert resolve_style(make_tokenizer(chat=True), "auto") == "chat"
    assert resolve_style(make_tokenizer(chat=True), "plain") == "plain"


def test_refuses_unknown_styles_and_missing_templates(tokenizer):
    with pytest.raises(EvaluationError, match="'raw' is none of auto, chat, plain"):
        resolve_style(tokenizer, "raw")
    with pytest.raises(EvaluationError, match="has no chat template"):
        resolve_style(tokenizer, "chat")


@pytest.mark.parametrize(
    "template", ["nothing", "{{ messages[0]['content'] * 2 }}", "{{ messages[0]['content'] | upper }}"]
)
def test_refuses_templates_that_lose_the_message(template):
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = template
    with pytest.raises(EvaluationError, match="drops, repeats or changes"):
        build_frame(tokenizer, "chat", **PIECES)


def test_templates_with_a_date_give_the_same_prompt_every_day():
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
        "{{ date_string }}: {{ messages[0]['content'] }}"
    )
    assert tokenizer.decode(build_frame(tokenizer, "chat", **PIECES).head) == "26 Jul 2024: Intro.\n"


def test_special_tokens_in_data_are_plain_text(tokenizer):
    assert tokenizer.eos_token_id not in encode_plain(tokenizer, "<|end|>")
