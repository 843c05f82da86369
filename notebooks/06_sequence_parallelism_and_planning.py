# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Sequence parallelism and planning
#
# What continued pretraining at 1M, 2M and 4M tokens takes, before a GPU is hired; then one row shared by
# two processes, with the numbers of one. Needs no GPU and no network; a minute on 2 cores. On GPUs the
# commands of the last section take the place of the two processes.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("ultralong_hf") is None:  # Colab, for one
    in_a_clone = Path("../pyproject.toml").exists()
    source = [".."] if in_a_clone else ["git+https://github.com/ORG/ultralong_hf"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *source], check=True)

# %% [markdown]
# ## The least number of GPUs
#
# `plan` is arithmetic on the shape of Llama-3.1-8B: no weights are read. None of the plans below was run;
# [Planning](../docs/planning.md) compares the arithmetic with runs that others published. Without `gpus` it
# looks for the least number of H100s that fit.

# %%
from ultralong_hf import plan

least = {length: plan(f"ultralong-{length.lower()}") for length in ("1M", "2M", "4M")}
print("tokens  GPUs  share a row  backend  GiB a GPU  usable  rows a step  min a step  GPU-hours")
for length, found in least.items():
    print(
        f"{length:>6}{found.gpus:>6}{found.sizes.degree:>13}  {found.sizes.backend}"
        f"{found.footprint.total / 2**30:>11.1f}{found.usable / 2**30:>8.1f}{found.timing.rows:>13}"
        f"{found.timing.seconds / 60:>12.1f}{found.gpu_hours:>11,.0f}"
    )

# %% [markdown]
# The same on 4 to 64 GPUs: what lies below the dashed line fits. The time of a step halves with each
# doubling because the plan assumes the same share of the GPUs' peak for all of them.

# %%
import matplotlib.pyplot as plt

counts = [4, 8, 16, 32, 64]
figure, (memory, time) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for length in least:
    plans = [plan(f"ultralong-{length.lower()}", gpus=count) for count in counts]
    memory.plot(counts, [found.footprint.total / 2**30 for found in plans], "o-", label=length)
    time.plot(counts, [found.timing.seconds / 60 for found in plans], "o-", label=length)
