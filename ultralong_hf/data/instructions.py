"""Conversations -> samples of the SFT stage: token ids, and labels of the assistant's tokens alone.

A row holds either a list of messages ({"role", "content"}, or ShareGPT's {"from", "value"}) or a prompt and
its completion, each a text or a list of messages.
"""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.schema import InstructSection, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]

IGNORED = -100
"""The label of a token that does not count in the loss."""

_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_FAULTS_TOLD = 10
_SAMPLES_PER_CHUNK = 1000


@dataclass(frozen=True)
class Samples:
    """`dataset` has the columns input_ids and labels; `too_long` samples did not fit and are not in it."""

    dataset: Dataset
    too_long: int


def build_samples(
    section: InstructSection,
    *,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[tuple[str, Any]] | None = None,
) -> Samples:
    """All conversations of `section.sources`, or of `rows` (name of the place, row), as samples.

    A sample of more than `section.max_length` tokens is dropped and counted, none is cut. Raises
    ConversationError with the file and row of the first malformed ones.
    """
    template = marked_template(tokenizer)
    chunks: list[Any] = []
    kept: list[tuple[list[int], list[int]]] = []
    faults: list[str] = []
    too_long = 0
    try:
        for place, row in read_rows(section.sources) if rows is None else rows:
            try:
                sample = tokenize_conversation(messages_of(row, section), tokenizer, template)
            except ConversationError as error:
                faults.append(f"{place}: {error}")
                if len(faults) == _FAULTS_TOLD:
                    break
                continue
            if len(sample[0]) > section.max_length:
                too_long += 1
                continue
            kept.append(sample)
            if len(kept) == _SAMPLES_PER_CHUNK:
                chunks.append(_table(kept))
                kept = []
    except ConversationError as error:  # a file that cannot be read on
        faults.extend(error.faults)
    if faults:
        raise ConversationError(*faults)
    return _samples([*chunks, _table(kept)], too_long, section.max_length)


def _samples(chunks: list[Any], too_long: int, max_length: int) -> Samples:
    if not sum(map(len, chunks)):
        raise ConversationError(
            f"No conversation is left to train on: {too_long:,} are longer than {max_length:,} tokens."
        )
    if too_long:
        logger.warning(
            "%s conversations of more than %s tokens were dropped.", f"{too_long:,}", f"{max_length:,}"
        )
    return Samples(_dataset(chunks), too_long)


def read_rows(sources: Iterable[Source]) -> Iterator[tuple[str, Any]]:
    """(place, row) of every source; the place names the file or dataset and counts its rows from 1."""
    return chain.from_iterable(map(_rows_of_source, sources))


def _rows_of_source(source: Source) -> Iterator[tuple[str, Any]]:
    files = _local_files(source.path)
    if files:
        for file in files:
            yield from _rows_of_file(file)
        return
    if source.path.count("/") != 1 or Path(source.path).suffix in _READERS:
        raise ConversationError(
            f"{source.path} is no file, folder or glob here, and no dataset id of the Hub."
        )
    from datasets import load_dataset

    try:
        dataset = load_dataset(
            source.path,
            source.name,
            data_dir=source.data_dir,
            data_files=source.data_files,
            split=source.split,
            revision=source.revision,
        )
    except (OSError, ValueError) as error:
        raise ConversationError(f"{source.path} cannot be loaded: {_first_line(error)}") from error
    for number, row in enumerate(dataset, start=1):
        yield f"{source.path}, row {number}", row


def _local_files(path: str) -> list[Path]:
    if Path(path).is_dir():
        return sorted(p for p in Path(path).rglob("*") if p.suffix in _READERS)
    return [Path(p) for p in sorted(glob.glob(path, recursive=True))]


def _rows_of_file(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix not in _READERS:
        raise ConversationError(f"{file}: conversations are read from {', '.join(_READERS)} files.")
    try:
        for number, row in _READERS[file.suffix](file):
            yield f"{file}, row {number}", row
    except (OSError, UnicodeDecodeError) as error:
        raise ConversationError(f"{file} cannot be read: {_first_line(error)}") from error


def _read_jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ConversationError(f"{file}, row {number}: this line is no JSON: {error}.") from None


def _read_parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file)
        batches = parquet.iter_batches()
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from enumerate(rows, start=1)
    except pyarrow.ArrowException as error:
        raise ConversationError(f"{file} cannot be read as Parquet: {_first_line(error)}") from None


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def messages_of(row: Any, section: InstructSection) -> Messages:
    """The conversation of a row, as messages with the keys role and content. Raises ConversationError."""
    if isinstance(row, list):
        row = {section.messages_column: row}
    if not isinstance(row, Mapping):
        raise ConversationError(f"a conversation is a mapping of columns, not {type(row).__name__}.")
    columns = (section.prompt_column, section.completion_column)
    if row.get(section.messages_column) is not None:
        messages = _messages(row[section.messages_column], "user")
    elif all(row.get(column) is not None for column in columns):
        prompt, completion = (row[column] for column in columns)
        messages = _messages(prompt, "user") + _messages(completion, "assistant")
    else:
        raise ConversationError(
            f"there is neither {section.messages_column!r} nor {columns[0]!r} and {columns[1]!r}; "
            f"the columns are {', '.join(map(repr, row)) or 'none'}."
        )
    if not any(message["role"] == "assistant" for message in messages):
        raise ConversationError("no message is the assistant's, so there is nothing to learn.")
    return messages


