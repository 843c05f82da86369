"""A whole ablation of a small recipe: what is trained, what is kept, what is refused."""

import json
from dataclasses import replace

import pytest

from ultralong_hf.ablation import plan_ablation, run_ablation, working
from ultralong_hf.ablation import workers as workers_module
from ultralong_hf.ablation.launching import launch_commands
from ultralong_hf.ablation.report import REPORT
from ultralong_hf.ablation.trial import tokens_of
from ultralong_hf.cli import main
from ultralong_hf.errors import AblationError, MachineError, RecipeError


def plan(recipe_file, tmp_path, studies=("steps",), **options):
    return plan_ablation(studies, output_dir=tmp_path / "out", recipe=str(recipe_file), **options)


def test_a_run_trains_measures_compares_and_goes_on(recipe_file, tmp_path, monkeypatch):
    """Killed between two trials, the same call finishes the rest and runs nothing twice."""
    ran = []

    def run_two(trial):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(trial.name)
        return working.run_trial(trial)

    options = {"output_dir": tmp_path / "out", "seeds": 2, "recipe": str(recipe_file), "workers": 1}
    monkeypatch.setattr(workers_module, "run_trial", run_two)
    with pytest.raises(KeyboardInterrupt):
        run_ablation("steps", **options)
    assert not (tmp_path / "out" / REPORT).exists()

    again = []
    monkeypatch.setattr(workers_module, "run_trial", lambda t: again.append(t.name) or working.run_trial(t))
    report = run_ablation("steps", **options)
    assert ran == ["base, seed 0", "two-steps, seed 0"]
    assert again == ["base, seed 1", "two-steps, seed 1"]

    assert {(r["tokens"], r["updates"]) for r in report.results.values()} == {(6 * 256, 6)}
    [study] = json.loads((tmp_path / "out" / REPORT).read_text())["studies"]
    losses = {c["arm"]: c for c in study["comparisons"] if c["metric"].startswith("loss from position 64 on")}
    pairs = zip(losses["two-steps"]["by_seed"], losses["base"]["by_seed"], strict=True)
    mean = sum(arm - base for arm, base in pairs) / 2
    assert losses["two-steps"]["difference"]["value"] == pytest.approx(mean)
    assert losses["base"]["difference"] is None
    for name in ("report.md", "report.html", "runs.csv", "steps.png"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "77.52" in text  # the paper's two steps
    assert "fewer than 5 seeds no bootstrap is wide enough" in text
    assert "fewer than 5 seeds" in report.table()


def test_arms_that_pack_alike_share_a_store_and_others_do_not(recipe_file, tmp_path):
    found = plan(recipe_file, tmp_path, ("separator", "rope"), seeds=1)
    stores = {t.arm.key: t.stage_recipes()[0].data.output_dir for t in found.trials}
    assert stores["base"] == stores["masked"] == stores["ntk"] == stores["none"]
    assert len({stores["base"], stores["no-separator"], stores["bos"], stores["eos"]}) == 4


def test_every_arm_trains_on_equally_many_tokens_and_updates(recipe_file, tmp_path):
    trials = plan(recipe_file, tmp_path, ("paper", "forms", "scale", "mixture"), seeds=1).trials
    assert len(trials) > 12
    for trial in trials:
        recipes = trial.stage_recipes()
        assert sum(map(tokens_of, recipes)) == 6 * 256, trial.name
        assert sum(recipe.cpt["max_steps"] for recipe in recipes) == 6, trial.name


def test_the_lab_trains_equally_too():
    trials = plan_ablation("all", output_dir="out", seeds=1).trials
    tokens = {trial.arm.key: sum(map(tokens_of, trial.stage_recipes())) for trial in trials}
    assert len(tokens) > 15
    assert set(tokens.values()) == {36 * 4096}


def test_every_seed_of_the_lab_is_a_recipe_that_can_be_trained():
    """The lab's own GRPO prompts have a seed, which is that of one trial."""
    trials = plan_ablation("rope", output_dir="out", seeds=5).trials
    assert {trial.seed for trial in trials} == set(range(5))
    for trial in trials:
        assert all(recipe.cpt["seed"] == trial.seed for recipe in trial.stage_recipes()), trial.name


def test_reach_stretches_further_with_the_recipes_headroom_and_changes_one_thing_a_time():
    [study] = plan_ablation("reach", output_dir="out", seeds=1).studies
    stages = {arm.key: arm.stages[0] for arm in study.arms}
    lengths = {key: stage["data.target_length"] for key, stage in stages.items()}
    assert [lengths[f"reach-{factor}"] for factor in (16, 32, 64, 128)] == [4096, 8192, 16384, 32768]
    assert {stage["rope.scale"] / stage["data.target_length"] for stage in stages.values()} == {2 / 256}
    plain = stages["reach-32"]
    changed = {
        key: dict(stages[key].items() - plain.items()) for key in stages if key.startswith("reach-32-")
    }
    assert changed == {
        "reach-32-steps-2x": {"cpt.max_steps": 72},
        "reach-32-steps-4x": {"cpt.max_steps": 144},
        "reach-32-half-rate": {"cpt.learning_rate": 1e-3},
        "reach-32-sparse": {},
    }
    assert {arm.key for arm in study.arms if arm.documents == "sparse"} == {
        "reach-32-sparse",
        "reach-128-careless",
    }


def test_seeds_are_interleaved_so_that_a_stopped_run_has_compared_something(recipe_file, tmp_path):
    names = [trial.name for trial in plan(recipe_file, tmp_path, seeds=2).trials]
    assert names == ["base, seed 0", "two-steps, seed 0", "base, seed 1", "two-steps, seed 1"]


def test_an_arm_that_is_the_recipe_by_another_name_is_left_out(recipe_file, tmp_path):
    found = plan(recipe_file, tmp_path, ("rope",), seeds=1, overrides={"rope.method": "ntk"})
    assert [arm.key for arm in found.studies[0].all_arms] == ["base", "linear", "none"]


def test_results_of_other_settings_are_refused_before_anything_runs(recipe_file, tmp_path):
    [trial, _] = plan(recipe_file, tmp_path, seeds=1).trials
    trial.home.mkdir(parents=True)
    trial.result_path.write_text(json.dumps({"settings": trial.fingerprint()}, default=str))
    assert working.finished_result(trial) is not None
    with pytest.raises(AblationError, match=r"they differ in stages\.cpt\.max_steps"):
        working.finished_result(replace(trial, overrides={"cpt.max_steps": 9}))
    trial.result_path.write_text('{"settings"')
    with pytest.raises(AblationError, match="damaged: remove it"):
        working.finished_result(trial)


def test_a_failing_trial_is_named_and_stops_no_other(recipe_file, tmp_path, monkeypatch):
    trials = plan(recipe_file, tmp_path, seeds=2).trials
    ran = []

    def fail_once(trial):
        ran.append(trial.name)
        if len(ran) == 1:
            raise AblationError("no such thing.")

    monkeypatch.setattr(workers_module, "run_trial", fail_once)
    with pytest.raises(MachineError, match=r"base, seed 0: AblationError: no such thing\.") as caught:
        workers_module.run_trials(trials, 1)
    assert len(ran) == 4
    assert "run the same command again" in caught.value.faults[-1]


def test_no_trial_is_begun_after_the_time_is_up(recipe_file, tmp_path, monkeypatch):
    monkeypatch.setattr(workers_module, "run_trial", lambda trial: pytest.fail("begun"))
    with pytest.raises(MachineError, match="2 of 5 runs are left"):
        workers_module.run_trials(plan(recipe_file, tmp_path, seeds=1).trials, 1, done=3, stop_after=0)


def test_refuses_what_cannot_be_compared(recipe_file, tmp_path):
    with pytest.raises(AblationError, match="'ropes' is no study"):
        plan(recipe_file, tmp_path, ("ropes",))
    with pytest.raises(AblationError, match="no seed to run"):
        plan(recipe_file, tmp_path, seeds=0)
    with pytest.raises(AblationError, match="2 CPT steps cannot be split"):
        plan(recipe_file, tmp_path, overrides={"cpt.max_steps": 2})
    with pytest.raises(RecipeError, match="max_steps"):
        plan(recipe_file, tmp_path, overrides={"cpt.max_steps": "many"})
    recipe_file.write_text(recipe_file.read_text().replace("max_steps: 6", "num_train_epochs: 1"))
    with pytest.raises(AblationError, match=r"sets no cpt\.max_steps"):
        plan(recipe_file, tmp_path, ("separator",))


def test_commands_launch_each_stage_from_the_one_before(recipe_file, tmp_path):
    trials = plan(recipe_file, tmp_path, ("steps",), seeds=1).trials
    base, first, second = launch_commands(trials)
    for line in (base, first, second):
        assert line.startswith(f"accelerate launch examples/cpt.py --recipe {recipe_file} ")
    folder = tmp_path / "out" / "arms" / "two-steps" / "seed-0"
    assert f"--output_dir {folder / 'stage-1'}" in first
    assert "--data.target_length 128" in first
    assert second.endswith(f"--model {folder / 'stage-1'}")


def test_commands_are_read_back_as_the_arms_recipes(recipe_file, tmp_path):
    import shlex

    from ultralong_hf.training.command_line import parse_recipe

    for trial in plan(recipe_file, tmp_path, ("separator", "steps"), seeds=1).trials:
        lines = launch_commands([trial])
        for line, recipe in zip(lines, trial.stage_recipes(), strict=True):
            parsed, _ = parse_recipe("cpt", shlex.split(line)[3:])
            assert parsed.data == recipe.data
            assert parsed.rope == recipe.rope
            assert parsed.cpt == recipe.cpt


def test_the_lab_is_not_for_launching():
    with pytest.raises(AblationError, match="recipes of your own"):
        list(launch_commands(plan_ablation("steps", output_dir="out", seeds=1).trials))


def test_the_command_says_what_is_wrong_in_a_line(capsys, tmp_path):
    assert main(["ablate", "ropes", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: 'ropes' is no study. There are separator, rope, steps")
