"""Servers that run here, started by the commands of serve_config and asked for a needle at the full window.

The model is the lab's, trained to 4,096 tokens: minutes, unless ULTRALONG_LAB_MODEL names one that
`ultralong lab quickstart` left. llama.cpp needs `pip install xllamacpp gguf sentencepiece`, and in LLAMA_CPP
the folder of its repository, for the conversion. vLLM has an environment of its own: VLLM names the program
of a build for CPUs.
"""

import math
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf import cpt_trainer, evaluate, extend_context, load_recipe
from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.lab import base_model_path
from ultralong_hf.lab.corpus import held_out_documents
from ultralong_hf.publishing import publish
from ultralong_hf.serving import serve_config
from ultralong_hf.serving.asking import ask_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"  # of the lab's tokenizer there is no name
ratio = float(sys.argv[4])
written = TextModel.set_gguf_parameters
def with_factor(self):
    written(self)
    if ratio:
        self.gguf_writer.add_float32("llama.rope.scaling.attn_factor", ratio)
TextModel.set_gguf_parameters = with_factor
sys.argv = ["convert", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "f32"]
convert_hf_to_gguf.main()
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A release of the lab's model after its continued pretraining."""
    folder = tmp_path_factory.mktemp("lab")
    model = os.environ.get("ULTRALONG_LAB_MODEL")
    if model is None:
        outputs = {"data.output_dir": str(folder / "store"), "cpt.output_dir": str(folder / "cpt")}
        trainer = cpt_trainer(load_recipe("lab", outputs))
        trainer.train()
        trainer.save_model()
        model = str(folder / "cpt")
    made = publish(model, output_dir=folder / "tiny-4k", base="lab")
    assert made.faults == []
    return made.folder


@contextmanager
def running(command, port, folder, **environment):
    """The server of a command, until it answers and while the block runs."""
    (folder / "hub").mkdir()  # without a cache of the hub, transformers serve answers /v1/models with 500
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "OMP_NUM_THREADS": "1"} | environment
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            for _ in range(600):
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    if httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                        break
                except httpx2.TransportError:
                    pass
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(timeout=60)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_transformers_serve_finds_a_needle_in_the_whole_window(release, tmp_path):
    port = free_port()
    found = serve_config(release, engine="transformers", gpu="cpu", port=port)
    assert found.faults == []
    [[program, *arguments]] = found.commands
    with running([str(Path(sys.executable).with_name(program)), *arguments], port, tmp_path) as url:
        with EndpointClient(url) as client:
            served = ask_server(client, name=str(release), length=found.length)
        assert served.faults == ()
        assert served.window is None  # it does not say
        report = evaluate(
            str(release),
            "needle",
            lengths=["1K", "4K"],
            depths=[50],
            samples=4,
            engine=url,
            engine_model=str(release),
            progress=False,
        )
    assert report.recall("needle", 4096) >= 0.75


@pytest.fixture(scope="module")
def vllm():
    """The program."""
    program = os.environ.get("VLLM")
    if program is None:
        pytest.skip("VLLM does not name a vllm program for CPUs")
    return program


