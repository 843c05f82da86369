"""Official rows become prompts: quoted templates, levels, middle cuts, and errors that name the row."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.lveval import SELECTORS, lveval_tasks
from ultralong_hf.evaluation.lveval.datasets import DATASETS
from ultralong_hf.evaluation.tasks import TaskContext

ROW = {
    "input": "Who keeps the {code}?",
    "context": "### Passage 1\nThe harbour office keeps it.",
    "answers": ["the harbour office", "nobody"],
    "length": 12_345,
    "dataset": "loogle_SD_mixup",
    "language": "en",
    "answer_keywords": "harbour office",
    "confusing_facts": ["The old mill keeps it."],
}


def write_level(folder: Path, dataset: str, level: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset}_{level}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def context(tokenizer: Any, folder: Path, **options: Any) -> TaskContext:
    return TaskContext(**{"tokenizer": tokenizer, "style": "plain", "data_dir": folder, **options})


def one(selector: str, task_context: TaskContext) -> Any:
    [task] = lveval_tasks(selector, task_context)
    return task


def test_there_are_eleven_datasets():
    assert len(SELECTORS) == 11
    assert {data.max_new_tokens for name, data in DATASETS.items() if "factrecall" in name} == {16}
    assert {data.max_new_tokens for name, data in DATASETS.items() if "factrecall" not in name} == {64}


def test_all_datasets_are_meant_by_the_family(letters, tmp_path):
    names = [task.name for task in lveval_tasks(None, context(letters, tmp_path))]
    assert names == [f"lveval/{name}" for name in SELECTORS]


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (
            "hotpotwikiqa_mixup",
            "Answer the question based on the given passages. Questions and answers are only relevant to "
            "some passages. Only give me the answer and do not output any other explanation and evidence."
            "\n\nArticle: TEXT\n\nPlease answer the following question based on the above passages. "
            "Questions and answers are only relevant to some passages. Only give me the answer and do not "
            "output any other explanation and evidence.\n\nQuestion: ASKED\nAnswer:",
        ),
        (
            "loogle_CR_mixup",
            "Please answer the following question based on the given passages. Questions and answers are "
            "only relevant to one passage. Only give me the answer and do not output any other explanation "
            "and evidence.\n\nArticle: TEXT\n\nPlease answer the following question based on the above "
            "passages. Questions and answers are only relevant to one passage. Only give me the answer and "
            "do not output any other explanation and evidence.\n\nQuestion: ASKED\nAnswer:",
        ),
        (
            "factrecall_en",
            "Please answer the following questions based on the given article.\n\nArticle: TEXT\n\n"
            "Please answer the following questions based on the above article.\n\nQuestion: ASKED\nAnswer:",
        ),
        (
            "multifieldqa_zh_mixup",
            "请阅读以下文章并用中文回答问题，问题和答案只与其中一篇文章有关。只需要直接给出问题的答案，不要输出其他任何解释和"
            "证据。\n\n文章：TEXT\n\n请基于上面的文章回答下面的问题，问题和答案只与其中一篇文章有关。只需要直接给出问题的答案，"
            "不要输出其他任何解释和证据。\n\n问题：ASKED\n回答：",
        ),
        (
            "factrecall_zh",
            "请基于给定的文章回答下述问题。\n\n文章：TEXT\n\n现在请基于上述文章回答下面的问题。\n\n问题：ASKED\n回答：",
        ),
        (
            "cmrc_mixup",
            "请根据下面给定的文章回答问题，问题和答案只与其中一篇文章有关。\n\n文章：TEXT\n\n现在请基于上述文章回答下面的问题，"
            "问题和答案只与其中一篇文章有关。\n\n问题：ASKED\n回答：",
        ),
        (
            "lic_mixup",
            "请根据下面给定的文章回答问题，问题和答案只与其中一篇文章有关。\n\n文章：TEXT\n\n请现在基于上述文章回答下面的问题，"
            "问题和答案只与其中一篇文章有关。\n\n问题：ASKED\n回答：",
        ),
    ],
)
def test_prompts_are_the_official_ones_to_the_letter(letters, tmp_path, dataset, expected):
    write_level(tmp_path, dataset, "16k", [{**ROW, "context": "TEXT", "input": "ASKED"}])
    sample = one(dataset, context(letters, tmp_path)).build((f"lveval/{dataset}", 16_384, None, 0))
    assert letters.decode(sample.ids) == expected


def test_prompts_of_one_kind_are_shared():
    shared = ("loogle_SD_mixup", "loogle_CR_mixup", "loogle_MIR_mixup", "multifieldqa_en_mixup")
    assert len({DATASETS[name].prompt for name in shared}) == 1
    assert DATASETS["cmrc_mixup"].prompt == DATASETS["dureader_mixup"].prompt


def test_a_sample_tells_its_row_and_what_it_is_scored_against(letters, tmp_path):
    write_level(
        tmp_path, "loogle_SD_mixup", "16k", [ROW, {**ROW, "input": "Second?", "answer_keywords": None}]
    )
    task = one("loogle_SD_mixup", context(letters, tmp_path, lengths=(16_384,)))
    keys = list(task.keys((16_384,), None))
    assert keys == [("lveval/loogle_SD_mixup", 16_384, None, 0), ("lveval/loogle_SD_mixup", 16_384, None, 1)]
    first, second = map(task.build, keys)
    assert first.references == ("the harbour office", "nobody")
    assert first.details == {
        "file": "loogle_SD_mixup_16k.jsonl",
        "row": 0,
        "words": 12_345,
        "answer_keywords": "harbour office",
    }
    assert (first.length, first.max_new_tokens, first.notes) == (16_384, 64, ())
    assert "Question: Who keeps the {code}?\nAnswer:" in letters.decode(first.ids)
    assert second.details["row"] == 1
    assert second.details["answer_keywords"] is None
    assert second.key == keys[1]


def test_scores_the_first_reference_alone(letters, tmp_path):
    write_level(tmp_path, "loogle_SD_mixup", "16k", [ROW])
    task = one("loogle_SD_mixup", context(letters, tmp_path))
    sample = task.build(("lveval/loogle_SD_mixup", 16_384, None, 0))
    record = {"references": list(sample.references), "details": sample.details}
    assert task.score(record, "The harbour office.") == 1.0
    assert task.score(record, "nobody") == 0.0


def test_levels_are_the_lengths_asked_for_and_all_five_by_themselves(letters, tmp_path):
    for level in ("16k", "32k", "64k", "128k", "256k"):
        write_level(tmp_path, "cmrc_mixup", level, [ROW] * 3)
    task = one("cmrc_mixup", context(letters, tmp_path))
    assert [key[1:] for key in task.keys((), 1)] == [
        (length, None, 0) for length in (16_384, 32_768, 65_536, 131_072, 262_144)
    ]
    assert [key[1:] for key in task.keys((1024, 131_072), 2)] == [(131_072, None, 0), (131_072, None, 1)]
    assert len(list(task.keys((65_536,), None))) == 3


def test_a_length_that_is_no_level_is_refused(letters, tmp_path):
    task = one("cmrc_mixup", context(letters, tmp_path))
    with pytest.raises(
        EvaluationError, match=r"levels of its own \(16k = 16,384, .*\); 4,096 is none of them"
    ):
        list(task.keys((4096,), None))


def test_a_prompt_longer_than_the_window_loses_its_middle(letters, tmp_path):
    write_level(tmp_path, "loogle_SD_mixup", "16k", [{**ROW, "context": "0123456789" * 200}])
    whole = one("loogle_SD_mixup", context(letters, tmp_path)).build(("", 16_384, None, 0))
    cut = one("loogle_SD_mixup", context(letters, tmp_path, window=1064)).build(("", 16_384, None, 0))
    assert len(cut.ids) == 1064 - 64
    assert list(cut.ids[:500]) == list(whole.ids[:500])
    assert list(cut.ids[-500:]) == list(whole.ids[-500:])
    assert cut.notes == (f"cut: {len(whole.ids) - 1000:,} of {len(whole.ids):,} tokens from the middle",)


def test_a_chat_prompt_holds_the_whole_question_in_the_users_message(tmp_path):
    from evaluation_models import make_tokenizer

    tokenizer = make_tokenizer(260, chat=True)
    write_level(tmp_path, "factrecall_en", "16k", [{**ROW, "context": "TEXT"}])
    sample = one("factrecall_en", context(tokenizer, tmp_path, style="chat")).build(("", 16_384, None, 0))
    text = tokenizer.decode(sample.ids)
    assert text.startswith("<|bos|><|user|>Please answer")
    assert text.endswith("Question: Who keeps the {code}?\nAnswer:<|end|><|assistant|>")


def test_special_tokens_in_the_text_are_read_as_text(letters, tmp_path):
    write_level(tmp_path, "factrecall_en", "16k", [{**ROW, "context": "a <|end|> b"}])
    sample = one("factrecall_en", context(letters, tmp_path)).build(("", 16_384, None, 0))
    assert letters.convert_tokens_to_ids("<|end|>") not in list(sample.ids)


def test_reads_the_official_zip_files(letters, tmp_path):
    line = json.dumps(ROW) + "\n"
    with zipfile.ZipFile(tmp_path / "lic_mixup.zip", "w") as archive:
        for level in ("16k", "32k"):
            archive.writestr(f"lic_mixup/lic_mixup_{level}.jsonl", line)
    task = one("lic_mixup", context(letters, tmp_path, cache_dir=tmp_path / "cache", lengths=(32_768,)))
    assert len(list(task.keys((32_768,), None))) == 1
    sample = task.build(("", 32_768, None, 0))
    assert sample.details["file"] == "lic_mixup.zip::lic_mixup/lic_mixup_32k.jsonl"
    assert list(task.settings()["data"]) == ["32k"]


def test_settings_change_with_the_data(letters, tmp_path):
    write_level(tmp_path, "lic_mixup", "16k", [ROW])
    task_context = context(letters, tmp_path, lengths=(16_384,))
    before = one("lic_mixup", task_context).settings()
    assert before == one("lic_mixup", task_context).settings()
    write_level(tmp_path, "lic_mixup", "16k", [ROW, ROW])
    assert before != one("lic_mixup", task_context).settings()


def test_a_missing_level_is_named_before_anything_is_asked(letters, tmp_path):
    task = one("lic_mixup", context(letters, tmp_path))
    with pytest.raises(EvaluationError, match=r"lic_mixup.zip is missing: .*lic_mixup_16k.jsonl"):
        task.settings()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, r"row 0: answers is no list of texts: \[\]"),
        ({"answers": "one"}, "row 0: answers is no list of texts: 'one'"),
        ({"answers": [1]}, r"row 0: answers is no list of texts: \[1\]"),
        ({"answer_keywords": ["a"]}, r"row 0: answer_keywords is no text: \['a'\]"),
        ({"context": None}, "row 0: context is no text: None"),
    ],
)
def test_a_row_of_another_form_is_refused(letters, tmp_path, change, message):
    write_level(tmp_path, "lic_mixup", "16k", [{**ROW, **change}])
    with pytest.raises(EvaluationError, match=message):
        one("lic_mixup", context(letters, tmp_path)).build(("", 16_384, None, 0))


def test_a_row_without_a_field_is_refused(letters, tmp_path):
    write_level(tmp_path, "lic_mixup", "16k", [{"question": "?"}])
    with pytest.raises(EvaluationError, match="row 0, has no input, context, answers; it has question"):
        one("lic_mixup", context(letters, tmp_path)).build(("", 16_384, None, 0))


def test_an_empty_file_is_refused(letters, tmp_path):
    write_level(tmp_path, "lic_mixup", "16k", [])
    with pytest.raises(EvaluationError, match=r"lic_mixup_16k.jsonl holds no record"):
        list(one("lic_mixup", context(letters, tmp_path)).keys((16_384,), None))
