"""Does a preference stage raise recall among distractors over fine-tuning alone? On the lab, several seeds.

python benchmarks/lab_preference.py --output outputs/lab-preference [--seeds 0 1 2] [--arms sft dpo]

A seed: the lab's base is extended to 1,024 tokens (CPT), tuned on the lab's conversations (SFT), and from
there each arm trains as many steps on the same grounded pairs: `more sft` on their chosen answers alone,
`dpo`, `orpo`; `grpo` on prompts of the task "distractors" of another seed. All are asked the same prompts of
"distractors". What is finished is kept in --output, so that the work can be cut into pieces.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.intervals import paired_interval, wilson_interval
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer, grpo_trainer, orpo_trainer, preference_trainer, sft_trainer

ARMS = ("sft", "more sft", "dpo", "orpo", "grpo")
WINDOW = 1024
LENGTHS = (256, 512, 1024)
PAIRS = 320
TARGET = "recall of SFT + DPO over SFT alone"


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--output", default="outputs/lab-preference")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--samples", type=int, default=100, help="prompts of each length and seed")
    parser.add_argument("--steps", type=int, default=40, help="of each arm")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: shows that it runs")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.arms, given.samples, given.steps = [0], ["sft", "dpo"], 10, 3
        given.output = tempfile.mkdtemp(prefix="lab-preference-")
    warnings.simplefilter("ignore")
    for seed in given.seeds:
        for arm in dict.fromkeys(["sft", *given.arms]):
            measure(Path(given.output), seed, arm, given)
    results = {
        arm: {seed: read_hits(Path(given.output), seed, arm) for seed in given.seeds}
        for arm in ARMS
        if all(run_folder(Path(given.output), seed, arm).is_dir() for seed in given.seeds)
    }
    print(table(results))
    return conclude(results) if "dpo" in results else 0


def conclude(results: Mapping[str, Any]) -> int:
    """The last line: the ratio, and whether the paired interval lies above zero."""
    sft, dpo = (pool(results[arm].values()) for arm in ("sft", "dpo"))
    low, _ = difference(sft, dpo)
    ratio = sum(dpo) / max(1, sum(sft))
    line = {"benchmark": "lab_preference", "ratios": {TARGET: round(ratio, 4)}, "targets": {TARGET: 1.0}}
    print(json.dumps({**line, "met": low > 0}))
    return 0


def measure(output: Path, seed: int, arm: str, given: argparse.Namespace) -> None:
    """Trains the arm and asks it, unless that is done."""
    folder = run_folder(output, seed, arm)
    if folder.is_dir():
        return
    begun = time.monotonic()
    model = train(output / f"seed-{seed}", seed, arm, given)
    work = folder.with_name(folder.name + ".work")
    # 1,000 and more is no seed of training, nor of the base
    evaluate(str(model), "distractors", lengths=LENGTHS, samples=given.samples, seed=1000 + seed,
             output_dir=work, cache=False, progress=False)  # fmt: skip
    work.rename(folder)
    print(f"seed {seed}, {arm}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def run_folder(output: Path, seed: int, arm: str) -> Path:
    return output / f"seed-{seed}" / f"run-{arm.replace(' ', '-')}"


def train(folder: Path, seed: int, arm: str, given: argparse.Namespace) -> Path:
    """The folder of the trained model; what is there already is not trained again."""
    done = folder / arm.replace(" ", "-")
    if (done / "config.json").is_file():
        return done
    recipe = load_recipe("lab", overrides(folder, seed, given))
    if arm == "sft":
        if not (folder / "cpt" / "config.json").is_file():
            finish(cpt_trainer(recipe))
        return finish(sft_trainer(recipe))
    start = str(train(folder, seed, "sft", given))
    make = {"more sft": sft_trainer, "dpo": preference_trainer, "orpo": orpo_trainer, "grpo": grpo_trainer}
    if arm == "more sft":
        chosen = chosen_conversations(folder, recipe)
        more = {"instruct.sources": [str(chosen)], "instruct.output_dir": str(folder / "chosen-blend"),
                "sft.max_steps": given.steps, "sft.output_dir": str(done)}  # fmt: skip
        recipe = load_recipe("lab", {**overrides(folder, seed, given), **more})
    return finish(make[arm](recipe, model=start))


def finish(trainer: Any) -> Path:
    trainer.train()
    trainer.save_model()
    return Path(trainer.args.output_dir)


def overrides(folder: Path, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """The lab's recipe at 1,024 tokens, small enough for minutes."""
    common = {"seed": seed, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 20}
    stages = {
        "cpt": {
            "max_steps": 120 if given.steps > 3 else 5,
            "per_device_train_batch_size": 2,
            "eval_strategy": "no",
        },
        "sft": {"max_steps": 20 if given.steps > 3 else 2},
        "preference": {"max_steps": given.steps, "output_dir": str(folder / "dpo"), "learning_rate": 1e-4},
        "orpo": {"max_steps": given.steps, "learning_rate": 1e-4},
        "grpo": {"max_steps": given.steps, "learning_rate": 1e-4},
    }
    keys: dict[str, Any] = {
        f"{stage}.{key}": value
        for stage, own in stages.items()
        for key, value in {"output_dir": str(folder / stage), **common, **own}.items()
    }
    return keys | {
        "data.target_length": WINDOW, "data.output_dir": str(folder / "store"), "data.seed": seed,
        "data.eval_rows": 0, "rope.scale": 8, "instruct.seed": seed,
        "instruct.output_dir": str(folder / "blend"), "instruct.max_length": WINDOW,
        "preference_data.sources": [], "preference_data.seed": seed, "preference_data.max_length": WINDOW,
        "preference_data.grounded": {"pairs": PAIRS if given.steps > 3 else 24, "lengths": list(LENGTHS),
                                     "output_dir": str(folder / "pairs")},
        "grpo_data.tasks": ["distractors"], "grpo_data.lengths": list(LENGTHS), "grpo_data.samples": 40,
        "grpo_data.seed": 500 + seed,
    }  # fmt: skip


