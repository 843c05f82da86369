"""What a server may do wrong: each is one clear error or a counted failure, and never a score."""

import asyncio
import re
import time

import pytest
from evaluation_models import make_tokenizer
from fake_server import FakeServer

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.engines import ServerEngine, requests
from ultralong_hf.evaluation.prompts import build_frame
from ultralong_hf.evaluation.tasks import Sample

QUIET = {"progress": False}


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(requests, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(requests, "LONGEST_WAIT", 0.02)


def _reader(tokenizer):
    """The answer of a model that finds every fact, whatever the form of the prompt."""

    def answer(prompt):
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        prefix = re.search(r"The [\w ]+ is$", text).group()
        return f" {re.search(rf'{prefix} ([0-9]+)', text).group(1)}."

    return answer


def _evaluate(url, tokenizer, documents, output_dir=None, **options):
    options = {"lengths": [300], "depths": [0, 100], "samples": 4, **QUIET, **options}
    return evaluate(
        "m", "needle", engine=url, tokenizer=tokenizer, haystack=documents, output_dir=output_dir, **options
    )


@pytest.mark.parametrize(("takes", "form"), [(("ids", "text"), "token ids"), (("text", "chat"), "text")])
def test_prompts_go_in_the_first_form_that_the_server_takes(tokenizer, documents, takes, form):
    server = FakeServer(_reader(tokenizer), takes=takes)
    with server.running() as url:
        report = _evaluate(url, tokenizer, documents, concurrency=3)
    assert [cell["hits"] for cell in report.cells] == [4, 4]
    assert f"Answers are of the model 'm' at {url}; prompts were sent as {form}." in report.notes
    assert len(server.asked) == 8
    assert server.most_at_once <= 3
    assert {body["temperature"] for body in server.asked} == {0.0}
    assert {body["max_tokens"] for body in server.asked} == {16}


def test_token_ids_arrive_as_they_are(tokenizer):
    server = FakeServer(lambda prompt: "answer")
    prompts = [[5, 6, 7], [8, 9]]
    with server.running() as url:
        answers = ServerEngine(url, tokenizer=tokenizer).generate(prompts, 4)
    assert sorted(body["prompt"] for body in server.asked) == prompts
    assert [answer.text for answer in answers] == ["answer", "answer"]


def test_a_server_that_counts_other_tokens_is_not_sent_ids(tokenizer):
    class Miscounting(FakeServer):
        def completion(self, body, form="ids"):
            return super().completion(body, form) | {"usage": {"prompt_tokens": 1}}

    with Miscounting(lambda prompt: "answer").running() as url:
        assert ServerEngine(url, tokenizer=tokenizer).form == "text"


def test_a_text_has_bos_once_where_the_server_adds_it():
    tokenizer = make_tokenizer(adds_bos=True)
    server = FakeServer(lambda prompt: "answer", takes=("text",))
    ids = tokenizer("What is the room number?")["input_ids"]
    with server.running() as url:
        (answer,) = ServerEngine(url, tokenizer=tokenizer).generate([ids], 4)
    assert server.asked[0]["prompt"] == "What is the room number?"
    assert answer.notes == ()


def test_a_text_that_becomes_other_tokens_is_named(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list("the"))
    assert tokenizer("the")["input_ids"] != ids
    with FakeServer(lambda prompt: "answer", takes=("text",)).running() as url:
        (answer,) = ServerEngine(url, tokenizer=tokenizer).generate([ids], 4)
    assert answer.notes[0].startswith("retokenized: as text, the prompt becomes")


def test_chat_messages_hold_the_user_message_alone():
    tokenizer = make_tokenizer(chat=True)
    frame = build_frame(tokenizer, "chat", before="Intro.\n", after="\nWhich?", answer_prefix="It is")
    sample = Sample("t", 9, 0, frame.wrap(tokenizer("the text")["input_ids"]), ("x",), 4, frame=frame)
    server = FakeServer(lambda prompt: "answer", takes=("chat",))
    with server.running() as url:
        engine = ServerEngine(url, tokenizer=tokenizer)
        (answer,) = engine.answer([sample])
        (without,) = engine.generate([[5, 6]], 4)
    assert server.asked[0]["messages"] == [{"role": "user", "content": "Intro.\nthe text\nWhich?"}]
    assert answer.text == "answer"
    assert answer.notes == ("answer prefix left out: the server takes chat messages only",)
    assert "takes chat messages only" in without.failure


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(tokenizer, documents, status):
    def busy(handler, body, number):
        if number % 2:
            handler.give({"error": "busy"}, status, retry_after="0")
        return bool(number % 2)

    with FakeServer(_reader(tokenizer), misbehave=busy).running() as url:
        report = _evaluate(url, tokenizer, documents, concurrency=1)
    assert [(cell["hits"], cell["samples"]) for cell in report.cells] == [(4, 4), (4, 4)]
    assert not any("no answer" in note for note in report.notes)


def test_a_connection_dropped_mid_run_is_taken_up_again(tokenizer, documents):
    def drop(handler, body, number):
        if number in (2, 3):
            handler.drop()
        return number in (2, 3)

    with FakeServer(_reader(tokenizer), misbehave=drop).running() as url:
        report = _evaluate(url, tokenizer, documents, concurrency=1)
    assert [(cell["hits"], cell["samples"]) for cell in report.cells] == [(4, 4), (4, 4)]


FAILURES = {
    "context": (
        lambda handler: handler.give(
            {"error": {"message": "This model's maximum context length is 256 tokens."}}, 400
        ),
        "400: This model's maximum context length is 256 tokens.",
    ),
    "garbage": (lambda handler: handler.give(b"{oops"), "the reply is no JSON object (6 attempts)"),
    "other json": (lambda handler: handler.give({"ok": 1}), "the reply holds no answer"),
    "no text": (
        lambda handler: handler.give({"choices": [{"text": None, "finish_reason": "stop"}]}),
        "the reply holds no text",
    ),
    "filtered": (
        lambda handler: handler.give({"choices": [{"text": "7", "finish_reason": "content_filter"}]}),
        "the server ended the answer itself: content_filter",
    ),
    "broken": (lambda handler: handler.give({"detail": "boom"}, 500), "500: boom (6 attempts)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_prompt_without_an_answer_is_counted_and_in_no_score(tokenizer, documents, tmp_path, name):
    act, fault = FAILURES[name]
    bad = []

    def fail(handler, body, number):
        if not bad:
            bad.append(body["prompt"])
        if body["prompt"] == bad[0]:
            act(handler)
        return body["prompt"] == bad[0]

    server = FakeServer(_reader(tokenizer), misbehave=fail)
    with server.running() as url:
        report = _evaluate(url, tokenizer, documents, tmp_path, concurrency=1)
        assert sorted((cell["hits"], cell["samples"]) for cell in report.cells) == [(3, 3), (4, 4)]
        (note,) = (note for note in report.notes if "no answer" in note)
        assert note.startswith(f"needle: 1 of 8 prompts got no answer and are in no score: 1 x {fault}")
        server.misbehave = lambda handler, body, number: False
        asked = len(server.asked)
        again = _evaluate(url, tokenizer, documents, tmp_path, concurrency=1)
    assert len(server.asked) == asked + 1
    assert [(cell["hits"], cell["samples"]) for cell in again.cells] == [(4, 4), (4, 4)]
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == 8


def test_an_answer_that_never_ends_is_a_failure(tokenizer):
    def drip(handler, body, number):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.02)
        except OSError:
            return True

    with FakeServer(lambda prompt: "answer", misbehave=drip).running() as url:
        engine = ServerEngine(url, tokenizer=tokenizer, timeout=0.3)
        (answer,) = engine.generate([[5, 6]], 4)
    assert answer.failure == "no answer within 0.3 s (2 attempts)"


@pytest.mark.parametrize("counted", [1, 101])
def test_an_answer_beyond_its_budget_is_cut(tokenizer, counted):
    class Talkative(FakeServer):
        def completion(self, body, form="ids"):
            usage = {"completion_tokens": counted, "prompt_tokens": len(body["prompt"])}
            return super().completion(body, form) | {"usage": usage}

    with Talkative(lambda prompt: "wrong " * 50 + "12345").running() as url:
        (answer,) = ServerEngine(url, tokenizer=tokenizer).generate([[5, 6]], 4)
    assert "12345" not in answer.text
    assert answer.notes == ("answer cut: the server gave more than 4 tokens",)


def test_a_server_that_is_gone_ends_the_run_with_what_was_answered(tokenizer, documents, tmp_path):
    def refuse(handler, body, number):
        if number > 2:
            handler.give({"error": {"message": "model m does not exist"}}, 404)
        return number > 2

    server = FakeServer(_reader(tokenizer), misbehave=refuse)
    with server.running() as url:
        with pytest.raises(EvaluationError, match="No more prompts can be asked: 404: model m does not"):
            _evaluate(url, tokenizer, documents, tmp_path, concurrency=1)
        server.misbehave = lambda handler, body, number: False
        report = _evaluate(url, tokenizer, documents, tmp_path, concurrency=1)
    assert [cell["hits"] for cell in report.cells] == [4, 4]
    assert len(server.asked) == 4 + 6  # a batch of 2 was lost


def test_a_server_where_everything_fails_is_given_up(tokenizer, documents):
    def fail(handler, body, number):
        handler.give({"error": "broken"}, 400)
        return True

    server = FakeServer(_reader(tokenizer), misbehave=fail)
    with server.running() as url, pytest.raises(EvaluationError, match="The last 20 prompts got no answer"):
        _evaluate(url, tokenizer, documents, samples=40, concurrency=2)
    assert 20 <= len(server.asked) <= 24


def test_no_server_is_one_clear_error(tokenizer):
    with pytest.raises(EvaluationError, match=r"the server cannot be reached.* Is the server running there"):
        ServerEngine("http://127.0.0.1:9", tokenizer=tokenizer)


def test_lengths_beyond_the_servers_window_are_refused_before_the_first_prompt(tokenizer, documents):
    server = FakeServer(_reader(tokenizer), models=({"id": "m", "max_model_len": 256},))
    with server.running() as url, pytest.raises(EvaluationError, match="300 tokens are more than the model"):
        _evaluate(url, tokenizer, documents)
    assert server.asked == []


def test_the_key_comes_from_the_environment(tokenizer, monkeypatch):
    with FakeServer(lambda prompt: "answer", key="secret").running() as url:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(EvaluationError, match=r"refuses the key .*set ULTRALONG_ENGINE_KEY or OPENAI"):
            ServerEngine(url, tokenizer=tokenizer)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        assert ServerEngine(url, tokenizer=tokenizer).generate([[5]], 4)[0].text == "answer"


def test_one_of_several_models_must_be_named(tokenizer):
    server = FakeServer(lambda prompt: "answer", models=({"id": "a"}, {"id": "b"}))
    with server.running() as url:
        with pytest.raises(EvaluationError, match="serves several models: name one"):
            ServerEngine(url, tokenizer=tokenizer)
        assert ServerEngine(url, "b", tokenizer=tokenizer).model == "b"
    server.models = ()
    with server.running() as url, pytest.raises(EvaluationError, match="lists no model"):
        ServerEngine(url, tokenizer=tokenizer)


def test_it_answers_within_a_running_loop_as_in_notebooks(tokenizer):
    async def in_a_cell(url):
        return ServerEngine(url, tokenizer=tokenizer).generate([[5]], 4)

    with FakeServer(lambda prompt: "answer").running() as url:
        assert asyncio.run(in_a_cell(url))[0].text == "answer"


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0}])
def test_refuses_settings_that_make_no_sense(tokenizer, options):
    with pytest.raises(EvaluationError, match=next(iter(options))):
        ServerEngine("http://127.0.0.1:9", tokenizer=tokenizer, **options)
