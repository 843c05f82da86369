import json
from importlib import resources

import pytest

from ultralong_hf.data.instructions.formats import read_conversation
from ultralong_hf.data.instructions.sources import SAMPLE_DOMAINS, expand, open_sources, read_blend
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.recipes.schema import ConversationSource, InstructSection

NAMED = {
    "general": ["ShareGPT", "SlimOrca", "EvolInstruct", "GPTeacher", "AlpacaGPT4", "UltraInteract"],
    "math": ["OrcaMathWordProblems", "MathInstruct", "MetaMath"],
    "code": ["Magicoder", "WizardCoder", "GlaiveCodeAssistant"],
}
"""As the paper names them."""


def test_the_papers_sources_stand_in_their_domains_with_id_and_licence():
    sources = read_blend("ultralong")
    assert {domain: [s.label for s in sources if s.domain == domain] for domain in NAMED} == NAMED
    assert all(source.path.count("/") == 1 and source.licence for source in sources)
    assert sorted(source.label for source in sources if "NC" in source.licence) == [
        "AlpacaGPT4",
        "MathInstruct",
        "WizardCoder",
    ]
    revisions = [source.revision for source in sources if source.revision]
    assert len(revisions) == 9
    assert all(len(revision) == 40 for revision in revisions)


@pytest.mark.parametrize("preset", ["ultralong-1m", "ultralong-2m", "ultralong-4m"])
def test_presets_take_a_hundred_thousand_and_leave_out_the_benchmarks(preset):
    section = load_recipe(preset).instruct
    assert (section.samples, section.max_length) == (100_000, 8192)
    assert len(expand(section.sources)) == (1 if preset == "ultralong-4m" else 12)
    files = section.filters["decontaminate"]["files"]
    assert {file["path"].split("/")[1] for file in files} == {
        "mmlu",
        "MMLU-Pro",
        "gsm8k",
        "openai_humaneval",
        "hendrycks_math",
    }


def test_the_sample_set_has_dozens_of_conversations_in_each_domain_and_none_twice():
    folder = resources.files("ultralong_hf.data.instructions").joinpath("sample")
    seen = set()
    for domain in SAMPLE_DOMAINS:
        rows = [
            json.loads(line) for line in folder.joinpath(f"{domain}.jsonl").read_text("utf-8").splitlines()
        ]
        assert len(rows) >= 24
        for row in rows:
            found = read_conversation(row, InstructSection(), None)
            assert not found.repairs
            seen.add(json.dumps(found.messages))
    assert len(seen) == 78


def test_the_python_of_the_sample_set_compiles():
    text = resources.files("ultralong_hf.data.instructions").joinpath("sample/code.jsonl").read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.encode().decode().split("```python\\n")[1:]]
    assert len(blocks) >= 8
    for block in blocks:
        compile(json.loads(f'"{block}"'), "sample", "exec")


def test_sources_of_one_name_and_no_sources_are_refused(tmp_path):
    (tmp_path / "chat.jsonl").write_text("{}")
    source = ConversationSource(path=str(tmp_path / "chat.jsonl"))
    with pytest.raises(ConversationError, match=r"several sources are called 'chat.jsonl'"):
        open_sources(InstructSection(sources=[source, source]))
    with pytest.raises(ConversationError, match=r"instruct.sources is empty"):
        open_sources(InstructSection())


def test_all_sources_that_are_nowhere_are_told_together():
    sources = [ConversationSource(path=path) for path in ("one.jsonl", "two.jsonl")]
    with pytest.raises(ConversationError) as caught:
        open_sources(InstructSection(sources=sources))
    assert [fault.split(" ")[0] for fault in caught.value.faults] == ["one.jsonl", "two.jsonl"]
