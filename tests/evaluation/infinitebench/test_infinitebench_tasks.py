"""Official rows become prompts of a family of models; labels of every form that the files have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.infinitebench import SELECTORS, infinitebench_tasks
from ultralong_hf.evaluation.infinitebench.rows import label_of, prompt_values
from ultralong_hf.evaluation.infinitebench.table import TASKS
from ultralong_hf.evaluation.infinitebench.templates import TEMPLATES
from ultralong_hf.evaluation.tasks import TaskContext

ROWS: dict[str, dict[str, Any]] = {
    "passkey": {"context": "TEXT", "input": "What is the pass key?", "answer": ["71432"]},
    "number_string": {
        "context": "TEXT",
        "input": "What is the sequence of digits?",
        "answer": ["2200012222"],
    },
    "kv_retrieval": {"context": "JSON data:\n{}", "input": "Key: ...", "answer": ["ab-12"]},
    "longbook_sum_eng": {"context": "TEXT", "input": "", "answer": ["One.", "Two."]},
    "longbook_qa_eng": {"context": "TEXT", "input": "Who?", "answer": ["Ann", "Ann Lee"]},
    "longbook_choice_eng": {
        "context": "TEXT",
        "input": "Where?",
        "answer": ["The harbour"],
        "options": ["The mill", "The harbour", "North", "South"],
    },
    "longbook_qa_chn": {"context": "书", "input": "谁？", "answer": ["张三"]},
    "longdialogue_qa_eng": {"context": "JOHN: {hello}", "input": "", "answer": ["JOHN"]},
    "math_find": {
        "context": "[1, 5, 3]",
        "input": "You should answer with only one number. The second largest number of the list is:",
        "answer": [3],
    },
    "math_calc": {"context": "1 + 3 + 4", "input": "1 + 3 + 4", "answer": [4, 8]},
    "code_run": {
        "context": "def func_12(x): return x",
        "input": "Please give me the exact number of the return value of func_12(-3).",
        "answer": [-3],
    },
    "code_debug": {
        "context": "def get_x(): ...",
        "input": "Which one?",
        "answer": ["run"],
        "options": ["get_x", "get_y", "get_z", "run"],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Each task's file in the official form, two rows each."""
    for task, row in ROWS.items():
        rows = [{"id": number, **row} for number in (7, 8)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / f"{task}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def context(tokenizer: Any, folder: Path, **options: Any) -> TaskContext:
    return TaskContext(**{"tokenizer": tokenizer, "style": "plain", "data_dir": folder, **options})


def prompt_of(selector: str, tokenizer: Any, folder: Path, **options: Any) -> str:
    [task] = infinitebench_tasks(selector, context(tokenizer, folder, **options))
    return str(tokenizer.decode(task.build(next(iter(task.keys((), 1)))).ids))


def test_there_are_twelve_tasks_with_rows_templates_and_selectors(letters, tmp_path):
    assert len(TASKS) == 12
    assert set(ROWS) == set(TASKS) == set(TEMPLATES["gpt4"]) == set(TEMPLATES["claude2"])
    assert set(TASKS) == set(TEMPLATES["yarn-mistral"])
    names = [task.name for task in infinitebench_tasks(None, context(letters, tmp_path))]
    assert names == [f"infinitebench/{task}" for task in TASKS]
    assert {"passkey", "passkey@claude2", "all@yarn-mistral"} < set(SELECTORS)


@pytest.mark.parametrize(
    ("family", "digest"),
    [("gpt4", "3debaa609e174553"), ("yarn-mistral", "ede60cb9c1c20f1d"), ("claude2", "f63d84a0fc5ee508")],
)
def test_templates_are_the_official_ones_to_the_letter(family, digest):
    """The digests were taken of the dictionaries in src/prompt.py at commit 753b69f."""
    text = json.dumps(TEMPLATES[family], sort_keys=True, ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (
            "passkey",
            "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I "
            "will quiz you about the important information.\n\nTEXT\n\nWhat is the pass key?\n\n"
            "The pass key is",
        ),
        (
            "passkey@claude2",
            "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I "
            "will quiz you about the important information there.\n\nTEXT\nWhat is the pass key?\n"
            "The pass key is",
        ),
        ("longbook_sum_eng@gpt4", "Summarize the following book.\n\nTEXT"),
        (
            "longbook_choice_eng",
            "Read the book and answer the question.\n\nTEXT\n\nQuestion: Where?\nA. The mill\n"
            "B. The harbour\nC. North\nD. South\n\nThe letter of the correct answer is",
        ),
        ("longbook_qa_chn", "阅读以下书籍然后回答问题。\n\n书\n\n问题：谁？\n答案："),
        (
            "math_find@gpt4",
            "What is the second largest number in the following list?\n\n[1, 5, 3]\n\n"
            "You should answer with only one number. The second largest number of the list is:",
        ),
        (
            "code_run",
            "There is a function called func_12 in the following Python code.\n\ndef func_12(x): return x\n\n"
            "Please compute the exact value of func_12(-3). The value of func_12(-3) is",
        ),
        (
            "code_run@claude2",
            "In the file functions_module.py, there is a function called $func_12.\n\n\n"
            "Here is the content of functions_module.py:\ndef func_12(x): return x\n\n"
            "Please give me the exact number of the return value of func_12(-3). "
            "Your response should end with the sentence 'The return value is:'.",
        ),
        (
            "code_debug",
            "Following is a Python code where exactly one of the functions/methods has a deliberate error "
            "that makes it crash.\n\ndef get_x(): ...\n\nOptions:\nA. get_x\nB. get_y\nC. get_z\nD. run\n\n"
            "The correct option is:",
        ),
    ],
)
def test_prompts_quote_the_row(letters, folder, selector, expected):
    assert prompt_of(selector, letters, folder) == expected


