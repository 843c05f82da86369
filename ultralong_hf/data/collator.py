"""Rows of a token store -> batches.

Letters: B rows of a batch, N tokens of a row (global: the whole row, before it is split over devices).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import BatchError, ParallelSizeError
from ultralong_hf.lengths import parse_length

if TYPE_CHECKING:
    import numpy as np
    import torch

IGNORED = -100  # the label that torch's cross entropy leaves out


class LongContextCollator:
    """Makes `input_ids`, `labels`, `attention_mask` and `position_ids`, int64 [B, N], of rows of one length.

    The mask is all ones and the positions count from 0 to N - 1 across documents: with these, transformers'
    attention paths need no N x N mask, also where a row is split over devices. For the same reason rows that
    hold padding are refused. Rows are lists, arrays or tensors, as `datasets` gives them in any format.

    - `target_length`: tokens of every row, an int or a text such as "1M"; none: that of the first row of each
      batch.
    - `separator_token_id`: the token, or the tokens in order, between documents; needed by the next two. A
      separator that the edge of a row cuts in two is not recognised: at most its length - 1 tokens at an end.
    - `loss_on_separators`: False sets the labels of separators to -100.
    - `shards`: parts that a row must split into evenly.
    - `mask_documents`: documents do not see each other, for comparison. Positions restart after each
      separator and there is no mask, from which transformers builds a block-diagonal one (N x N with sdpa).
      The first token of a document, which nothing precedes, gets the label -100.

    Raises BatchError, ParallelSizeError or LengthError, here or when called.
    """

    def __init__(
        self,
        target_length: int | str | None = None,
        *,
        separator_token_id: int | Sequence[int] | None = None,
        loss_on_separators: bool = True,
        shards: int = 1,
        mask_documents: bool = False,
    ) -> None:
        if isinstance(separator_token_id, int):
            separator_token_id = [separator_token_id]
        self.separator_ids = tuple(separator_token_id or ())
        self.target_length = None if target_length is None else parse_length(target_length)
        self.loss_on_separators = loss_on_separators
        self.shards = shards
        self.mask_documents = mask_documents
        if not self.separator_ids and (mask_documents or not loss_on_separators):
            setting = "mask_documents=True" if mask_documents else "loss_on_separators=False"
            raise BatchError(f"{setting} needs separator_token_id: it tells where the separators are.")
        if mask_documents and shards > 1:
            raise ParallelSizeError(
                f"documents cannot be masked from each other in rows that are split into {shards} parts. "
                "Use mask_documents=False, or do not split rows."
            )
        if self.target_length is not None:
            check_shards(self.target_length, shards)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The batch of these rows, each a mapping with `input_ids` [N]."""
        import numpy as np
        import torch

        if not rows:
            raise BatchError("no rows: a batch needs at least one.")
        read = [self._read_row(row, index) for index, row in enumerate(self._checked(rows))]
        # memory from NumPy, which asks for huge pages: 4 ms of a core for 4M int64, 20 to 25 from torch
        ids = read[0][None] if len(read) == 1 else np.stack(read)
        input_ids, labels = torch.from_numpy(ids), torch.from_numpy(ids.copy())
        batch = {"input_ids": input_ids, "labels": labels}
        positions = torch.from_numpy(np.arange(ids.shape[1])).expand(len(rows), -1).contiguous()
        if self.separator_ids:
            self._apply_separators(input_ids, labels, positions)
        if not self.mask_documents:
            batch["attention_mask"] = torch.from_numpy(np.ones(ids.shape, dtype=np.int64))
        batch["position_ids"] = positions
        return batch

    def _checked(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        for index, row in enumerate(rows):
            if "input_ids" not in row:
                raise BatchError(f"row {index} of the batch has no input_ids, only {sorted(row)}.")
        expected = self.target_length or len(rows[0]["input_ids"])
        for index, row in enumerate(rows):
            if (length := len(row["input_ids"])) != expected:
                raise BatchError(
                    f"row {index} of the batch has {length:,} tokens, not {expected:,}. Rows are neither cut "
                    "nor padded here: make a store of this target length with `ultralong prepare`."
                )
        check_shards(expected, self.shards)
        return rows

    def _read_row(self, row: Mapping[str, Any], index: int) -> np.ndarray:
        mask = row.get("attention_mask")
        if mask is not None and not _array(mask).all():
            padding = int((_array(mask) == 0).sum())
            raise BatchError(
                f"row {index} of the batch holds {padding:,} padding tokens: attention would build an "
                "N x N mask. Pack documents into full rows with `ultralong prepare`."
            )
        return _array(row["input_ids"])

    def _apply_separators(
        self, input_ids: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor
    ) -> None:
        width = len(self.separator_ids)
        for row in range(len(input_ids)):
            starts = find_separators(input_ids[row], self.separator_ids)
            if not self.loss_on_separators:
                for offset in range(width):
                    labels[row, starts + offset] = IGNORED
            if self.mask_documents:
                positions[row] = _restarting_positions(starts + width, input_ids.shape[1])
                labels[row, positions[row] == 0] = IGNORED


def check_shards(length: int, shards: int) -> None:
    """Raises ParallelSizeError, with the nearest good lengths, if `shards` parts do not divide `length`."""
    if shards < 1:
        raise ParallelSizeError(f"shards is {shards}: a row is split into at least one part.")
    if length % shards == 0:
        return
    below, above = length // shards * shards, (length // shards + 1) * shards
    better = f"{below:,} or {above:,}" if below else f"{above:,}"
    raise ParallelSizeError(
        f"rows of {length:,} tokens do not split into {shards} parts. "
        f"Use {better} tokens, or another cp_size."
    )


def find_separators(row: torch.Tensor, separator_ids: Sequence[int]) -> torch.Tensor:
    """Where each whole separator of a row [N] begins; of matches that overlap, the first.

    >>> find_separators(torch.tensor([5, 7, 8, 5, 7, 7, 8]), [7, 8])
    tensor([1, 5])
    """
    import torch

    width = len(separator_ids)
    if len(row) < width:
        return torch.empty(0, dtype=torch.int64)
    matches = torch.ones(len(row) - width + 1, dtype=torch.bool)
    for offset, token in enumerate(separator_ids):
        matches &= row[offset : offset + len(matches)] == token
    starts: list[int] = []
    for start in matches.nonzero().flatten().tolist():
        if not starts or start >= starts[-1] + width:
            starts.append(start)
    return torch.tensor(starts, dtype=torch.int64)


def _restarting_positions(document_starts: torch.Tensor, length: int) -> torch.Tensor:
    """0, 1, 2, ... from the row's start and from each document's, [length].

    >>> _restarting_positions(torch.tensor([2, 5]), 6)
    tensor([0, 1, 0, 1, 2, 0])
    """
    import torch

    origin = torch.zeros(length, dtype=torch.int64)
    inside = document_starts[document_starts < length]
    origin[inside] = inside
    return torch.arange(length) - origin.cummax(dim=0).values


def _array(values: Any) -> np.ndarray:
    """int64 [N] of a list, a tensor or an array; copied only if it must be."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        values = values.numpy(force=True)
    return np.require(values, dtype=np.int64, requirements="W")
