"""What a user names becomes an engine."""

import json

import pytest
from chat_models import make_model, make_tokenizer

from ultralong_hf.chat import default_model
from ultralong_hf.chat.opening import open_chat_engine
from ultralong_hf.errors import EndpointError, ModelError


def _save(folder):
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    cells = [{"length": 512, "depth": 0, "hits": 99, "samples": 100}]
    (folder / "report.json").write_text(json.dumps({"recall": {"after": cells}}))


def test_a_folder_is_loaded_with_its_report(tmp_path):
    _save(tmp_path)
    engine, recall = open_chat_engine(tmp_path / "model", report=tmp_path, cache_bytes=10**7)
    assert (engine.name, engine.window, engine.in_process) == ("model", 4096, True)
    assert recall.holds_to == 512
    assert engine.pool.budget == 10**7


def test_without_a_model_the_lab_is_taken_where_it_is(tmp_path, monkeypatch):
    _save(tmp_path / "outputs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    engine, recall = open_chat_engine()
    assert engine.name == "the lab's model"
    assert engine.writer.style == "bare"
    assert recall.holds_to == 512


def test_the_lab_is_made_once_and_kept(tmp_path, monkeypatch):
    made, said = [], []

    def make(folder, say):
        made.append(folder)
        say("training")
        _save(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(default_model, "_make", make)
    for _ in range(2):
        folder = default_model.lab_model(say=said.append, home=tmp_path / "cache")
    assert folder == tmp_path / "cache" / "ultralong_hf" / "quickstart"
    assert made == [folder]
    assert said[0].startswith("Making the lab's model, once")


def test_a_lab_that_cannot_be_made_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(default_model, "_make", lambda folder, say: None)
    with pytest.raises(ModelError, match="could not be made"):
        default_model.lab_model(say=lambda text: None, home=tmp_path)


def test_names_that_lead_nowhere_are_errors(tmp_path):
    with pytest.raises(ModelError, match="cannot be read as a model"):
        open_chat_engine(tmp_path)
    with pytest.raises(ModelError, match="neither 'transformers' nor the URL"):
        open_chat_engine(tmp_path, engine="vllm")
    with pytest.raises(EndpointError, match="no answer after 1 attempt"):
        open_chat_engine(engine="http://127.0.0.1:9/v1", retries=0)
