"""Means of models and adapters in their bases, against the same sums made by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from release_models import make_model, read_json, save_tokenizer, write_json
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ultralong_hf.cli import main
from ultralong_hf.errors import ModelError, ReleaseError
from ultralong_hf.publishing import shards
from ultralong_hf.publishing.merging import is_adapter, merge_adapter, merge_models

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21.2


def weights_of(folder):
    found = {}
    for path in folder.glob("model*.safetensors"):
        found |= load_file(path)
    return found


@pytest.fixture
def three(tmp_path):
    return [make_model(tmp_path / f"model-{seed}", seed=seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("given", "shares"), [(None, [1 / 3, 1 / 3, 1 / 3]), ([6, 3, 1], [0.6, 0.3, 0.1]), ([0, 0, 5], [0, 0, 1])]
)
def test_a_merge_is_the_weighted_mean(three, tmp_path, given, shares):
    merged = merge_models(three, output_dir=tmp_path / "out", weights=given)
    tensors = [weights_of(folder) for folder in three]
    ours = weights_of(merged.folder)
    assert ours.keys() == tensors[0].keys()
    for name, tensor in ours.items():
        expected = sum(share * one[name].double() for share, one in zip(shares, tensors, strict=True))
        assert torch.allclose(tensor, expected.float(), rtol=1.2e-7, atol=0), name  # a unit in the last place
    assert AutoModelForCausalLM.from_pretrained(merged.folder) is not None


def test_blocks_make_no_difference(three, tmp_path, monkeypatch):
    whole = weights_of(merge_models(three, output_dir=tmp_path / "whole").folder)
    monkeypatch.setattr(shards, "BLOCK", 100)  # 3 rows of 32 at a time
    parts = weights_of(merge_models(three, output_dir=tmp_path / "parts").folder)
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_config_tokenizer_and_shards_are_those_of_the_first(tmp_path):
    first = make_model(tmp_path / "long", seed=0, shards=True)
    second = make_model(tmp_path / "base", seed=1, max_position_embeddings=128, rope_parameters=None)
    merged = merge_models([first, second], output_dir=tmp_path / "out", weights=[0.7, 0.3])
    assert read_json(merged.folder / "config.json") == read_json(first / "config.json")
    assert [path.name for path in sorted(merged.folder.glob("*.safetensors*"))] == [
        path.name for path in sorted(first.glob("model*.safetensors*"))
    ]
    assert not (merged.folder / "README.md").exists()
    assert merged.told == "Its weights are a sum: 0.7 of long, 0.3 of base."
    assert any("rope_parameters differs: the merge has that of long" in note for note in merged.notes)
    assert any("max_position_embeddings differs" in note for note in merged.notes)


def test_types_are_those_of_the_first_and_sums_are_wider(tmp_path):
    folders = []
    for at, (kind, value) in enumerate([(torch.bfloat16, 1.0), (torch.float32, 1.0 + 2**-8)]):
        folder = make_model(tmp_path / f"model-{at}")
        save_file({"a": torch.full((4,), value, dtype=kind)}, folder / "model.safetensors")
        folders.append(folder)
    merged = merge_models(folders, output_dir=tmp_path / "out", weights=[0.1, 0.9])
    mean = weights_of(merged.folder)["a"]
    assert mean.dtype == torch.bfloat16
    assert mean[0].item() == torch.tensor(0.1 + 0.9 * (1 + 2**-8)).to(torch.bfloat16).item()
    assert any("types differ (model-0 BF16; model-1 F32)" in note for note in merged.notes)


def test_integers_must_be_equal(tmp_path):
    folders = [make_model(tmp_path / f"model-{at}") for at in range(2)]
    for folder in folders:
        save_numpy({"n": np.array([3, 4]), "x": np.array(1.5, np.float32)}, folder / "model.safetensors")
    merged = weights_of(merge_models(folders, output_dir=tmp_path / "out").folder)
    assert merged["n"].tolist() == [3, 4]
    assert merged["x"].item() == 1.5
    save_numpy({"n": np.array([3, 5]), "x": np.array(1.5, np.float32)}, folders[1] / "model.safetensors")
    with pytest.raises(ReleaseError, match="n holds integers that differ"):
        merge_models(folders, output_dir=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_all_differences_are_named_in_one_error(tmp_path):
    folders = [make_model(tmp_path / f"model-{at}") for at in range(2)]
    tensors = load_file(folders[1] / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors["more"] = torch.zeros(1)
    tensors["model.embed_tokens.weight"] = torch.zeros(65, 32)
    save_file(tensors, folders[1] / "model.safetensors")
    with pytest.raises(ReleaseError) as caught:
        merge_models(folders, output_dir=tmp_path / "out")
    lacks, more, shapes = caught.value.faults
    assert "lacks tensors" in lacks
    assert lacks.endswith("lm_head.weight. One may have its LM head tied to the embedding.")
    assert more.endswith("lacks: more.")
    assert "model.embed_tokens.weight [65, 32] against [64, 32]. One may have got a new token." in shapes


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "1 numbers for 2 models"), ([1, -1], "must be 0 or more"), ([0, 0], "not all 0")],
)
def test_bad_weights_are_refused(tmp_path, weights, message):
    with pytest.raises(ReleaseError, match=message):
        merge_models(["a", "b"], output_dir=tmp_path / "out", weights=weights)


def test_one_model_alone_is_no_merge(source, tmp_path):
    with pytest.raises(ReleaseError, match="two models at least"):
        merge_models([source], output_dir=tmp_path / "out")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x02\x00\x00\x00\x00\x00\x00\x00[]", b"\x08" + b"\0" * 15]
)
def test_a_damaged_shard_is_named(three, tmp_path, content):
    (three[1] / "model.safetensors").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"model-1/model\.safetensors is no whole safetensors file"):
        merge_models(three, output_dir=tmp_path / "out")


@pytest.fixture
def adapter(source, tmp_path):
    """An adapter of `source` with every weight moved, and the model of both that PEFT itself makes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", modules_to_save=["norm"]))
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    return folder, adapted.merge_and_unload()


