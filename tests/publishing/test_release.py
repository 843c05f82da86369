"""The folder that publish() writes, and what it refuses."""

import hashlib
import json
import os

import pytest
import torch
from huggingface_hub.repocard import metadata_load
from release_models import LEFT_BEHIND, make_model, read_json, write_json
from run_folders import records_of, write_run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ultralong_hf.cli import main
from ultralong_hf.errors import ModelError, ReleaseError
from ultralong_hf.publishing import publish


def release(source, tmp_path, **options):
    return publish(source, output_dir=tmp_path / "out" / "tiny", base="lab", **options)


def test_a_release_loads_in_plain_transformers_and_answers_as_the_model_did(source, tmp_path):
    made = release(source, tmp_path)
    assert made.faults == []
    ids = torch.tensor([[1, 4, 5, 4]])
    before = AutoModelForCausalLM.from_pretrained(source)(ids).logits
    after = AutoModelForCausalLM.from_pretrained(made.folder)
    assert torch.equal(after(ids).logits, before)
    assert after.config.use_cache is True
    assert after.config.max_position_embeddings == 512
    assert AutoTokenizer.from_pretrained(made.folder).model_max_length == 512


def test_weights_are_linked_and_training_stays_behind(source, tmp_path):
    made = release(source, tmp_path)
    assert os.path.samefile(made.folder / "model.safetensors", source / "model.safetensors")
    assert set(made.files) == {
        "NOTICE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "release.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    [note] = [note for note in made.notes if note.startswith("left out")]
    assert all(name in note for name in (*LEFT_BEHIND, "checkpoint-5/"))
    assert (source / "README.md").read_text() == "a trainer's card"
    assert read_json(source / "config.json")["use_cache"] is False


def test_what_was_put_right_is_told(source, tmp_path):
    write_json(source / "generation_config.json", {"use_cache": False, "eos_token_id": 2})
    notes = release(source, tmp_path).notes
    assert "config.json had use_cache false, as training leaves it: now true." in notes
    assert "generation_config.json had use_cache false: now true." in notes
    assert "the tokenizer's model_max_length was 128: now the window, 512." in notes


def test_a_missing_generation_config_is_made(source, tmp_path):
    (source / "generation_config.json").unlink()
    made = release(source, tmp_path)
    assert read_json(made.folder / "generation_config.json") == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def test_both_generations_of_rope_keys_are_there(source, tmp_path):
    config = read_json(release(source, tmp_path).folder / "config.json")
    assert config["rope_theta"] == 10_000.0
    assert config["rope_scaling"]["type"] == "llama3"
    assert config["rope_parameters"]["factor"] == 4.0


def test_shards_travel_with_their_index(tmp_path):
    source = make_model(tmp_path / "sharded", shards=True)
    made = release(source, tmp_path)
    shards = [name for name in made.files if name.endswith(".safetensors")]
    assert len(shards) > 1
    assert "model.safetensors.index.json" in made.files
    assert made.faults == []
    assert f"{len(shards)}" not in made.notes


def test_release_json_has_the_digest_of_every_other_file(source, tmp_path):
    made = release(source, tmp_path)
    told = read_json(made.folder / "release.json")
    assert set(told["files"]) == set(made.files) - {"release.json"}
    for name, facts in told["files"].items():
        data = (made.folder / name).read_bytes()
        assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert told["parameters"] == sum(
        tensor.numel() for tensor in load_file(source / "model.safetensors").values()
    )


def test_the_same_model_gives_the_same_bytes(source, tmp_path):
    first = publish(source, output_dir=tmp_path / "1" / "tiny", base="lab", recipe="lab")
    second = publish(source, output_dir=tmp_path / "2" / "tiny", base="lab", recipe="lab")
    for name in first.files:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def test_no_path_of_this_machine_is_in_a_release(source, tmp_path):
    run = write_run(
        tmp_path / "runs" / "after",
        records_of("needle", [128, 512], lambda task, length: 1.0, depths=(0, 100), samples=2),
        model=str(source),
        window=512,
    )
    tokenizer = read_json(source / "tokenizer_config.json")
    write_json(source / "tokenizer_config.json", tokenizer | {"name_or_path": str(source)})
    made = release(source, tmp_path, recipe="lab", reports=[run])
    texts = [name for name in made.files if not name.endswith((".safetensors", ".png"))]
    assert len(texts) > 6
    for name in texts:
        assert str(tmp_path) not in (made.folder / name).read_text(encoding="utf-8"), name


def test_an_earlier_release_is_replaced_and_anything_else_refused(source, tmp_path):
    first = release(source, tmp_path)
    (first.folder / "old.txt").write_text("of the earlier release")
    assert "old.txt" not in release(source, tmp_path).files
    assert [path.name for path in first.folder.parent.iterdir()] == ["tiny"]
    (first.folder / "release.json").unlink()
    with pytest.raises(ModelError, match="exists and is not an empty folder"):
        release(source, tmp_path)
    with pytest.raises(ReleaseError, match="the model itself"):
        publish(source, output_dir=source)


def test_a_release_that_was_killed_while_replaced_is_whole_again(source, tmp_path):
    folder = release(source, tmp_path).folder
    folder.rename(folder.with_name(".tiny.earlier"))  # where a kill between two renames leaves it
    assert release(source, tmp_path).faults == []
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_nothing_is_left_of_a_release_that_fails(source, tmp_path):
    (source / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(ReleaseError, match="no whole safetensors file"):
        release(source, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_and_pickles_are_refused(source, tmp_path):
    (source / "model.safetensors").unlink()
    with pytest.raises(ReleaseError, match="pickles are not released"):
        release(source, tmp_path)
    write_json(source / "adapter_config.json", {})
    with pytest.raises(ReleaseError, match=r"is an adapter.*--merge"):
        release(source, tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    source = make_model(tmp_path / "sharded", shards=True)
    gone = sorted(source.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=gone.name):
        release(source, tmp_path)


def test_an_index_that_its_shards_contradict_is_refused(tmp_path):
    source = make_model(tmp_path / "sharded", shards=True)
    index = read_json(source / "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.norm.weight"] = next(
        name for name in names if name != index["weight_map"]["model.norm.weight"]
    )
    write_json(source / "model.safetensors.index.json", index)
    with pytest.raises(ReleaseError, match=r"disagree about model\.norm\.weight"):
        release(source, tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "wants are not there: model.norm.weight"),
        (lambda weights: weights.update(odd=torch.zeros(2)), "does not want: odd"),
        (
            lambda weights: weights.update({"model.norm.weight": torch.zeros(3)}),
            "other shapes than the config says: model.norm.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_are_faults(source, tmp_path, change, fault):
    weights = load_file(source / "model.safetensors")
    change(weights)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    faults = release(source, tmp_path).faults
    assert any(fault in one for one in faults), faults


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"auto_map": {"AutoConfig": "modeling_own.X"}}, "needs code of its own"),
        ({"vocab_size": 4}, "the tokenizer has ids up to 5"),
        ({"model_type": "nonesuch"}, "config.json: ValueError"),
    ],
)
def test_a_config_that_plain_transformers_does_not_load_is_a_fault(source, tmp_path, change, fault):
    write_json(source / "config.json", read_json(source / "config.json") | change)
    faults = release(source, tmp_path).faults
    assert any(fault in one for one in faults), faults


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "nothing of yours"])
def test_a_broken_chat_template_is_a_fault(source, tmp_path, template):
    (source / "chat_template.jinja").write_text(template)
    [fault] = release(source, tmp_path).faults
    assert "chat template" in fault


