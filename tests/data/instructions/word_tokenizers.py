"""A tokenizer of words, and conversations for it."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<pad>", "<u>", "<a>", "<s>", "<end>", "hi", "there", "you", "bye", "now", "be", "kind", "ok"]
PLAIN_TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}> {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<a> {% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}> {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }} <end> {% endgeneration %}"
    "{% else %}{{ m.content }} <end> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a> {% endif %}"
)


def tokenizer_with(template: str | None = PLAIN_TEMPLATE) -> PreTrainedTokenizerFast:
    """A word is a token; the ids are the places in WORDS; all other words are "ok"."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="ok"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", chat_template=template
    )


def learned(labels: list[int]) -> str:
    return " ".join("." if label == -100 else WORDS[label] for label in labels)


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pair(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
