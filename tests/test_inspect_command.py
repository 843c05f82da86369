"""`ultralong inspect` by exit status, output and files; and what it shows of models that we extended."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from ultralong_hf import extend_context, prepare_dataset
from ultralong_hf.cli import main
from ultralong_hf.rope.readers import READERS, read_as


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def config():
    return LlamaConfig(
        hidden_size=128,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )


@pytest.fixture
def model(config, tmp_path):
    folder = tmp_path / "small"
    config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer with one token a byte."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def store(tokenizer, tmp_path):
    folder = tmp_path / "store"
    documents = ["a quick\nbrown fox", "zebras " * 4]
    prepare_dataset(documents, tokenizer=tokenizer, target_length=16, output_dir=folder)
    return folder


def inspect(capsys, *arguments):
    """Exit status, standard output and standard error."""
    status = main(["inspect", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def inspect_json(capsys, *arguments):
    status, out, _ = inspect(capsys, *arguments, "--json")
    assert status == 0
    return json.loads(out)


@pytest.mark.parametrize(("method", "temperature"), [("llama3", 1.0), ("yarn", 1.2772588722239782)])
def test_every_reader_reads_the_same_angles_in_a_folder_that_we_extended(
    config, tmp_path, method, temperature
):
    extended = extend_context(config, "4K", method=method, output_dir=tmp_path / "long")
    written = json.loads((tmp_path / "long" / "config.json").read_text())
    reference = read_as("transformers-5", written)
    rotary = _transformers_rotary(extended)
    for reader in READERS:
        view = read_as(reader, written)
        assert (view.rope_type, view.theta, view.factor) == (method, 10_000.0, 16.0)
        assert (view.window, view.original_length) == (4096, 256)
        assert view.temperature == pytest.approx(temperature, rel=1e-12)
        assert np.max(np.abs(view.inv_freq / reference.inv_freq - 1)) < 1e-6
        assert np.max(np.abs(view.inv_freq / rotary - 1)) < 1e-6


def _transformers_rotary(config):
    """The inverse frequencies that a model of `config` computes with."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    return LlamaRotaryEmbedding(config).inv_freq.double().numpy()


@pytest.mark.parametrize("method", ["llama3", "yarn", "ntk"])
def test_an_extended_folder_is_shown_without_a_warning(capsys, config, tmp_path, method):
    extend_context(config, "4K", method=method, output_dir=tmp_path / "long")
    values = inspect_json(capsys, tmp_path / "long")
    assert [reader["reader"] for reader in values["readers"]] == list(READERS)
    assert [reader["warnings"] for reader in values["readers"]] == [[]] * 4
    assert [reader["window"] for reader in values["readers"]] == [4096] * 4
    assert [reader["max_relative_difference"] for reader in values["readers"]] == [0.0] * 4


def test_an_explicit_attention_factor_is_warned_of_for_the_servers(capsys, config, tmp_path):
    with pytest.warns(UserWarning, match="drops attention_factor"):
        extend_context(config, "4K", attention_factor=1.1, output_dir=tmp_path / "long")
    _, out, _ = inspect(capsys, tmp_path / "long")
    warned = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 3
    assert sum("attention_factor 1.1" in line for line in warned) == 2
    assert all(line.startswith(("warning: vllm", "warning: sglang")) for line in warned)


def test_a_folder_with_newer_keys_alone_is_warned_of_for_transformers_4(capsys, config, tmp_path):
    extend_context(config, "4K", method="llama3").save_pretrained(tmp_path / "long")
    _, out, _ = inspect(capsys, tmp_path / "long")
    assert "warning: transformers-4 (4.57.6) does not know rope_parameters" in out


