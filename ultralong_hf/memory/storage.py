"""Where activations lie between forward and backward when not on the device: host memory or disk.

A storage takes tensors in the forward and gives them back, last in first out, in the backward. Both ways run
beside the computation: a tensor that is put away is on its way while the next layer runs, and those of a
layer are fetched while the layer above it is in its backward. So two layers' tensors are on the device.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from ultralong_hf.errors import MachineError

LEAST_BYTES = 1 << 20
"""Smaller tensors stay where they are."""

IN_FLIGHT = 2
"""Tensors that may be on their way at once; more would pile up where the way is slower than the layers."""

_PIECE = 1 << 28
"""Bytes of one read or write: Linux takes 2 GiB at most."""


class Kept:
    """A tensor in a storage. Its place is free again once nothing refers to it."""

    def __init__(self, tensor: torch.Tensor, layer: int) -> None:
        self.layer = layer
        self.shape, self.stride = tensor.shape, tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device
        self.bytes = tensor.nbytes
        self.place: Any = None
        """Where it lies; the storage's own."""
        self.loading: Any = None
        """What fetches it, where that has begun."""


class Storage(ABC):
    """Tensors put away by layer. `put` and `get` are a pair of `torch.autograd.graph.saved_tensors_hooks`."""

    stand_ins: tuple[type, ...]
    """What `put` may give in place of a tensor."""

    def __init__(self, least_bytes: int = LEAST_BYTES) -> None:
        self.least_bytes = least_bytes
        self.stored_bytes = 0
        """All bytes that were ever put away; a counter for tests and reports."""
        self._layer = 0
        self._layers: dict[int, list[weakref.ref[Kept]]] = {}

    def begin_layer(self) -> None:
        """What is put from now on belongs to another layer."""
        self._layer += 1

    def put(self, tensor: torch.Tensor) -> Any:
        """A stand-in for `tensor`, which may be freed."""
        if isinstance(tensor, DTensor):
            return _Distributed(tensor, self.put(tensor.to_local()))
        tensor, is_weight = tensor.detach(), isinstance(tensor, torch.nn.Parameter)
        if is_weight or tensor.nbytes < self.least_bytes or not self._takes(tensor):
            return tensor
        if not _is_dense(tensor):
            tensor = tensor.contiguous()
        kept = Kept(tensor, self._layer)
        self.stored_bytes += kept.bytes
        self._store(kept, tensor)
        self._layers.setdefault(self._layer, []).append(weakref.ref(kept))
        return kept

    def get(self, stand_in: Any) -> torch.Tensor:
        """The tensor that `put` gave this for."""
        if isinstance(stand_in, torch.Tensor):
            return stand_in
        if isinstance(stand_in, _Distributed):
            return stand_in.whole(self.get(stand_in.local))
        kept: Kept = stand_in
        for layer in (kept.layer, kept.layer - 1):  # the rest of this one, and that which comes next
            for other in self._layers.pop(layer, ()):
                self._fetch(other())
        self._fetch(kept)
        tensor = self._finish_loading(kept)
        kept.loading = None  # and again from its place, should it be wanted a second time
        return tensor

    def _fetch(self, kept: Kept | None) -> None:
        if kept is not None and kept.loading is None:
            kept.loading = self._start_loading(kept)

    def _takes(self, tensor: torch.Tensor) -> bool:
        return True

    @abstractmethod
    def _store(self, kept: Kept, tensor: torch.Tensor) -> None: ...

    @abstractmethod
    def _start_loading(self, kept: Kept) -> Any: ...

    @abstractmethod
    def _finish_loading(self, kept: Kept) -> torch.Tensor: ...


