import json

import pytest
from fake_server import FakeServer

from ultralong_hf.cli import main


@pytest.fixture
def haystack(tmp_path, documents):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number}.txt").write_text(document)
    return str(folder)


def _eval(*arguments):
    return main(["eval", *arguments])


def test_needle_prints_a_table_and_writes_the_folder(model_folder, haystack, tmp_path, capsys):
    output = tmp_path / "out"
    status = _eval(
        *("needle", model_folder, "--lengths", "200,300", "--depths", "0,100", "--samples", "2"),
        *("--haystack", haystack, "--output", str(output)),
    )
    assert status == 0
    assert capsys.readouterr().out.startswith(
        "needle: % found by depth (rows) and length in tokens (columns)\n"
    )
    assert {"heatmap.png", "report.html", "report.json", "prompts.jsonl", "cells.csv"} <= {
        path.name for path in output.iterdir()
    }


def test_json_is_the_report(model_folder, haystack, capsys):
    status = _eval(
        *("passkey,perplexity", model_folder, "--max-length", "400", "--count", "2", "--depths", "50"),
        *("--samples", "1", "--haystack", haystack, "--json"),
    )
    assert status == 0
    report = json.loads(capsys.readouterr().out)
    assert [(c["task"], c["length"], c["samples"]) for c in report["cells"]] == [
        ("passkey", 200, 1),
        ("passkey", 400, 1),
    ]
    assert report["perplexity"][0]["from"] == 0


def test_the_papers_preset_measures_forty_lengths_at_ten_depths(model_folder, capsys):
    status = _eval("passkey", model_folder, "--preset", "paper", "--max-length", "400", "--json")
    assert status == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["cells"]) == 400
    assert len({cell["length"] for cell in report["cells"]}) == 40
    assert {cell["depth"] for cell in report["cells"]} == {0, 11, 22, 33, 44, 56, 67, 78, 89, 100}
    assert any(note.startswith("Lengths 0, 10, 21") for note in report["notes"])


@pytest.mark.parametrize("tasks", ["needle", "passkey,needle"])
def test_a_shown_prompt_is_the_one_that_is_asked(model_folder, haystack, tmp_path, capsys, tasks):
    options = ("--lengths", "250,300", "--depths", "0,100", "--samples", "2", "--haystack", haystack)
    assert _eval(tasks, model_folder, *options, "--output", str(tmp_path / "out")) == 0
    asked = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    capsys.readouterr()
    for number in (1, len(asked)):
        assert _eval(tasks, model_folder, *options, "--show", str(number), "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        for name in ("task", "length", "depth", "sample", "prompt_tokens", "references", "prompt"):
            assert shown[name] == asked[number - 1][name]
    assert _eval(tasks, model_folder, *options, "--show", "1") == 0
    assert capsys.readouterr().out.endswith(f"\n\n{asked[0]['prompt']}\n")
    assert _eval(tasks, model_folder, *options, "--show", "99") == 2
    assert "There is no prompt 99: these tasks have" in capsys.readouterr().err


def test_a_server_is_asked_with_the_tokenizer_of_the_model(model_folder, haystack, capsys):
    server = FakeServer(lambda prompt: "no idea", models=({"id": "a"}, {"id": "b"}))
    with server.running() as url:
        status = _eval(
            *("needle", model_folder, "--lengths", "250", "--samples", "1", "--haystack", haystack),
            *("--engine", url, "--engine-model", "b", "--concurrency", "2", "--timeout", "30", "--json"),
        )
    assert status == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert f"Answers are of the model 'b' at {url}; prompts were sent as token ids." in notes
    assert {body["model"] for body in server.asked} == {"b"}
    assert len(server.asked) == 5


def test_answers_of_earlier_runs_are_taken_unless_they_are_not_wanted(
    model_folder, haystack, tmp_path, capsys
):
    options = ("needle", model_folder, "--lengths", "250", "--samples", "1", "--haystack", haystack, "--json")
    found = []
    for cache in (("--cache", str(tmp_path)), ("--cache", str(tmp_path)), ("--no-cache",)):
        assert _eval(*options, *cache) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        found.append(any("from the cache" in note for note in notes))
    assert found == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["needle", "MODEL", "--cache", "c", "--no-cache"], "--cache excludes --no-cache"),
        (["needle", "MODEL", "--engine", "vlm"], "'vlm' is no engine. Nearest"),
        (["needle", "MODEL", "--kv-cache", "int3"], "kv_cache='int3' is none of"),
        (["ruler/vtt", "MODEL"], "'ruler/vtt' is no task. Nearest: 'ruler/vt'"),
        (["neddle", "MODEL"], "'neddle' is no task. Nearest: 'needle'"),
        (["needle", "MODEL", "--lengths", "1Q"], "'1Q' is no length"),
        (["needle", "MODEL", "--lengths", "1K"], "1,024 tokens are more than the model's window of 512"),
        (["needle", "MODEL", "--depths", "deep"], "--depths 'deep' are no numbers"),
        (["needle", "MODEL", "--preset", "papr"], "'papr' is no preset"),
        (["needle", "MODEL", "--preset", "paper"], "needs --max-length"),
        (["needle", "MODEL", "--count", "3"], "--count goes with --max-length"),
        (["needle", "MODEL", "--max-length", "1K", "--count", "0"], "--count 0 must be at least 1"),
        (["needle", "MODEL", "--lengths", "1K", "--max-length", "2K"], "--lengths excludes"),
        (["needle", "MODEL", "--batch-size", "few"], "--batch-size 'few'"),
        (["needle", "MODEL", "--engine", "vlm"], "'vlm' is no engine"),
        (["needle", "MODEL", "--samples", "0"], "samples=0"),
        (["needle", "MODEL", "--haystack", "/nowhere"], "/nowhere does not exist"),
        (["needle", "/nowhere/model"], "/nowhere/model cannot be read as a model"),
    ],
)
def test_bad_input_ends_with_status_2_and_error_lines(model_folder, haystack, capsys, arguments, message):
    arguments = [model_folder if argument == "MODEL" else argument for argument in arguments]
    if not {"--lengths", "--max-length", "--preset"} & set(arguments):
        arguments += ["--lengths", "200"]
    if "--haystack" not in arguments:
        arguments += ["--haystack", haystack]
    if "--count" in arguments and "--max-length" not in arguments:
        arguments = [a for a in arguments if a not in ("--lengths", "200")]
    assert _eval(*arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in captured.err


def test_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        _eval("--help")
    assert stop.value.code == 0
    assert "example: ultralong eval needle" in capsys.readouterr().out
