import json
from itertools import count

import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer

from ultralong_hf.data.pairs import read_pairs
from ultralong_hf.errors import ConversationError, ModelError, RecipeError
from ultralong_hf.lab.preferences import preferences
from ultralong_hf.recipes import load_recipe
from ultralong_hf.recipes.schema import PreferenceDataSection
from ultralong_hf.training import cpt_trainer, preference_trainer

# transformers 5.23 warns of its own deprecated names when TRL calls them
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ROWS = [
    {"prompt": f"how many nets {n}?", "chosen": f"{n} nets", "rejected": "no nets at all" * (n % 3 + 1)}
    for n in range(10)
]


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    too_long = {"prompt": "long " * 50, "chosen": "yes", "rejected": "no"}
    path.write_text("\n".join(map(json.dumps, [*ROWS, too_long])))
    return path


@pytest.fixture
def dpo_file(recipe_file, pairs_file, base_folder, tmp_path):
    """The recipe with a preference stage of 4 steps of 2 pairs, which starts from the base."""
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["preference_data"] = {"sources": [str(pairs_file)], "max_length": 96}
    recipe["preference"] = {
        **recipe["sft"],
        "output_dir": str(tmp_path / "preference"),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 1e-3,
    }
    path = tmp_path / "dpo.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def metrics_of(trainer, key="loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def make(dpo_file, base_folder, **overrides):
    return preference_trainer(load_recipe(dpo_file, overrides), model=str(base_folder))


def test_it_trains_as_trls_dpo_does_on_the_same_pairs(dpo_file, base_folder, tmp_path):
    ours = make(dpo_file, base_folder)
    theirs = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(base_folder),
        ref_model=AutoModelForCausalLM.from_pretrained(base_folder),
        args=ours.args,
        train_dataset=Dataset.from_list(
            [
                {
                    "prompt": [user(row["prompt"])],
                    "chosen": [assistant(row["chosen"])],
                    "rejected": [assistant(row["rejected"])],
                }
                for row in ROWS
            ]
        ),
        processing_class=AutoTokenizer.from_pretrained(base_folder),
    )
    ours.train()
    theirs.train()
    assert len(metrics_of(ours)) == 4
    assert metrics_of(ours) == pytest.approx(metrics_of(theirs), rel=1e-6)
    assert metrics_of(ours, "grad_norm") == pytest.approx(metrics_of(theirs, "grad_norm"), rel=1e-5)
    assert metrics_of(ours, "rewards/margins")[-1] > 0.01


def test_it_starts_from_what_the_sft_stage_left(dpo_file, base_folder, tmp_path):
    recipe = load_recipe(dpo_file, {"preference.save_strategy": "no"})
    with pytest.raises(ModelError, match=r"holds no model yet: run examples/sft.py with this recipe first"):
        preference_trainer(recipe)
    left = cpt_trainer(load_recipe(dpo_file, {"cpt.output_dir": str(tmp_path / "sft"), "data.eval_rows": 0}))
    left.save_model()
    trainer = preference_trainer(recipe)
    assert trainer.model.config.max_position_embeddings == 128
    assert trainer.ref_model.config.max_position_embeddings == 128
    trainer.train()
    trainer.save_model()
    keys = json.loads((tmp_path / "preference" / "config.json").read_text())
    assert keys["rope_scaling"]["factor"] == keys["rope_parameters"]["factor"] == 4
    assert not (tmp_path / "preference" / "training_args.bin").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "preference")
    row = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.equal(model(row).logits, trainer.model.eval()(row).logits)


def test_pairs_that_are_too_long_are_dropped_and_counted(dpo_file, base_folder, caplog):
    trainer = make(dpo_file, base_folder)
    assert len(trainer.train_dataset) == 10
    assert "1 pairs of more than 96 tokens were dropped." in caplog.messages
    with pytest.raises(ConversationError, match="No pair is left to train on: 11 are longer than 8 tokens"):
        make(dpo_file, base_folder, **{"preference_data.max_length": 8})


def test_batches_have_no_mask_of_their_padding(dpo_file, base_folder):
    trainer = make(dpo_file, base_folder)
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[2]])
    assert batch["attention_mask"].all()
    # a byte, or a special token, is a token: "uhow many nets 0?ea" and then "0 netse"
    learned = [
        trainer.processing_class.decode(row[mask.bool()])
        for row, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    assert learned[0] == "0 nets<|end|>"
    assert learned[3] == "no nets at allno nets at allno nets at all<|end|>"


def test_a_resumed_run_equals_one_that_was_not_interrupted(dpo_file, base_folder, tmp_path):
    whole = make(dpo_file, base_folder)
    whole.train()
    resumed = make(dpo_file, base_folder, **{"preference.output_dir": str(tmp_path / "resumed")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "preference" / "checkpoint-2"))
    assert len(metrics_of(whole)) == 4
    assert metrics_of(resumed) == metrics_of(whole)
    expected = load_file(tmp_path / "preference" / "checkpoint-4" / "model.safetensors")
    got = load_file(tmp_path / "resumed" / "checkpoint-4" / "model.safetensors")
    assert all(expected[name].equal(got[name]) for name in expected)


def test_a_reference_computed_beforehand_trains_alike_and_leaves_the_memory(dpo_file, base_folder, tmp_path):
    held_out = {"preference_data.eval_pairs": 3}
    beside = make(dpo_file, base_folder, **held_out)
    beside.train()
    before = make(dpo_file, base_folder, **held_out, **{"preference.precompute_ref_log_probs": True})
    assert before.ref_model is None
    before.train()
    assert metrics_of(before) == pytest.approx(metrics_of(beside), rel=1e-6)
    assert metrics_of(before, "eval_loss") == pytest.approx(metrics_of(beside, "eval_loss"), rel=1e-6)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "preference" / "reference").iterdir()}
    assert sorted(name.split("-")[0] for name in kept) == ["eval", "train"]
    make(dpo_file, base_folder, **held_out, **{"preference.precompute_ref_log_probs": True})
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "preference" / "reference").iterdir()}
    assert again == kept, "a run that goes on does not compute them again"


