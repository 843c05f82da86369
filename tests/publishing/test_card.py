"""What the card tells of recipe, data, results, safety and cost."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from run_folders import records_of, write_run

from ultralong_hf.errors import EvaluationError, ReleaseError
from ultralong_hf.publishing import publish
from ultralong_hf.publishing.checks import card_faults
from ultralong_hf.publishing.provenance import cost_of, recipe_values, trace
from ultralong_hf.publishing.results import read_results
from ultralong_hf.recipes import load_recipe


def needles(chance):
    return records_of("needle", [128, 512], lambda task, length: chance, depths=(0, 100), samples=3)


@pytest.fixture
def runs(tmp_path, source):
    """Of the model itself, then of its base."""
    own = write_run(tmp_path / "after", needles(1.0), model=str(source), identity="own", window=512)
    base = write_run(tmp_path / "before", needles(0.0), model="models/base", identity="base", window=128)
    return own, base


def card_of(source, tmp_path, **options):
    made = publish(source, output_dir=tmp_path / "out" / "tiny", base="lab", **options)
    assert made.faults == []
    return (made.folder / "README.md").read_text(encoding="utf-8"), made


def test_results_stand_in_tables_pictures_and_the_model_index(source, tmp_path, runs):
    text, made = card_of(source, tmp_path, reports=runs)
    assert "| needle | 128 | 0.0 | 100.0 | +100.0 |" in text
    assert "images/needle-by-depth.png" in made.files
    assert "(images/needle-by-depth.png)" in text
    results = ModelCard(text).data.eval_results
    assert [(r.dataset_name, r.metric_value) for r in results] == [
        ("Needle at 128 tokens", 100.0),
        ("Needle at 512 tokens", 100.0),
    ]
    assert str(runs[0]) not in text


def test_the_models_own_run_is_found_wherever_it_stands(source, runs):
    models, notes = read_results(runs, source, "tiny")
    assert [model.name for model in models] == ["base", "tiny"]
    assert notes == []


def test_where_no_run_is_of_the_model_the_last_is_taken_and_told(source, tmp_path, runs):
    models, notes = read_results(runs, tmp_path, "tiny")
    assert [model.name for model in models] == ["sft", "tiny"]
    assert "the last one is taken for it" in notes[0]


def test_a_base_of_the_same_name_is_told_apart(source, tmp_path, runs):
    models, _ = read_results(runs, source, "base")
    assert [model.name for model in models] == ["base (base)", "base"]


def test_unfinished_runs_and_folders_that_are_none_are_refused(source, tmp_path):
    unfinished = write_run(tmp_path / "half", needles(1.0), model=str(source), finished=False)
    with pytest.raises(ReleaseError, match="half is not finished"):
        publish(source, output_dir=tmp_path / "out", reports=[unfinished])
    with pytest.raises(EvaluationError, match="no folder"):
        publish(source, output_dir=tmp_path / "out", reports=[tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


def test_without_runs_nothing_is_claimed(source, tmp_path):
    text, made = card_of(source, tmp_path)
    assert "nothing is claimed" in text
    assert "Not measured." in text
    assert "model-index" not in text
    assert not any(name.startswith("images/") for name in made.files)


def test_safety_rates_have_a_section_and_no_mean(source, tmp_path):
    records = [
        {
            "task": task,
            "length": 0,
            "depth": None,
            "sample": sample,
            "prompt_tokens": 20,
            "details": {},
            "notes": [],
            "prompt": "...",
            "references": [],
            "answer": "",
            "score": float(sample < 3),
        }
        for task in ("safety/refusal", "safety/over_refusal")
        for sample in range(4)
    ]
    run = write_run(tmp_path / "safe", [*needles(1.0), *records], model=str(source))
    text, _ = card_of(source, tmp_path, reports=[run])
    assert "| harmful requests declined (higher is better) | the request alone | 75.0 % of 4 |" in text
    names = [result.dataset_name for result in ModelCard(text).data.eval_results]
    assert names == ["Needle at 128 tokens", "Needle at 512 tokens"]


def test_a_recipe_without_its_outputs_is_told_as_such(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, made = card_of(source, tmp_path, recipe="lab")
    assert "their token store is not there" in text
    assert "Not known: no logs of the training were found." in text
    assert "recipe.yaml" in made.files
    assert load_recipe(made.folder / "recipe.yaml").data.target_length == 4096


def test_counts_settings_and_cost_come_from_what_the_stages_left(source, tmp_path):
    stage = tmp_path / "cpt" / "checkpoint-4"
    stage.mkdir(parents=True)
    logs = [
        {"loss": 2.0, "step": 2, "num_tokens": 1000.0, "tokens_per_second": 100.0, "peak_memory_gib": 1.5},
        {"loss": 1.9, "step": 4, "num_tokens": 2000.0, "tokens_per_second": 50.0, "peak_memory_gib": 1.0},
    ]
    (stage / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": logs}))
    blend = tmp_path / "blend"
    blend.mkdir()
    row = {
        "label": "talks",
        "domain": "general",
        "licence": "cc-by-4.0",
        "origin": "org/talks",
        "read": 9,
        "kept": 7,
        "tokens": 700,
    }
    report = {"samples": 7, "tokens": 700, "max_length": 128, "sources": [row]}
    (blend / "report.json").write_text(json.dumps(report))
    recipe = load_recipe(
        "lab",
        {
            "cpt.output_dir": str(tmp_path / "cpt"),
            "sft.output_dir": str(tmp_path / "sft"),
            "instruct.output_dir": str(blend),
            "data.output_dir": str(tmp_path / "store"),
        },
    )
    text, _ = card_of(source, tmp_path, recipe=recipe, hardware="2 cores")
    assert "| Continued pretraining | 4 | 2,000 | 0.00833 | 67 | - | 1.5 |" in text
    assert "On 2 cores." in text
    assert "| talks | general | cc-by-4.0 | 9 | 7 | 700 |" in text
    assert "Instruction tuning: " not in text
    assert ModelCard(text).data.datasets == ["org/talks"]
    assert "learning\\_rate | 0.002" in text


def test_only_the_stages_up_to_the_models_own_are_told(tmp_path):
    folders = {stage: tmp_path / stage for stage in ("cpt", "sft", "preference", "orpo", "grpo")}
    recipe = load_recipe("lab", {f"{stage}.output_dir": str(folder) for stage, folder in folders.items()})
    for folder in folders.values():
        folder.mkdir()
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))

    def told(model):
        return [stage.title for stage in trace(recipe, model).stages]

    first, second = "Continued pretraining", "Instruction tuning"
    assert told(folders["cpt"]) == [first]
    assert told(folders["sft"] / "checkpoint-5") == [first, second]
    assert told(folders["orpo"]) == [first, second, "Preferences (ORPO)"]
    assert len(told(tmp_path / "elsewhere")) == 5
    assert "its folder is none of theirs" in trace(recipe, tmp_path / "elsewhere").missing[-1]


def test_tokens_that_were_counted_anew_after_a_resumption_are_added():
    logs = [
        {"loss": 1, "num_tokens": 100, "tokens_per_second": 10},
        {"loss": 1, "num_tokens": 60, "tokens_per_second": 20},
        {"eval_loss": 1},
    ]
    cost = cost_of({"global_step": 3, "log_history": logs})
    assert (cost.tokens, cost.seconds, cost.tokens_per_second) == (160, 13.0, 160 / 13)


def test_logs_without_telemetry_give_steps_alone():
    cost = cost_of({"global_step": 3, "log_history": [{"loss": 1}]})
    assert (cost.steps, cost.tokens, cost.seconds, cost.mfu, cost.peak_memory_gib) == (
        3,
        None,
        None,
        None,
        None,
    )


def test_paths_of_this_machine_are_cut_to_their_last_part():
    values = recipe_values(
        load_recipe("lab", {"data.output_dir": "/home/me/store", "data.sources": ["/a/b.txt"]})
    )
    assert values["data"]["output_dir"] == "store"
    assert values["data"]["sources"][0]["path"] == "b.txt"


@pytest.mark.parametrize(
    ("front", "fault"),
    [
        ("license: [", "front matter cannot be read"),
        ("- a\n- b", "front matter cannot be read"),
        ("model-index:\n- name: x\n  results:\n  - task: {}", "front matter cannot be read"),
        ("license: other", "without license_name"),
        ("base_model: not a model!", "no id of the hub"),
        ("datasets: [a/b/c]", "no id of the hub"),
        ("language: English", "no ISO 639 code"),
        ("tags: [a]\n---\n![x](gone.png", "picture gone.png is not there"),
    ],
)
def test_cards_that_the_hub_would_not_read_have_faults(tmp_path, front, fault):
    end = ")" if "gone" in front else "\n---"
    path = Path(tmp_path / "README.md")
    path.write_text(f"---\n{front}{end}\ntext\n")
    faults = card_faults(path)
    assert any(fault in one for one in faults), faults


def test_a_card_without_metadata_is_a_fault(tmp_path):
    (tmp_path / "README.md").write_text("# name\n")
    assert card_faults(tmp_path / "README.md") == ["README.md: has no metadata."]
