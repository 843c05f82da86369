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
# # 5. Measure what a model reads
#
# Two models are asked the same prompts: a needle grid, tasks of RULER, loss by position, a standard task.
# Then one report holds them side by side. Needs no GPU and no network; a minute or two on 2 cores. On GPUs
# the calls are the same, with a hub id in place of the lab's model; the last cell has the commands.

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
# ## Two models
#
# The lab's base, which reads 256 tokens, and the same model after 20 steps of the recipe's first stage on
# rows of 1,024 tokens.

# %%
import contextlib
import io
import tempfile
from pathlib import Path

from ultralong_hf import cpt_trainer, evaluate, load_recipe
from ultralong_hf.lab.base import base_model_path

work = Path(tempfile.mkdtemp())
changes = {
    "data.target_length": "1K",
    "data.output_dir": str(work / "store"),
    "data.eval_rows": 0,
    "data.workers": 1,
    "rope.scale": 8,
    "cpt.output_dir": str(work / "extended"),
    "cpt.max_steps": 20,
    "cpt.per_device_train_batch_size": 2,
    "cpt.eval_strategy": "no",
    "cpt.save_strategy": "no",
    "cpt.logging_strategy": "no",
    "cpt.disable_tqdm": True,
}
with contextlib.redirect_stdout(io.StringIO()):
    trainer = cpt_trainer(load_recipe("lab", changes))
    result = trainer.train()
    trainer.save_model()
models = {"base": str(base_model_path()), "extended": str(work / "extended")}
print(f"{result.global_step} steps, mean loss {result.training_loss:.2f}")

# %% [markdown]
# ## What is asked
#
# `show_sample` makes any prompt as it is sent, without running a model (`ultralong eval ... --show N`).
# Prompt and answer budget together have the length that is asked for.

# %%
from ultralong_hf.evaluation.showing import describe_sample, show_sample

sample, text = show_sample(models["base"], "needle", 3, lengths=["128"], cache=False)
print(describe_sample(sample), text, sep="\n\n")

# %% [markdown]
# ## A needle grid, and loss by position
#
# Each run writes a folder: a stopped run goes on where it stood when the same call is made again.
# `beyond_window` lets the base be asked at lengths that it was not made for; the report marks them.

# %%
shared = {"cache": False, "progress": False, "beyond_window": True}
needles = {}
for name, path in models.items():
    needles[name] = evaluate(
        path,
        ["needle", "perplexity"],
        lengths=["256", "512", "1K"],
        samples=4,
        output_dir=work / f"{name}-needle",
        **shared,
    )
    print(f"{name}\n{needles[name].table()}\n")

# %%
from IPython.display import Image, display

from ultralong_hf.evaluation import before_after_heatmap

grids = [needles[name].cells_of("needle") for name in models]
picture = before_after_heatmap(*grids, work / "needle.png", titles=tuple(models))
display(Image(filename=picture))

# %% [markdown]
# Within its window of 256 tokens the base finds every needle; beyond it, next to none. After 20 steps the
# model finds all at 1,024 tokens. Its perplexity falls with the position to the end of the row; that of the
# base rises again beyond 256 tokens. Between 64 and 256 tokens the base is better. Four samples a cell are
# few: 20 are the default.
#
# ## RULER
#
# Three of the 13 tasks, at lengths that their shortest prompts fit into: a number in noise, a chain of
# variables, the most frequent of coded words. These three need no files of the benchmark.

# %%
tasks = ["ruler/niah_single_1", "ruler/vt", "ruler/fwe"]
rulers = {}
for name, path in models.items():
    rulers[name] = evaluate(
        path, tasks, lengths=["768", "1K"], samples=4, output_dir=work / f"{name}-ruler", **shared
    )
    print(f"{name}\n{rulers[name].table()}\n")

# %% [markdown]
# A score of zero should be looked at before it is believed: each prompt is kept with its answer.

# %%
import json

with rulers["extended"].prompts.open(encoding="utf-8") as file:
    records = [json.loads(line) for line in file]
for task in tasks:
    record = next(record for record in records if record["task"] == task)
    print(f"{task}: asked for {record['references']}, answered {record['answer'][:70]!r}")

# %% [markdown]
# The extended model goes on in the lab's own wording of facts, or repeats a word: it has learned no other
# form of task. So zero here does not tell how far it reads, and neither model has an effective length.
#
# **Effective length** is the longest with a mean above 85.6 %. Of Llama 3.1 8B, by the row in RULER's own
# README (4K to 128K):

# %%
from ultralong_hf.evaluation.ruler.aggregates import effective_length

published = dict(zip((4, 8, 16, 32, 64, 128), (95.5, 93.8, 91.6, 87.4, 84.7, 77.0), strict=True))
print(f"{effective_length(published)}K")

# %% [markdown]
# ## One report of both
#
# `ultralong eval report` of the four folders: a page that needs nothing else, the same as Markdown with
# pictures, and the numbers as JSON. The first model is what the other is held to, prompt by prompt.

# %%
from ultralong_hf.evaluation.reporting import write_comparison

runs = [work / f"{name}-{part}" for name in models for part in ("needle", "ruler")]
write_comparison(runs, work / "report", names=list(models))
print(*sorted(str(path.relative_to(work)) for path in (work / "report").rglob("*.*")), sep="\n")
for picture in sorted((work / "report" / "pictures").glob("*.png")):
    if picture.stem != "needle-by-depth":  # the grid that is above
        display(Image(filename=picture, width=600))

# %% [markdown]
# In the first picture the needle's differences at 512 and 1,024 tokens lie clear of zero. At 256 there is
# none to see, and RULER's intervals reach zero: three prompts won of twelve a length are too few to tell.
#
# ## The standard side
#
# What a longer window costs on short tasks is asked through lm-eval, and told as retention: extended /
# original. MMLU, GSM8K and the others need their data from the hub:
#
# ```sh
# pip install 'ultralong-hf[eval]'
# ultralong eval standard MODEL --baseline ORIGINAL --allow-code-execution --output outputs/standard
# ```
#
# Here, without network, a task file of 30 made-up rows shows the way that it goes.

# %%
(work / "tasks").mkdir(exist_ok=True)
rows = [
    {"question": f"Room {n} is", "choices": [" red", " blue", " green"], "answer": n % 3} for n in range(30)
]
(work / "tasks" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
(work / "tasks" / "rooms.yaml").write_text(f"""\
task: rooms
dataset_path: json
dataset_kwargs: {{data_files: {{test: {work / "tasks" / "rows.jsonl"}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
""")
if importlib.util.find_spec("lm_eval") is None:
    print("lm-eval is not here: pip install 'ultralong-hf[eval]'")
else:
    standard = evaluate(
        models["extended"],
        "standard/rooms",
        include_path=work / "tasks",
        baseline=models["base"],
        prompt="plain",
        output_dir=work / "standard",
        cache=False,
        progress=False,
    )
    print(standard.table())

# %% [markdown]
# No model can know these rows, so the scores are those of chance; what is shown is the table that a real
# benchmark fills.
#
# ## On GPUs
#
# The same with a real model, as commands (not run here). A run that stops goes on when it is given again.
#
# ```sh
# ultralong eval needle,perplexity MODEL --lengths 128K,512K,1M --device auto --output outputs/needle
# ultralong eval ruler MODEL --lengths 4K,8K,16K,32K,64K,128K --output outputs/ruler
# ultralong eval ruler MODEL --lengths 1M --engine http://127.0.0.1:8000/v1 --engine-model NAME
# ultralong eval report outputs/needle outputs/ruler outputs/standard --card README.md
# ```
