"""Commands, and what is refused because a server would compute another model."""

import json
import warnings

import numpy as np
import pytest
from rope_models import llama_31_config, tiny_configs

from ultralong_hf import extend_context
from ultralong_hf.cli import main
from ultralong_hf.errors import ReleaseError
from ultralong_hf.rope.reader_rules import transformers_5
from ultralong_hf.serving import serve_config
from ultralong_hf.serving.engines import ENGINES
from ultralong_hf.serving.other_readers import llama_cpp, tgi

M = 2**20


@pytest.fixture
def folder(tmp_path):
    """Writes a config folder of a model stretched to 1M tokens."""

    def write(config=None, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target = options.pop("target", "1M")
            extend_context(config or llama_31_config(), target, output_dir=tmp_path / "long", **options)
        return tmp_path / "long"

    return write


def flags(found, command=-1):
    """Flag -> value of a command."""
    words = found.commands[command]
    return {
        word: None if following.startswith("--") else following
        for word, following in zip(words, [*words[1:], "--"], strict=True)
        if word.startswith("--")
    }


def test_vllm_serves_the_whole_window_by_the_planners_sizes(folder):
    found = serve_config(folder(method="llama3"), engine="vllm")
    assert found.faults == []
    assert found.commands[0][:2] == ["vllm", "serve"]
    assert flags(found) == {
        "--host": "127.0.0.1",
        "--port": "8000",
        "--max-model-len": str(M),
        "--tensor-parallel-size": "4",
        "--enable-chunked-prefill": None,
        "--max-num-batched-tokens": "16384",
        "--kv-cache-dtype": "auto",
        "--gpu-memory-utilization": "0.92",
    }
    assert found.kv_bytes_per_token == 128 * 1024


def test_sglang_and_tgi_get_the_same_in_their_words(folder):
    model = folder(method="llama3")
    sglang = flags(serve_config(model, engine="sglang", gpus=2))
    assert (sglang["--context-length"], sglang["--tp-size"]) == (str(M), "2")
    assert (sglang["--kv-cache-dtype"], sglang["--chunked-prefill-size"]) == ("fp8_e4m3", "16384")
    given = flags(serve_config(model, engine="tgi", gpus=2, length="128K", kv_type="fp8"))
    assert (given["--max-input-tokens"], given["--max-total-tokens"]) == ("126976", "131072")
    assert (given["--num-shard"], given["--kv-cache-dtype"]) == ("2", "fp8_e4m3fn")


def test_transformers_has_no_flag_for_the_length_and_says_so(folder):
    found = serve_config(folder(method="llama3"), engine="transformers", length="8K")
    assert found.commands[0][:2] == ["transformers", "serve"]
    assert set(flags(found)) == {"--host", "--port"}
    assert any("no bound of the length" in note for note in found.notes)


def test_float32_weights_are_named_as_bfloat16(folder):
    found = serve_config(folder(llama_31_config(dtype="float32"), method="llama3"), engine="vllm")
    assert flags(found)["--dtype"] == "bfloat16"
    assert any("weights are float32" in note for note in found.notes)


def test_a_length_beyond_the_window_is_refused(folder):
    [fault] = serve_config(folder(method="llama3"), engine="vllm", length="2M", gpus=8).faults
    assert "takes 1,048,576 tokens at most" in fault
    assert "ultralong extend MODEL --target 2M" in fault


def test_a_tokenizer_that_bounds_the_window_is_named(folder):
    model = folder(method="llama3")
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 131072}))
    [fault] = serve_config(model, engine="vllm").faults
    assert "model_max_length is smaller" in fault
    assert serve_config(model, engine="vllm", length="128K").faults == []
    assert serve_config(model, engine="sglang").faults == []


def test_vllm_has_no_angles_of_yarn_beyond_the_factor(folder):
    model = folder(method="yarn", scale=64)
    [fault] = serve_config(model, engine="vllm").faults
    assert "makes cos and sin of yarn for 524,288 tokens" in fault
    assert serve_config(model, engine="vllm", length="512K").faults == []


def test_sglang_is_refused_for_an_attention_factor_of_its_own(folder):
    model = folder(method="yarn", attention_factor=1.2)
    assert serve_config(model, engine="vllm").faults == []
    [fault] = serve_config(model, engine="sglang").faults
    assert "multiply cos and sin by 1.4852, the model was trained with 1.2000" in fault
    assert '"attn_factor": 0.8079' in fault
    config = json.loads((model / "config.json").read_text())
    for key in ("rope_parameters", "rope_scaling"):
        config[key]["attn_factor"] = 1.2 / (0.1 * np.log(128) + 1)  # the remedy it names
    (model / "config.json").write_text(json.dumps(config))
    assert serve_config(model, engine="sglang").faults == []


