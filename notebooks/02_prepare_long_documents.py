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
# # 2. Prepare long documents
#
# Documents become a token store: rows of exactly the target length, joined by a separator, each token
# accounted for. Needs no GPU and no network; a minute on 2 cores. For a real corpus only the numbers
# change: `target_length="1M"`, your files, your tokenizer.

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
# ## Documents
#
# The lab's: files of Python's standard library, and generated text with facts. Most are short, as in any
# corpus.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from transformers import AutoTokenizer

from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.corpus import training_documents

work = Path(tempfile.mkdtemp())
tokenizer = AutoTokenizer.from_pretrained(base_model_path())
documents = list(training_documents(4096, seed=0))
lengths = [len(ids) for ids in tokenizer(documents)["input_ids"]]
plt.figure(figsize=(7, 2.5))
plt.hist(lengths, bins=40)
plt.xlabel("tokens of a document")
plt.show()
print(f"{len(documents)} documents, {sum(lengths):,} tokens, the longest {max(lengths):,}")

# %% [markdown]
# ## Rows, with and without a length mixture
#
# `per_source` keeps a tenth of the documents under 1K tokens and takes those over 4K twice, as the recipe
# does at 4K and 8K.

# %%
from ultralong_hf import prepare_dataset

mixture = {
    "kind": "per_source",
    "short_below": 1024,
    "short_keep": 0.1,
    "long_above": 4096,
    "long_repeat": 2.0,
}
stores = {}
for name, choice in (("plain", None), ("mixed", mixture)):
    stores[name] = prepare_dataset(
        documents,
        tokenizer=tokenizer,
        target_length="4K",
        output_dir=work / name,
        mixture=choice,
        order="shuffled",
    )
    print(name, stores[name])

# %%
from IPython.display import display

from ultralong_hf.data.showing.pictures import composition_figure, row_figure
from ultralong_hf.data.store import read_manifest

for name in stores:
    tokens = read_manifest(work / name)["tokens"]
    print(name, {key: tokens[key] for key in ("read", "packed", "separators", "dropped")})
    assert tokens["read"] == tokens["packed"] + tokens["separators"] + tokens["dropped"]
display(composition_figure(read_manifest(work / "mixed")))

# %% [markdown]
# ## One row
#
# A row is causal over its whole length: a document sees the ones before it, across the separators. Dark
# is the same document, light what came before.

# %%
from ultralong_hf.data.showing.inspection import describe_row

row = describe_row(work / "plain", 3, tokenizer=tokenizer)
display(row_figure(row, mask_documents=False))

# %% [markdown]
# ## To a trainer
#
# The store is a `datasets` folder; the collator makes batches of it: positions from 0 to the end, a mask
# of ones, no padding.

# %%
from ultralong_hf import LongContextCollator, load_packed

store = load_packed(work / "plain")
batch = LongContextCollator(target_length=4096)([store[0], store[1]])
print({key: (tuple(value.shape), value.dtype) for key, value in batch.items()})

# %% [markdown]
# ## Interruptions and damage
#
# `load_packed` compares every file with its digest. Here a byte of a shard is changed; the same
# `prepare_dataset` makes that shard again.

# %%
from ultralong_hf import UltraLongError

shard = next((work / "plain").glob("data-*.arrow"))
content = bytearray(shard.read_bytes())
content[len(content) // 2] ^= 1
shard.write_bytes(content)
try:
    load_packed(work / "plain")
except UltraLongError as error:
    print(type(error).__name__, str(error).replace(str(work), "..."))

prepare_dataset(
    documents, tokenizer=tokenizer, target_length="4K", output_dir=work / "plain", order="shuffled"
)
print(len(load_packed(work / "plain")), "rows, whole again")
