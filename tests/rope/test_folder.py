"""Model folders written by extend_context and `ultralong extend`."""

import json
import os
from pathlib import Path

import pytest
from rope_models import llama_31_config, tiny_configs, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ultralong_hf import extend_context
from ultralong_hf.cli import main
from ultralong_hf.errors import ModelError, RopeError
from ultralong_hf.rope import RopeWarning, finish_model_folder
from ultralong_hf.rope import folder as folder_module
from ultralong_hf.rope.folder import find_model, whole_folder


@pytest.fixture
def source(tmp_path):
    """A model folder as the hub has them: weights, tokenizer, chat template, generation config, licence."""
    folder = tmp_path / "source"
    tiny_model(tiny_configs()["llama"]).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")),
        unk_token="?",
        model_max_length=256,
    )
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    write(folder / "generation_config.json", {"max_length": 256, "temperature": 0.6, "do_sample": True})
    (folder / "LICENSE").write_text("as you like it")
    return folder


def read(path):
    return json.loads(Path(path).read_text())


def write(path, keys):
    Path(path).write_text(json.dumps(keys))


def test_everything_is_carried_and_all_limits_follow(source, tmp_path):
    config = extend_context(source, "4K", output_dir=tmp_path / "out")
    assert config.max_position_embeddings == 4096
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(source))
    assert (tmp_path / "out" / "LICENSE").read_text() == "as you like it"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.model_max_length, tokenizer.chat_template) == (4096, "{{ messages[0].content }}")
    assert read(tmp_path / "out" / "generation_config.json") == {
        "max_length": 4096,
        "temperature": 0.6,
        "do_sample": True,
    }


