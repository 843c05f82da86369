"""Text -> rows on disk: `prepare_dataset` against raw gigatoken, raw tokenizers, TRL's wrapped packing and
the usual `datasets.map` + group_texts, on the same text, cores and tokenizer, each in a process of its own.

python benchmarks/packing.py [--quick] [--text PATH ...] [--megabytes 360] [--tokenizer FOLDER] [--work DIR]

Without --text the text is what this Python has installed: sources and headers, each file a document. Without
--tokenizer a byte-level BPE with Llama 3's split and some 67,000 tokens is trained on the first 8 MB of it.

What is timed: of `ours` the whole call, from the JSON lines to rows that are hashed, renamed and on the disk;
its start and its checks of the engine are in it. Of raw gigatoken (the limit) and raw tokenizers the building
of the engine from a tokenizer.json, and the encoding of texts that are in memory already. Of the other two the
way from the JSON lines to the packed dataset. Imports and the loading of transformers' tokenizer are left out
for all. `--quick` gives the slow three the first 6 MB of the text, which they do at the same speed as all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SHORT, LONG = 128 * 1024, 4 * 1024**2
BATCH_CHARACTERS = 8 << 20
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TARGETS = {  # each at least
    "ours / raw gigatoken": 0.6,
    "ours / raw tokenizers": 10.0,
    "ours / TRL wrapped": 15.0,
    "1.5 GiB / peak RSS": 1.0,
    "peak RSS of rows of 128K / of 4M": 0.8,
    "peak RSS of half the text / of all": 0.8,
    "50 ms / a row of 4M to a batch": 1.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less text, each contestant once")
    parser.add_argument("--text", nargs="+", type=Path, help="JSON lines, text files, or folders of these")
    parser.add_argument("--megabytes", type=float, help="of text at most (default: 360, quick: 240)")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json")
    parser.add_argument("--work", type=Path, help="a folder for what is made (default: a temporary one)")
    parser.add_argument("--repeats", type=int, help="of the two fast contestants (default: 3, quick: 1)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--row-length", type=int, default=SHORT, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        print(
            json.dumps(CONTESTANTS[args.contestant](args.text[0], args.tokenizer, args.work, args.row_length))
        )
        return
    with tempfile.TemporaryDirectory(prefix="packing-", dir=args.work) as folder:
        report(run(args, Path(folder)))


def run(args: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    """All measurements, by contestant."""
    megabytes = args.megabytes or (240 if args.quick else 360)
    whole, half, part = (work / name for name in ("all.jsonl", "half.jsonl", "part.jsonl"))
    texts = read_texts(args.text) if args.text else installed_texts()
    sizes = [(whole, megabytes), (half, megabytes / 2), (part, 6 if args.quick else megabytes)]
    characters, documents = write_corpus(texts, sizes)
    print(f"{characters / 1e6:.0f} M characters in {documents:,} documents, {CORES} cores", flush=True)
    tokenizer = args.tokenizer or train_tokenizer(part, work / "tokenizer")

    def measure(contestant: str, text: Path, row_length: int = SHORT) -> dict[str, Any]:
        found = run_contestant(contestant, text, tokenizer, work, row_length)
        print(json.dumps(found), flush=True)
        return found

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(args.repeats or (1 if args.quick else 3)):
        found["gigatoken"].append(measure("gigatoken", whole))
        found["ours"].append(measure("ours", whole))
    found["ours, rows of 4M"] = [measure("ours", whole, LONG)]
    if not args.quick:
        found["ours, half the text"] = [measure("ours", half)]
    for name in ("tokenizers", "TRL wrapped", "group_texts"):
        found[name].append(measure(name, part))
    return found


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """A table for people, and the last line."""
    speed = {
        name: statistics.median(run["tokens"] / run["seconds"] for run in runs)
        for name, runs in found.items()
    }
    peak = {name: max(run["peak_bytes"] for run in runs) for name, runs in found.items()}
    for name, runs in found.items():
        rates = sorted(run["tokens"] / run["seconds"] / 1e6 for run in runs)
        print(
            f"{name:20} {speed[name] / 1e6:8.2f} M tokens/s ({rates[0]:.2f} to {rates[-1]:.2f}), "
            f"{runs[0]['tokens'] / 1e6:.1f} M tokens, peak {peak[name] / 2**20:,.0f} MiB"
        )
    ratios = {
        "ours / raw gigatoken": speed["ours"] / speed["gigatoken"],
        "ours / raw tokenizers": speed["ours"] / speed["tokenizers"],
        "ours / TRL wrapped": speed["ours"] / speed["TRL wrapped"],
        "ours / group_texts": speed["ours"] / speed["group_texts"],
        "1.5 GiB / peak RSS": 1.5 * 2**30 / max(peak["ours"], peak["ours, rows of 4M"]),
        "peak RSS of rows of 128K / of 4M": peak["ours"] / peak["ours, rows of 4M"],
        "50 ms / a row of 4M to a batch": 0.05 / found["ours, rows of 4M"][0]["row_seconds"],
    }
    if "ours, half the text" in found:
        ratios["peak RSS of half the text / of all"] = peak["ours, half the text"] / peak["ours"]
    targets = {name: least for name, least in TARGETS.items() if name in ratios}
    met = all(ratios[name] >= least for name, least in targets.items())
    rounded = {name: round(value, 3) for name, value in ratios.items()}
    print(json.dumps({"benchmark": "packing", "ratios": rounded, "targets": targets, "met": met}))


def installed_texts() -> Iterator[str]:
    """The sources that this Python has, in the order of their paths."""
    paths = sysconfig.get_paths()
    yield from _folder_texts(Path(paths["purelib"]), {".py", ".pyi", ".h", ".md", ".rst", ".txt"})
    yield from _folder_texts(Path(paths["stdlib"]), {".py"}, without="site-packages")


def read_texts(paths: Iterable[Path]) -> Iterator[str]:
    """The documents of JSON lines, of text files and of folders of text files."""
    for path in paths:
        if path.is_dir():
            yield from _folder_texts(path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                yield from (json.loads(line)["text"] for line in lines)
        else:
            yield path.read_text(encoding="utf-8")


def _folder_texts(folder: Path, suffixes: set[str] | None = None, without: str = "") -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != without)
        for name in sorted(names):
            if suffixes is None or Path(name).suffix in suffixes:
                try:
                    yield (Path(parent) / name).read_text(encoding="utf-8")
                except (UnicodeDecodeError, OSError):
                    continue


def write_corpus(texts: Iterable[str], sizes: list[tuple[Path, float]]) -> tuple[int, int]:
    """The same texts as JSON lines in each file, up to its M characters; counts of the longest."""
    files = [(path.open("w", encoding="utf-8"), 1e6 * size) for path, size in sizes]
    limit = max(size for _, size in files)
    characters = documents = 0
    for text in texts:
        if not text:
            continue
        line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
        for file, size in files:
            if characters < size:
                file.write(line)
        characters, documents = characters + len(text), documents + 1
        if characters >= limit:
            break
    for file, _ in files:
        file.close()
    return characters, documents


def train_tokenizer(text: Path, folder: Path) -> Path:
    """A byte-level BPE as Llama 3's but for its size: large enough that ids take four bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(ignore_merges=True))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated", False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=70_000, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(_first_characters(text, 8e6), trainer)
    backend.add_special_tokens([AddedToken("<|end_of_text|>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end_of_text|>")
    tokenizer.save_pretrained(folder)
    return folder


def _first_characters(path: Path, characters: float) -> Iterator[str]:
    for text in read_texts([path]):
        yield text
        characters -= len(text)
        if characters < 0:
            return


def run_contestant(name: str, text: Path, tokenizer: Path, work: Path, row_length: int) -> dict[str, Any]:
    """What the contestant says of itself, and the peak of its memory, its children's counted in."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        command = [sys.executable, __file__, "--contestant", name, "--text", str(text)]
        command += ["--tokenizer", str(tokenizer), "--work", folder, "--row-length", str(row_length)]
        quiet = {"HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        environment = {**os.environ, **quiet, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        peaks = [0]
        threading.Thread(target=_watch, args=(process.pid, peaks), daemon=True).start()
        output, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{errors}\n{name} ended with status {process.returncode}")
    found = json.loads(output.splitlines()[-1])
    found["peak_bytes"] = max(found["peak_bytes"], peaks[0])
    return {"contestant": name, "row_length": row_length, **found}


def _watch(pid: int, peaks: list[int]) -> None:
    """Peak of the memory of a process and its children, pages that they share counted once."""
    import psutil

    try:
        process = psutil.Process(pid)
        while True:
            family = [process, *process.children(recursive=True)]
            if len(family) > 1:
                peaks[0] = max(peaks[0], sum(_own_bytes(member) for member in family))
            time.sleep(0.2)
    except psutil.NoSuchProcess:
        return


def _own_bytes(process: Any) -> int:
    import psutil

    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return getattr(memory, "pss", memory.uss)


def _load_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def _batches(path: Path, characters: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in read_texts([path]):
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
    for start in range(5):
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
    main()
