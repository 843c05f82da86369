"""The contestants of packing.py; each is run by it in a process of its own.

python benchmarks/packing_contestants.py NAME TEXT TOKENIZER WORK ROW_LENGTH

prints as its last line {"tokens", "seconds", "cpu_seconds", "peak_bytes", ...}. What is timed stands in
packing.py.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BATCH_CHARACTERS = 8 << 20


def _load_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def _batches(path: Path, characters: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for line in path.open(encoding="utf-8"):
        text = json.loads(line)["text"]
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _timed(work: Callable[[], int]) -> dict[str, Any]:
    start, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"tokens": tokens, "seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}


def raw_gigatoken(text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """The limit: gigatoken alone, on all cores, from texts in memory to one array of ids a batch."""
    import awkward  # noqa: F401 -- which gigatoken would import within the time
    import gigatoken

    state = (tokenizer / "tokenizer.json").read_text(encoding="utf-8")
    batches = list(_batches(text, BATCH_CHARACTERS))

    def encode() -> int:
        engine = gigatoken.Tokenizer.from_json(state)
        return sum(len(engine.encode_batch(batch).layout.content.data) for batch in batches)

    return _timed(encode)


def raw_tokenizers(text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """The tokenizer's own library, on all cores, from texts in memory to its encodings."""
    from tokenizers import Tokenizer

    batches = list(_batches(text, BATCH_CHARACTERS // 8))

    def encode() -> int:
        engine = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        encoded = (engine.encode_batch_fast(batch, add_special_tokens=False) for batch in batches)
        return sum(len(encoding) for batch in encoded for encoding in batch)

    return _timed(encode)


def ours(text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """`prepare_dataset`, and how long a row takes to become a batch afterwards."""
    import awkward  # noqa: F401 -- as for raw gigatoken
    import datasets  # noqa: F401 -- as for those who open theirs by it
    import torch
    from torch.utils.data import DataLoader

    from ultralong_hf import LongContextCollator, load_packed, prepare_dataset

    loaded, store = _load_tokenizer(tokenizer), work / "store"
    timed = _timed(
        lambda: (
            len(prepare_dataset(text, tokenizer=loaded, target_length=row_length, output_dir=store))
            * row_length
        )
    )
    rows = load_packed(store, verify=False)
    manifest = json.loads((store / "manifest.json").read_text())
    seconds = []
    for start in range(11):
        subset = torch.utils.data.Subset(rows, [start % len(rows)])
        begun = time.perf_counter()
        (batch,) = DataLoader(subset, collate_fn=LongContextCollator(row_length))
        seconds.append(time.perf_counter() - begun)
        assert batch["input_ids"].shape == (1, row_length)
    return {**timed, "row_seconds": statistics.median(seconds), "engine": manifest["engine"]["name"]}


def trl_wrapped(text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """What SFTTrainer does to a dataset of texts, with as many processes as there are cores."""
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    loaded = _load_tokenizer(tokenizer)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(loaded), **sizes))
    args = SFTConfig(
        output_dir=str(work / "out"),
        packing=True,
        packing_strategy="wrapped",
        max_length=row_length,
        dataset_num_proc=CORES,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    timings: list[dict[str, Any]] = []

    class TimedTrainer(SFTTrainer):
        def _prepare_dataset(self, dataset: Any, *rest: Any, **options: Any) -> Any:
            prepared: list[Any] = []

            def prepare() -> int:
                dataset = load_dataset("json", data_files=str(text), split="train", cache_dir=str(work))
                prepared.append(super(TimedTrainer, self)._prepare_dataset(dataset, *rest, **options))
                return _count_ids(prepared[0])

            timings.append(_timed(prepare))
            return prepared[0]

    dataset = load_dataset("json", data_files=str(text), split="train[:1]", cache_dir=str(work / "first"))
    TimedTrainer(model=model, args=args, train_dataset=dataset, processing_class=loaded)
    return timings[0]


def group_texts(text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """Tokenize and concatenate by `datasets.map`, as transformers' own example scripts do."""
    from datasets import load_dataset

    loaded = _load_tokenizer(tokenizer)

    def tokenize(examples: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": loaded(examples["text"], add_special_tokens=False).input_ids}

    def group(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [token for ids in examples["input_ids"] for token in ids]
        size = min(row_length, len(joined))  # the script drops what fills no row, here nothing is lost
        return {"input_ids": [joined[start : start + size] for start in range(0, len(joined), size)]}

    def work_through() -> int:
        dataset = load_dataset("json", data_files=str(text), split="train", cache_dir=str(work))
        dataset = dataset.map(tokenize, batched=True, num_proc=CORES, remove_columns=["text"])
        return _count_ids(dataset.map(group, batched=True, num_proc=CORES))

    return _timed(work_through)


def _count_ids(dataset: Any) -> int:
    import pyarrow.compute as pc

    return pc.sum(pc.list_value_length(dataset.with_format("arrow")[:]["input_ids"])).as_py()


CONTESTANTS: dict[str, Callable[[Path, Path, Path, int], dict[str, Any]]] = {
    "gigatoken": raw_gigatoken,
    "tokenizers": raw_tokenizers,
    "ours": ours,
    "TRL wrapped": trl_wrapped,
    "group_texts": group_texts,
}

if __name__ == "__main__":
    name, text, tokenizer, work, row_length = sys.argv[1:]
    print(json.dumps(CONTESTANTS[name](Path(text), Path(tokenizer), Path(work), int(row_length))))