memory.axhline(least["1M"].usable / 2**30, color="tab:gray", linestyle="--", label="usable")
memory.set(xscale="log", ylabel="GiB a GPU", ylim=0)
time.set(xscale="log", yscale="log", ylabel="minutes a step, assumed", yticks=[1, 10, 100])
time.set_yticklabels(["1", "10", "100"])
for axes in (memory, time):
    axes.set(xlabel="GPUs", xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.legend()
plt.show()

# %% [markdown]
# ## 4M tokens on 8 GPUs
#
# The picture of a plan: memory by part, and the same with each option turned.

# %%
from IPython.display import display

from ultralong_hf.planning.picture import plan_figure

tight = plan("ultralong-4m", gpus=8)
display(plan_figure(tight))
print(f"fits: {tight.fits}; {tight.next_change().sentence()}")

# %% [markdown]
# As planned it does not fit. Two options of the recipe and twice the GPUs bring it below the line, each at
# its price; `plan(...).table()` and `ultralong plan` name the price of each.
#
# ## Files to launch with
#
# `ultralong launch-config` writes accelerate's YAML and a SLURM batch script for a plan. How devices share
# rows is in neither: the recipe's section `parallel` says it.

# %%
import os
import tempfile
from pathlib import Path

from ultralong_hf import cli

work = Path(tempfile.mkdtemp())
os.chdir(work)
for length in least:
    cli.main(["launch-config", f"ultralong-{length.lower()}", "--output", f"launch-{length}"])
print()
print(Path("launch-4M", f"{least['4M'].gpus}-gpus.yaml").read_text())

# %% [markdown]
# ## Two processes share a row
#
# Four steps of the recipe `lab` on rows of 1,024 tokens, by accelerate's `notebook_launcher`: two processes
# of this machine, which speak through gloo. They must come before anything is trained in this kernel; to
# run the cell again, restart the kernel.

# %%
import contextlib
import io
import json
import socket

from accelerate import notebook_launcher


def train(size: int, folder: str) -> None:
    """Four steps whose rows `size` processes share; the first one leaves what it measured."""
    import torch

    from ultralong_hf import cpt_trainer, load_recipe

    torch.set_num_threads(1)
    keys = {
        "parallel.size": size,
        "data.target_length": "1K",
        "rope.scale": 8,
        "data.output_dir": f"{folder}/store",
        "cpt.output_dir": f"{folder}/cpt",
        "cpt.max_steps": 4,
        "cpt.logging_steps": 1,
        "cpt.eval_strategy": "no",
        "cpt.save_strategy": "no",
        "cpt.disable_tqdm": True,
    }
    widths = []
    with contextlib.redirect_stdout(io.StringIO()) as said:
        trainer = cpt_trainer(load_recipe("lab", keys))
        trainer.model.register_forward_pre_hook(
            lambda model, args, batch: widths.append(batch["input_ids"].shape[1]) if model.training else None,
            with_kwargs=True,
        )
        trainer.train()
    if trainer.accelerator.process_index == 0:
        steps = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        found = {key: [float(entry[key]) for entry in steps] for key in ("loss", "grad_norm")}
        reasons = [line for line in said.getvalue().splitlines() if line.startswith("parallel:")]
        found |= {"widths": widths, "reasons": reasons}
        Path(folder, f"{size}.json").write_text(json.dumps(found))


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
notebook_launcher(train, (2, str(work)), num_processes=2, use_port=str(port))
two = json.loads((work / "2.json").read_text())
print("\n".join(two["reasons"]))
print("tokens of a row in the first process, step by step:", two["widths"])

# %% [markdown]
# ("CUDAs" is accelerate's word for any device; the processes above ran on the CPU.)
#
# ## The same on one process
#
# The same recipe, seed and rows, in this kernel.

# %%
notebook_launcher(train, (1, str(work)), num_processes=1)
one = json.loads((work / "1.json").read_text())
print("tokens of a row, step by step:", one["widths"])
print("step        loss: one         two    gradient norm: one         two")
for step in range(4):
    loss, norm = ([found[key][step] for found in (one, two)] for key in ("loss", "grad_norm"))
    print(f"{step + 1:>4}{loss[0]:>17.6f}{loss[1]:>12.6f}{norm[0]:>23.6f}{norm[1]:>12.6f}")
    for alone, shared in (loss, norm):
        assert abs(shared - alone) <= 1e-4 * abs(alone)

# %% [markdown]
# Each process held half of every row. Loss and gradient norm agree to the last digits of float32, also after
# steps were taken. (Each step has a row of its own, and four of them teach nothing: the loss says only that
# both did the same.)

# %%
figure, (loss, off) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
steps = [1, 2, 3, 4]
loss.plot(steps, one["loss"], "o-", markersize=10, label="one process")
loss.plot(steps, two["loss"], "x--", label="two share a row")
loss.set(xlabel="step", ylabel="loss", xticks=steps)
loss.legend()
for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
    apart = [abs(a - b) / abs(a) for a, b in zip(one[key], two[key], strict=True)]
    off.plot(steps, apart, "o-", label=name)
off.axhline(2**-24, color="tab:gray", linestyle="--", label="rounding of one float32")
off.set(xlabel="step", ylabel="relative difference", xticks=steps, ylim=0)
off.legend()
plt.show()

# %% [markdown]
# ## On GPUs
#
# Rows shared by GPUs were not run yet. The commands; `--check-parallel` makes this notebook's comparison on
# the devices themselves, before hours are spent:
#
# ```
# ultralong plan ultralong-1m --gpus 8
# ultralong launch-config ultralong-1m --gpus 8 --output launch
# accelerate launch --config_file launch/8-gpus.yaml examples/cpt.py --recipe ultralong-1m --check-parallel
# accelerate launch --config_file launch/8-gpus.yaml examples/cpt.py --recipe ultralong-1m
# ultralong launch-config ultralong-4m --gpus 32 --output launch
# sbatch launch/32-gpus.sbatch
# ```
#
# In a clone of the repository; the last two lines are for a cluster with SLURM. [One row over many
# devices](../docs/parallel.md) has the backends, and what is refused.
