import json

import pytest

from ultralong_hf.cli import main


def run(capsys, *words):
    status = main(["prepare", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_sample_set_becomes_a_blend_and_its_report_is_printed(tmp_path, capsys):
    words = [
        "--stage",
        "sft",
        "sample",
        "--tokenizer",
        "lab",
        "--output",
        tmp_path / "blend",
        "--samples",
        "50",
    ]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert out.splitlines()[0].startswith(f"{tmp_path / 'blend'}: 50 samples, ")
    assert out.splitlines()[2].split() == ["sample-general", "general", "26", "9", "17", "1,711"]
    status, out, _ = run(capsys, *words, "--json")
    report = json.loads(out)
    assert (status, report["samples"], report["total"]["read"]) == (0, 50, 78)


def test_the_section_of_a_recipe_is_taken_and_options_override_it(tmp_path, capsys):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        "model: {name_or_path: lab}\ndata: {target_length: 4K}\n"
        f"instruct:\n  sources: [sample]\n  domains: {{general: 1, math: 1, code: 1}}\n  samples: 30\n"
        f"sft: {{output_dir: {tmp_path}/sft}}\n"
    )
    status, out, _ = run(capsys, "--stage", "sft", "--recipe", recipe, "--samples", 12, "--json")
    report = json.loads(out)
    assert (status, report["path"]) == (0, str(tmp_path / "blend"))
    assert [row["kept"] for row in report["domains"]] == [4, 4, 4]


def test_copies_of_hub_datasets_are_found(tmp_path, capsys):
    copy = tmp_path / "copies/owner/set.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text('{"prompt": "hi", "completion": "ok"}\n')
    words = ["--stage", "sft", "owner/set", "--tokenizer", "lab", "--output", tmp_path / "b", "--json"]
    status, out, _ = run(capsys, *words, "--data", tmp_path / "copies")
    assert (status, json.loads(out)["sources"][0]["origin"]) == (0, str(copy))


def test_requests_that_nobody_agreed_to_are_told_and_not_sent(tmp_path, capsys):
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        "model: {name_or_path: lab}\ndata: {target_length: 4K}\n"
        "instruct:\n  sources: [sample]\n  samples: 10\n"
        "  rewrite: {base_url: 'http://127.0.0.1:1/v1', model: strong, usd_per_million_prompt_tokens: 2.5,\n"
        "            usd_per_million_completion_tokens: 10}\n"
    )
    status, out, err = run(capsys, "--stage", "sft", "--recipe", recipe, "--output", tmp_path / "b")
    assert (status, out) == (2, "")
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert "to write anew by strong at http://127.0.0.1:1/v1: 10 answers" in err
    assert "USD" in err
    assert "Agree to this with --confirm-requests" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "sft", "sample", "--tokenizer", "lab"], "--output missing"),
        (["--stage", "sft", "sample", "--recipe", "lab"], "'sample' and --recipe"),
        (["--stage", "sft", "sample", "--shard", "0/2"], "--shard would have no effect on conversations"),
        (["books", "--samples", "3"], "--samples would have no effect on documents: add --stage sft"),
        (["books", "--confirm-requests"], "--confirm-requests would have no effect on documents"),
        (
            ["--stage", "sft", "sample", "--tokenizer", "lab", "--output", "x", "--max-length", "8Q"],
            "instruct.max_length",
        ),
        (
            ["--stage", "sft", "no.jsonl", "--tokenizer", "lab", "--output", "x"],
            "no.jsonl is no file, folder or",
        ),
    ],
)
def test_bad_input_is_a_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert not list(tmp_path.rglob("*.json"))
