"""Small copies of the standard benchmarks' datasets, as `hf download` leaves those of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

CATEGORIES = [
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
]

CODE_EVAL = '''\
import datasets
import evaluate


class CodeEval(evaluate.Metric):
    """Stands for the hub's metric of this name, which cannot be had without network: runs each test once."""

    def _info(self):
        text = datasets.Value("string")
        features = {"predictions": datasets.Sequence(text), "references": text}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references, k):
        passed = [self._passes(one[0] + "\\n" + test) for one, test in zip(predictions, references)]
        return {"pass@1": sum(passed) / len(passed)}, {}

    def _passes(self, code):
        try:
            exec(code, {})
        except Exception:
            return False
        return True
'''


def write_copy(root: Path, repo: str, configs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """{config: {split: rows}} with the README that names the files."""
    folder = root / repo
    folder.mkdir(parents=True)
    described = []
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            name = f"{config}-{split}.jsonl"
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files.append({"split": split, "path": name})
        described.append({"config_name": config, "data_files": files})
    text = yaml.safe_dump({"configs": described})
    (folder / "README.md").write_text(f"---\n{text}---\n", encoding="utf-8")


def write_mmlu(root: Path, subjects: list[str]) -> None:
    rows = [
        {
            "question": f"What is {number}?",
            "subject": "s",
            "choices": ["p", "q", "r", "s"],
            "answer": number % 4,
        }
        for number in range(5)
    ]
    write_copy(root, "cais/mmlu", {subject: {"test": rows[:2], "dev": rows} for subject in subjects})


def write_mmlu_pro(root: Path) -> None:
    def row(category: str, number: int) -> dict[str, Any]:
        return {
            "question_id": number,
            "question": f"Which is {number}?",
            "options": ["x", "y", "z"],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "A: Let's think step by step. The answer is (B).",
            "category": category,
            "src": "s",
        }

    rows = [row(category, number) for category in CATEGORIES for number in range(5)]
    write_copy(root, "TIGER-Lab/MMLU-Pro", {"default": {"test": rows[::5], "validation": rows}})


def write_math(root: Path, subjects: list[str]) -> None:
    rows = [{"problem": "What is 1+1?", "level": "Level 1", "type": "t", "solution": "It is $\\boxed{2}$."}]
    write_copy(root, "EleutherAI/hendrycks_math", {name: {"train": rows, "test": rows} for name in subjects})


def write_gsm8k(root: Path) -> None:
    rows = [{"question": "What is 1 + 1?", "answer": "It is 2.\n#### 2"}]
    write_copy(root, "openai/gsm8k", {"main": {"train": rows, "test": rows}})


def write_humaneval(root: Path) -> None:
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def two():\n",
        "canonical_solution": "    return 2\n",
        "test": "def check(candidate):\n    assert candidate() == 2\n",
        "entry_point": "two",
    }
    write_copy(root, "openai/openai_humaneval", {"openai_humaneval": {"test": [row]}})


def write_code_eval(folder: Path) -> None:
    """Where the library evaluate looks for a metric before it asks the hub: in the working folder."""
    (folder / "code_eval").mkdir()
    (folder / "code_eval" / "code_eval.py").write_text(CODE_EVAL, encoding="utf-8")
