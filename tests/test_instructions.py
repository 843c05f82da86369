import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ultralong_hf.data.instructions import build_samples, marked_template, messages_of, tokenize_conversation
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import InstructSection, Source

WORDS = ["<pad>", "<u>", "<a>", "<s>", "<end>", "hi", "there", "you", "bye", "now", "be", "kind", "ok"]
PLAIN_TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<a> {% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}> {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }} <end> {% endgeneration %}"
    "{% else %}{{ m.content }} <end> {% endif %}{% endfor %}"
)
TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi there"},
    {"role": "assistant", "content": "hi you"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "bye now"},
]


def tokenizer_with(template: str | None) -> PreTrainedTokenizerFast:
    """A word is a token; the ids are the places in WORDS."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", chat_template=template)


def learned(labels: list[int]) -> str:
    return " ".join("." if label == -100 else WORDS[label] for label in labels)


def section(*paths, **kwargs) -> InstructSection:
    return InstructSection(sources=[Source(path=str(path)) for path in paths], **kwargs)


@pytest.mark.parametrize("template", [PLAIN_TEMPLATE, MARKED_TEMPLATE])
def test_only_the_assistants_tokens_and_their_end_count(template):
    tokenizer = tokenizer_with(template)
    ids, labels = tokenize_conversation(TALK, tokenizer, marked_template(tokenizer))
    assert " ".join(WORDS[i] for i in ids) == (
        "<s> be kind <end> <u> hi there <end> <a> hi you <end> <u> bye <end> <a> bye now <end>"
    )
    assert learned(labels) == ". . . . . . . . . hi you <end> . . . . bye now <end>"


def test_a_known_template_without_marks_gets_those_of_trl():
    from trl.chat_template_utils import has_generation_markers, llama3_chat_template

    assert not has_generation_markers(llama3_chat_template)
    assert has_generation_markers(marked_template(tokenizer_with(llama3_chat_template)))


def test_a_template_that_rewrites_earlier_turns_is_refused():
    tokenizer = tokenizer_with("{{ messages | length }} " + PLAIN_TEMPLATE)
    with pytest.raises(ConversationError, match="generation"):
        tokenize_conversation(TALK, tokenizer, None)


def test_a_template_that_refuses_a_conversation_is_told_as_it_says():
    tokenizer = tokenizer_with("{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(ConversationError, match="refuses it: Roles must alternate"):
        tokenize_conversation(TALK, tokenizer, None)


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(ConversationError, match="no chat template"):
        marked_template(tokenizer_with(None))


def test_jsonl_and_parquet_and_all_shapes_of_rows_give_the_same_samples(tmp_path):
    prompt, answer = "hi there", "hi you"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    rows = [
        {"messages": messages},
        {"prompt": prompt, "completion": answer},
        {"prompt": messages[:1], "completion": messages[1:]},
        {"messages": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]},
    ]
    jsonl = tmp_path / "chat.jsonl"
    jsonl.write_text("\n\n".join(map(json.dumps, rows)))
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "chat.parquet")
    samples = build_samples(section(tmp_path), tokenizer=tokenizer_with(PLAIN_TEMPLATE))
    assert samples.too_long == 0
    assert len(samples.dataset) == 5
    assert samples.dataset.column_names == ["input_ids", "labels"]
    for row in samples.dataset:
        assert learned(row["input_ids"]) == "<u> hi there <end> <a> hi you <end>"
        assert learned(row["labels"]) == ". . . . . hi you <end>"


def test_other_columns_are_read_when_named():
    asked = InstructSection(prompt_column="question", completion_column="answer")
    assert messages_of({"question": "hi", "answer": "ok"}, asked) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ok"},
    ]


def test_samples_that_are_too_long_are_dropped_and_counted(tmp_path, caplog):
    path = tmp_path / "chat.jsonl"
    rows = [{"prompt": "hi " * words, "completion": "ok"} for words in (1, 2, 3, 4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    # <u> hi <end> <a> ok <end> is 6 tokens, each further "hi" one more
    samples = build_samples(section(path, max_length=7), tokenizer=tokenizer_with(PLAIN_TEMPLATE))
    assert [len(row["input_ids"]) for row in samples.dataset] == [6, 7]
    assert samples.too_long == 2
    assert "2 conversations of more than 7 tokens were dropped." in caplog.text
    with pytest.raises(
        ConversationError, match="No conversation is left to train on: 4 are longer than 5 tokens"
    ):
        build_samples(section(path, max_length=5), tokenizer=tokenizer_with(PLAIN_TEMPLATE))


def test_every_malformed_row_is_told_with_its_file_and_row(tmp_path):
    path = tmp_path / "chat.jsonl"
    rows = [
        {"prompt": "hi", "completion": "ok"},
        {"text": "hi"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "robot", "content": "hi"}]},
        {"messages": [{"role": "assistant", "content": 3}]},
        {"messages": ["hi"]},
        {"messages": []},
        "hi",
    ]
    path.write_text("\n".join([*map(json.dumps, rows), "{not json"]))
    with pytest.raises(ConversationError) as caught:
        build_samples(section(path), tokenizer=tokenizer_with(PLAIN_TEMPLATE))
    assert [fault.removeprefix(f"{path}, ") for fault in caught.value.faults] == [
        "row 2: there is neither 'messages' nor 'prompt' and 'completion'; the columns are 'text'.",
        "row 3: no message is the assistant's, so there is nothing to learn.",
        "row 4: message 1 has the role 'robot'; expected one of system, user, assistant, tool.",
        "row 5: message 1 has the content 3; expected a text.",
        "row 6: message 1 is 'hi'; expected a mapping with role and content.",
        "row 7: messages are a list that is not empty, not [].",
        "row 8: a conversation is a mapping of columns, not str.",
        "row 9: this line is no JSON: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1).",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chat.csv", b"a,b", "conversations are read from .jsonl, .parquet files"),
        ("chat.parquet", b"no parquet", "cannot be read as Parquet"),
        ("chat.jsonl", b"\xff\xfe", "cannot be read: 'utf-8' codec"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConversationError, match=message) as caught:
        build_samples(section(path), tokenizer=tokenizer_with(PLAIN_TEMPLATE))
    assert name in str(caught.value)


def test_a_path_that_is_nowhere_is_named():
    with pytest.raises(ConversationError, match=r"no/such/file.jsonl is no file, folder or glob here"):
        build_samples(section("no/such/file.jsonl"), tokenizer=tokenizer_with(PLAIN_TEMPLATE))
