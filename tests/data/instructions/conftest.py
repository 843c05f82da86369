import pytest
from word_tokenizers import tokenizer_with, write_lines

from ultralong_hf.data.instructions.blend import prepare_blend
from ultralong_hf.recipes.schema import ConversationSource, InstructSection


@pytest.fixture
def blend(tmp_path):
    """Makes a blend of sources, name -> rows, in `tmp_path/blend`; gives its report."""

    def make(sources, *, output="blend", entries=None, tokenizer=None, confirm=False, say=None, **section):
        listed = [
            ConversationSource(
                path=str(write_lines(tmp_path / f"{name}.jsonl", rows)),
                label=name,
                **(entries or {}).get(name, {}),
            )
            for name, rows in sources.items()
        ]
        return prepare_blend(
            InstructSection(sources=listed, **section),
            tokenizer=tokenizer or tokenizer_with(),
            output_dir=tmp_path / output,
            confirm_requests=confirm,
            say=say,
        )

    return make
