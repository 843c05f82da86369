"""What stands between two documents in a row, and how a model gets a row of embeddings for a new token.

The paper puts the text `<s>` between documents, in place of Llama 3's own begin and end tokens (second-hand).
`<s>` is no special token of Llama 3; whether it was one new token or several ordinary ones is open, so both
can be had: kind `text` and kind `new_token`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ultralong_hf.data.tokenization import PlainTextEncoder
from ultralong_hf.errors import DocumentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = {
    "text": "a literal text, tokenized as plain text: one or several ordinary tokens",
    "special": "a token that the tokenizer has, such as <|end_of_text|>",
    "new_token": "a token that is added to the tokenizer; the model needs a row of embeddings for it",
    "eos": "the tokenizer's end-of-sequence token",
    "bos": "the tokenizer's begin-of-sequence token",
    "none": "nothing: documents follow each other directly",
    "masked": "the end-of-sequence token, or the token `value`; the collator hides documents from each other",
}
_NEED_VALUE = {"text", "special", "new_token"}
_TAKE_NO_VALUE = {"eos", "bos", "none"}


@dataclass(frozen=True)
class Separator:
    """Kind and text of a separator; a plain text stands for the kind `text`.

    `Separator("text", "<s>")` is the text spelled out even if the tokenizer has a special token `<s>` (Llama
    2, Mistral): the special token itself is `Separator("special", "<s>")`. A separator joins, so it stands
    neither before the first document nor after the last; this holds for `bos` and `eos` too.
    """

    kind: str
    value: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DocumentError(
                f"separator kind {self.kind!r} is not known. Choose one of: {', '.join(KINDS)}."
            )
        if self.kind in _NEED_VALUE and not (isinstance(self.value, str) and self.value):
            raise DocumentError(
                f"separator of kind {self.kind} needs a text as its value, not {self.value!r}."
            )
        if self.kind in _TAKE_NO_VALUE and self.value is not None:
            raise DocumentError(f"separator of kind {self.kind} takes no value, but got {self.value!r}.")

    @property
    def masks_documents(self) -> bool:
        """Whether the documents of a row are meant to be hidden from each other."""
        return self.kind == "masked"


@dataclass(frozen=True)
class ResolvedSeparator:
    """A separator as the tokens of one tokenizer."""

    separator: Separator
    ids: tuple[int, ...]
    encoder: PlainTextEncoder
    """Of the tokenizer that has these ids."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that has these ids: the one given, or a copy of it with the new token."""
        return self.encoder.tokenizer

    @property
    def is_new(self) -> bool:
        """Whether a model needs embeddings for it that it did not have."""
        return self.separator.kind == "new_token"


def parse_separator(value: Separator | str | Mapping[str, Any] | None) -> Separator:
    """A Separator from what recipes and callers write.

    >>> parse_separator("<s>"), parse_separator({"kind": "eos"})
    (Separator(kind='text', value='<s>'), Separator(kind='eos', value=None))

    Raises DocumentError for unknown kinds and keys.
    """
    if isinstance(value, Separator):
        return value
    if value is None:
        return Separator("none", None)
    if isinstance(value, str):
        return Separator("text", value)
    if not isinstance(value, Mapping):
        raise DocumentError(f"separator is {value!r}: give a text, or a mapping such as {{kind: eos}}.")
    if unknown := sorted(set(value) - {"kind", "value"}):
        raise DocumentError(f"separator has unknown keys {unknown}. Known: kind, value.")
    return Separator(value.get("kind", "text"), value.get("value"))


def resolve_separator(separator: Separator, tokenizer: PreTrainedTokenizerBase) -> ResolvedSeparator:
    """The separator's token ids. The tokenizer given is never changed.

    Raises DocumentError where the tokenizer has no such token. Warns where a text is also a special token.
    """
    if separator.kind == "new_token":
        tokenizer = _with_token(tokenizer, str(separator.value))
    encoder = PlainTextEncoder(tokenizer)
    return ResolvedSeparator(separator, _token_ids(separator, encoder), encoder)


def _token_ids(separator: Separator, encoder: PlainTextEncoder) -> tuple[int, ...]:
    tokenizer = encoder.tokenizer
    if separator.kind == "none":
        return ()
    if separator.kind == "text":
        return _text_ids(str(separator.value), encoder)
    if separator.kind in ("eos", "bos") or separator.value is None:
        name = "bos_token" if separator.kind == "bos" else "eos_token"
        token = getattr(tokenizer, name)
        if token is None:
            raise DocumentError(f"separator of kind {separator.kind}: this tokenizer has no {name}.")
    else:
        token = separator.value
    vocabulary = tokenizer.get_vocab()
    if token not in vocabulary:
        raise DocumentError(
            f"separator {token!r} is no token of this tokenizer. Use kind new_token to add it, or kind text."
        )
    return (vocabulary[token],)


def _text_ids(text: str, encoder: PlainTextEncoder) -> tuple[int, ...]:
    tokenizer = encoder.tokenizer
    if text in tokenizer.all_special_tokens or _is_special(text, tokenizer):
        warnings.warn(
            f"separator {text!r} is a special token of this tokenizer, but is spelled out as plain text. "
            f"If you mean the token, use {{kind: special, value: {text!r}}}.",
            stacklevel=2,
        )
    ids = tuple(encoder.encode(text).tolist())
    if not ids:
        raise DocumentError(
            f"separator {text!r} is no token at all in this tokenizer. Use another text, or kind none."
        )
    return ids


def _is_special(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return any(token.content == text and token.special for token in tokenizer.added_tokens_decoder.values())


def _with_token(tokenizer: PreTrainedTokenizerBase, token: str) -> PreTrainedTokenizerBase:
    """A copy with the token; the same tokenizer if it has been added before."""
    if _is_special(token, tokenizer):
        return tokenizer
    from tokenizers import AddedToken

    extended = copy.deepcopy(tokenizer)
    extended.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return extended


def add_token_embeddings(model: PreTrainedModel, token_ids: Sequence[int]) -> PreTrainedModel:
    """Gives each new token a row of input and output embeddings: the mean of the rows of all lower ids.

    `token_ids` are the highest ids of the tokenizer, as `ResolvedSeparator.ids` of kind new_token. Rows are
    added where the model has too few; a model whose embeddings are padded keeps its size. Output embeddings
    that are tied to the input's are the same rows. Changes the model in place and returns it.
    """
    import torch

    known = min(token_ids)
    if max(token_ids) >= len(_weight(model.get_input_embeddings())):
        model.resize_token_embeddings(max(token_ids) + 1, mean_resizing=False)
    tables = [_weight(model.get_input_embeddings())]
    head = model.get_output_embeddings()
    if head is not None and _weight(head) is not tables[0]:
        tables.append(_weight(head))
        if isinstance(bias := getattr(head, "bias", None), torch.Tensor):
            tables.append(bias)
    with torch.no_grad():
        for table in tables:
            table[list(token_ids)] = table[:known].float().mean(dim=0).to(table.dtype)
    return model


def _weight(module: torch.nn.Module) -> torch.Tensor:
    """Rows of an embedding or of a linear layer, typed: an attribute of a Module may be anything."""
    return cast("torch.Tensor", module.weight)
