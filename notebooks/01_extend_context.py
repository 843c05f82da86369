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
# # 1. Extend a context window
#
# What RoPE does, why a model reads nothing beyond its window, and what each way of stretching changes.
# Needs no GPU and no network; a minute on 2 cores. On a GPU nothing changes here but the model: give a
# hub id in place of the lab's.

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
# ## Wavelengths
#
# RoPE turns each pair of dimensions by its own frequency. In Llama 3.1 (theta 500,000, heads of 128) the
# fastest pair turns once in 6 tokens, the slowest once in some millions. Within the 8,192 tokens that the
# model was first trained on, a pair with a longer wavelength never made one turn: beyond them it takes
# angles that training has not seen.

# %%
import matplotlib.pyplot as plt
import numpy as np

wavelength = 2 * np.pi * 500_000 ** (np.arange(0, 128, 2) / 128)
plt.figure(figsize=(7, 3))
plt.semilogy(wavelength, ".")
plt.axhline(8192, color="tab:red", label="8,192 tokens")
plt.axhline(2**20, color="tab:gray", label="1M tokens")
plt.xlabel("pair of dimensions")
plt.ylabel("tokens a turn")
plt.legend()
plt.show()
print(f"{(wavelength > 8192).sum()} of 64 pairs turn less than once in 8,192 tokens")

# %% [markdown]
# ## Four ways to stretch
#
# `extend_context` takes a config, a loaded model or a folder. Here a config of Llama 3.1's numbers, to 1M
# tokens. `llama3` is the ramp over turns of the YaRN paper; `yarn` is transformers' form, with a
# temperature.

# %%
from transformers import LlamaConfig

from ultralong_hf import describe_rope, extend_context

config = LlamaConfig(
    hidden_size=4096,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131_072,
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)
for method in ("llama3", "yarn"):
    stretched = extend_context(config, "1M", method=method)
    print(method, stretched.max_position_embeddings, stretched.rope_parameters)

# %%
from IPython.display import display

from ultralong_hf.rope.drawing import rope_figure

display(rope_figure(describe_rope(config, "1M")))

# %% [markdown]
# Pairs that turn more than `beta_fast` = 4 times in 8,192 tokens are kept: they tell near tokens apart.
# Those that turn less than once are slowed by the whole scale, 128, so that 1M tokens take the angles of
# 8,192.
#
# ## What fails without it
#
# The lab's model reads 256 tokens. A fact is hidden in held-out text and asked for, at lengths within and
# beyond its window.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf import evaluate
from ultralong_hf.lab.base import base_model_path

base = str(base_model_path())
lengths = ["128", "256", "512", "1K"]
report = evaluate(base, "needle", lengths=lengths, samples=2, beyond_window=True, cache=False, progress=False)
print(report.table())

# %% [markdown]
# Beyond 256 tokens it finds nothing. Stretched, and not yet trained:

# %%
tokenizer = AutoTokenizer.from_pretrained(base)
for method in ("llama3", "yarn", "ntk", "linear"):
    model = extend_context(AutoModelForCausalLM.from_pretrained(base), "1K", method=method)
    report = evaluate(
        model, "needle", lengths=lengths, samples=2, tokenizer=tokenizer, cache=False, progress=False
    )
    print(f"{method}\n{report.table()}\n")

# %% [markdown]
# Stretching alone moves the wall, less far than it was asked to, and unlike by method. Training on rows
# of the new length is what makes the model read them: that is the recipe's first stage, and `make
# quickstart` shows it. How much a larger model reads untrained is to be measured.
#
# ## Angles in float32
#
# transformers computes angles as float32(position) x float32(frequency). At 1M tokens that is off by some
# hundredths of a radian:

# %%
from ultralong_hf.rope.frequencies import angle_error

frequencies = 1 / 500_000 ** (np.arange(0, 128, 2) / 128)
for tokens in (2**17, 2**20, 2**21, 2**22):
    print(f"{tokens:>9,} tokens: {angle_error(frequencies, tokens):.1e} rad")

# %% [markdown]
# `extend_context(..., exact_angles=True)` computes them exactly, in training and afterwards; it is off by
# default, because other programs that read the model would compute them the common way.