class HostStorage(Storage):
    """Pinned host memory, by copies on a stream of their own. Not run on a GPU yet."""

    def __init__(self, device: torch.device, least_bytes: int = LEAST_BYTES) -> None:
        super().__init__(least_bytes)
        self._device = device
        self._module = torch.get_device_module(device)
        self._copies = self._module.Stream(device)
        self._leaving: deque[tuple[torch.Tensor, Any]] = deque()

    def _takes(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == self._device.type

    def _store(self, kept: Kept, tensor: torch.Tensor) -> None:
        computing = self._module.current_stream()
        self._copies.wait_stream(computing)
        with self._module.stream(self._copies):
            kept.place = torch.empty(kept.bytes, dtype=torch.uint8, pin_memory=self._device.type != "cpu")
            _as_tensor(kept.place, kept).copy_(tensor, non_blocking=True)
            self._leaving.append((tensor, self._copies.record_event()))
        # the device's memory is free for the computing stream only after the copy
        while len(self._leaving) > IN_FLIGHT:
            computing.wait_event(self._leaving.popleft()[1])

    def _start_loading(self, kept: Kept) -> Any:
        computing = self._module.current_stream()
        # of the computing stream's memory, so that it needs no more care once that has waited for the copy
        tensor = torch.empty_strided(kept.shape, kept.stride, dtype=kept.dtype, device=kept.device)
        self._copies.wait_stream(computing)
        with self._module.stream(self._copies):
            tensor.copy_(_as_tensor(kept.place, kept), non_blocking=True)
            return tensor, self._copies.record_event()

    def _finish_loading(self, kept: Kept) -> torch.Tensor:
        tensor, copied = kept.loading
        computing = self._module.current_stream()
        computing.wait_event(copied)
        while self._leaving:  # in the backward all has left
            computing.wait_event(self._leaving.popleft()[1])
        return tensor


class DiskStorage(Storage):
    """One file without a name in `folder`: it is gone with the process, however that ends.

    Reads and writes are in threads; those of a GPU's tensors go through host memory. Raises MachineError
    where the disk is full.
    """

    def __init__(self, folder: str | None = None, least_bytes: int = LEAST_BYTES) -> None:
        super().__init__(least_bytes)
        self.folder = folder or tempfile.gettempdir()
        self._file = tempfile.TemporaryFile(dir=self.folder, prefix="activations-", buffering=0)  # noqa: SIM115
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)
        self._threads = ThreadPoolExecutor(max_workers=IN_FLIGHT, thread_name_prefix="activations")
        self._leaving: deque[Future[None]] = deque()
        weakref.finalize(self, self._file.close)

    def _store(self, kept: Kept, tensor: torch.Tensor) -> None:
        while len(self._leaving) >= IN_FLIGHT:
            self._leaving.popleft().result()
        kept.place = _Extent(self, kept.bytes)
        ready = _event_of(tensor)
        kept.place.written = self._threads.submit(self._write, kept.place.offset, tensor, ready)
        self._leaving.append(kept.place.written)

    def _start_loading(self, kept: Kept) -> Any:
        kept.place.written.result()
        return self._threads.submit(self._read, kept)

    def _finish_loading(self, kept: Kept) -> torch.Tensor:
        return _as_tensor(kept.loading.result(), kept).to(kept.device, non_blocking=True)

    def reserve(self, size: int) -> int:
        """The offset of `size` bytes that are nobody's."""
        if self._free[size]:
            return self._free[size].pop()
        offset = self._end
        try:
            os.posix_fallocate(self._file.fileno(), offset, size)
        except OSError as error:
            free = shutil.disk_usage(self.folder).free
            raise MachineError(
                f"{self.folder} cannot hold the activations: {error.strerror}. They take {offset >> 20:,} MiB"
                f" so far, {size >> 20:,} MiB more are needed and {free >> 20:,} MiB are free. Set "
                "memory.checkpoint_folder to a larger disk, or memory.checkpoint_storage to host."
            ) from error
        self._end += size
        return offset

    def release(self, offset: int, size: int) -> None:
        self._free[size].append(offset)

    def _write(self, offset: int, tensor: torch.Tensor, ready: Any) -> None:
        view = _bytes_of(_on_host(tensor, ready)).numpy().data
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            done = 0
            while done < len(piece):
                done += os.pwrite(self._file.fileno(), piece[done:], offset + start + done)

    def _read(self, kept: Kept) -> torch.Tensor:
        data = torch.empty(kept.bytes, dtype=torch.uint8, pin_memory=kept.device.type != "cpu")
        view = data.numpy().data
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            done = 0
            while done < len(piece):
                read = os.preadv(self._file.fileno(), [piece[done:]], kept.place.offset + start + done)
                if not read:
                    raise MachineError(f"{self.folder}: the file of activations ends too early.")
                done += read
        return data


class _Extent:
    """Bytes of the file, for as long as something refers to this."""

    def __init__(self, storage: DiskStorage, size: int) -> None:
        self._storage, self._size = storage, size
        self.offset = storage.reserve(size)
        self.written: Future[None]

    def __del__(self) -> None:
        if hasattr(self, "offset"):
            self._storage.release(self.offset, self._size)


class _Distributed:
    """The stand-in of a DTensor: that of this rank's part, and what it is a part of."""

    def __init__(self, tensor: DTensor, local: Any) -> None:
        self.local = local
        self._mesh, self._placements = tensor.device_mesh, tensor.placements
        self._shape, self._stride = tensor.shape, tensor.stride()

    def whole(self, local: torch.Tensor) -> torch.Tensor:
        return DTensor.from_local(
            local, self._mesh, self._placements, run_check=False, shape=self._shape, stride=self._stride
        )


Storage.stand_ins = (Kept, _Distributed)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements fill a piece of memory, in any order of dimensions."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return span == tensor.numel() and 0 not in tensor.stride()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a dense tensor, in its own order."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _as_tensor(data: torch.Tensor, kept: Kept) -> torch.Tensor:
    return data.view(kept.dtype).as_strided(kept.shape, kept.stride)


def _event_of(tensor: torch.Tensor) -> Any:
    """When the tensor is computed; none where computing is done when Python goes on."""
    if tensor.device.type == "cpu":
        return None
    return torch.get_device_module(tensor.device).current_stream().record_event()


def _on_host(tensor: torch.Tensor, ready: Any) -> torch.Tensor:
    """The tensor, copied by this thread where it is on a device. The caller holds it until then."""
    if ready is None:
        return tensor
    module = torch.get_device_module(tensor.device)
    copies = module.Stream(tensor.device)
    with module.stream(copies):
        copies.wait_event(ready)
        host = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
    copies.synchronize()
    return host
