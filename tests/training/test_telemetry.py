"""What a run logs beside its plan, and how it ends without memory."""

import re

import pytest
import torch
from transformers import TrainerCallback

from ultralong_hf import cli
from ultralong_hf.errors import MachineError, OutOfMemory
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training import cpt_trainer, sft_trainer
from ultralong_hf.training.command_line import run

VALUES = {"tokens_per_second", "peak_memory_gib", "planned_peak_memory_gib"}


def lab(folder, **keys):
    return load_recipe(
        "lab",
        {
            "data.target_length": 256,
            "data.eval_rows": 0,
            "data.output_dir": str(folder / "store"),
            "rope.scale": 2,
            "instruct.max_length": 512,
            "instruct.output_dir": str(folder / "blend"),
            "evaluation.lengths": [256],
            **{
                f"{stage}.{key}": value
                for stage in ("cpt", "sft")
                for key, value in {
                    "output_dir": str(folder / stage),
                    "max_steps": 2,
                    "logging_steps": 1,
                    "eval_strategy": "no",
                    "save_strategy": "no",
                    "disable_tqdm": True,
                }.items()
            },
            **keys,
        },
    )


class Tracker(TrainerCallback):
    """Sees what a tracker of report_to sees."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_the_plan_is_printed_and_every_log_has_what_was_measured_beside_it(tmp_path, capsys):
    tracker = Tracker()
    trainer = cpt_trainer(lab(tmp_path), callbacks=[tracker])
    trainer.train()
    assert trainer.plan.table(changes=False) in capsys.readouterr().out
    steps = [logs for logs in tracker.logs if "loss" in logs]
    assert len(steps) == 2
    for logs in [*steps, *(entry for entry in trainer.state.log_history if "loss" in entry)]:
        assert logs.keys() >= VALUES
        assert logs["tokens_per_second"] > 0
        planned = trainer.plan.footprint.total / 2**30
        assert logs["planned_peak_memory_gib"] == pytest.approx(planned, rel=1e-3)
        assert logs["peak_memory_gib"] > 0
        assert "mfu" not in logs, "a CPU has no stated peak"


def test_tokens_of_short_samples_are_those_that_trl_counts(tmp_path):
    trainer = sft_trainer(lab(tmp_path), model="lab")
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    seconds = [
        (later["num_tokens"] - earlier) / later["tokens_per_second"]
        for earlier, later in zip((0.0, steps[0]["num_tokens"]), steps, strict=True)
    ]
    assert all(0 < one < 60 for one in seconds)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
        ),
        MemoryError(),
    ],
)
def test_a_run_without_memory_ends_with_the_plan_and_the_next_option(tmp_path, monkeypatch, error):
    trainer = cpt_trainer(lab(tmp_path, **{"cpt.activation_checkpointing": False}))

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(type(trainer), "training_step", fail)
    with pytest.raises(OutOfMemory) as caught:
        trainer.train()
    text = str(caught.value)
    assert text.startswith("out of memory: ")
    assert "planned: " in text
    assert re.search(r"next: .*, planned .* a device\. Price: ", text)
    assert issubclass(OutOfMemory, MachineError)


def test_other_errors_stay_as_they_are(tmp_path, monkeypatch):
    trainer = cpt_trainer(lab(tmp_path))

    def fail(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(type(trainer), "training_step", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train()


def test_a_script_prints_each_line_and_ends_with_status_1(capsys):
    def main():
        raise OutOfMemory("out of memory: x", "next: y")

    assert run(main) == 1
    assert capsys.readouterr().err == "error: out of memory: x\nerror: next: y\n"
    assert "plan" in cli.COMMANDS