def test_the_card_tells_how_to_serve_it_and_where_not(source, tmp_path):
    made = release(source, tmp_path, repo_id="me/tiny", dry_run=True)
    card = (made.folder / "README.md").read_text()
    assert "vllm serve me/tiny \\\n    --host 127.0.0.1" in card
    assert "--model-path me/tiny" in card
    config = read_json(source / "config.json")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
    write_json(source / "config.json", config | {"rope_parameters": yarn | {"attention_factor": 1.0}})
    card = (release(source, tmp_path).folder / "README.md").read_text()
    assert "vllm serve tiny" in card
    assert "sglang would multiply cos and sin by 1.1386, the model was trained with 1.0000" in card


def test_a_model_without_a_chat_template_says_so(source, tmp_path):
    (source / "chat_template.jinja").unlink()
    made = release(source, tmp_path)
    assert made.faults == []
    assert "It has no chat template" in (made.folder / "README.md").read_text()


def test_command_tells_files_and_faults(source, tmp_path, capsys):
    output = tmp_path / "out" / "tiny"
    assert main(["publish", str(source), "--output", str(output), "--base", "lab", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out
    assert "not uploaded" in out
    (source / "chat_template.jinja").write_text("nothing of yours")
    options = ["--base", "lab", "--dry-run", "--json", "--repo-id", "me/tiny"]
    assert main(["publish", str(source), "--output", str(output), *options]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["uploaded"] is False
    assert told.err.startswith("error: the chat template leaves")


def test_metadata_are_those_that_the_hub_shows(source, tmp_path):
    made = release(source, tmp_path)
    metadata = metadata_load(made.folder / "README.md")
    assert metadata == {
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["long-context", "ultralong", "rope"],
    }