def test_a_tokenizers_shorter_length_is_warned_of_for_vllm(capsys, model):
    (model / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    _, out, _ = inspect(capsys, model)
    assert "warning: vllm (0.33.0) takes a window of 128 tokens, transformers 5 of 256." in out


def test_a_model_is_shown_pair_by_pair_with_its_readers(capsys, model):
    status, out, _ = inspect(capsys, model)
    assert status == 0
    assert f"{model}: window 256 tokens" in out
    assert "own (default): theta 10,000, scale 1 on 256 for 256 tokens" in out
    assert sum(line.endswith("kept") for line in out.splitlines()) == 16
    assert "as others read its config.json" in out
    for reader in READERS:
        assert f"\n{reader}" in out


def test_a_target_shows_the_methods_side_by_side_and_draws_them(capsys, model, tmp_path):
    status, out, _ = inspect(capsys, model, "--target", "4K", "--png", tmp_path / "rope.png")
    assert status == 0
    for method in ("yarn", "llama3", "ntk", "linear"):
        assert f"\n{method}: theta 10,000, scale 16 on 256 for 4K tokens" in out
        assert f"angle error at 4K, {method}: " in out
    assert f"drawn: {tmp_path / 'rope.png'}" in out
    assert (tmp_path / "rope.png").read_bytes().startswith(b"\x89PNG")


def test_a_method_narrows_the_comparison(capsys, model):
    values = inspect_json(capsys, model, "--target", "4K", "--method", "llama3", "--method", "ntk")
    assert [rope["name"] for rope in values["methods"]] == ["llama3", "ntk"]
    assert values["png"] is None


def test_what_a_config_file_leaves_to_its_class_is_filled_in(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "rope_theta": 500000.0}')
    values = inspect_json(capsys, tmp_path)
    assert [reader["window"] for reader in values["readers"]] == [2048] * 4  # LlamaConfig's
    assert [reader["theta"] for reader in values["readers"]] == [500_000.0] * 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{model}", "--target", "1Q"], "'1Q' is no length"),
        (["{model}", "--target", "128"], "below the present window of 256 tokens"),
        (["{model}", "--target", "4K", "--method", "yran"], "'yran' is none of"),
        (["{model}", "--method", "yarn"], "--method says how to reach a longer window"),
        (["{model}", "--row", "0"], "is no token store: it has no manifest.json"),
        (["{model}", "--tokenizer", "x"], "is a model: --tokenizer would have no effect"),
        (["{model}", "--png", "{model}/none/rope.png"], "rope.png cannot be written"),
        (["{model}/config.json"], "is a file"),
        (
            ["{model}/.."],
            "neither a model folder nor a token store: it has no config.json and no manifest.json",
        ),
        (["no/such-model"], "no folder here"),
    ],
)
def test_bad_input_ends_with_status_2_and_a_line_that_says_why(capsys, model, arguments, complaint):
    status, out, err = inspect(capsys, *(argument.format(model=model) for argument in arguments))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line


def test_a_store_is_shown_by_its_counts(capsys, store):
    status, out, _ = inspect(capsys, store)
    assert status == 0
    above, below = out.split("\n\n")
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in above.splitlines()}
    assert facts["path"] == str(store)
    assert facts["target_length"] == "16"
    assert facts["rows"] == "3"  # 17 + 3 + 28 + 3 bytes, in rows of 16
    assert facts["separator"].startswith("kind text, value <s>")
    assert facts["documents"].startswith("read 2, used 2")
    assert below.splitlines()[1].split()[1:] == ["<", "1K", "2", "45", "2", "45", "100.0%"]
    assert inspect_json(capsys, store)["rows"] == 3


def test_a_store_and_a_row_are_drawn(capsys, store, tmp_path):
    for name, options in (("store.png", []), ("row.png", ["--row", "1"])):
        status, out, _ = inspect(capsys, store, *options, "--png", tmp_path / name)
        assert status == 0
        assert out.splitlines()[-1] == f"drawn: {tmp_path / name}"
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_row_is_shown_by_its_pieces(capsys, store, tokenizer):
    status, out, _ = inspect(capsys, store, "--row", 1, "--tokenizer", tokenizer)
    assert status == 0
    header, *pieces = out.split("\n\n")[1].splitlines()
    assert header.split()[:3] == ["offset", "length", "is_separator"]
    assert [line.split()[:3] for line in pieces] == [["0", "1", "no"], ["1", "3", "yes"], ["4", "12", "no"]]
    assert pieces[1].endswith("<s>")
    assert "⟦separator '<s>', token 1⟧" in out.split("\n\n")[2].splitlines()
    values = inspect_json(capsys, store, "--row", 1)
    assert [piece["length"] for piece in values["pieces"]] == [1, 3, 12]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--row", "3"], "has no row 3: it has rows 0 to 2"),
        (["--target", "1M"], "is a token store: --target would have no effect"),
        (["--tokenizer", "x"], "a whole store is shown without its text"),
    ],
)
def test_bad_options_on_a_store_end_with_status_2(capsys, store, arguments, complaint):
    status, out, err = inspect(capsys, store, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err


def test_an_unfinished_store_is_told_to_be_one(capsys, store):
    (store / "manifest.json").rename(store / "progress.json")
    status, _, err = inspect(capsys, store)
    assert status == 2
    assert "is unfinished" in err


def test_help_ends_with_a_worked_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["inspect", "--help"])
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("example: ultralong inspect ")
