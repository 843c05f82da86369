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
# # 8. Chat and serving
#
# Questions over a document in this process, then the same model behind a server on this machine. Needs no
# GPU and no network; two to three minutes on 2 busy cores, mostly to train the lab's model. On GPUs the
# model and the server change, as the last section says.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("ultralong_hf") is None:  # Colab, for one
    in_a_clone = Path("../pyproject.toml").exists()
    source = "..[chat]" if in_a_clone else "ultralong_hf[chat] @ git+https://github.com/ORG/ultralong_hf"
    command = [sys.executable, "-m", "pip", "install", "-q", source, "transformers[serving]"]
    subprocess.run(command, check=True)

# %% [markdown]
# ## A model that reads 2,048 tokens
#
# The lab's recipe, shortened: continued pretraining of the base model, from its 256 tokens to 2,048. (Without
# a model `open_chat_engine()` and `ultralong chat` make the whole recipe's, to 4,096 tokens, in some
# minutes, once.)

# %%
import contextlib
import io
import os
import tempfile
from pathlib import Path

from ultralong_hf import cpt_trainer, load_recipe

work = Path(tempfile.mkdtemp())
os.chdir(work)
recipe = load_recipe(
    "lab",
    {
        "data.target_length": "2K",
        "data.output_dir": "store",
        "data.eval_rows": 0,
        "rope.scale": 16,
        "cpt.output_dir": "tiny-2k",
        "cpt.max_steps": 120,
        "cpt.eval_strategy": "no",
        "cpt.save_strategy": "no",
        "cpt.disable_tqdm": True,
    },
)
with contextlib.redirect_stdout(io.StringIO()):
    trainer = cpt_trainer(recipe)
    result = trainer.train()
    trainer.save_model()
print(f"{result.global_step} steps in {result.metrics['train_runtime']:.0f} s")

# %% [markdown]
# ## A long document
#
# Source code of Python's library that the model was not trained on, with four facts among its lines.

# %%
from ultralong_hf.lab.corpus import held_out_documents

facts = {
    "What is the access code of the upper harbour?": "The access code of the upper harbour is 40713.",
    "What is the room number of the old mill?": "The room number of the old mill is 51946.",
    "What is the locker code of the north lighthouse?": "The locker code of the north lighthouse is 27380.",
    "What is the radio channel of the south station?": "The radio channel of the south station is 83625.",
}
lines = [line for line in "\n".join(held_out_documents()).splitlines() if line.strip()][:130]
for place, statement in zip((10, 50, 80, 120), facts.values(), strict=True):
    lines.insert(place, statement)
characters = Path("harbour.md").write_text("\n".join(lines))
print(f"{len(lines)} lines, {characters:,} characters")

# %% [markdown]
# ## A session
#
# A service holds one engine, and a session for each user. The meter counts tokens before anything is asked;
# a file that is no text is refused with a reason.

# %%
from ultralong_hf.chat.engine import Options
from ultralong_hf.chat.opening import LAB_ANSWER_START, open_chat_engine
from ultralong_hf.chat.session import ChatService

