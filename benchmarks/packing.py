"""Text -> rows on disk: `prepare_dataset` against raw gigatoken, raw tokenizers, TRL's wrapped packing and
the usual `datasets.map` + group_texts, on the same text, cores and tokenizer, each in a process of its own.

python benchmarks/packing.py [--quick] [--text PATH ...] [--megabytes 360] [--tokenizer FOLDER] [--work DIR]

Without --text the text is what this Python has installed: sources and headers, each file a document. Without
--tokenizer a byte-level BPE with Llama 3's split and some 67,000 tokens is trained on the first 8 MB of it.

What is timed: of `ours` the whole call, from the JSON lines to rows that are hashed, renamed and on the disk;
its start and its checks of the engine are in it. Of raw gigatoken (the limit) and raw tokenizers the building
of the engine from a tokenizer.json, and the encoding of texts that are in memory already. Of the other two
the way from the JSON lines to the packed dataset. Imports and the loading of transformers' tokenizer are left
out for all. `--quick` gives the slow three the first 6 MB of the text, which they do at the same speed. Raw
gigatoken and ours run in pairs, one after the other; their ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packing_contestants import CONTESTANTS, CORES

PACKAGE_FOLDERS = ("site-packages", "dist-packages")
SHORT, LONG = 128 * 1024, 4 * 1024**2
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
    parser.add_argument("--megabytes", type=float, help="of text at most (default: 360, quick: 160)")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json")
    parser.add_argument("--work", type=Path, help="a folder for what is made (default: a temporary one)")
    parser.add_argument("--repeats", type=int, help="of the two fast contestants (default: 3, quick: 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="packing-", dir=args.work) as folder:
        report(run(args, Path(folder)))


def run(args: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    """All measurements, by contestant."""
    megabytes = args.megabytes or (160 if args.quick else 360)
    whole, half, part = (work / name for name in ("all.jsonl", "half.jsonl", "part.jsonl"))
    texts = read_texts(args.text) if args.text else installed_texts()
    sizes = [(whole, megabytes), (part, 6 if args.quick else megabytes)]
    if not args.quick:
        sizes.append((half, megabytes / 2))
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
    speed = {name: statistics.median(map(_speed, runs)) for name, runs in found.items()}
    peak = {name: max(run["peak_bytes"] for run in runs) for name, runs in found.items()}
    for name, runs in found.items():
        rates = sorted(_speed(run) / 1e6 for run in runs)
        print(
            f"{name:20} {speed[name] / 1e6:8.2f} M tokens/s ({rates[0]:.2f} to {rates[-1]:.2f}), "
            f"{runs[0]['tokens'] / 1e6:.1f} M tokens, peak {peak[name] / 2**20:,.0f} MiB"
        )
    pairs = zip(found["ours"], found["gigatoken"], strict=True)
    ratios = {
        "ours / raw gigatoken": statistics.median(_speed(ours) / _speed(raw) for ours, raw in pairs),
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


def _speed(run: dict[str, Any]) -> float:
    """Tokens a second."""
    return float(run["tokens"] / run["seconds"])


def installed_texts() -> Iterator[str]:
    """The sources that this Python has, in the order of their paths."""
    for folder in dict.fromkeys(path for path in sys.path if Path(path).name in PACKAGE_FOLDERS):
        yield from _folder_texts(Path(folder), {".py", ".pyi", ".h", ".md", ".rst", ".txt"})
    yield from _folder_texts(Path(sysconfig.get_paths()["stdlib"]), {".py"}, without="site-packages")


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
        script = Path(__file__).with_name("packing_contestants.py")
        command = [sys.executable, script, name, text, tokenizer, folder, row_length]
        quiet = {"HF_DATASETS_CACHE": folder, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        environment = {**os.environ, **quiet, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
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


if __name__ == "__main__":
    main()