def chosen_conversations(folder: Path, recipe: Any) -> Path:
    """The chosen answers of the pairs as conversations."""
    from ultralong_hf.training.models import load_tokenizer
    from ultralong_hf.training.pairs import pair_rows

    path = folder / "chosen.jsonl"
    rows = pair_rows(recipe.preference_data, load_tokenizer(recipe.model))
    path.write_text("".join(json.dumps({"messages": [*r["prompt"], *r["chosen"]]}) + "\n" for _, r in rows))
    return path


def read_hits(output: Path, seed: int, arm: str) -> dict[tuple[int, int], bool]:
    """{(length, sample): found}."""
    lines = (run_folder(output, seed, arm) / "prompts.jsonl").read_text().splitlines()
    return {(row["length"], row["sample"]): bool(row["score"]) for row in map(json.loads, lines)}


def pool(runs: Any, length: int | None = None) -> list[bool]:
    """All seeds' hits in one order."""
    return [run[key] for run in runs for key in sorted(run) if length in (None, key[0])]


def difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """Newcombe's interval of the second minus the first on the same prompts."""
    pairs = list(zip(first, second, strict=True))
    both, lost = sum(a and b for a, b in pairs), sum(a and not b for a, b in pairs)
    won = sum(b and not a for a, b in pairs)
    return paired_interval(both, won, lost, len(pairs) - both - won - lost)


def table(results: Mapping[str, Mapping[int, Mapping[tuple[int, int], bool]]]) -> str:
    """Recall by arm and length, all seeds together, and the paired difference to `sft`."""
    widths = "{:<10}{:>8}{:>10}{:>16}{:>11}{:>17}  {}"
    lines = [widths.format("arm", "length", "recall %", "95 %", "minus sft", "95 %, paired", "by seed")]
    for arm, runs in results.items():
        for length in (None, *LENGTHS):
            hits, base = pool(runs.values(), length), pool(results["sft"].values(), length)
            change, paired, seeds = "", "", ""
            if arm != "sft":
                change = f"{100 * (mean(hits) - mean(base)):+.1f}"
                paired = to_text(difference(base, hits), sign="+")
                by_seed = [
                    mean(pool([runs[s]], length)) - mean(pool([results["sft"][s]], length)) for s in runs
                ]
                seeds = ", ".join(f"{100 * value:+.1f}" for value in by_seed)
            within = to_text(wilson_interval(sum(hits), len(hits)))
            recall = f"{100 * mean(hits):.1f}"
            lines.append(widths.format(arm, length or "all", recall, within, change, paired, seeds).rstrip())
    return "\n".join(lines)


def to_text(interval: tuple[float, float], sign: str = "") -> str:
    return " to ".join(f"{100 * bound:{sign}.1f}" for bound in interval)


if __name__ == "__main__":
    sys.exit(main())
