"""The two functions called YaRN, side by side on the lab: recall and perplexity before and after training.

python benchmarks/lab_yarn_forms.py [--seeds 5] [--quick]

Each seed trains both forms on the same rows, in the same order, with the same recipe (`lab`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf import cpt_trainer, evaluate, extend_context, sft_trainer
from ultralong_hf.lab import base_model_path
from ultralong_hf.lab.quickstart import seed_recipe

FORMS = ("llama3", "yarn")
LENGTHS = (256, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one seed, a few steps: shows that it runs")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + (1 if args.quick else args.seeds))
    changes = {"cpt.max_steps": 4, "sft.max_steps": 1} if args.quick else {}
    samples = 2 if args.quick else 10  # at each of five depths

    found: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for seed in seeds:
        for form in FORMS:
            found[form].append(measure(form, seed, changes, samples))
            print(json.dumps(found[form][-1]), flush=True)
    print(table(found))
    last = {form: mean(run["trained"][4096] for run in runs) for form, runs in found.items()}
    name = "recall at 4,096 after training, llama3 / yarn"
    measured = ratio(last["llama3"], last["yarn"])
    print(
        json.dumps(
            {
                "benchmark": "lab_yarn_forms",
                "ratios": {name: measured},
                "targets": {name: 1.0},  # the form that the recipe uses is the better one
                "met": measured is not None and measured >= 1.0,
            }
        )
    )


def measure(form: str, seed: int, changes: dict[str, Any], samples: int) -> dict[str, Any]:
    """Recall by length without training, and after CPT and SFT; perplexity beyond 256 after both."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = {f"{stage}.{key}": value for stage in ("cpt", "sft") for key, value in QUIET.items()}
        recipe = seed_recipe("lab", seed, Path(folder), {"rope.method": form, **quiet, **changes})
        base = AutoModelForCausalLM.from_pretrained(base_model_path())
        extend_context(base, recipe.window, method=form, scale=recipe.rope.scale)
        tokenizer = AutoTokenizer.from_pretrained(base_model_path())
        untrained = _evaluate((base, tokenizer), seed, samples)
        for make in (cpt_trainer, sft_trainer):
            trainer = make(recipe)
            trainer.train()
            trainer.save_model()
        trained = _evaluate(str(trainer.args.output_dir), seed, samples)
    return {
        "form": form,
        "seed": seed,
        "untrained": {length: untrained.recall("needle", length) for length in LENGTHS},
        "trained": {length: trained.recall("needle", length) for length in LENGTHS},
    }


QUIET = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no", "logging_strategy": "no"}


def _evaluate(model: Any, seed: int, samples: int) -> Any:
    return evaluate(model, "needle", lengths=LENGTHS, samples=samples, seed=seed, progress=False)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a form and stage, recall at each length by seed."""
    lines = ["| form | stage | tokens | recall by seed | mean |", "|---|---|---|---|---|"]
    for form, runs in found.items():
        for stage in ("untrained", "trained"):
            for length in LENGTHS:
                values = [run[stage][length] for run in runs]
                listed = " / ".join(f"{value:.2f}" for value in values)
                lines.append(f"| {form} | {stage} | {length:,} | {listed} | {mean(values):.3f} |")
    return "\n".join(lines)


def ratio(numerator: float, denominator: float) -> float | None:
    """None where nothing was found at all, as in a quick run."""
    return round(numerator / denominator, 4) if denominator else None


if __name__ == "__main__":
    main()
