import json

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.errors import ConversationError, ParallelError, RecipeError
from ultralong_hf.recipes import load_recipe
from ultralong_hf.recipes.trl_keys import trl_class
from ultralong_hf.training import orpo_trainer
from ultralong_hf.training.command_line import parse_recipe

# transformers 5.23 warns of its own deprecated names when TRL calls them
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

ROWS = [
    {"prompt": f"how many nets {n}?", "chosen": f"{n} nets", "rejected": "no nets at all" * (n % 3 + 1)}
    for n in range(10)
]


@pytest.fixture
def orpo_file(recipe_file, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    too_long = {"prompt": "long " * 50, "chosen": "yes", "rejected": "no"}
    pairs.write_text("\n".join(map(json.dumps, [*ROWS, too_long])))
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["preference_data"] = {"sources": [str(pairs)], "max_length": 96}
    recipe["orpo"] = {
        **recipe["sft"],
        "output_dir": str(tmp_path / "orpo"),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-3,
    }
    path = tmp_path / "orpo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def metrics_of(trainer, key="loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def messages(role, text):
    return [{"role": role, "content": text}]


def test_it_trains_as_trls_orpo_does_without_logits_of_whole_rows(orpo_file, base_folder):
    ours = orpo_trainer(load_recipe(orpo_file), model=str(base_folder))
    called = []
    ours.model.lm_head.register_forward_hook(lambda *call: called.append(call))
    ours.args.max_length = 96
    theirs = trl_class("experimental.orpo.ORPOTrainer")(
        model=AutoModelForCausalLM.from_pretrained(base_folder),
        args=ours.args,
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": messages("user", row["prompt"]),
                    "chosen": messages("assistant", row["chosen"]),
                    "rejected": messages("assistant", row["rejected"]),
                }
                for row in ROWS
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(base_folder),
    )
    ours.train()
    theirs.train()
    assert not called
    assert len(metrics_of(ours)) == 4
    for key in ("loss", "nll_loss", "log_odds_chosen", "rewards/margins", "logps/rejected"):
        assert metrics_of(ours, key) == pytest.approx(metrics_of(theirs, key), rel=2e-5, abs=1e-6), key
    assert metrics_of(ours, "grad_norm") == pytest.approx(metrics_of(theirs, "grad_norm"), rel=1e-4)


def test_long_pairs_are_dropped_and_the_folder_loads(orpo_file, base_folder, tmp_path, caplog):
    trainer = orpo_trainer(load_recipe(orpo_file), model=str(base_folder))
    assert len(trainer.train_dataset) == 10
    assert "1 pairs of more than 96 tokens were dropped." in caplog.messages
    row = trainer.train_dataset[0]
    learned = [token for token in row["rejected_labels"] if token != -100]
    assert trainer.processing_class.decode(learned) == "no nets at all<|end|>"
    trainer.train()
    trainer.save_model()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "orpo")
    ids = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, trainer.model.eval()(ids).logits)
    with pytest.raises(ConversationError, match="No pair is left to train on: 11 are longer than 8 tokens"):
        orpo_trainer(load_recipe(orpo_file, {"preference_data.max_length": 8}), model=str(base_folder))


def test_held_out_pairs_are_evaluated_before_the_first_step(orpo_file, base_folder):
    recipe = load_recipe(orpo_file, {"preference_data.eval_pairs": 2, "orpo.max_steps": 1})
    trainer = orpo_trainer(recipe, model=str(base_folder))
    trainer.train()
    before = trainer.state.log_history[0]
    assert before["step"] == 0
    assert before["eval_nll_loss"] > 1


def test_texts_stay_texts_without_a_chat_template(orpo_file, base_folder):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.chat_template = None
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    trainer = orpo_trainer(load_recipe(orpo_file), model=model, tokenizer=tokenizer)
    assert tokenizer.decode(trainer.train_dataset[0]["chosen_input_ids"]) == "how many nets 0?0 nets<|end|>"


def test_the_keys_are_those_of_trls_orpo():
    recipe, _ = parse_recipe(
        "orpo", ["--recipe", "lab", "--beta", "0.3", "--preference_data.max_length", "2K"]
    )
    assert (recipe.orpo["beta"], recipe.preference_data.max_length) == (0.3, 2048)
    with pytest.raises(RecipeError, match=r"orpo.loss_type is no key of trl.experimental.orpo.ORPOConfig"):
        load_recipe("lab", {"orpo.loss_type": "sigmoid"})
    with pytest.raises(RecipeError, match=r"orpo.max_length cannot be set in a recipe: use preference_data"):
        load_recipe("lab", {"orpo.max_length": 100})


def test_trls_own_orpo_trainer_is_not_split(orpo_file, base_folder):
    from ultralong_hf.parallel.plugin import _check_trainer

    ours = orpo_trainer(load_recipe(orpo_file), model=str(base_folder))
    _check_trainer(ours)
    theirs = trl_class("experimental.orpo.ORPOTrainer")(
        model=AutoModelForCausalLM.from_pretrained(base_folder),
        args=ours.args,
        train_dataset=Dataset.from_list(ROWS),
        processing_class=AutoTokenizer.from_pretrained(base_folder),
    )
    with pytest.raises(ParallelError, match="ORPOTrainer computes its loss from one device's tokens"):
        _check_trainer(theirs)
