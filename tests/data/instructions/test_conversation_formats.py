import pytest
from word_tokenizers import pair

from ultralong_hf.data.instructions import messages_of
from ultralong_hf.data.instructions.formats import PAIRS, read_conversation
from ultralong_hf.data.reading.values import BadValueError
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import ConversationColumns, ConversationSource, InstructSection

SECTION = InstructSection()
SYSTEM = {"role": "system", "content": "be kind"}


def read(row, section=SECTION, **source):
    return read_conversation(row, section, ConversationSource(path="x", **source) if source else None)


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": pair("hi", "ok")}, "messages: messages"),
        (pair("hi", "ok"), "messages: messages"),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ok"}], "id": 7},
            "sharegpt: conversations",
        ),
        ({"instruction": "hi", "input": "", "output": "ok"}, "alpaca: instruction, input, output"),
        ({"instruction": "hi", "response": "ok"}, "alpaca: instruction, response"),
        (
            {"prompt": pair("hi", "")[:1], "completion": pair("", "ok")[1:]},
            "prompt_completion: prompt, completion",
        ),
        *(({p: "hi", c: "ok", "source": "x"}, f"prompt_completion: {p}, {c}") for p, c in PAIRS),
    ],
)
def test_the_shape_of_a_record_is_told_by_its_columns(row, shape):
    found = read(row)
    assert found.messages == pair("hi", "ok")
    assert (str(found.shape), found.repairs) == (shape, ())


def test_the_input_of_alpaca_stands_under_the_instruction():
    row = {"instruction": "sum up", "input": "a b c", "output": "abc"}
    assert read(row).messages == pair("sum up\n\na b c", "abc")


def test_a_system_prompt_beside_the_prompt_comes_first():
    row = {"system_prompt": "be kind", "question": "hi", "response": "ok"}
    assert read(row).messages == [SYSTEM, *pair("hi", "ok")]
    assert read({**row, "system_prompt": " "}).messages == pair("hi", "ok")


def test_parts_of_text_are_joined_and_other_names_of_roles_known():
    parts = [{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}]
    row = {
        "messages": [
            {"role": "developer", "content": "be kind"},
            {"role": "human", "content": parts},
            {"role": "model", "content": "ok"},
        ]
    }
    assert read(row).messages == [SYSTEM, *pair("hi there", "ok")]
    image = {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, pair("", "ok")[1]]}
    with pytest.raises(BadValueError, match="message 1 has parts that are no texts"):
        read(image)


def test_turns_that_teach_nothing_are_left_out_and_told():
    row = {"messages": [SYSTEM, pair("", "half")[1], *pair("hi", "ok"), pair("and?", "")[0]]}
    found = read(row)
    assert found.messages == [SYSTEM, *pair("hi", "ok")]
    assert found.repairs == ("turns before the first prompt left out", "turns after the last answer left out")
    assert messages_of(row, SECTION) == row["messages"]


def test_named_columns_and_a_named_format_stand_before_what_would_be_told():
    row = {"prompt": "no", "completion": "no", "q": "hi", "a": "ok", "text": pair("hi", "bye")}
    columns = ConversationColumns(prompt="q", completion="a")
    assert str(read(row, columns=columns).shape) == "prompt_completion: q, a"
    assert read(row, columns=ConversationColumns(messages="text")).messages == pair("hi", "bye")
    asked = InstructSection(prompt_column="q", completion_column="a")
    assert messages_of({"q": "hi", "a": "ok"}, asked) == pair("hi", "ok")
    with pytest.raises(BadValueError, match="the columns of the format sharegpt are not there"):
        read(row, format="sharegpt")


@pytest.mark.parametrize(
    ("row", "word", "detail"),
    [
        (
            {"text": "hi"},
            "no column",
            "the columns of any known format are not there. Columns there: 'text'.",
        ),
        ({"messages": pair("hi", "")[:1]}, "no answer", "no message is the assistant's"),
        (
            {"messages": [pair("", "ok")[1], pair("hi", "")[0]]},
            "no answer",
            "no answer of the assistant follows",
        ),
        ({"prompt": "hi", "completion": " "}, "no answer", "an answer of the assistant is blank."),
        ({"prompt": " ", "completion": "ok"}, "empty", "the prompt is blank."),
        ({"conversations": []}, "empty", "there are no messages."),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "malformed", "message 1 has the role 'robot'"),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "malformed",
            "message 1 has the content 3; expected a",
        ),
        ({"messages": ["hi"]}, "malformed", "message 1 is 'hi'; expected a mapping with role and content."),
        ({"messages": {"a": 1}}, "malformed", "messages are a list that is not empty, not {'a': 1}."),
        ("hi", "malformed", "a conversation is a mapping of columns, not str."),
    ],
)
def test_what_is_no_conversation_is_told_by_a_word_and_a_sentence(row, word, detail):
    with pytest.raises(BadValueError) as caught:
        read(row)
    assert caught.value.word == word
    assert caught.value.detail.startswith(detail)


def test_for_others_the_same_is_an_error_of_ours():
    with pytest.raises(ConversationError, match="an answer of the assistant is blank"):
        messages_of({"prompt": "hi", "completion": ""}, SECTION)
