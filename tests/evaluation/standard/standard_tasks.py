"""lm-eval tasks in the form of its own files, with their data, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# The first option is right once, the second three times, the third twice: whichever a small model always
# takes, the score tells which.
CHOICE_ROWS = [
    {"question": f"The harbour office keeps {n}.", "choices": [" walk", " name", " code"], "answer": answer}
    for n, answer in enumerate((0, 1, 2, 1, 1, 2))
]
WORD_ROWS = [{"question": f"def walk({letter}):", "answer": "x"} for letter in "abcd"]

_CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""
_WORDS = """\
task: {name}
{extra}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tasks(folder: Path) -> Path:
    """tiny_choice, tiny_first and tiny_second (of the group tiny_group and the tag tiny_tag), tiny_words,
    tiny_code (runs the model's code), tiny_hub and its twin in tiny_hub_group (their data are on the hub)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "tiny_choice": CHOICE_ROWS,
        "tiny_first": CHOICE_ROWS[:4],
        "tiny_second": CHOICE_ROWS[4:],
    }
    for name, part in rows.items():
        data = write_rows(folder / f"{name}.jsonl", part)
        tag = "" if name == "tiny_choice" else "tag: tiny_tag\n"
        (folder / f"{name}.yaml").write_text(_CHOICE.format(name=name, data=data) + tag)
    (folder / "tiny_group.yaml").write_text(
        "group: tiny_group\ntask: [tiny_first, tiny_second]\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n"
    )
    words = write_rows(folder / "tiny_words.jsonl", WORD_ROWS)
    (folder / "tiny_words.yaml").write_text(_WORDS.format(name="tiny_words", data=words, extra=""))
    (folder / "tiny_code.yaml").write_text(
        _WORDS.format(
            name="tiny_code", data=words, extra="unsafe_code: true\nprocess_results: !function code.run"
        )
    )
    (folder / "code.py").write_text(
        "import os\n\n\ndef run(doc, results):\n"
        "    return {'exact_match': float(os.environ['HF_ALLOW_CODE_EVAL'] == '1')}\n"
    )
    hub = _CHOICE.format(name="tiny_hub", data="unused").replace(
        "dataset_path: json", "dataset_path: owner/tiny"
    )
    hub = hub.replace("dataset_kwargs:\n  data_files:\n    test: unused\n", "dataset_name: main\n")
    (folder / "tiny_hub.yaml").write_text(hub)
    (folder / "tiny_hub_twin.yaml").write_text(hub.replace("task: tiny_hub", "task: tiny_hub_twin"))
    (folder / "tiny_hub_group.yaml").write_text(
        "group: tiny_hub_group\ntask: [tiny_hub, tiny_hub_twin]\n"
        "aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n"
    )
    return folder


def write_hub_copy(folder: Path) -> Path:
    """A copy of the dataset owner/tiny as `hf download --local-dir` leaves it."""
    folder.mkdir(parents=True)
    write_rows(folder / "rows.jsonl", CHOICE_ROWS)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: rows.jsonl\n---\n"
    )
    return folder
