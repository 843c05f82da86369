"""A server on loopback that streams as OpenAI-compatible ones do."""

import threading
import time

import pytest
from chat_models import BOOK, NOTES, make_tokenizer, question
from chat_server import running_server

from ultralong_hf.chat.engine import Options, Piece, Prefill, Waiting
from ultralong_hf.chat.engine_server import ServerChatEngine
from ultralong_hf.chat.prompting import Turn
from ultralong_hf.chat.session import ChatService
from ultralong_hf.errors import ChatError, DoesNotFit, EndpointError


@pytest.fixture
def server():
    with running_server() as server:
        yield server


def _ask(engine, asked=None, stop=None, **options):
    return list(
        engine.ask(asked or question(), Options(max_new_tokens=9, **options), stop or threading.Event())
    )


def test_an_answer_is_streamed_and_counted(server):
    engine = ServerChatEngine(server.url)
    assert (engine.name, engine.window, engine.in_process) == ("small", 4096, False)
    events = _ask(engine)
    assert events[0] == Prefill(0, None, 0, None)
    assert [event.text for event in events if isinstance(event, Piece)] == ["The ", "code ", "is 12345."]
    reply = events[-1]
    assert (reply.text, reply.finish_reason, reply.new_tokens) == ("The code is 12345.", "stop", 3)
    assert reply.reused_tokens == 0


def test_the_documents_open_every_request_unchanged(server):
    engine = ServerChatEngine(server.url)
    _ask(engine)
    second = _ask(engine, question("More?", turns=[Turn("What is it?", "The code is 12345.")]))[-1]
    first, later = (body["messages"] for body in server.bodies)
    assert later[0] == first[0]
    assert BOOK.text in first[0]["content"]
    assert [message["role"] for message in later] == ["user", "assistant", "user"]
    assert second.reused_tokens > len(BOOK.text)
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert second.reuse.startswith(f"reused {second.reused_tokens:,} of {second.prompt_tokens:,}")


def test_a_server_that_does_not_count_is_said_not_to(server):
    server.usage = False
    assert "does not say" in _ask(ServerChatEngine(server.url))[-1].reuse


def test_a_stop_ends_the_answer_at_once(server):
    server.gate.clear()
    stop, engine = threading.Event(), ServerChatEngine(server.url)
    began = time.monotonic()
    for event in engine.ask(question(), Options(), stop):
        if isinstance(event, Piece):
            stop.set()
    assert (event.finish_reason, event.text) == ("stopped", "The ")
    assert time.monotonic() - began < 5


def test_a_busy_server_is_asked_again(server):
    server.statuses = [503, 429]
    assert _ask(ServerChatEngine(server.url))[-1].text == "The code is 12345."


def test_a_refusal_is_told(server):
    engine = ServerChatEngine(server.url)
    server.statuses = [400]
    with pytest.raises(EndpointError, match="HTTP 400"):
        _ask(engine)


@pytest.mark.parametrize(("finish", "expected"), [("length", "length"), ("eos", "stop"), (None, "stop")])
def test_finish_reasons_are_told_in_our_words(server, finish, expected):
    server.finish = finish
    assert _ask(ServerChatEngine(server.url))[-1].finish_reason == expected


def test_a_server_that_ends_an_answer_itself_is_an_error(server):
    server.finish = "content_filter"
    with pytest.raises(EndpointError, match="ended the answer itself: content_filter"):
        _ask(ServerChatEngine(server.url))


def test_a_server_with_several_models_needs_a_name(server):
    server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(ChatError, match=r"lists 2 models \(a, b\): name one with --model"):
        ServerChatEngine(server.url)
    assert ServerChatEngine(server.url, "b").name == "b"


def test_tokens_are_exact_with_a_tokenizer_and_estimated_without(server):
    tokenizer = make_tokenizer()
    exact = ServerChatEngine(server.url, tokenizer=tokenizer).count("s", BOOK)
    assert (exact.tokens, exact.exact) == (len(tokenizer.encode(BOOK.text)), True)
    estimated = ServerChatEngine(server.url).count("s", BOOK)
    assert (estimated.tokens, estimated.exact) == (round(len(BOOK.text) / 3.5), False)


def test_beyond_the_servers_window_is_refused_here(server):
    engine = ServerChatEngine(server.url, tokenizer=make_tokenizer(), window=500)
    with pytest.raises(DoesNotFit, match="more than the server's 500"):
        _ask(engine, question(documents=(BOOK, NOTES)))
    assert server.bodies == []


def test_questions_beyond_the_bound_wait(server):
    server.gate.clear()
    engine = ServerChatEngine(server.url, running=1, waiting=1)
    first = engine.ask(question(session="a"), Options(), threading.Event())
    next(first)
    second = engine.ask(question(session="b"), Options(), threading.Event())
    assert next(second) == Waiting(1)
    server.gate.set()
    list(first)
    assert list(second)[-1].text == "The code is 12345."


def test_a_session_over_a_server_has_evidence_and_no_cache_of_its_own(server, tmp_path):
    session = ChatService(ServerChatEngine(server.url)).open()
    session.add_document(BOOK)
    list(session.ask("What is the code?"))
    turn = session.turns[0]
    assert turn.evidence.verified
    assert turn.passages == ()
    assert session.cache_use() is None
    with pytest.raises(ChatError, match="cache is the server's"):
        session.save_cache(tmp_path / "x.safetensors")
    assert any("estimated" in message for message in session.meter().messages)