def test_the_source_is_left_as_it_was(source, tmp_path):
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    extend_context(source, "4K", output_dir=tmp_path / "out")
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_keys_of_the_config_that_are_not_of_rope_stay_as_they_were(source, tmp_path):
    written = {**read(source / "config.json"), "torch_dtype": "bfloat16", "my_key": {"of": "mine"}}
    write(source / "config.json", written)
    extend_context(source, "4K", output_dir=tmp_path / "out")
    extended = read(tmp_path / "out" / "config.json")
    changed = {key for key in extended if extended[key] != written.get(key)}
    rope_keys = {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings", "ultralong_rope"}
    assert changed == rope_keys
    assert set(written) <= set(extended)


def test_a_config_of_the_old_keys_is_replaced_whole(source, tmp_path):
    """As Llama-3.1's own file has them."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    written = read(source / "config.json")
    del written["rope_parameters"]
    written |= {
        "rope_theta": 500_000.0,
        "rope_scaling": {**scaling, "original_max_position_embeddings": 8192},
        "max_position_embeddings": 131_072,
    }
    write(source / "config.json", written)
    extend_context(source, "1M", output_dir=tmp_path / "out")
    extended = read(tmp_path / "out" / "config.json")
    yarn = {"factor": 128.0, "original_max_position_embeddings": 8192, "beta_slow": 1.0, "beta_fast": 4.0}
    assert extended["rope_scaling"] == {"rope_type": "yarn", "type": "yarn", **yarn}
    assert extended["rope_parameters"] == {"rope_type": "yarn", "rope_theta": 500_000.0, **yarn}
    assert extended["rope_theta"] == 500_000.0


def test_weights_are_hard_linked_and_never_read(source, tmp_path):
    """Were they read, this text would be found to be no safetensors file."""
    weights = source / "model.safetensors"
    weights.write_text("not weights at all")
    extend_context(source, "4K", output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").samefile(weights)


def test_weights_are_copied_where_they_cannot_be_linked(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    extend_context(source, "4K", output_dir=tmp_path / "out")
    copy = tmp_path / "out" / "model.safetensors"
    assert not copy.samefile(source / "model.safetensors")
    assert copy.read_bytes() == (source / "model.safetensors").read_bytes()


def test_links_such_as_the_hub_caches_are_followed_to_their_files(source, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    source.rename(blobs)
    snapshot.mkdir()
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("..") / "blobs" / blob.name)
    extend_context(snapshot, "4K", output_dir=tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    assert len(files) == len(list(blobs.iterdir()))
    assert not any(path.is_symlink() for path in files)
    assert (tmp_path / "out" / "model.safetensors").samefile(blobs / "model.safetensors")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_dangling_link_is_an_error(source, tmp_path):
    (source / "vocab.txt").symlink_to("nowhere")
    with pytest.raises(ModelError, match=r"vocab.txt is a link to nothing"):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_an_index_whose_shard_is_missing_is_an_error(source, tmp_path):
    write(source / "model.safetensors.index.json", {"weight_map": {"x": "model-00002-of-00002.safetensors"}})
    with pytest.raises(ModelError, match=r"names model-00002-of-00002.safetensors, which is not there"):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_weights_that_are_pickles_alone_are_refused(source, tmp_path):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(
        ModelError, match=r"pickles alone \(pytorch_model.bin\), and loading those can run any"
    ):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_pickles_other_weights_and_subfolders_are_left_out_and_told(source, tmp_path):
    for name in ("pytorch_model.bin", "optimizer.pt", "model-q4.gguf", ".gitattributes"):
        (source / name).write_text("x")
    for name in ("original", ".git", "additional_chat_templates"):
        (source / name).mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    with pytest.warns(RopeWarning) as told:
        extend_context(source, "4K", output_dir=tmp_path / "out")
    (warning,) = told
    assert warning.message.notes == (
        "left out weights that the new config does not reach: model-q4.gguf.",
        "left out pickles, which can run code when loaded: optimizer.pt, pytorch_model.bin.",
        "left out subfolders: original.",
    )
    out = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    assert "additional_chat_templates/tools.jinja" in out
    assert not out & {
        "pytorch_model.bin",
        "optimizer.pt",
        "model-q4.gguf",
        "original",
        ".git",
        ".gitattributes",
    }


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("disk full")])
def test_an_interrupted_write_leaves_nothing(source, tmp_path, monkeypatch, fault):
    def interrupt(*_, **__):
        assert len(os.listdir(tmp_path)) == 2  # source and the folder being written
        raise fault

    monkeypatch.setattr("ultralong_hf.rope.extend.follow_window", interrupt)
    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else ModelError):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_what_a_killed_write_left_is_taken_away_by_the_next(source, tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_text("half")
    extend_context(source, "4K", output_dir=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]
    assert (tmp_path / "out" / "model.safetensors").samefile(source / "model.safetensors")


def test_an_output_that_holds_something_is_refused_and_kept(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all my work")
    with pytest.raises(ModelError, match="exists and is not an empty folder"):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    with pytest.raises(ModelError, match="exists and is not an empty folder"):
        extend_context(source, "4K", output_dir=source)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "all my work"


def test_an_empty_output_folder_and_missing_parents_will_do(source, tmp_path):
    (tmp_path / "empty").mkdir()
    for output in ("empty", "new/parents/out"):
        extend_context(source, "4K", output_dir=tmp_path / output)
        assert read(tmp_path / output / "config.json")["max_position_embeddings"] == 4096


def test_an_output_below_a_file_is_our_error(source):
    with pytest.raises(ModelError, match="could not be written"):
        extend_context(source, "4K", output_dir=source / "LICENSE" / "out")


def test_without_an_output_folder_nothing_is_written(source, tmp_path):
    assert extend_context(str(source), "4K").rope_parameters["factor"] == 16.0
    assert os.listdir(tmp_path) == ["source"]


def test_a_config_alone_is_written_as_a_folder(tmp_path):
    extend_context(llama_31_config(), "1M", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["config.json"]
    assert read(tmp_path / "out" / "config.json")["rope_scaling"]["factor"] == 128.0


def test_a_folder_extended_twice_starts_from_the_first_length(source, tmp_path):
    extend_context(source, "1K", output_dir=tmp_path / "once", method="llama3")
    with pytest.warns(RopeWarning, match="extended before, to 1K tokens: .* length before that, 256"):
        extend_context(tmp_path / "once", "4K", output_dir=tmp_path / "twice")
    extend_context(source, "4K", output_dir=tmp_path / "directly")
    assert read(tmp_path / "twice" / "config.json") == read(tmp_path / "directly" / "config.json")


# --- finding models


@pytest.mark.parametrize("model", ["/no/such/folder", "./nor/this", "a/b/c", "", "no spaces"])
def test_what_is_neither_folder_nor_hub_id_is_a_model_error(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no hub id|no model folder"):
        extend_context(model, "1M")


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_hub_id_without_network_and_cache_is_one_clear_line(with_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelError, match="'org/model' is no folder here, and the hub did not give it"
    ) as caught:
        find_model("org/model", with_weights=with_weights)
    assert len(caught.value.faults) == 1
    assert "\n" not in str(caught.value)


def test_a_hub_id_in_the_cache_is_extended_without_network(source, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_OFFLINE", True)
    cache = tmp_path / "hub" / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    source.rename(cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *args, **kwargs: _snapshot_download(*args, **kwargs, cache_dir=tmp_path / "hub"),
    )
    from huggingface_hub._snapshot_download import snapshot_download as _snapshot_download

    extend_context("org/model", "4K", output_dir=tmp_path / "out")
    assert read(tmp_path / "out" / "config.json")["max_position_embeddings"] == 4096
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds a JSON list"),
        ('{"model_type": "llama", "hidden_size": "x"}', "hidden_size"),
    ],
)
def test_a_damaged_config_is_a_model_error(text, message, source, tmp_path):
    (source / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        extend_context(source, "4K", output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["source"]


def test_a_folder_without_config_and_a_file_are_model_errors(source):
    (source / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no model folder: it has no config.json"):
        extend_context(source, "4K")
    with pytest.raises(ModelError, match="is a file"):
        extend_context(source / "LICENSE", "4K")


def test_code_of_a_model_is_never_run(source):
    """A family that only the model's own code knows is refused before transformers asks for that code."""
    (source / "evil.py").write_text("raise SystemExit('the code of the model ran')")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    write(source / "config.json", {"model_type": "evil", "auto_map": auto_map})
    with pytest.raises(RopeError, match="model_type 'evil' is not among the families"):
        extend_context(source, "4K")


# --- after save_pretrained


def test_finishing_a_saved_folder_adds_the_old_keys_and_is_idempotent(tmp_path):
    model = extend_context(tiny_model(tiny_configs()["llama"]), 4096)
    model.save_pretrained(tmp_path)
    assert "rope_scaling" not in read(tmp_path / "config.json")
    finish_model_folder(tmp_path)
    once = (tmp_path / "config.json").read_text()
    finish_model_folder(tmp_path)
    assert (tmp_path / "config.json").read_text() == once
    assert read(tmp_path / "config.json")["rope_scaling"]["factor"] == 16.0


def test_a_checkpoint_of_a_reloaded_model_is_finished_alike(tmp_path):
    """transformers keeps "type" in rope_parameters then; finishing takes it out again."""
    extend_context(tiny_model(tiny_configs()["llama"]), 4096, output_dir=tmp_path / "one")
    AutoModelForCausalLM.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    finish_model_folder(tmp_path / "two")
    assert read(tmp_path / "one" / "config.json") == read(tmp_path / "two" / "config.json")


def test_finishing_what_is_no_model_folder_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"no config.json"):
        finish_model_folder(tmp_path)


