import json

from ultralong_hf import cli


def test_plan_prints_a_table_json_and_a_picture(tmp_path, capsys):
    assert cli.main(["plan", "ultralong-1m", "--gpus", "8"]) == 0
    table = capsys.readouterr().out
    assert "8 x h100-80g: fits" in table
    assert "checkpoints" in table
    png = str(tmp_path / "plan.png")
    words = ["plan", "ultralong-1m", "--gpus", "8", "--set", "memory.recompute=all_but_attention"]
    assert cli.main([*words, "--json", "--png", png]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["options"] == {
        "memory.checkpoint_storage": "host",
        "memory.recompute": "all_but_attention",
    }
    assert values["png"] == png


def test_plan_lists_its_gpus(capsys):
    assert cli.main(["plan", "--gpu", "list"]) == 0
    assert "h200-141g" in capsys.readouterr().out


def test_bad_input_ends_with_status_2(capsys):
    assert cli.main(["plan", "ultralong-1m", "--set", "nothing"]) == 2
    assert cli.main(["plan", "ultralong-1m", "--host-memory", "much"]) == 2
    assert cli.main(["plan", "ultralong-1m", "--set", "memory.tield_mlp=true"]) == 2
    assert cli.main(["plan", "--gpus", "8"]) == 2
    *lines, last = capsys.readouterr().err.splitlines()
    assert last == "error: name a recipe, such as ultralong-1m, or a model with --length."
    assert all(line.startswith("error: ") for line in lines)
    assert "Nearest: memory.tiled_mlp" in lines[-1]
