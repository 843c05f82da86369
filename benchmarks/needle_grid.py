"""A needle grid by `evaluate`'s engine against the naive loop: one `generate` of transformers a prompt.

python benchmarks/needle_grid.py [--quick] [--model FOLDER] [--max-lengths 2K,4K] [--repeats 3]

Both answer the same prompts with the same weights, and the answers must be equal, token by token. The model
is the lab's, stretched to the length by YaRN without training, unless --model names one. Two grids up to each
length: the default one (8 lengths, 5 depths, 2 samples) and the paper's (40 lengths, 10 depths, 1 sample).
"ours, unshared" reads every prompt whole: what is left of the ratio without shared prefixes (not in --quick).
Contestants take turns; the ratio is of medians, of processor time where the model runs on a CPU.

What sharing can save depends on how much of the work is attention to the text, which grows with the square of
the length while what is shared grows by the length: on the lab about half at 2K and 70 % at 4K, as for an 8B
model at about 64K and 128K.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf import extend_context
from ultralong_hf.evaluation.arguments import make_context
from ultralong_hf.evaluation.asking import batches
from ultralong_hf.evaluation.engines import TransformersEngine
from ultralong_hf.evaluation.needle import PAPER_DEPTHS, even_lengths, needle_tasks, paper_lengths
from ultralong_hf.evaluation.tasks import Sample
from ultralong_hf.lab import base_model_path
from ultralong_hf.lengths import parse_length

TARGET = 1.7


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a part of each grid, once")
    parser.add_argument("--model", help="a folder whose window holds the longest prompt")
    parser.add_argument("--max-lengths", default="2K,4K")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    repeats = 1 if args.quick else args.repeats
    ratios: dict[str, float] = {}
    for text in args.max_lengths.split(","):
        length = parse_length(text)
        model, tokenizer = load(args.model, length)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.device}")
        for name, grid in grids(length, quick=args.quick).items():
            samples = make_prompts(tokenizer, *grid)
            ratios |= measure(f"{name} to {text}", samples, model, tokenizer, repeats, args.quick)
    targets = {name: TARGET for name in ratios if name.startswith("naive / ours,")}
    met = all(ratios[name] >= target for name, target in targets.items())
    print(json.dumps({"benchmark": "needle_grid", "ratios": ratios, "targets": targets, "met": met}))


def grids(length: int, *, quick: bool) -> dict[str, tuple[list[int], list[float], int]]:
    """Name -> (lengths, depths, samples)."""
    return {
        "default grid": (even_lengths(length, 8), [0, 25, 50, 75, 100], 1 if quick else 2),
        "paper's grid": (
            paper_lengths(length)[3 :: 6 if quick else 1],  # the shortest hold no text
            list(PAPER_DEPTHS),
            1,
        ),
    }


def load(folder: str | None, length: int) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder or base_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder or base_model_path())
    if folder is None:
        extend_context(model, length)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def make_prompts(tokenizer: Any, lengths: list[int], depths: list[float], samples: int) -> list[Sample]:
    context = make_context(
        tokenizer,
        lengths=lengths,
        depths=depths,
        samples=samples,
        prompt="auto",
        seed=0,
        window=None,
        clamp_short=True,
        haystack=None,
        data_dir=None,
        cache_dir=None,
    )
    (task,) = needle_tasks(None, context)
    return [task.build(key) for key in task.keys(lengths, samples)]


def measure(
    grid: str, samples: list[Sample], model: Any, tokenizer: Any, repeats: int, quick: bool
) -> dict[str, float]:
    """Ratios of the grid; raises where two contestants answer differently."""
    contestants = {
        "naive": lambda: (naive_loop(samples, model, tokenizer), sum(len(s.ids) for s in samples)),
        "ours, unshared": lambda: ours(samples, model, tokenizer, share_prefixes=False),
        "ours": lambda: ours(samples, model, tokenizer, share_prefixes=True),
    }
    if quick:
        del contestants["ours, unshared"]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers, read = {}, {}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = clock(model)
            answers[name], read[name] = run()
            seconds[name].append(clock(model) - started)
    found = sum(
        sample.references[0] in tokenizer.decode(answer)
        for sample, answer in zip(samples, answers["ours"], strict=True)
    )
    print(f"\n{grid}: {len(samples)} prompts, {found} facts found")
    for name, times in seconds.items():
        differing = sum(a != b for a, b in zip(answers[name], answers["naive"], strict=True))
        print(
            f"  {name:<16}{statistics.median(times):>8.2f} s ({min(times):.2f} to {max(times):.2f})"
            f"{read[name]:>12,} tokens read{differing:>4} other answers",
            flush=True,
        )
        if differing:
            raise SystemExit(f"{name} answers {differing} prompts otherwise than the naive loop.")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        f"naive / ours, {grid}": medians["naive"] / medians["ours"],
        f"tokens read, naive / ours, {grid}": read["naive"] / read["ours"],
    }
    if not quick:
        ratios[f"unshared / shared, {grid}"] = medians["ours, unshared"] / medians["ours"]
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def clock(model: Any) -> float:
    """Seconds: of the processor on a CPU, which others may share; else of the clock."""
    return time.process_time() if model.device.type == "cpu" else time.perf_counter()


@torch.inference_mode()
def naive_loop(samples: list[Sample], model: Any, tokenizer: Any) -> list[list[int]]:
    answers = []
    for sample in samples:
        ids = torch.tensor([sample.ids.tolist()], device=model.device)
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sample.max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )[0, ids.shape[1] :].tolist()
        end = output.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in output else None
        answers.append(output[:end])
    return answers


def ours(
    samples: list[Sample], model: Any, tokenizer: Any, *, share_prefixes: bool
) -> tuple[list[list[int]], int]:
    engine = TransformersEngine(model, tokenizer, share_prefixes=share_prefixes, beyond_window=True)
    answers: list[list[int]] = []
    for batch in batches(samples, engine.batch_size):
        answers += engine.generate([sample.ids for sample in batch], batch[0].max_new_tokens)
    return answers, engine.prefilled_tokens


if __name__ == "__main__":
    main()