def test_held_out_pairs_are_evaluated_before_the_first_step(dpo_file, base_folder):
    trainer = make(dpo_file, base_folder, **{"preference_data.eval_pairs": 2})
    trainer.train()
    before = trainer.state.log_history[0]
    assert (before["step"], before["eval_loss"]) == (0, pytest.approx(0.693147, rel=1e-5))
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-6)


def test_the_reference_of_a_loaded_model_is_that_model(dpo_file, base_folder):
    """TRL would load the folder that the config names."""
    recipe = load_recipe(dpo_file)
    model = AutoModelForCausalLM.from_pretrained(base_folder)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    with pytest.raises(ModelError, match="without its tokenizer"):
        preference_trainer(recipe, model=model)
    trainer = preference_trainer(recipe, model=model, tokenizer=AutoTokenizer.from_pretrained(base_folder))
    assert trainer.model is model
    assert torch.equal(trainer.ref_model.lm_head.weight, model.lm_head.weight)


def test_an_adapter_is_switched_off_for_the_reference(dpo_file, base_folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
    trainer = preference_trainer(
        load_recipe(dpo_file), model=model, tokenizer=AutoTokenizer.from_pretrained(base_folder)
    )
    assert trainer.ref_model is None
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "preference" / "adapter_model.safetensors").is_file()
    assert metrics_of(trainer)[0] == pytest.approx(0.693147, rel=1e-5)


def test_exact_angles_of_the_earlier_stages_stay_on_in_both_models(dpo_file, base_folder, tmp_path):
    overrides = {"cpt.output_dir": str(tmp_path / "sft"), "rope.exact_angles": True, "data.eval_rows": 0}
    left = cpt_trainer(load_recipe(dpo_file, overrides))
    left.save_model()
    trainer = preference_trainer(load_recipe(dpo_file))
    row = torch.arange(100)[None]
    with torch.no_grad():
        expected = left.model.eval()(row).logits
        for model in (trainer.model, trainer.ref_model):
            assert torch.equal(model.eval()(row).logits, expected)


TWO = [user("hi"), assistant("hello")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "what?", "chosen": "a", "rejected": "b"},
        {"prompt": [user("what?")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"prompt": "what?", "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"chosen": [user("what?"), assistant("a")], "rejected": [user("what?"), assistant("b")]},
        {
            "prompt": "what?",
            "chosen": [user("what?"), assistant("a")],
            "rejected": [user("what?"), assistant("b")],
        },
    ],
)
def test_every_form_of_a_pair_is_the_same_pair(base_folder, row):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    pair = read_pairs(PreferenceDataSection(), [("here", row)], tokenizer)[0]
    assert pair == {"prompt": [user("what?")], "chosen": [assistant("a")], "rejected": [assistant("b")]}


def test_without_a_chat_template_texts_stay_texts(base_folder):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.chat_template = None
    row = {"prompt": "what? ", "chosen": "a", "rejected": "b"}
    assert read_pairs(PreferenceDataSection(), [("here", row)], tokenizer)[0] == row
    with pytest.raises(ConversationError, match="has no chat template, and this is no prompt with two"):
        read_pairs(PreferenceDataSection(), [("here", {**row, "chosen": TWO})], tokenizer)


def test_malformed_pairs_are_told_with_their_places(base_folder):
    rows = [
        {"prompt": "x", "chosen": "a"},
        {"prompt": "x", "chosen": "a", "rejected": "a"},
        {"chosen": "a", "rejected": "b"},
        {"chosen": TWO, "rejected": [user("ho"), assistant("hello")]},
        {"prompt": "x", "chosen": "a", "rejected": 3},
        "x",
    ]
    with pytest.raises(ConversationError) as caught:
        read_pairs(
            PreferenceDataSection(),
            zip(map("row {}".format, count(1)), rows, strict=False),
            AutoTokenizer.from_pretrained(base_folder),
        )
    assert caught.value.faults == (
        "row 1: there is no 'rejected'; the columns are 'prompt', 'chosen'.",
        "row 2: the better answer and the worse one are the same.",
        "row 3: there is no 'prompt', and the answers are no whole conversations.",
        "row 4: the two conversations do not begin alike, so that there is no prompt.",
        "row 5: messages are a list that is not empty, not 3.",
        "row 6: a pair is a mapping of columns, not str.",
    )


def test_the_labs_pairs_differ_in_the_digits_of_the_last_answer():
    pairs = list(preferences(0, samples=20))
    assert pairs == list(preferences(0, samples=20))
    for pair in pairs:
        (better,), (worse,) = pair["chosen"], pair["rejected"]
        differing = [a for a, b in zip(better["content"], worse["content"], strict=True) if a != b]
        assert len(differing) == 5
        assert all(map(str.isdigit, differing))
        assert pair["prompt"][-1]["role"] == "user"


def test_keys_that_would_cut_pairs_are_refused(dpo_file):
    with pytest.raises(RecipeError, match=r"use preference_data.max_length: longer pairs are dropped"):
        load_recipe(dpo_file, {"preference.max_length": 100})
    with pytest.raises(RecipeError, match=r"preference_data.eval_pairs holds nothing out to evaluate on"):
        load_recipe(dpo_file, {"preference.eval_strategy": "steps"})