def test_braces_in_a_text_stay_as_they_are(letters, folder):
    assert "JOHN: {hello}" in prompt_of("longdialogue_qa_eng", letters, folder)


def test_chat_models_are_asked_by_the_prompts_of_gpt4_with_room_for_a_sentence(folder):
    from evaluation_models import make_tokenizer

    tokenizer = make_tokenizer(260, chat=True)
    [task] = infinitebench_tasks("passkey", context(tokenizer, folder, style="chat"))
    sample = task.build((task.name, 122_400, None, 0))
    text = tokenizer.decode(sample.ids)
    assert text.endswith("TEXT\n\nWhat is the pass key?<|end|><|assistant|>")
    assert (sample.max_new_tokens, sample.details["prompts"]) == (64, "gpt4")
    [named] = infinitebench_tasks("passkey@yarn-mistral", context(tokenizer, folder, style="chat"))
    sample = named.build((named.name, 122_400, None, 0))
    assert tokenizer.decode(sample.ids).endswith("The pass key is<|end|><|assistant|>")
    assert (named.name, sample.max_new_tokens) == ("infinitebench/passkey@yarn-mistral", 6)


def test_a_sample_tells_its_row_id_and_is_reported_under_the_tasks_mean_length(letters, folder):
    [task] = infinitebench_tasks("code_run", context(letters, folder))
    assert list(task.keys((4096,), None)) == [("infinitebench/code_run", 75_200, None, row) for row in (0, 1)]
    assert len(list(task.keys((), 1))) == 1
    sample = task.build(("infinitebench/code_run", 75_200, None, 1))
    assert sample.details == {
        "file": "code_run.jsonl",
        "row": 1,
        "id": 8,
        "label": -3,
        "prompts": "yarn-mistral",
    }
    assert (sample.length, sample.references, sample.max_new_tokens) == (75_200, ("-3",), 5)