@contextmanager
def vllm_serving(program, model, folder):
    """vLLM by the command printed, on a CPU, without compiling first."""
    port = free_port()
    [[_, *arguments]] = serve_config(model, engine="vllm", gpu="cpu", port=port).commands
    command = [program, *arguments, "--dtype", "float32", "--enforce-eager"]
    with running(command, port, folder, VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1") as url:
        yield url


def test_vllm_finds_a_needle_in_the_whole_window(release, tmp_path, vllm):
    with vllm_serving(vllm, release, tmp_path) as url:
        with EndpointClient(url) as client:
            assert ask_server(client, name=str(release), length=4096).window == 4096
        options = {"lengths": ["1K", "4K"], "depths": [0, 50, 100], "samples": 2, "progress": False}
        report = evaluate(str(release), "needle", engine=url, engine_model=str(release), **options)
    assert report.recall("needle", 4096) >= 0.75


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vllm_computes_yarn_with_its_attention_factor_as_transformers_does(tmp_path, vllm):
    model = tmp_path / "yarn"
    extend_context(base_model_path(), "4K", output_dir=model, attention_factor=1.1)
    ids, expected = next_token(model, 3000)
    with vllm_serving(vllm, model, tmp_path) as url, EndpointClient(url) as client:
        asked = {"prompt": ids, "max_tokens": 1, "logprobs": 5, "return_tokens_as_token_ids": True}
        answer = client.post("completions", {"model": str(model), **asked})
    [likeliest] = answer["choices"][0]["logprobs"]["top_logprobs"]
    found = {int(name.rpartition(":")[2]): value for name, value in likeliest.items()}
    assert len(found) >= 5
    assert max(abs(expected[one].item() - value) for one, value in found.items()) < 1e-3


@pytest.fixture(scope="module")
def llama_cpp():
    """The wheel with llama.cpp's server, and the repository with its conversion."""
    pytest.importorskip("gguf")
    pytest.importorskip("sentencepiece")
    repository = os.environ.get("LLAMA_CPP")
    if repository is None:
        pytest.skip("LLAMA_CPP does not name llama.cpp's repository")
    return pytest.importorskip("xllamacpp"), repository


def convert(repository, model, file, ratio=0.0):
    arguments = [repository, str(model), str(file), str(ratio)]
    subprocess.run([sys.executable, "-c", CONVERT, *arguments], check=True, capture_output=True)


def start(xllamacpp, file, length, **flags):
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    settings = {"n_ctx": length, "n_parallel": 1, "n_gpu_layers": 0, "warmup": False, "verbosity": 0}
    for name, value in (settings | {"port": 0, "fit_params": False} | flags).items():
        setattr(params, name, value)
    return xllamacpp.Server(params)


def test_llama_cpp_finds_a_needle_in_the_whole_window(release, tmp_path, llama_cpp):
    xllamacpp, repository = llama_cpp
    found = serve_config(release, engine="llama.cpp", gpu="cpu")
    assert found.faults == []
    convert(repository, release, tmp_path / "tiny-4k.gguf")
    server = start(xllamacpp, tmp_path / "tiny-4k.gguf", found.length)
    url = f"{server.listening_address}/v1"
    with EndpointClient(url) as client:
        assert ask_server(client, name="tiny-4k", length=found.length).window == found.length
    options = {"lengths": ["1K", "4K"], "depths": [0, 50, 100], "samples": 2, "progress": False}
    report = evaluate(str(release), "needle", engine=url, engine_model="tiny-4k.gguf", **options)
    assert report.recall("needle", 4096) >= 0.75


@pytest.mark.parametrize("attention_factor", [None, 1.1])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_llama_cpp_computes_yarn_by_the_flags_given_and_not_without(tmp_path, llama_cpp, attention_factor):
    xllamacpp, repository = llama_cpp
    model = tmp_path / "yarn"
    extend_context(base_model_path(), "4K", output_dir=model, attention_factor=attention_factor)
    [_, command] = serve_config(model, engine="llama.cpp", gpu="cpu").commands
    flags = dict(pairwise(command))
    ratio = 0.0
    if attention_factor is not None:
        ratio = float(flags["--override-kv"].rpartition(":")[2])
        assert ratio == pytest.approx(attention_factor / (0.1 * math.log(16) + 1), rel=1e-6)
    convert(repository, model, tmp_path / "yarn.gguf", ratio)
    ids, expected = next_token(model, 3000)
    betas = {
        "yarn_beta_fast": float(flags["--yarn-beta-fast"]),
        "yarn_beta_slow": float(flags["--yarn-beta-slow"]),
    }
    given = largest_difference(start(xllamacpp, tmp_path / "yarn.gguf", 4096, **betas), ids, expected)
    bare = largest_difference(start(xllamacpp, tmp_path / "yarn.gguf", 4096), ids, expected)
    assert given < 0.05  # its cache is float16
    assert bare > 0.5


def next_token(model, length):
    """Ids of real text, and the log-probabilities of what follows them, by transformers."""
    text = "\n".join(document for document, _ in zip(held_out_documents(), range(40), strict=False))
    ids = AutoTokenizer.from_pretrained(model)(text)["input_ids"][:length]
    assert len(ids) == length
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model)(torch.tensor([ids])).logits[0, -1]
    return ids, torch.log_softmax(logits, -1)


def largest_difference(server, ids, expected):
    """Of the log-probabilities of the 20 likeliest next tokens."""
    asked = {"prompt": ids, "n_predict": 1, "logprobs": 20, "temperature": 0.0, "cache_prompt": False}
    [choice] = server.handle_completions(asked)["choices"]
    found = choice["logprobs"]["content"][0]["top_logprobs"]
    assert len(found) == 20
    return max(abs(expected[one["id"]].item() - one["logprob"]) for one in found)
