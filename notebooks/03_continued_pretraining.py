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
# # 3. Continued pretraining
#
# The first stage of the recipe: a stretched model trains on rows of the new length. Here the lab's model,
# from 256 to 4,096 tokens, with an interruption in the middle. Needs no GPU and no network; a minute or two
# on 2 cores. What changes on GPUs stands at the end.

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
# ## The recipe
#
# A recipe is a preset, or a YAML file, and changes of it. `lab` takes 200 steps; 50 are enough to see what
# happens, and how much is left to do. A checkpoint is written every 20.

# %%
import tempfile
from pathlib import Path

from ultralong_hf import load_recipe

work = Path(tempfile.mkdtemp())
recipe = load_recipe(
    "lab",
    {
        "data.output_dir": str(work / "store"),
        "data.eval_rows": 0,
        "cpt.output_dir": str(work / "cpt"),
        "cpt.max_steps": 50,
        "cpt.save_steps": 20,
        "cpt.eval_strategy": "no",
        "cpt.disable_tqdm": True,
    },
)
print(recipe.rope)
print({key: recipe.cpt[key] for key in ("learning_rate", "lr_scheduler_type", "max_steps", "save_steps")})

# %% [markdown]
# ## Before
#
# The base model on documents that no stage trains on: facts hidden at five depths and asked for, and the
# loss of each token by its position. Its window is 256 tokens; `beyond_window` measures what lies behind
# it too.

# %%
from ultralong_hf import evaluate
from ultralong_hf.lab.base import base_model_path

questions = {
    "lengths": ["128", "256", "512", "1K", "2K", "4K"],
    "samples": 4,
    "beyond_window": True,
    "cache": False,
    "progress": False,
}
before = evaluate(str(base_model_path()), ["needle", "perplexity"], **questions)
print(before.table())

# %% [markdown]
# ## Training, and an interruption
#
# `cpt_trainer` makes the token store, loads and stretches the model, and returns a TRL trainer. Its
# callbacks are transformers' own. This one ends the run after step 30, as a lost machine would.

# %%
from transformers import PrinterCallback, TrainerCallback

from ultralong_hf import cpt_trainer


class Interruption(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 30


trainer = cpt_trainer(recipe, callbacks=[Interruption()])
print(f"{len(trainer.train_dataset)} rows of {len(trainer.train_dataset[0]['input_ids'])} tokens")
trainer.remove_callback(PrinterCallback)  # the losses are drawn below
trainer.train()
print("stopped at step", trainer.state.global_step)
losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}

# %% [markdown]
# `resume_point` finds the last whole checkpoint. Damaged ones are passed over. A new trainer of the same
# recipe goes on from there, with the optimizer, the schedule and the order of the rows as they were.

# %%
from ultralong_hf.training import resume_point

trainer = cpt_trainer(recipe)
trainer.remove_callback(PrinterCallback)
checkpoint = resume_point(trainer.args)
print("goes on from", Path(checkpoint).name)
trainer.train(resume_from_checkpoint=checkpoint)
trainer.save_model()
print("finished at step", trainer.state.global_step)
again = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
print({step: (losses[step], again[step]) for step in losses if step > 20})

# %%
import matplotlib.pyplot as plt

plt.figure(figsize=(7, 2.8))
plt.plot(again.keys(), again.values(), ".-")
plt.axvline(20, color="tab:gray", linestyle="--", label="went on from here")
plt.xlabel("step")
plt.ylabel("training loss")
plt.legend()
plt.show()

# %% [markdown]
# ## After
#
# The folder is an ordinary model folder. The same prompts and rows again:

# %%
after = evaluate(str(work / "cpt"), ["needle", "perplexity"], **questions)
print(after.table())

# %%
sides = {"before": before, "after 50 steps": after}
plt.figure(figsize=(7, 3))
for name, report in sides.items():
    middle = [(bucket["from"] + bucket["to"]) / 2 for bucket in report.perplexity]
    plt.semilogx(middle, [bucket["loss"] for bucket in report.perplexity], ".-", label=name, base=2)
plt.axvline(256, color="tab:gray", linestyle="--", label="window of the base")
plt.xlabel("position in the row")
plt.ylabel("loss, nats a token")
plt.legend()
plt.show()

# %%
from IPython.display import Image, display

from ultralong_hf.evaluation import before_after_heatmap

picture = before_after_heatmap(
    before.cells, after.cells, work / "needle.png", titles=("Before", "After 50 steps")
)
display(Image(str(picture)))

# %% [markdown]
# After 50 steps of the 200 most facts are found at every length; the base found next to none beyond 256
# tokens. At 2K and 4K three in ten are still missed, nearly all of them in the second half of the text. Each
# length is 20 prompts, so a few points mean nothing.
#
# The loss beyond the old window, which rose with the position, is now lower there than within it. Within the
# first 256 tokens it has risen a little: some of the short side was paid. [The lab](../docs/lab.md) tells
# what longer runs give.
#
# ## On GPUs
#
# The same trainer from a script; every key of the recipe is a flag as well. Given again after an
# interruption, the command goes on from the last whole checkpoint.
#
# ```
# accelerate launch --config_file examples/launch/8-gpus.yaml examples/cpt.py --recipe ultralong-1m
# ```
#
# That file was written by `ultralong launch-config ultralong-1m --gpus 8`; its head says what memory and
# time were planned for it. `--data.sources` names your documents, and `--check-parallel` trains nothing but
# compares a short step of this launch with one process. Rows of 1M tokens then take the place of the 4K
# here, split over devices.
