import json

import numpy as np
import pytest
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from ultralong_hf.errors import EvaluationError, MachineError, ParallelError, RecipeError
from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.arguments import make_context
from ultralong_hf.evaluation.tasks import make_tasks
from ultralong_hf.recipes import load_recipe
from ultralong_hf.recipes.schema import GrpoDataSection
from ultralong_hf.training import grpo_trainer
from ultralong_hf.training.grpo import GrpoTrainer
from ultralong_hf.training.models import load_model, load_tokenizer
from ultralong_hf.training.reward_prompts import build_prompts, mixed_order

# transformers 5.23 warns of its own deprecated names when TRL calls them
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

LAB = {
    "grpo.max_steps": 2,
    "grpo.disable_tqdm": True,
    "grpo.save_strategy": "no",
    "grpo_data.lengths": [200],
    "grpo_data.samples": 1,
    "grpo_data.depths": [0, 50],
}


@pytest.fixture(scope="module")
def lab_tokenizer():
    return load_tokenizer(load_recipe("lab").model)


def test_prompts_are_the_evaluations_own(lab_tokenizer, tmp_path):
    haystack = tmp_path / "text.txt"
    haystack.write_text("\n".join(f"line {n} of a text about boats and nets" for n in range(400)))
    section = GrpoDataSection(
        tasks=["needle"], lengths=[150, 220], samples=2, depths=[50.0], haystack=str(haystack)
    )
    prompts = build_prompts(section, lab_tokenizer, default_length=256)
    context = make_context(
        lab_tokenizer,
        lengths=[150, 220],
        depths=[50.0],
        samples=2,
        prompt="auto",
        seed=1,
        window=None,
        clamp_short=False,
        haystack=str(haystack),
        data_dir=None,
        cache_dir=None,
    )
    (task,) = make_tasks(["needle"], context)
    expected = [task.build(key) for key in task.keys([150, 220], 2)]
    assert len(expected) == len(prompts.rows) == len(prompts.ids) == 4
    for sample, row in zip(expected, prompts.rows, strict=True):
        assert np.array_equal(prompts.ids[row["prompt"]], sample.ids)
        assert row["references"] == list(sample.references)
        assert row["prompt"].startswith(
            f"needle, {sample.length} tokens, depth 50 %, number {sample.sample}: ... "
        )


def test_the_reward_is_the_tasks_score_and_each_task_is_logged(lab_tokenizer):
    section = GrpoDataSection(tasks=["needle", "ruler/vt"], lengths=[1500], samples=1, depths=[50.0])
    prompts = build_prompts(section, lab_tokenizer, default_length=256)
    needle, tracking = prompts.rows
    (value,), names = needle["references"], tracking["references"]
    assert len(names) == 5
    rows = [needle, needle, tracking, tracking]
    answers = [f"It is {value}.", "12", " ".join(names), f"{names[0]} and {names[3]}"]
    columns = {key: [row[key] for row in rows] for key in ("task", "references", "details")}
    logged = {}
    rewards = prompts.exact_match(
        completions=answers, log_metric=logged.__setitem__, trainer_state=None, **columns
    )
    assert rewards == [1.0, 0.0, 1.0, 0.4]
    assert logged == {"reward/needle": 0.5, "reward/ruler/vt": 0.7}


def test_prompts_of_one_length_stand_together_and_none_is_lost():
    lengths = [1, 9, 1, 9, 1, 9, 1, 5]
    order = mixed_order(lengths, 2, seed=3)
    assert sorted(order) == list(range(8))
    blocks = [(lengths[a], lengths[b]) for a, b in zip(order[:6:2], order[1:6:2], strict=True)]
    assert sorted(blocks) == [(1, 1), (1, 1), (9, 9)]
    assert mixed_order(lengths, 2, seed=3) == order != mixed_order(lengths, 2, seed=4)