def test_an_adapter_is_merged_as_by_peft(adapter, tmp_path):
    folder, expected = adapter
    assert is_adapter(folder)
    merged = merge_adapter(folder, output_dir=tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(merged.folder)
    ids = torch.tensor([[1, 4, 5, 4]])
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, expected(ids).logits, atol=1e-4)
    assert "512 tokens" in merged.notes[0]


def test_an_adapter_of_another_model_is_told(adapter, tmp_path):
    other = make_model(tmp_path / "other", hidden_size=16)
    with pytest.raises(ModelError, match="does not go with"):
        merge_adapter(adapter[0], output_dir=tmp_path / "out", base=str(other))
    assert not (tmp_path / "out").exists()


def test_adapters_as_pickles_or_without_a_base_are_refused(adapter, source, tmp_path):
    folder, _ = adapter
    keys = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", keys | {"base_model_name_or_path": None})
    with pytest.raises(ReleaseError, match="does not name its base"):
        merge_adapter(folder, output_dir=tmp_path / "out")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ReleaseError, match="pickles are not read"):
        merge_adapter(folder, output_dir=tmp_path / "out", base=str(source))
    with pytest.raises(ReleaseError, match="is no adapter"):
        merge_adapter(source, output_dir=tmp_path / "out")


def test_command_publishes_a_merge_and_leaves_nothing_else(three, tmp_path, capsys):
    output = tmp_path / "out" / "tiny"
    folders = list(map(str, three[:2]))
    options = ["--weights", "0.7,0.3", "--output", str(output), "--base", "lab"]
    assert main(["publish", "--merge", *folders, *options]) == 0
    assert "note: Its weights are a sum: 0.7 of model-0, 0.3 of model-1." in capsys.readouterr().out
    assert "Its weights are a sum: 0.7 of model-0, 0.3 of model-1." in (output / "README.md").read_text()
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]
    assert len(weights_of(output)) > 10


def test_command_publishes_an_adapter(adapter, tmp_path, capsys):
    output = tmp_path / "out" / "tiny"
    assert main(["publish", "--merge", str(adapter[0]), "--output", str(output)]) == 0
    assert "with the adapter adapter" in capsys.readouterr().out
    assert not (output / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name one MODEL, or models after --merge"),
        (["a", "--merge", "b", "c"], "Name one MODEL, or models after --merge"),
        (["a", "--weights", "1,2"], "--weights are of the models of --merge"),
        (["--merge", "a", "b", "--weights", "x"], "give numbers with commas between"),
    ],
)
def test_command_refuses_what_it_cannot_mean(tmp_path, capsys, arguments, message):
    assert main(["publish", *arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


MEASURE = """
import resource, sys
import torch
from ultralong_hf.publishing.merging import merge_models
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
merge_models(sys.argv[1:3], output_dir=sys.argv[3])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    """A tensor of 1 GiB is averaged with another one in far less."""
    for at in range(2):
        folder = tmp_path / f"model-{at}"
        folder.mkdir()
        save_tokenizer(folder)
        write_json(folder / "config.json", {"model_type": "llama"})
        save_numpy({"a": np.full((2**18, 1024), at + 0.5, np.float32)}, folder / "model.safetensors")
    folders = [str(tmp_path / name) for name in ("model-0", "model-1", "out")]
    command = [sys.executable, "-c", MEASURE, *folders]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 600, f"{grown} MiB"
    (tmp_path / "model-0" / "model.safetensors").unlink()
    mean = np.memmap(tmp_path / "out" / "model.safetensors", np.float32, "r")
    assert mean[-1] == 1.0