Path("photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
engine, recall = open_chat_engine("tiny-2k", style="bare", answer_start=LAB_ANSWER_START, name="tiny-2k")
service = ChatService(engine, recall=recall, options=Options(max_new_tokens=24))
session = service.open()
print(session.add(["harbour.md", "photo.png"]))
meter = session.meter(next(iter(facts)))
print(f"{meter.documents}, {meter.around} around them, {meter.answer} for the answer")
print(f"{meter.total:,} of {meter.window:,} tokens")

# %%
for question in facts:
    for _ in session.ask(question):  # Prefill, Piece, ..., Reply
        pass
    turn = session.turns[-1]
    print(turn.answer, "|", turn.reply.reuse, "|", turn.evidence.message)

# %% [markdown]
# The document is read once: each further question reads only what is new. The evidence is looked up in the
# document, letter by letter. Beside it stands where the model looked while it answered:

# %%
import matplotlib.pyplot as plt

text = session.documents[0].text
figure, axes = plt.subplots(figsize=(8, 2.6))
for row, (turn, statement) in enumerate(zip(session.turns, facts.values(), strict=True)):
    for passage in turn.passages:
        shade = plt.cm.Blues(0.3 + passage.share)
        axes.barh(row, passage.end - passage.start, left=passage.start, color=shade)
    axes.plot(text.index(statement), row, "r|", markersize=18)
axes.set(yticks=range(len(facts)), yticklabels=[f"question {n + 1}" for n in range(len(facts))])
axes.set(xlim=(0, len(text)), ylim=(len(facts) - 0.5, -0.5), xlabel="character of the document")
axes.set_title("passages by attention (blue), and where the fact stands (red)", fontsize=10)
plt.show()
for turn in session.turns:
    best = turn.passages[0]
    print(f"{best.share:.0%} of the attention: {session.documents[0].place(best.start, best.end)}")

# %% [markdown]
# Each time the passage with the most attention is that of the fact. Attention says where a model looked, not
# that it understood.
#
# ## What does not fit
#
# With a second document it is longer than the window: refused with the numbers, then cut as asked.

# %%
from ultralong_hf import UltraLongError

Path("more.md").write_text("\n".join(lines[40:100]))
session.add(["more.md"])
try:
    list(session.ask("What is the room number of the old mill?"))
except UltraLongError as error:
    print(type(error).__name__, error)
for note in session.cut("ends"):
    print(note)
print(f"now {session.meter().total:,} of {session.meter().window:,}")
service.close(session.name)  # documents, chat and cache are deleted

# %% [markdown]
# ## The page
#
# `ultralong chat` starts the same session as a page in the browser, on this machine alone:
#
# ```
# ultralong chat                                                # the lab's model, made once
# ultralong chat tiny-2k --style bare --documents harbour.md
# ultralong chat --engine http://127.0.0.1:8000/v1 --model NAME --tokenizer MODEL
# ```
#
# ## A server
#
# `serve_config` (in the shell: `ultralong serve-config tiny-2k --engine transformers --gpu cpu`) gives the
# command that serves a model at its full length, or why it would be served wrongly. Here transformers' own
# server, on a free port of this machine.

# %%
import socket

from ultralong_hf.serving import serve_config

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
found = serve_config("tiny-2k", engine="transformers", gpu="cpu", port=port)
print(found.shell())
print("faults:", found.faults)
print(*found.notes, sep="\n")

# %% [markdown]
# One request by the standard library, then `ultralong eval needle` with the server as its engine. Whatever
# happens, the server is stopped at the end of the cell.

# %%
import json
import time
import urllib.request

from ultralong_hf import cli

url = f"http://127.0.0.1:{port}"
question, statement = next(iter(facts.items()))
asked = {"model": "tiny-2k", "prompt": f"{text}\n{question}\nThe", "max_tokens": 16, "temperature": 0}
[[_, *arguments]] = found.commands
command = [sys.executable, "-m", "transformers.cli.transformers", *arguments]
environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(work / "hub")}
Path("hub").mkdir()
with Path("server.log").open("w") as log:
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        for _ in range(240):
            assert server.poll() is None, Path("server.log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            time.sleep(0.5)
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            reply = json.load(response)
        print(reply["usage"])
        print("The" + reply["choices"][0]["text"].partition("\n")[0])
        print()
        words = ["--lengths", "512,1K,2K", "--samples", "1", "--output", "served"]
        words += ["--engine", f"{url}/v1", "--engine-model", "tiny-2k"]
        assert cli.main(["eval", "needle", "tiny-2k", *words]) == 0
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
print("server stopped:", server.poll() is not None)

# %%
from IPython.display import Image, display

display(Image("served/heatmap.png", width=500))

# %% [markdown]
# The note on other tokens is the price of a server that takes prompts as text: vLLM and SGLang are sent
# token ids.
#
# ## On GPUs
#
# What vLLM needs for a model of 8B parameters at 1M tokens, from its config alone:

# %%
from transformers import LlamaConfig

from ultralong_hf import extend_context

config = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=131_072,
    dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)
extend_context(config, "1M", method="llama3").save_pretrained("llama-1m")
needs = serve_config("llama-1m", engine="vllm", gpu="h100-80g")
fit = needs.fit
print(f"{fit.gpus} x {needs.gpu}, {needs.kv_bytes_per_token / 1024:.0f} KiB of KV cache a token")
print(f"of each GPU, GiB: weights {fit.weights / 2**30:.1f}, cache of one sequence {fit.cache / 2**30:.1f}")
print(needs.shell())

# %% [markdown]
# That is arithmetic; no GPU has served it yet. There:
#
# ```
# ultralong serve-config outputs/ultralong-1m/sft --engine vllm --length 1M
# ultralong serve-config outputs/ultralong-1m/sft --engine vllm --length 1M --check http://127.0.0.1:8000/v1
# ultralong eval needle MODEL --engine http://127.0.0.1:8000/v1 --engine-model NAME --lengths 128K,1M
# ultralong chat --engine http://127.0.0.1:8000/v1 --model NAME --tokenizer MODEL
# ```
#
# The second line asks the running server for its window. [Serve the model](../docs/howto/serve.md) and
# [Chat](../docs/chat.md) have the rest.