def test_questions_about_one_book_stand_together(letters, folder):
    rows = [{**ROWS["longbook_qa_eng"], "context": book} for book in ("B", "A", "B", "C", "A")]
    (folder / "longbook_qa_eng.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [task] = infinitebench_tasks("longbook_qa_eng", context(letters, folder))
    assert [key[3] for key in task.keys((), None)] == [0, 2, 1, 4, 3]
    assert [key[3] for key in task.keys((), 3)] == [0, 2, 1]


ANSWERS = {
    "passkey": "71432",
    "number_string": "2200012222",
    "kv_retrieval": '"ab-12"',
    "longbook_sum_eng": "two",
    "longbook_qa_eng": "Ann",
    "longbook_choice_eng": "B",
    "longbook_qa_chn": "张三",
    "longdialogue_qa_eng": "John",
    "math_find": "3",
    "math_calc": "4, 8",
    "code_run": " -3.",
    "code_debug": "D.",
}


@pytest.mark.parametrize("task", list(TASKS))
def test_each_task_scores_a_right_and_a_wrong_answer(letters, folder, task):
    [made] = infinitebench_tasks(task, context(letters, folder))
    sample = made.build(next(iter(made.keys((), 1))))
    # As the ledger gives it back.
    record = json.loads(json.dumps({"references": sample.references, "details": dict(sample.details)}))
    assert made.score(record, ANSWERS[task]) == 1.0
    assert made.score(record, "x") == 0.0


def test_the_first_value_of_a_calculation_is_dropped_for_the_prompts_of_gpt4_only(letters, folder):
    [task] = infinitebench_tasks("math_calc", context(letters, folder))
    details = {"label": [4, 8], "prompts": "gpt4"}
    assert task.score({"details": details}, "1, 4, 8") == 1.0
    assert task.score({"details": {**details, "prompts": "claude2"}}, "1, 4, 8") == 0.0


def test_a_prompt_longer_than_the_window_loses_its_middle_and_a_long_budget_is_lowered(letters, folder):
    rows = [{**ROWS["math_calc"], "context": " + ".join(["12"] * 400)}]
    (folder / "math_calc.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    [task] = infinitebench_tasks("math_calc", context(letters, folder, window=1000))
    sample = task.build(("infinitebench/math_calc", 43_900, None, 0))
    assert (len(sample.ids), sample.max_new_tokens) == (500, 500)
    assert sample.notes[0] == "answer budget: 500 tokens instead of 30,000"
    assert sample.notes[1].startswith("cut: ")


@pytest.mark.parametrize(
    ("task", "answer", "expected"),
    [
        ("passkey", "71432", "71432"),
        ("passkey", [71432], "71432"),
        ("kv_retrieval", "ab-12", "ab-12"),
        ("math_find", 53, 53),
        ("math_find", ["53"], 53),
        ("math_find", ["5.5"], 5.5),
        ("math_find", [5.5], 5.5),
        ("code_run", -4, -4),
        ("code_run", ["-4"], -4),
        ("math_calc", [1, -4], [1, -4]),
        ("math_calc", [[1, -4]], [1, -4]),
        ("math_calc", ["1", "-4"], [1, -4]),
        ("math_calc", ["[1, -4]"], [1, -4]),
        ("longbook_qa_eng", "Ann", ["Ann"]),
        ("longbook_choice_eng", ["The harbour"], ["The harbour", "B"]),
        ("longbook_choice_eng", "South", ["South", "D"]),
        ("longbook_choice_eng", ["The Harbour", "B"], ["The Harbour", "B"]),
    ],
)
def test_labels_are_read_in_every_form_of_the_files(task, answer, expected):
    assert label_of(task, {**ROWS[task], "answer": answer}) == expected


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("longbook_choice_eng", ["East"]),
        ("longbook_choice_eng", ["a", "b", "c"]),
        ("math_find", ["many"]),
        ("math_find", [None]),
        ("code_run", [2.5]),
        ("code_run", [True]),
        ("math_calc", [[]]),
        ("math_calc", ["[1, "]),
        ("longbook_qa_eng", [3]),
        ("longbook_qa_eng", []),
        ("passkey", []),
    ],
)
def test_an_answer_of_another_form_is_refused(task, answer):
    with pytest.raises(EvaluationError, match=f"answer is of no form that {task} has"):
        label_of(task, {**ROWS[task], "answer": answer})


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("code_run", {"input": "func(3)"}, r"input has no function call such as func_12\(3\): 'func\(3\)'"),
        ("math_find", {"input": "largest?"}, "input has no 'The ... number': 'largest[?]'"),
        ("code_debug", {"options": ["a"]}, r"options are no list of four: \['a'\]"),
        ("code_debug", {"options": None}, "options are no list of four: None"),
        ("passkey", {"context": 3}, "context is no text: 3"),
    ],
)
def test_a_row_without_what_a_prompt_quotes_is_refused(task, change, message):
    with pytest.raises(EvaluationError, match=message):
        prompt_values(task, {**ROWS[task], **change})


def test_the_older_wording_of_a_target_is_found_too():
    row = {**ROWS["math_find"], "input": "The median number is:"}
    assert prompt_values("math_find", row)["prefix"] == "What is the median number in the following list?"


def test_a_bad_row_is_named_with_its_file(letters, folder):
    (folder / "code_run.jsonl").write_text(json.dumps({**ROWS["code_run"], "answer": ["x"]}) + "\n")
    [task] = infinitebench_tasks("code_run", context(letters, folder))
    with pytest.raises(EvaluationError, match=r"code_run.jsonl, row 0: answer is of no form .*: \['x'\]\.$"):
        task.build((task.name, 75_200, None, 0))


def test_settings_change_with_the_data_and_the_prompts(letters, folder):
    [plain] = infinitebench_tasks("passkey", context(letters, folder))
    [other] = infinitebench_tasks("passkey@gpt4", context(letters, folder))
    assert plain.settings() != other.settings()
    before = plain.settings()
    (folder / "passkey.jsonl").write_text("{}\n")
    [again] = infinitebench_tasks("passkey", context(letters, folder))
    assert again.settings() != before


def test_a_missing_file_is_named(letters, tmp_path):
    [task] = infinitebench_tasks("passkey", context(letters, tmp_path))
    with pytest.raises(
        EvaluationError, match=r"The data file passkey.jsonl is missing: HF_HUB_OFFLINE is set"
    ):
        list(task.keys((), None))
