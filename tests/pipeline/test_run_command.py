import json

import pytest

from ultralong_hf import cli


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "run")


def test_run_and_status_show_one_table(jobs, folder, capsys):
    assert cli.main(["run", "lab", "--output", folder, "--sft.max_steps", "2", "--only", "prepare"]) == 0
    out = capsys.readouterr().out
    assert "prepare         done in" in out
    assert f"next: blend. Go on with: ultralong run {folder}" in out
    assert cli.main(["status", folder]) == 0
    assert capsys.readouterr().out == out[out.index(f"{folder}: the run of lab") :]


def test_json_is_alone_on_stdout(jobs, folder, capsys):
    assert cli.main(["run", "lab", "--output", folder, "--json"]) == 0
    ran = json.loads(capsys.readouterr().out)
    assert ran["done"]
    assert [stage["state"] for stage in ran["stages"]] == ["done"] * 9
    assert cli.main(["status", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ran


def test_errors_are_lines_and_a_status(jobs, folder, full_disk, capsys):
    jobs.fails["extend"] = full_disk
    assert cli.main(["run", "lab", "--output", folder]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: extend: the disk is full.",
        f"error: extend did not end; its log is {folder}/logs/extend.log.",
    ]
    assert cli.main(["run", "lab", "--output", folder, "--sft.max_stepz", "3"]) == 2
    assert "Nearest: sft.max_steps" in capsys.readouterr().err
    assert cli.main(["run", "lab", "--only", "cpd", "--output", folder]) == 2
    assert "'cpd' is no stage. Nearest: cpt." in capsys.readouterr().err
    assert cli.main(["run", "lab", "--output", folder, "--sft.max_steps"]) == 2
    assert capsys.readouterr().err == "error: --sft.max_steps needs a value.\n"


def test_status_of_a_recipe_is_that_of_its_run(jobs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", "lab"]) == 0
    assert "next: prepare" in capsys.readouterr().out
    assert cli.main(["run", "lab", "--skip", "evaluate-cpt", "--cpt.max_steps", "3"]) == 0
    capsys.readouterr()
    assert cli.main(["status", "lab"]) == 0
    out = capsys.readouterr().out
    assert "all stages are done." in out
    assert "evaluate-cpt" not in out
    assert (tmp_path / "outputs" / "lab" / "run.json").is_file()