def test_the_folder_appears_at_the_end_and_only_then(tmp_path):
    with whole_folder(tmp_path / "out") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"]


# --- the command


def test_the_command_writes_the_folder_and_prints_json(source, tmp_path, capsys):
    output = str(tmp_path / "out")
    assert (
        main(["extend", str(source), "--target", "4K", "--output", output, "--method", "llama3", "--json"])
        == 0
    )
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert {
        key: printed[key] for key in ("output", "target_length", "method", "scale", "original_length")
    } == {
        "output": output,
        "target_length": 4096,
        "method": "llama3",
        "scale": 16.0,
        "original_length": 256,
    }
    assert printed["rope_parameters"] == read(tmp_path / "out" / "config.json")["rope_parameters"]
    assert printed["warnings"] == []
    assert captured.err == ""


def test_the_command_says_in_a_line_what_it_wrote_and_warns_on_stderr(source, tmp_path, capsys):
    arguments = [
        "--target",
        "4K",
        "--output",
        str(tmp_path / "out"),
        "--attention-factor",
        "1.2",
        "--exact-angles",
    ]
    assert main(["extend", str(source), *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'out'}: 4,096 tokens, method yarn, scale 16 on 256\n"
    assert captured.err.startswith("warning: sglang (")
    assert read(tmp_path / "out" / "config.json")["ultralong_rope"]["exact_angles"] is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "1Q"], "'1Q' is no length"),
        (["--target", "4K", "--scale", "0.5"], "scale 0.5"),
        (["--target", "4K", "--beta-fast", "0.5"], "beta_fast 0.5"),
        (["--target", "4K", "--method", "yarm"], "Nearest: yarn"),
        (["--target", "128"], "below the present window"),
    ],
)
def test_bad_input_ends_the_command_with_status_2_and_an_error_line(
    options, message, source, tmp_path, capsys
):
    assert main(["extend", str(source), "--output", str(tmp_path / "out"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_large_folder_takes_no_time_to_speak_of(source, tmp_path):
    """64 GiB, sparse: reading or copying them would run into the timeout."""
    with open(source / "model.safetensors", "wb") as file:
        file.truncate(64 * 1024**3)
    extend_context(source, "4K", output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == 64 * 1024**3
    assert folder_module.read_json(tmp_path / "out" / "config.json")["max_position_embeddings"] == 4096
