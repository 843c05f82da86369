"""The lab's base model: a 2-layer Llama of 0.7 M parameters that reads 256 tokens and finds facts in them.

It ships with the package. `ultralong lab train` makes it again from nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultralong_hf.lab.curriculum import STAGES, TOKENS_A_STEP, Stage, encode_with_answers, training_rows
from ultralong_hf.lab.tokenizer import VOCAB_SIZE, train_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW = 256
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50
PROBE_EVERY = 50
PROBES = 128
TRAINING_LOG = "training_log.json"
DIGESTED = ("model.safetensors", "tokenizer.json", "config.json")


def base_model_path() -> Path:
    """The folder of the base model that ships with this package."""
    return Path(__file__).parent / "base"


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The base model before training, drawn from torch's random state."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            max_position_embeddings=WINDOW,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train_base(output_dir: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Make tokenizer and base model from nothing; returns the training log, which is written beside them.

    Raises ModelError if `output_dir` is there and not empty. On 2 quiet cores about three minutes.
    """
    from ultralong_hf.rope.folder import whole_folder

    with whole_folder(output_dir) as folder:
        return _train_into(folder, seed)


def _train_into(folder: Path, seed: int) -> dict[str, Any]:
    from transformers import set_seed

    started = time.monotonic()
    tokenizer = train_tokenizer(WINDOW)
    set_seed(seed)
    model = new_model(tokenizer)
    stages = []
    for stage in STAGES:
        stages.append(_run_stage(stage, model, tokenizer, seed, folder))
    model.config.use_cache = True  # the Trainer turned it off
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # a package file that every user reads
    tokenizer.save_pretrained(folder)
    log = {
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stages": stages,
        "recall": {length: recall(model, tokenizer, length) for length in (64, 128, WINDOW)},
        "seconds": round(time.monotonic() - started, 1),
        "python": platform.python_version(),
        "digests": folder_digests(folder),
    }
    (folder / TRAINING_LOG).write_text(json.dumps(log, indent=2) + "\n")
    return log


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of weights, tokenizer and config."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in DIGESTED}


def _run_stage(
    stage: Stage, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, folder: Path
) -> dict[str, Any]:
    from torch.utils.data import IterableDataset
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.data.data_collator import default_data_collator

    class Rows(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            return training_rows(stage, tokenizer, seed)

    class Goal(TrainerCallback):
        """Ends the stage when its loss or recall is good enough."""

        reached = False

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            loss = (logs or {}).get("loss")
            if stage.loss_goal is not None and loss is not None and float(loss) < stage.loss_goal:
                self.reached = control.should_training_stop = True

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if stage.recall_goal is None or state.global_step % PROBE_EVERY:
                return
            if recall(model, tokenizer, WINDOW) >= stage.recall_goal:
                self.reached = control.should_training_stop = True

    goal = Goal()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=stage.max_steps,
            per_device_train_batch_size=TOKENS_A_STEP // stage.length,
            learning_rate=LEARNING_RATE,
            adam_beta2=0.95,
            weight_decay=0.01,
            lr_scheduler_type="linear" if stage.decay else "constant_with_warmup",
            warmup_steps=0 if stage.decay else WARMUP_STEPS,
            logging_steps=1 if stage.loss_goal else 10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=seed,
        ),
        train_dataset=Rows(),
        data_collator=default_data_collator,
        callbacks=[goal],
    )
    result = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "stage": stage.name,
        "steps": result.global_step,
        "goal_reached": goal.reached,
        "loss": round(float(losses[-1]), 4),
        "seconds": round(result.metrics["train_runtime"], 1),
    }


def recall(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int, *, seed: int = 0
) -> float:
    """Share of chats of about `length` tokens whose first value is the model's choice, token by token."""
    import torch

    from ultralong_hf.lab.corpus import Filler, conversation

    rng = random.Random(f"probe {length} {seed}")
    filler = Filler(rng)
    hits = 0
    was_training = model.training
    model.eval()
    for _ in range(PROBES):
        messages = conversation(rng, filler, round(length * 2.5))["messages"][:2]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        ids, is_answer = encode_with_answers(text, tokenizer)
        with torch.inference_mode():
            choice = model(input_ids=torch.tensor([ids])).logits[0, :-1].argmax(-1).tolist()
        hits += all(
            chosen == token
            for chosen, token, answer in zip(choice, ids[1:], is_answer[1:], strict=True)
            if answer
        )
    model.train(was_training)
    return hits / PROBES
