"""examples/space: its front matter, and that it starts on a CPU, with ZeroGPU and over an endpoint."""

import importlib.util
import pickle
import sys
import threading
import types
from pathlib import Path

import pytest
import yaml
from chat_models import BOOK, make_engine

pytest.importorskip("gradio")

from page_server import page_of

from ultralong_hf.chat import opening
from ultralong_hf.chat.engine import Options, Piece, Question, Reply
from ultralong_hf.chat.page.serving import Where

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "space"


def load(monkeypatch, **modules):
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    return app


@pytest.fixture
def opened(monkeypatch):
    """The arguments that an engine was asked for with."""
    for name in ("ENGINE", "MODEL", "TOKENIZER", "MAX_NEW_TOKENS", "CACHE_GIB"):
        monkeypatch.delenv(f"ULTRALONG_{name}", raising=False)
    seen = []

    def open_chat_engine(model=None, engine="transformers", **options):
        seen.append((model, engine, options))
        return make_engine(), None

    monkeypatch.setattr(opening, "open_chat_engine", open_chat_engine)
    return seen


def test_the_front_matter_names_what_is_there():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["sdk"] == "gradio"
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert (SPACE / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60  # the hub's limit
    assert set(front) >= {"title", "emoji", "colorFrom", "colorTo", "license"}
    app = (SPACE / "app.py").read_text(encoding="utf-8")
    named = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `ULTRALONG_")}
    assert len(named) == 5
    assert [name for name in named if name not in app] == []


def test_on_a_cpu_it_takes_the_labs_model_or_the_one_named(opened, monkeypatch):
    app = load(monkeypatch)
    assert app.make_service().options.max_new_tokens == 32
    monkeypatch.setenv("ULTRALONG_MODEL", "org/name")
    monkeypatch.setenv("ULTRALONG_CACHE_GIB", "0.5")
    assert app.make_service().options.max_new_tokens == 512
    assert opened == [
        (None, "transformers", {"device": None, "cache_bytes": 4 * 1024**3}),
        ("org/name", "transformers", {"device": None, "cache_bytes": 512 * 1024**2}),
    ]


def test_over_an_endpoint(opened, monkeypatch):
    monkeypatch.setenv("ULTRALONG_ENGINE", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("ULTRALONG_MODEL", "name")
    monkeypatch.setenv("ULTRALONG_MAX_NEW_TOKENS", "64")
    assert load(monkeypatch).make_service().options.max_new_tokens == 64
    assert opened == [("name", "http://127.0.0.1:9/v1", {"tokenizer": None})]


def test_on_zerogpu_answers_are_written_by_the_decorated_function(opened, monkeypatch):
    """Questions and events go between processes there, so they are pickled here."""
    durations = []

    def gpu(duration):
        durations.append(duration)

        def decorate(function):
            def call(*arguments):
                for event in function(*pickle.loads(pickle.dumps(arguments))):  # noqa: S301 -- our own
                    yield pickle.loads(pickle.dumps(event))  # noqa: S301

            return call

        return decorate

    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setenv("ULTRALONG_MODEL", "org/name")
    service = load(monkeypatch, spaces=types.SimpleNamespace(GPU=gpu)).make_service()
    assert opened[0][2]["device"] == "cuda"
    assert durations == [120]
    question, options = Question("a", (BOOK,), "What is it?"), Options(max_new_tokens=6, passages=0)
    *_, reply = service.engine.ask(question, options, threading.Event())
    *_, alone = make_engine().ask(question, options, threading.Event())
    assert reply.text == alone.text
    assert service.engine.name == "small"
    stop = threading.Event()
    for event in service.engine.ask(question, options, stop):
        if isinstance(event, Piece):
            stop.set()
    assert isinstance(event, Reply)
    assert event.finish_reason == "stopped"


@pytest.mark.filterwarnings("ignore")
def test_it_serves_a_page_that_the_hub_may_frame(opened, monkeypatch):
    import httpx2

    app = load(monkeypatch)
    service = app.make_service()
    with page_of(service, Where(frames=app.HUB, open_to_all=True)) as served:
        policy = httpx2.get(served.url).headers["content-security-policy"]
        assert "frame-ancestors https://huggingface.co" in policy
