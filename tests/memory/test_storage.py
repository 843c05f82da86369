import gc
import os
import re

import pytest
import torch

from ultralong_hf.errors import MachineError
from ultralong_hf.memory.storage import DiskStorage, HostStorage


@pytest.fixture(params=["disk", "host"])
def storage(request, tmp_path):
    """torch.cpu has streams that do nothing, so that a host's bookkeeping runs here too."""
    if request.param == "disk":
        return DiskStorage(str(tmp_path), least_bytes=16)
    return HostStorage(torch.device("cpu"), least_bytes=16)


def some_tensors():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(3, 5, 7, generator=generator)
    return [
        dense,
        dense.bfloat16(),
        dense.transpose(0, 2),  # as attention gives it
        dense[:, 1:3],  # parts of rows
        torch.arange(40).reshape(5, 8)[2:],  # from the middle of its memory
        torch.ones(6, 1).expand(6, 4),
    ]


def test_tensors_come_back_as_they_were(storage):
    tensors = some_tensors()
    kept = []
    for number, tensor in enumerate(tensors):
        if number % 2 == 0:
            storage.begin_layer()
        kept.append(storage.put(tensor))
    assert not any(isinstance(stand_in, torch.Tensor) for stand_in in kept)
    assert storage.stored_bytes == sum(tensor.nbytes for tensor in tensors)
    for stand_in, tensor in zip(reversed(kept), reversed(tensors), strict=True):
        found = storage.get(stand_in)
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found, tensor)
    assert torch.equal(storage.get(kept[0]), tensors[0])  # a second time
    assert storage.get(kept[2]).stride() == tensors[2].stride()


def test_small_tensors_and_weights_stay_where_they_are(storage):
    small, weight = torch.ones(3), torch.nn.Parameter(torch.ones(100))
    assert storage.put(small).data_ptr() == small.data_ptr()
    assert storage.put(weight).data_ptr() == weight.data_ptr()
    assert storage.stored_bytes == 0


def test_a_layer_is_fetched_whole_and_the_one_below_it_ahead(storage):
    kept = []
    for _ in range(3):
        storage.begin_layer()
        kept.append([storage.put(torch.ones(10)), storage.put(torch.ones(20))])
    storage.get(kept[2][0])
    begun = [[stand_in.loading is not None for stand_in in layer] for layer in kept]
    assert begun == [[False, False], [True, True], [False, True]]


def test_a_forward_without_a_backward_leaves_nothing(storage):
    for _ in range(4):
        storage.begin_layer()
        storage.put(torch.ones(1000))
    gc.collect()
    assert all(place() is None for layer in storage._layers.values() for place in layer)


def test_the_file_has_no_name_and_is_used_again(tmp_path):
    storage = DiskStorage(str(tmp_path), least_bytes=16)
    for _ in range(3):
        kept = [storage.put(torch.full((1000,), float(number))) for number in range(4)]
        for number in (3, 2, 1, 0):
            assert storage.get(kept[number])[0] == number
        del kept
    assert os.listdir(tmp_path) == []
    assert os.fstat(storage._file.fileno()).st_size == 4 * 4000


def test_a_full_disk_is_told_with_what_is_missing(tmp_path, monkeypatch):
    storage = DiskStorage(str(tmp_path), least_bytes=16)
    storage.put(torch.ones(1 << 18))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = (
        "No space left on device. They take 1 MiB so far, 4 MiB more are needed and [0-9,]+ MiB are free"
    )
    with pytest.raises(
        MachineError, match=f"^{re.escape(str(tmp_path))} cannot hold the activations: {message}"
    ):
        storage.put(torch.ones(1 << 20))


def test_what_fails_in_a_thread_is_raised_where_the_tensor_is_wanted(tmp_path, monkeypatch):
    storage = DiskStorage(str(tmp_path), least_bytes=16)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pwrite", fail)
    kept = storage.put(torch.ones(1000))
    with pytest.raises(OSError, match="Input/output error"):
        storage.get(kept)