def test_tgi_is_refused_for_yarns_betas_and_linear_scaling(folder, tmp_path):
    [fault] = serve_config(folder(method="yarn"), engine="tgi").faults
    assert "other frequencies" in fault
    assert "drops beta_fast 4, beta_slow 1 of yarn" in fault


def test_tgi_reads_plain_rope_for_linear_scaling(folder):
    [fault] = serve_config(folder(method="linear"), engine="tgi").faults
    assert "passes over linear scaling" in fault


def test_llama_cpp_needs_no_rope_flags_for_llama3(folder):
    found = serve_config(folder(method="llama3"), engine="llama.cpp", gpus=4)
    assert found.faults == []
    assert not any(flag.startswith(("--rope", "--yarn")) for flag in flags(found))
    assert found.commands[0][:2] == ["python", "convert_hf_to_gguf.py"]
    assert flags(found)["--ctx-size"] == str(M)
    assert any("rope_freqs" in note for note in found.notes)


def test_llama_cpp_gets_yarn_by_flags(folder):
    found = serve_config(folder(method="yarn"), engine="llama.cpp", gpus=2)
    given = flags(found)
    assert {flag: given[flag] for flag in given if flag.startswith(("--rope", "--yarn", "--override"))} == {
        "--rope-scaling": "yarn",
        "--rope-scale": "128",
        "--yarn-orig-ctx": "8192",
        "--yarn-ext-factor": "1",
        "--yarn-beta-fast": "4",
        "--yarn-beta-slow": "1",
    }
    assert given["--cache-type-k"] == given["--cache-type-v"] == "q8_0"


def test_llama_cpp_gets_an_attention_factor_by_its_metadata(folder):
    found = serve_config(folder(method="yarn", attention_factor=1.2), engine="llama.cpp")
    assert found.faults == []
    assert flags(found)["--override-kv"].startswith("llama.rope.scaling.attn_factor=float:0.8079")


def test_llama_cpp_is_refused_for_llama3_of_other_families(folder):
    model = folder(tiny_configs()["qwen3"], target="4K", method="llama3")
    [fault] = serve_config(model, engine="llama.cpp").faults
    assert "its conversion leaves it out" in fault
    assert serve_config(model, engine="vllm").faults == []


@pytest.mark.parametrize("method", ["llama3", "ntk", "yarn"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers", "llama.cpp"])
def test_what_extend_writes_is_served_as_it_was_trained(folder, engine, method):
    assert serve_config(folder(method=method), engine=engine, length="128K").faults == []


def test_readers_of_our_own_give_the_angles_they_claim(folder):
    config = json.loads((folder(method="yarn") / "config.json").read_text())
    config |= {"head_dim": 128}
    trained = transformers_5(config, {})
    seen = tgi(config, {})
    plain = {key: config["rope_scaling"][key] for key in config["rope_scaling"] if "beta" not in key}
    expected = transformers_5(
        {**config, "rope_scaling": None, "rope_parameters": {**plain, "rope_theta": 5e5}}, {}
    )
    np.testing.assert_allclose(seen.inv_freq, expected.inv_freq)
    assert not np.allclose(seen.inv_freq, trained.inv_freq)
    np.testing.assert_array_equal(llama_cpp(config, {}).inv_freq, trained.inv_freq)


def test_memory_that_does_not_suffice_is_a_fault(folder):
    [fault] = serve_config(folder(method="llama3"), engine="vllm", gpus=1).faults
    assert "one sequence of 1M does not fit 1 h100-80g" in fault
    assert "needs 64.0 GiB of each" in fault


def test_unknown_engines_and_types_are_named(folder):
    model = folder(method="llama3")
    with pytest.raises(ReleaseError, match=r"'vlm' is no engine: .* Nearest: vllm"):
        serve_config(model, engine="vlm")
    with pytest.raises(ReleaseError, match="transformers has auto, bf16"):
        serve_config(model, engine="transformers", kv_type="fp8")


def test_command_prints_a_script_and_one_object(folder, capsys):
    model = str(folder(method="llama3"))
    assert main(["serve-config", model, "--engine", "vllm", "--gpus", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# vllm 0.33.0, 1,048,576 tokens on 4 x h100-80g"
    assert f"vllm serve {model} \\" in lines
    assert "    --tensor-parallel-size 4 \\" in lines
    assert main(["serve-config", model, "--engine", "vllm", "--gpus", "1", "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["fit"]["fits"] is False
    assert told.err.startswith("error: one sequence of 1M does not fit")


def test_every_engine_has_its_version():
    assert set(ENGINES) == {"vllm", "sglang", "tgi", "transformers", "llama.cpp"}
    assert all(engine.version for engine in ENGINES.values())