def _messages(value: Any, role_of_text: str) -> Messages:
    if isinstance(value, str):
        return [{"role": role_of_text, "content": value}]
    if not isinstance(value, list) or not value:
        raise ConversationError(f"messages are a list that is not empty, not {value!r}.")
    return [_message(number, message) for number, message in enumerate(value, start=1)]


def _message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, Mapping):
        raise ConversationError(f"message {number} is {message!r}; expected a mapping with role and content.")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    role = _SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in _ROLES:
        raise ConversationError(
            f"message {number} has the role {role!r}; expected one of {', '.join(_ROLES)}."
        )
    if not isinstance(content, str):
        raise ConversationError(f"message {number} has the content {content!r}; expected a text.")
    return {"role": role, "content": content}


def marked_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template, or TRL's training form of it, if it marks the assistant's part.

    None where neither has `{% generation %}` marks. Raises ConversationError where there is no template.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template is None:
        raise ConversationError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template. Use an "
            "instruct model's tokenizer, or set its chat_template."
        )
    template = tokenizer.get_chat_template()
    if has_generation_markers(template):
        return template
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def tokenize_conversation(
    messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str | None
) -> tuple[list[int], list[int]]:
    """Ids of the whole conversation, and labels: the id where the assistant speaks, -100 elsewhere.

    `template`: from `marked_template`. None: the assistant's part is what its messages add to the text.
    """
    from jinja2 import TemplateError

    try:
        text, spans = (
            _marked_spans(messages, tokenizer, template) if template else _added_spans(messages, tokenizer)
        )
    except TemplateError as error:
        raise ConversationError(f"the chat template refuses it: {_first_line(error)}.") from None
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    labels = [
        token if any(start < last and end > first for first, last in spans) else IGNORED
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    if all(label == IGNORED for label in labels):
        raise ConversationError("no token is the assistant's, so there is nothing to learn.")
    return encoded["input_ids"], labels


Spans = list[tuple[int, int]]
"""Beginnings and ends of the assistant's parts, in characters."""


def _marked_spans(messages: Messages, tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, Spans]:
    """The text, and what stands between `{% generation %}` marks.

    transformers' own `return_assistant_tokens_mask` looks for the token of a part's last character; a
    tokenizer that drops blanks has none for a blank, and the mask then runs on to the end (5.23, measured).
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    special_tokens: dict[str, Any] = {**tokenizer.special_tokens_map}
    rendered: Any = render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **special_tokens
    )
    texts, spans = rendered
    return texts[0], spans[0]


def _added_spans(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[str, Spans]:
    """The text, and what each message of the assistant adds to it after the prompt for a reply."""

    def render(end: int, *, reply: bool = False) -> str:
        text = str(tokenizer.apply_chat_template(messages[:end], tokenize=False, add_generation_prompt=reply))
        if not whole.startswith(text):
            raise ConversationError(
                "the chat template writes the beginning of the conversation otherwise than in the whole, so "
                "the assistant's part is not to be found. Give the template {% generation %} marks."
            )
        return text

    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    if messages[0]["role"] == "assistant":
        raise ConversationError("the first message is the assistant's, and replies to nothing.")
    return whole, [
        (len(render(number, reply=True)), len(render(number + 1)))
        for number, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _table(samples: list[tuple[list[int], list[int]]]) -> Any:
    import pyarrow

    ids = pyarrow.list_(pyarrow.int32())
    columns = {"input_ids": [s[0] for s in samples], "labels": [s[1] for s in samples]}
    return pyarrow.table(columns, schema=pyarrow.schema([(name, ids) for name in columns]))


def _dataset(chunks: list[Any]) -> Dataset:
    import pyarrow
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(pyarrow.concat_tables(chunks)))


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
