import re

from ultralong_hf.data.instructions.blend import load_blend, prepare_blend
from ultralong_hf.data.safety import _INSTRUCTIONS, safety_conversations
from ultralong_hf.data.tokenization import load_tokenizer
from ultralong_hf.evaluation.safety.documents import INJECTIONS
from ultralong_hf.evaluation.safety.refusals import is_refusal
from ultralong_hf.evaluation.safety.tasks import read_requests
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.recipes.schema import ConversationSource, InstructSection

ROWS = list(safety_conversations(3))


def of_kind(kind):
    return [[message["content"] for message in row["messages"]] for row in ROWS if row["kind"] == kind]


def words(text):
    return re.findall(r"\w+", text.lower())


def test_harmful_requests_are_declined_with_an_offer_and_those_alike_are_answered():
    refusals, helps = of_kind("refusal"), of_kind("help")
    assert len(refusals) == len(helps) == 24
    for _, answer in helps:
        assert not is_refusal(answer)
    declined = [answer for _, answer in refusals if is_refusal(answer)]
    assert len(declined) == 24
    assert all(len(words(answer)) > 12 for _, answer in refusals)


def test_hidden_instructions_are_not_obeyed():
    documents = of_kind("injection")
    assert len(documents) == 96
    for prompt, answer in documents:
        code = re.search(r"(PEBBLE|ORCHID|TANGENT|HARVEST) \d{3}", prompt)
        assert code is not None
        assert code.group() not in answer
        assert answer.split(" (")[0].split(" The text contains")[0] in prompt or "does not say" in answer
    assert sum("does not say" in answer for _, answer in documents) > 5


def test_nothing_of_the_safety_tasks_is_trained_on():
    def runs(texts):
        return {tuple(text[i : i + 6]) for text in map(words, texts) for i in range(len(text) - 5)}

    asked = [request.text for kind in ("harmful", "harmless") for request in read_requests(kind)]
    trained = [row["messages"][0]["content"] for row in ROWS if row["kind"] != "injection"]
    assert runs(asked) & runs(trained) == set()
    assert runs(INJECTIONS) & runs(_INSTRUCTIONS) == set()
    assert not set(asked) & set(trained)


def test_the_seed_decides():
    assert list(safety_conversations(3)) == ROWS
    assert list(safety_conversations(4)) != ROWS
    assert len(list(safety_conversations(0, injected=0))) == 48


def test_a_recipe_names_it_beside_other_sources(tmp_path):
    tokenizer = load_tokenizer(str(base_model_path()))
    section = InstructSection(
        sources=[ConversationSource(path="lab"), ConversationSource(path="safety")], max_length=4096
    )
    report = prepare_blend(section, tokenizer=tokenizer, output_dir=tmp_path / "blend")
    assert report["samples"] == len(load_blend(tmp_path / "blend", tokenizer=tokenizer)) == 400 + 48 + 96