def test_it_trains_as_trls_grpo_does_on_the_same_prompts(recipe_file, base_folder, tmp_path):
    texts = ["<|user|>how many nets?<|end|><|assistant|>", "<|user|>how many gulls?<|end|><|assistant|>"] * 4
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    assert len({len(tokenizer(text)["input_ids"]) for text in texts[::2]}) == 1
    settings = yaml.safe_load(recipe_file.read_text())["sft"] | {
        "output_dir": str(tmp_path / "grpo"),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 6,
        "shuffle_dataset": False,
        "activation_checkpointing": False,
    }

    def share_of_letters(completions, **columns):
        return [sum(map(str.isalpha, text)) / 10 for text in completions]

    def train(cls, **more):
        model = AutoModelForCausalLM.from_pretrained(base_folder)
        model.generation_config.eos_token_id = list(range(40))  # so that completions end early
        trainer = cls(
            model=model,
            reward_funcs=share_of_letters,
            args=GRPOConfig(**settings),
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=AutoTokenizer.from_pretrained(base_folder),
            **more,
        )
        trainer.train()
        return [entry for entry in trainer.state.log_history if "loss" in entry]

    theirs = train(GRPOTrainer)
    ours = train(GrpoTrainer, prompt_ids={text: np.array(tokenizer(text)["input_ids"]) for text in texts})
    assert len(ours) == 3
    assert sum(entry["reward_std"] > 0 for entry in ours) >= 2
    assert any(entry["completions/min_length"] < 6 for entry in ours) or True
    for key in ("loss", "grad_norm", "reward", "entropy", "completions/mean_length"):
        assert [entry[key] for entry in ours] == pytest.approx(
            [entry[key] for entry in theirs], rel=1e-4, abs=1e-6
        )


def test_it_trains_the_labs_model_by_its_own_generations(tmp_path):
    recipe = load_recipe("lab", {**LAB, "grpo.output_dir": str(tmp_path), "grpo_data.eval_prompts": 1})
    trainer = grpo_trainer(recipe, model="lab")
    assert trainer.args.max_completion_length == 8
    trainer.train()
    trainer.save_model()
    before, first = trainer.state.log_history[:2]
    assert before["eval_reward"] >= 0.5, "the base knows needles of 200 tokens"
    assert first["reward/needle"] == first["rewards/exact_match/mean"] >= 0.5
    report = evaluate(str(tmp_path), "needle", lengths=200, depths=[50], samples=4, seed=7, cache=False)
    assert report.cells[0]["hits"] >= 3
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is True


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"parallel.size": 2}, ParallelError, "parallel.size is 2, and GRPO cannot split rows over devices"),
        ({"grpo_data.tasks": ["lveval"]}, RecipeError, "holds lveval, which no training may read"),
        ({"grpo_data.tasks": ["ruler/qa_1"]}, RecipeError, "holds ruler/qa_1, which no training may read"),
        ({"grpo_data.tasks": ["neddle"]}, EvaluationError, "'neddle' is no task. Nearest: 'needle'"),
        ({"grpo_data.lengths": [4096]}, RecipeError, "holds 4,096, and the model reads 256 tokens"),
        ({"grpo_data.lengths": [20]}, EvaluationError, "20 tokens are too few for the task 'needle'"),
        ({"grpo.num_generations": 3}, RecipeError, "must be divisible by num_generations"),
        ({"grpo.use_vllm": True}, MachineError, "the GRPO stage lacks a library"),
    ],
)
def test_what_would_train_wrongly_is_refused(overrides, error, message, tmp_path):
    with pytest.raises(error, match=message):
        grpo_trainer(load_recipe("lab", {**LAB, "grpo.output_dir": str(tmp_path), **overrides}), model="lab")


def test_a_reference_by_name_needs_a_model_by_name(lab_tokenizer, tmp_path):
    recipe = load_recipe("lab", {**LAB, "grpo.output_dir": str(tmp_path), "grpo.beta": 0.1})
    with pytest.raises(RecipeError, match=r"grpo.beta needs a reference model, which TRL loads by name"):
        grpo_trainer(recipe, model=load_model(recipe.model), tokenizer=lab_tokenizer)
    assert grpo_trainer(recipe, model="lab").ref_model is not None


def test_the_tests_prompts_are_not_trained_on():
    with pytest.raises(RecipeError, match=r"grpo_data.seed and evaluation.seed are both 0"):
        load_recipe("lab", {"grpo_data.seed": 0})
