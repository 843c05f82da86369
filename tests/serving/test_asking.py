"""What servers say of their window, each in its way."""

import json

import httpx2
import pytest

from ultralong_hf.cli import main
from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.errors import EndpointError
from ultralong_hf.lab import base_model_path
from ultralong_hf.serving import asking

URL = "http://127.0.0.1:9/v1"


def client(models, info=None):
    def answer(request):
        path = request.url.path
        if path == "/v1/models":
            return httpx2.Response(200, json={"object": "list", "data": models})
        if path == "/info" and info is not None:
            return httpx2.Response(200, json=info)
        return httpx2.Response(404, json={"error": path})

    return EndpointClient(URL, transport=httpx2.MockTransport(answer), retries=0)


@pytest.mark.parametrize(
    ("models", "info", "window"),
    [
        ([{"id": "org/tiny", "max_model_len": 4096}], None, 4096),  # vLLM, SGLang
        (
            [{"id": "tiny.gguf", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}}],
            None,
            4096,
        ),  # llama.cpp
        ([{"id": "tiny"}], {"max_total_tokens": 4096}, 4096),  # TGI
        ([{"id": "tiny"}], None, None),  # transformers serve
    ],
)
def test_each_server_tells_its_window(models, info, window):
    served = asking.ask_server(client(models, info), name="here/tiny", length=4096)
    assert served.window == window
    assert served.faults == ()
    assert bool(served.notes) == (window is None)


def test_a_shorter_window_is_a_fault():
    served = asking.ask_server(client([{"id": "tiny", "max_model_len": 512}]), name="tiny", length=4096)
    assert "serves 512 tokens of 4,096" in served.faults[0]


def test_the_model_is_found_among_several_and_another_one_told():
    models = [{"id": "other", "max_model_len": 1}, {"id": "org/tiny", "max_model_len": 4096}]
    assert asking.ask_server(client(models), name="x/tiny/", length=4096).model == "org/tiny"
    served = asking.ask_server(client(models), name="absent", length=1)
    assert served.model == "other"
    assert "lists 'other', not 'absent'" in served.notes[0]


def test_a_server_that_lists_nothing_is_told():
    """As `transformers serve` does of a folder."""
    served = asking.ask_server(client([]), name="tiny", length=1)
    assert (served.model, served.window, served.faults) == ("", None, ())
    assert served.notes[0] == "the server lists no model."


def test_what_is_no_server_of_models_is_refused():
    with pytest.raises(EndpointError, match="lists no models"):
        asking.ask_server(client({"no": "list"}), name="tiny", length=1)
    with pytest.raises(EndpointError):
        asking.ask_server(EndpointClient(URL, retries=0, timeout=2), name="tiny", length=1)


def test_command_checks_a_server(monkeypatch, capsys):
    class Asked(EndpointClient):
        def __init__(self, url, **options):
            super().__init__(
                url, retries=0, transport=client([{"id": "base", "max_model_len": 128}])._client._transport
            )

    monkeypatch.setattr("ultralong_hf.endpoint.EndpointClient", Asked)
    arguments = ["serve-config", str(base_model_path()), "--engine", "vllm", "--gpu", "cpu", "--check", URL]
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert f"# {URL} serves 128 tokens of base" in told.out
    assert "error: http://127.0.0.1:9/v1 serves 128 tokens of 256" in told.err
    assert main([*arguments, "--length", "128", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checked"]["window"] == 128
