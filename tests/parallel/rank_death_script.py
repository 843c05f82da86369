"""Trains with shared rows until rank 1 does what the first word says; launched by test_rank_death.py."""

import os
import signal
import sys
import time

from cases import LENGTH, collate, tiny_llama, tokenizer, uneven_rows
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ultralong_hf.errors import StoreError
from ultralong_hf.parallel.plugin import SequenceParallelPlugin
from ultralong_hf.training.command_line import run


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise StoreError("store/data-00007.arrow does not match its digest.")


def break_down() -> None:
    raise RuntimeError("the disk of this node is gone")


def hang() -> None:
    time.sleep(600)


class Trouble(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            print(f"trouble at {time.time()}", flush=True)
            if os.environ["RANK"] == "1":
                {"die": die, "fail": fail, "break_down": break_down, "hang": hang}[sys.argv[1]]()


def main() -> None:
    args = SFTConfig(
        output_dir=sys.argv[2],
        max_steps=3,
        per_device_train_batch_size=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_timeout=5,
    )
    model = tiny_llama()
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list(uneven_rows(4)),
        data_collator=collate,
        processing_class=tokenizer(),
        callbacks=[Trouble()],
    )
    plugin = SequenceParallelPlugin(size=int(os.environ.get("DEGREE", "2")), backend="ulysses")
    plugin.resolve(model.config, LENGTH)
    plugin.attach(trainer)
    trainer.train()


if __name__ == "__main__":
    sys.exit(run(main))
