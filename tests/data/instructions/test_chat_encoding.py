from importlib import resources

import pytest
from word_tokenizers import MARKED_TEMPLATE, PLAIN_TEMPLATE, WORDS, learned, pair, tokenizer_with

from ultralong_hf.data.instructions.encoding import ChatEncoder, marked_template
from ultralong_hf.errors import ConversationError

TALK = [{"role": "system", "content": "be kind"}, *pair("hi there", "hi you"), *pair("bye", "bye now")]


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_only_the_assistants_tokens_and_their_end_count(template):
    encoder = ChatEncoder(tokenizer_with(template))
    ids, labels = encoder.encode(encoder.render(TALK))
    assert " ".join(WORDS[i] for i in ids) == (
        "<s> be kind <end> <u> hi there <end> <a> hi you <end> <u> bye <end> <a> bye now <end>"
    )
    assert learned(labels) == ". . . . . . . . . hi you <end> . . . . bye now <end>"
    assert encoder.count([encoder.render(TALK).text, "hi"]) == [len(ids), 1]


def test_a_known_template_without_marks_gets_those_of_trl():
    from trl.chat_template_utils import has_generation_markers, llama3_chat_template

    assert not has_generation_markers(llama3_chat_template)
    assert has_generation_markers(marked_template(tokenizer_with(llama3_chat_template)))
    tokenizer = tokenizer_with(llama3_chat_template)
    tokenizer.add_special_tokens({"eos_token": "<|eot_id|>"})
    notices = ChatEncoder(tokenizer).notices
    assert notices == ["the chat template has no {% generation %} marks; TRL's training form of it is used"]


def test_llama_3_1_s_template_of_which_trl_has_no_training_form_is_told_by_what_messages_add():
    """TRL 1.16 ships the template itself; `<|eot_id|>` is learned, headers are not."""
    template = resources.files("trl").joinpath("chat_templates/llama3_1.jinja").read_text()
    encoder = ChatEncoder(tokenizer_with(template))
    assert encoder.marked is None
    text, spans = encoder.render(TALK)
    assert [text[start:end] for start, end in spans] == ["hi you<|eot_id|>", "bye now<|eot_id|>"]
    assert all(
        text[:start].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") for start, _ in spans
    )


def test_an_unknown_template_that_rewrites_earlier_turns_is_refused_once_with_what_to_do():
    with pytest.raises(ConversationError) as caught:
        ChatEncoder(tokenizer_with("{{ messages | length }} " + PLAIN_TEMPLATE))
    (fault,) = caught.value.faults
    assert "does not tell which part is the assistant's: it has no {% generation %} marks" in fault
    assert fault.endswith("give the template as instruct.chat_template: FILE.")


def test_marks_that_leave_out_the_end_of_a_turn_are_told():
    template = MARKED_TEMPLATE.replace(" <end> {% endgeneration %}", "{% endgeneration %} <end> ")
    (notice,) = ChatEncoder(tokenizer_with(template)).notices
    assert "the model may not learn to stop" in notice
    assert ChatEncoder(tokenizer_with(MARKED_TEMPLATE)).notices == []


def test_a_template_in_a_file_stands_in_for_the_tokenizers(tmp_path):
    (tmp_path / "chat.jinja").write_text(MARKED_TEMPLATE)
    encoder = ChatEncoder(tokenizer_with(None), str(tmp_path / "chat.jinja"))
    assert encoder.tokenizer.chat_template == MARKED_TEMPLATE
    with pytest.raises(ConversationError, match=r"instruct.chat_template: .*none.jinja cannot be read"):
        ChatEncoder(tokenizer_with(None), str(tmp_path / "none.jinja"))


def test_a_template_that_refuses_a_conversation_is_told_as_it_says():
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    encoder = ChatEncoder(tokenizer_with(template + MARKED_TEMPLATE))
    with pytest.raises(ConversationError, match="refuses it: No system"):
        encoder.render(TALK)


def test_a_template_that_writes_the_date_is_told():
    notices = ChatEncoder(tokenizer_with("{{ strftime_now('%d') }} " + MARKED_TEMPLATE)).notices
    assert any("writes today's date" in notice for notice in notices)


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(ConversationError, match="no chat template"):
        ChatEncoder(tokenizer_with(None))
