import json
import re

import pytest
from word_tokenizers import MARKED_TEMPLATE, WORDS, learned, pair, read_lines, tokenizer_with, write_lines

from ultralong_hf.data.instructions import blend as blend_module
from ultralong_hf.data.instructions.blend import load_blend, prepare_blend
from ultralong_hf.data.instructions.report import report_text
from ultralong_hf.errors import ConversationError, DocumentError, StoreError
from ultralong_hf.recipes.schema import ConversationSource, InstructSection

LONG = " ".join(f"word{n}" for n in range(40))


def talks(word: str, count: int) -> list[dict]:
    """Conversations that have no five words in common."""
    return [{"prompt": f"{word} {n}", "completion": f"answer of {word} {n}"} for n in range(count)]


def contents(folder):
    """The bytes of every file, but for the lock and the picture."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "report.png")
    }


def test_the_samples_are_tokens_with_the_answers_as_labels(blend, tmp_path):
    report = blend({"chat": [{"prompt": "hi there", "completion": "hi you"}]})
    (sample,) = load_blend(tmp_path / "blend", tokenizer=tokenizer_with())
    assert " ".join(WORDS[i] for i in sample["input_ids"]) == "<u> hi there <end> <a> hi you <end>"
    assert learned(sample["labels"]) == ". . . . . hi you <end>"
    assert read_lines(tmp_path / "blend/messages.jsonl") == [
        {
            "messages": pair("hi there", "hi you"),
            "domain": None,
            "source": "chat",
            "place": "chat.jsonl, row 1",
            "tokens": 8,
            "rewritten": False,
        }
    ]
    assert (report["samples"], report["tokens"]) == (1, 8)
    assert not (tmp_path / "blend/work").exists()


def test_one_source_keeps_its_order_and_several_are_mixed(blend, tmp_path):
    blend({"a": talks("a", 20)}, output="one")
    assert [line["place"] for line in read_lines(tmp_path / "one/messages.jsonl")] == [
        f"a.jsonl, row {n + 1}" for n in range(20)
    ]
    blend({"a": talks("a", 20), "b": talks("b", 20)}, output="two")
    order = [line["source"] for line in read_lines(tmp_path / "two/messages.jsonl")]
    assert sorted(order) == ["a"] * 20 + ["b"] * 20 != order


def test_every_record_is_accounted_for_with_the_first_reason_that_holds(blend, tmp_path):
    quiz = "what is the name of the smallest sea bird that nests on the northern cliffs"
    write_lines(tmp_path / "quiz.jsonl", [{"question": quiz}])
    rows = [
        *talks("kept", 3),
        {"prompt": LONG, "completion": "too long and repeated"},
        {"prompt": LONG, "completion": "too long and repeated"},
        {"prompt": f"Tell me, {quiz.upper()}?", "completion": "no"},
        *talks("kept", 1),
        {"text": "no conversation"},
        {"messages": []},
    ]
    near = [*(f"w{n}" for n in range(30))]
    more = [
        {"prompt": " ".join(near), "completion": "yes"},
        {"prompt": " ".join([*near[:29], "other"]), "completion": "yes"},
        *talks("spare", 6),
    ]
    report = blend(
        {"one": rows, "two": more},
        max_length=45,
        max_bad_share=0.5,
        samples=8,
        domains={"x": 1, "y": 1},
        entries={"one": {"domain": "x"}, "two": {"domain": "y"}},
        filters={
            "decontaminate": {"files": [str(tmp_path / "quiz.jsonl")]},
            "exact_duplicates": True,
            "near_duplicates": {"threshold": 0.7},
        },
    )
    one, two = report["sources"]
    assert (one["read"], one["kept"]) == (9, 3)
    assert one["dropped"] == {
        "no_conversation": 2,
        "too_long": 2,
        "contaminated": 1,
        "exact_duplicate": 1,
    }
    assert one["no_conversation"] == {"no column": 1, "empty": 1}
    assert (two["read"], two["kept"], two["dropped"]) == (8, 4, {"near_duplicate": 1, "over_quota": 3})
    assert report["total"]["read"] == 17 == report["total"]["kept"] + sum(report["total"]["dropped"].values())
    assert report["notices"] == [
        "the chat template has no {% generation %} marks and is none that TRL knows: the assistant's part is "
        "what its messages add to the text",
        "x: 4 samples were wanted, 3 there were",
    ]
    removed = read_lines(tmp_path / "blend/removed.jsonl")
    assert [(line["place"], line["reason"]) for line in removed] == [
        ("one.jsonl, row 4", "too_long"),
        ("one.jsonl, row 5", "too_long"),
        ("one.jsonl, row 6", "contaminated"),
        ("one.jsonl, row 7", "exact_duplicate"),
        ("two.jsonl, row 2", "near_duplicate"),
    ]
    assert removed[0]["tokens"] > 45
    assert removed[2]["benchmark"] == "quiz.jsonl, row 0, question"
    assert removed[2]["ngram"] == "what is the name of the smallest sea bird that nests on the"
    assert removed[3]["of"] == {"source": "one", "place": "one.jsonl, row 1"}
    assert removed[4]["of"] == {"source": "two", "place": "two.jsonl, row 1"}
    assert [line["place"] for line in read_lines(tmp_path / "blend/bad_records.jsonl")] == [
        "one.jsonl, row 8",
        "one.jsonl, row 9",
    ]
    assert json.loads((tmp_path / "blend/report.json").read_text()) == report
    assert (tmp_path / "blend/report.txt").read_text() == report_text(report) + "\n"
    assert (tmp_path / "blend/report.png").read_bytes().startswith(b"\x89PNG")


def test_a_shared_system_message_makes_no_duplicates(blend):
    rows = [
        {"system": LONG, "prompt": f"question {n} of its own", "completion": f"its answer {n}"}
        for n in range(5)
    ]
    report = blend({"a": rows}, filters={"near_duplicates": True, "exact_duplicates": True})
    assert report["samples"] == 5


def test_the_table_has_a_row_a_source_and_a_column_a_step_that_dropped_something(blend):
    report = blend(
        {"a": [*talks("a", 2), {"prompt": LONG, "completion": "x"}], "b": talks("b", 1)}, max_length=20
    )
    assert re.sub(" +", " ", report_text(report)).splitlines()[:6] == [
        "source domain read too long kept tokens",
        "a - 3 1 2 20",
        "b - 1 0 1 10",
        "all - 4 1 3 30",
        "a: read as prompt_completion: prompt, completion (3)",
        "b: read as prompt_completion: prompt, completion (1)",
    ]


def test_the_same_settings_give_the_same_bytes_and_another_seed_another_draw(blend, tmp_path):
    sources = {"a": talks("a", 30), "b": talks("b", 30)}
    for output, seed in (("one", 0), ("two", 0), ("three", 1)):
        blend(sources, output=output, samples=20, seed=seed)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    drawn = [
        {line["place"] for line in read_lines(tmp_path / name / "messages.jsonl")}
        for name in ("one", "three")
    ]
    assert len(drawn[0]) == len(drawn[1]) == 20
    assert drawn[0] != drawn[1]


def test_what_is_drawn_of_a_source_hangs_on_no_other_source(blend, tmp_path):
    entries = {name: {"domain": name} for name in "abc"}
    shares = {"domains": {"a": 1, "b": 1}, "samples": 20}
    blend({"a": talks("a", 30), "b": talks("b", 30)}, output="one", entries=entries, **shares)
    blend(
        {"c": talks("c", 30), "a": talks("a", 30)},
        output="two",
        entries=entries,
        domains={"a": 1, "c": 1},
        samples=20,
    )
    one, two = (
        {line["place"] for line in read_lines(tmp_path / name / "messages.jsonl") if line["source"] == "a"}
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 10


def test_a_stopped_run_goes_on_with_the_sources_that_it_had_read(blend, tmp_path, monkeypatch):
    sources = {"a": talks("a", 9), "b": talks("b", 9)}
    blend(sources, output="whole")
    with monkeypatch.context() as patched:
        patched.setattr(blend_module, "choose", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            blend(sources, output="stopped")
    assert not (tmp_path / "stopped/blend.json").exists()
    with pytest.raises(StoreError, match="holds no finished blend"):
        load_blend(tmp_path / "stopped")
    assert len(list((tmp_path / "stopped/work").glob("*.parquet"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr("ultralong_hf.data.instructions.collecting._write", None)
        blend(sources, output="stopped")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_finished_blend_is_read_and_a_damaged_one_made_anew(blend, tmp_path, monkeypatch):
    sources = {"a": talks("a", 5)}
    report = blend(sources)
    before = contents(tmp_path / "blend")
    with monkeypatch.context() as patched:
        patched.setattr("ultralong_hf.data.instructions.collecting._write", None)
        assert blend(sources) == report
    arrow = tmp_path / "blend/samples/data-00000.arrow"
    arrow.write_bytes(arrow.read_bytes()[:-20])
    with pytest.raises(StoreError, match=r"data-00000.arrow does not match its digest"):
        load_blend(tmp_path / "blend")
    blend(sources)
    assert contents(tmp_path / "blend") == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_length": 99}, "was made with other max_length: 8192 there, 99 now"),
        ({"seed": 3}, "was made with other seed"),
        ({"filters": {"exact_duplicates": True}}, "was made with other filters"),
        ({"tokenizer": tokenizer_with(MARKED_TEMPLATE)}, "was made with other template"),
    ],
)
def test_a_finished_blend_of_other_settings_is_refused(blend, changed, message):
    blend({"a": talks("a", 3)})
    with pytest.raises(StoreError, match=message):
        blend({"a": talks("a", 3)}, **changed)


def test_a_source_that_changed_is_refused_too(blend):
    blend({"a": talks("a", 3)})
    with pytest.raises(StoreError, match="was made with other sources"):
        blend({"a": talks("a", 4)})


def test_the_tokenizer_of_another_model_is_refused_when_it_is_read(blend, tmp_path):
    blend({"a": talks("a", 3)})
    other = tokenizer_with()
    other.add_tokens(["new"])
    with pytest.raises(StoreError, match="was made with another tokenizer"):
        load_blend(tmp_path / "blend", tokenizer=other)


def test_too_many_bad_records_end_the_run_and_name_the_first(blend, tmp_path):
    rows = [*talks("a", 2), {"prompt": "hi", "completion": ""}]
    with pytest.raises(
        DocumentError, match=r"a: 33.3%.*a.jsonl, row 3: no answer: an answer of the assistant is"
    ):
        blend({"a": rows})
    with pytest.raises(DocumentError, match=r"a.jsonl, row 3: no answer"):
        blend({"a": rows}, on_error="stop", max_bad_share=1.0)
    assert blend({"a": rows}, max_bad_share=0.4)["samples"] == 2


def test_conversations_that_the_chat_template_refuses_are_bad_records(blend, tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    rows = [*talks("a", 3), {"system": "be kind", "prompt": "hi", "completion": "ok"}]
    report = blend({"a": rows}, tokenizer=tokenizer_with(template + MARKED_TEMPLATE), max_bad_share=0.5)
    assert report["sources"][0]["no_conversation"] == {"template": 1}
    assert report["samples"] == 3
    (line,) = read_lines(tmp_path / "blend/bad_records.jsonl")
    assert line["reason"] == "template: the chat template refuses it: No system."


def test_records_of_other_values_are_no_part_of_a_source(blend):
    rows = [{**row, "lang": lang} for row, lang in zip(talks("a", 6), ["py", "c"] * 3, strict=True)]
    report = blend({"a": rows}, entries={"a": {"where": {"lang": "py"}}})
    assert report["total"]["read"] == report["samples"] == 3
    with pytest.raises(DocumentError, match="a: no record has the values of where"):
        blend({"a": rows}, output="none", entries={"a": {"where": {"lang": "go"}}})


def test_nothing_left_is_an_error_with_the_reasons(blend, tmp_path):
    with pytest.raises(ConversationError, match="no conversation is left to train on: 4 too_long"):
        blend({"a": talks("a", 4)}, max_length=3)
    assert not (tmp_path / "blend/blend.json").exists()


def test_a_source_without_a_record_stands_in_the_report(blend):
    report = blend({"a": [], "b": talks("b", 2)}, filters={"exact_duplicates": True})
    assert [(row["label"], row["read"]) for row in report["sources"]] == [("a", 0), ("b", 2)]


def test_a_folder_that_another_process_writes_is_refused(blend, tmp_path):
    from filelock import FileLock

    (tmp_path / "blend").mkdir()
    with FileLock(tmp_path / "blend/.lock"), pytest.raises(StoreError, match="is being written by another"):
        blend({"a": talks("a", 3)})


def test_benchmarks_of_the_hub_are_read_by_split_and_configuration(blend, tmp_path, monkeypatch):
    asked = []

    def load_dataset(path, name, **options):
        asked.append((path, name, options))
        return [
            {"question": "one two three four five six seven eight nine ten eleven twelve thirteen", "n": 1}
        ]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    rows = [
        *talks("a", 2),
        {
            "prompt": "1 one two three four five six seven eight nine ten eleven twelve thirteen",
            "completion": "x",
        },
    ]
    files = [{"path": "owner/quiz", "name": "main", "split": "test", "columns": ["question"]}]
    report = blend({"a": rows}, filters={"decontaminate": {"files": files}})
    assert report["total"]["dropped"] == {"contaminated": 1}
    assert asked == [("owner/quiz", "main", {"split": "test", "revision": None})]
    (line,) = read_lines(tmp_path / "blend/removed.jsonl")
    assert line["benchmark"] == "owner/quiz, main, row 0, question"


def test_the_sample_set_becomes_a_blend_of_three_domains(tmp_path):
    section = InstructSection(
        sources=[ConversationSource(path="sample")],
        samples=60,
        domains={"general": 0.4, "math": 0.3, "code": 0.3},
        filters={"exact_duplicates": True, "near_duplicates": True},
    )
    report = prepare_blend(section, tokenizer=tokenizer_with(), output_dir=tmp_path / "blend")
    assert [(row["domain"], row["kept"]) for row in report["domains"]] == [
        ("general", 24),
        ("math", 18),
        ("code", 18),
    ]
    assert [list(row["formats"].values()) for row in report["sources"]] == [[26], [26], [26]]
    assert report["total"]["dropped"] == {"over_quota": 18}
