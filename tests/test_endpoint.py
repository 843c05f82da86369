import json

import httpx2
import pytest

from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.errors import EndpointError

URL = "http://127.0.0.1:8000/v1"
ANSWER = {
    "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}


class Server:
    """Answers requests with the given responses in turn, and keeps requests and waits."""

    def __init__(self, *responses):
        self.responses = list(responses)
        self.requests = []
        self.waits = []

    def client(self, **options) -> EndpointClient:
        def answer(request):
            self.requests.append(request)
            response = self.responses.pop(0)
            if isinstance(response, Exception):
                raise response
            return response

        return EndpointClient(URL, transport=httpx2.MockTransport(answer), sleep=self.waits.append, **options)


def test_a_conversation_is_asked_in_openais_form(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    server = Server(httpx2.Response(200, json=ANSWER))
    reply = server.client(api_key_env="MY_KEY").chat("m", [{"role": "user", "content": "2+2"}], max_tokens=9)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (
        "4",
        "stop",
        5,
        1,
    )
    request = server.requests[0]
    assert str(request.url) == f"{URL}/chat/completions"
    assert request.headers["authorization"] == "Bearer secret-1"
    assert json.loads(request.content) == {
        "model": "m",
        "messages": [{"role": "user", "content": "2+2"}],
        "max_tokens": 9,
    }


def test_a_busy_server_is_asked_again_after_the_time_that_it_names():
    busy = httpx2.Response(429, headers={"retry-after": "7"})
    server = Server(busy, httpx2.ConnectError("refused"), httpx2.Response(200, json={"ok": 1}))
    assert server.client().get("models") == {"ok": 1}
    assert server.waits[0] == 7
    assert 1 <= server.waits[1] <= 2, "the second wait of a doubling one, with jitter"


def test_attempts_end():
    server = Server(*[httpx2.Response(503, text="restarting")] * 3)
    with pytest.raises(EndpointError, match=r"no answer after 3 attempts. The last: HTTP 503: restarting"):
        server.client(retries=2).get("models")
    assert len(server.waits) == 2


def test_no_wait_is_longer_than_two_minutes():
    server = Server(httpx2.Response(429, headers={"retry-after": "86400"}), httpx2.Response(200, json={}))
    server.client().get("models")
    assert server.waits == [120]


def test_a_refusal_is_final_and_never_shows_the_key(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    server = Server(httpx2.Response(401, text="Incorrect API key provided: secret-1"))
    with pytest.raises(EndpointError) as caught:
        server.client(api_key_env="MY_KEY").get("models")
    assert "secret-1" not in str(caught.value)
    assert "Look at the key in MY_KEY" in str(caught.value)
    assert len(server.requests) == 1


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    server = Server(httpx2.Response(403, text="no"))
    with pytest.raises(EndpointError, match="Put a valid key into MY_KEY"):
        server.client(api_key_env="MY_KEY").get("models")
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx2.Response(200, text="<html>"), "the answer is no JSON object: <html>"),
        (httpx2.Response(200, json={"choices": []}), "this is no chat completion"),
    ],
)
def test_an_answer_of_another_kind_is_told(response, message):
    with pytest.raises(EndpointError, match=message):
        Server(response).client().chat("m", [])


@pytest.mark.parametrize("address", ["api.openai.com", "ftp://x/v1", "http://"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(EndpointError, match="no address of a server"):
        EndpointClient(address)


def test_a_key_over_plain_http_to_another_machine_is_warned_of(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "secret-1")
    EndpointClient("http://gpu-7:8000/v1", api_key_env="MY_KEY").close()
    assert "goes to gpu-7 unencrypted" in caplog.text


def _stream(*lines, status=200):
    content = "".join(f"{line}\n\n" for line in lines).encode()
    return httpx2.Response(status, content=content, headers={"content-type": "text/event-stream"})


def test_a_stream_gives_its_objects_until_done():
    server = Server(
        _stream(": keep-alive", 'data: {"a": 1}', 'data:{"a": 2}', "data: [DONE]", 'data: {"a": 3}')
    )
    assert list(server.client().stream("chat/completions", {"stream": True})) == [{"a": 1}, {"a": 2}]
    assert json.loads(server.requests[0].content) == {"stream": True}


def test_a_stream_is_retried_before_its_first_object_alone():
    busy = httpx2.Response(503, headers={"retry-after": "2"}, text="loading")
    server = Server(busy, httpx2.ConnectError("refused"), _stream('data: {"a": 1}'))
    assert list(server.client().stream("x", {})) == [{"a": 1}]
    assert server.waits[0] == 2
    assert len(server.requests) == 3


def test_a_stream_that_breaks_off_is_an_error_and_not_asked_again():
    class Broken(httpx2.SyncByteStream):
        def __iter__(self):
            yield b'data: {"a": 1}\n\n'
            raise httpx2.ReadError("gone")

    server = Server(httpx2.Response(200, stream=Broken()))
    events = server.client().stream("x", {})
    assert next(events) == {"a": 1}
    with pytest.raises(EndpointError, match="the answer broke off"):
        next(events)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("data: nothing", "no JSON object: nothing"),
        ("data: [1]", "no JSON object"),
        ('data: {"error": {"message": "too long"}}', "the server broke off: .*too long"),
    ],
)
def test_a_stream_of_something_else_is_an_error(line, what):
    with pytest.raises(EndpointError, match=what):
        list(Server(_stream(line)).client().stream("x", {}))


def test_a_stream_that_is_refused_says_why():
    with pytest.raises(EndpointError, match="HTTP 400: too many tokens"):
        list(Server(httpx2.Response(400, text="too many tokens")).client().stream("x", {}))


def test_a_stream_is_stopped_between_two_objects():
    seen = []
    server = Server(_stream('data: {"a": 1}', 'data: {"a": 2}', 'data: {"a": 3}'))
    for event in server.client().stream("x", {}, stopped=lambda: bool(seen)):
        seen.append(event)
    assert seen == [{"a": 1}]
