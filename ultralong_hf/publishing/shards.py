"""safetensors files read and written a block at a time, so that no model need fit in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import ReleaseError
from ultralong_hf.publishing.carrying import INDEX, weight_files

if TYPE_CHECKING:
    import torch

BLOCK = 2**24
"""Values that are in memory at a time."""
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies, and what it is. `dtype` as safetensors writes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_places(folder: Path) -> dict[str, Place]:
    """Name -> place of every weight of a model folder. Raises as `weight_files`, and for damaged shards."""
    places = {}
    for name in weight_files(folder):
        if name == INDEX:
            continue
        for tensor, facts in read_header(folder / name).items():
            if tensor != _METADATA:
                places[tensor] = Place(folder / name, facts["dtype"], tuple(facts["shape"]))
    return places


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. Raises ReleaseError where there is none."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > min(path.stat().st_size, 10**8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(size))
    except (OSError, ValueError, struct.error) as error:
        raise ReleaseError(f"{path} is no whole safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise ReleaseError(f"{path} is no whole safetensors file: its header is no object.")
    return header


def rewrite_shard(source: Path, target: Path, blocks: Callable[[str], Iterator[torch.Tensor]]) -> None:
    """Writes `target` with the header of `source`, and for each tensor what `blocks` of its name yields.

    `blocks` must yield, in order, all values of the tensor in the type that the header says.
    """
    header = read_header(source)
    tensors = {name: facts for name, facts in header.items() if name != _METADATA}
    with source.open("rb") as file:
        head = file.read(8)
        head += file.read(struct.unpack("<Q", head)[0])
    with target.open("wb") as out:
        out.write(head)
        for name in sorted(tensors, key=lambda name: tensors[name]["data_offsets"][0]):
            start, end = tensors[name]["data_offsets"]
            written = 0
            for block in blocks(name):
                written += out.write(_bytes(block))
            assert written == end - start, (name, written, end - start)


def read_blocks(place: Place, name: str) -> Iterator[torch.Tensor]:
    """A tensor's values in blocks of whole rows, [rows, ...]; one without dimensions as it is."""
    from safetensors import safe_open

    rows = _rows_at_a_time(place.shape)
    if not place.shape or rows >= place.shape[0]:
        with safe_open(place.file, framework="pt") as file:
            yield file.get_tensor(name)
        return
    for start in range(0, place.shape[0], rows):
        # opened anew for each: what was read of a mapped file stays resident until it is closed
        with safe_open(place.file, framework="pt") as file:
            block = file.get_slice(name)[start : start + rows]
        yield block


def _rows_at_a_time(shape: tuple[int, ...]) -> int:
    width = 1
    for size in shape[1:]:
        width *= size
    return max(1, BLOCK // max(1, width))


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
