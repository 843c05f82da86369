import json
import threading

import httpx2
import pytest
from word_tokenizers import pair, read_lines, tokenizer_with, write_lines

from ultralong_hf.data.instructions import rewriting
from ultralong_hf.data.instructions.blend import UnconfirmedError
from ultralong_hf.data.instructions.encoding import ChatEncoder
from ultralong_hf.data.instructions.rewriting import Ledger, estimate, rewrite
from ultralong_hf.endpoint import EndpointClient
from ultralong_hf.errors import ConversationError, EndpointError
from ultralong_hf.recipes.schema import RewriteSection

URL = "http://127.0.0.1:1/v1"


class Server:
    """Answers a prompt with its last message in capitals, unless `answer` says otherwise; keeps requests."""

    def __init__(self, answer=None):
        self.answer = answer or (lambda body: body["messages"][-1]["content"].upper())
        self.bodies = []
        self.lock = threading.Lock()

    def client(self) -> EndpointClient:
        def respond(request):
            body = json.loads(request.content)
            with self.lock:
                self.bodies.append(body)
            text = self.answer(body)
            if isinstance(text, httpx2.Response):
                return text
            text, finish = text if isinstance(text, tuple) else (text, "stop")
            return httpx2.Response(
                200,
                json={
                    "choices": [{"message": {"content": text}, "finish_reason": finish}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 2},
                },
            )

        return EndpointClient(URL, transport=httpx2.MockTransport(respond), retries=0)


def section(**keys) -> RewriteSection:
    return RewriteSection(base_url=URL, model="strong", **keys)


def talks(count):
    return [pair(f"hi {n}", "old") for n in range(count)]


def test_every_answer_is_written_anew_after_those_that_are_new_already(tmp_path):
    server = Server()
    talk = [{"role": "system", "content": "be kind"}, *pair("one", "old"), *pair("two", "old")]
    (result,), usage = rewrite([talk], section(), Ledger(tmp_path / "l"), client=server.client())
    assert result.messages == [talk[0], *pair("one", "ONE"), *pair("two", "TWO")]
    assert server.bodies == [
        {"model": "strong", "messages": talk[:2], "max_tokens": 4096},
        {"model": "strong", "messages": [talk[0], *pair("one", "ONE"), talk[3]], "max_tokens": 4096},
    ]
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (2, 20, 4)


def test_the_last_answer_alone_and_other_keys_of_the_request(tmp_path):
    server = Server()
    talk = [{"role": "system", "content": "be kind"}, *pair("one", "old"), *pair("two", "old")]
    keys = section(
        turns="last",
        system="Write well.",
        temperature=0.5,
        max_tokens=9,
        token_limit_key="max_completion_tokens",
    )
    (result,), _ = rewrite([talk], keys, Ledger(tmp_path / "l"), client=server.client())
    assert result.messages == [*talk[:4], {"role": "assistant", "content": "TWO"}]
    assert server.bodies == [
        {
            "model": "strong",
            "messages": [{"role": "system", "content": "Write well.\n\nbe kind"}, *talk[1:4]],
            "max_completion_tokens": 9,
            "temperature": 0.5,
        }
    ]


def test_results_keep_their_order_and_no_more_requests_run_at_once_than_asked_for(tmp_path):
    most, running, lock = 0, 0, threading.Lock()
    first = threading.Barrier(4, timeout=20)

    def answer(body):
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        if body["messages"][-1]["content"] in {"hi 0", "hi 1", "hi 2", "hi 3"}:
            first.wait()
        with lock:
            running -= 1
        return body["messages"][-1]["content"].upper()

    results, _ = rewrite(
        talks(30), section(concurrency=4), Ledger(tmp_path / "l"), client=Server(answer).client()
    )
    assert [result.messages[-1]["content"] for result in results] == [f"HI {n}" for n in range(30)]
    assert most == 4


def test_a_second_run_asks_for_nothing_that_was_received(tmp_path):
    server = Server()
    rewrite(talks(5), section(), Ledger(tmp_path / "l"), client=server.client())
    results, usage = rewrite(talks(7), section(), Ledger(tmp_path / "l"), client=server.client())
    assert len(server.bodies) == 7
    assert (usage.requests, usage.from_ledger) == (2, 5)
    assert [result.messages[-1]["content"] for result in results] == [f"HI {n}" for n in range(7)]
    _, usage = rewrite(talks(1), section(temperature=1.0), Ledger(tmp_path / "l"), client=server.client())
    assert usage.requests == 1, "another request is another answer"


def test_a_line_that_was_cut_off_is_asked_for_again_and_one_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "l"
    rewrite(talks(3), section(concurrency=1), Ledger(path), client=Server().client())
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    ledger = Ledger(path)
    assert len(ledger.answers) == 2
    server = Server()
    rewrite(talks(3), section(concurrency=1), ledger, client=server.client())
    assert len(server.bodies) == 1
    assert path.read_bytes() == whole
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(ConversationError, match="is damaged in the middle"):
        Ledger(path)


@pytest.mark.parametrize(
    ("answer", "reason", "detail"),
    [
        (("half of", "length"), "rewrite_cut", "the answer was cut at 4,096 tokens."),
        ((" ", "content_filter"), "rewrite_failed", "the answer is blank (content_filter)."),
        (httpx2.Response(400, text="too long"), "rewrite_failed", "HTTP 400: too long"),
    ],
)
def test_an_answer_that_is_none_costs_its_conversation_with_the_reason(tmp_path, answer, reason, detail):
    server = Server(lambda body: answer if body["messages"][-1]["content"] == "hi 3" else "new")
    results, _ = rewrite(talks(40), section(), Ledger(tmp_path / "l"), client=server.client())
    assert [n for n, result in enumerate(results) if result.messages is None] == [3]
    assert results[3].reason == reason
    assert detail in results[3].detail


def test_many_failures_end_the_run_and_what_was_received_stays(tmp_path):
    server = Server(lambda body: "new" if len(server.bodies) < 3 else httpx2.Response(401, text="no"))
    with pytest.raises(
        EndpointError, match=r"conversations got no answer; rewrite.max_failed_share allows 0.05"
    ):
        rewrite(talks(40), section(concurrency=1), Ledger(tmp_path / "l"), client=server.client())
    assert len(Ledger(tmp_path / "l").answers) == 2
    assert len(server.bodies) <= 6


def test_a_server_that_answers_nothing_is_left_after_twenty(tmp_path, monkeypatch):
    server = Server(lambda body: httpx2.Response(401, text="no"))
    with pytest.raises(EndpointError, match="20 of 20 conversations got no answer"):
        rewrite(
            talks(90),
            section(concurrency=1, max_failed_share=0.5),
            Ledger(tmp_path / "l"),
            client=server.client(),
        )
    assert len(server.bodies) == 20


def test_the_estimate_counts_prompts_and_answers_that_are_still_to_be_asked_for(tmp_path):
    encoder = ChatEncoder(tokenizer_with())
    prices = {"usd_per_million_prompt_tokens": 1e6, "usd_per_million_completion_tokens": 2e6}
    keys = section(max_tokens=100, **prices)
    talk = [*pair("hi there", "hi you"), *pair("bye", "bye now")]
    # "<u> hi there <end> <a>" is 5 tokens, with "hi you <end> <u> bye <end> <a>" 12; an answer is 3
    found = estimate([talk], keys, encoder, Ledger(tmp_path / "l"))
    assert (found.requests, found.prompt_tokens, found.completion_tokens) == (2, 17, 6)
    assert (found.most_completion_tokens, found.usd, found.most_usd) == (200, 17 + 12, 17 + 400)
    ledger = Ledger(tmp_path / "l")
    rewrite([talk], keys, ledger, client=Server().client())
    assert estimate([talk, pair("hi", "ok")], keys, encoder, ledger).requests == 1
    assert estimate([talk], section(), encoder, Ledger(tmp_path / "none")).usd is None


@pytest.fixture
def served(monkeypatch):
    """The blend's own client asks this server."""
    server = Server()
    monkeypatch.setattr(rewriting, "EndpointClient", lambda *args, **options: server.client())
    return server


def test_a_blend_asks_only_after_the_estimate_was_agreed_to(blend, served, tmp_path):
    rows = [{"prompt": f"hi {n}", "completion": "old"} for n in range(4)]
    with pytest.raises(UnconfirmedError) as caught:
        blend({"a": rows}, rewrite=section())
    assert caught.value.estimate.requests == 4
    assert caught.value.faults[0] == f"to write anew by strong at {URL}: 4 answers"
    assert "cost: unknown" in caught.value.faults[2]
    assert served.bodies == []
    said = []
    report = blend({"a": rows}, rewrite=section(), confirm=True, say=said.append)
    assert said[0] == f"to write anew by strong at {URL}: 4 answers"
    assert report["rewrites"] == {
        "requests": 4,
        "from_ledger": 0,
        "prompt_tokens": 40,
        "completion_tokens": 8,
    }
    lines = read_lines(tmp_path / "blend/messages.jsonl")
    assert [line["messages"][-1]["content"] for line in lines] == ["HI 0", "HI 1", "HI 2", "HI 3"]
    assert all(line["rewritten"] for line in lines)
    again = blend({"a": rows}, output="other", rewrite=section(ledger=str(tmp_path / "blend/rewrites.jsonl")))
    assert again["rewrites"]["requests"] == 0
    assert len(served.bodies) == 4


def test_new_answers_are_measured_and_searched_too(blend, served, tmp_path):
    quiz = "one two three four five six seven eight nine ten eleven twelve thirteen"
    write_lines(tmp_path / "quiz.jsonl", [{"q": quiz}])
    answers = {"a": quiz, "b": "x " * 60, "c": ("cut", "length"), "d": "fine"}
    served.answer = lambda body: answers[body["messages"][-1]["content"]]
    report = blend(
        {"s": [{"prompt": word, "completion": "old"} for word in "abcd"]},
        rewrite=section(),
        confirm=True,
        max_length=50,
        filters={"decontaminate": {"files": [str(tmp_path / "quiz.jsonl")]}},
    )
    assert report["total"]["dropped"] == {
        "rewrite_cut": 1,
        "rewrite_too_long": 1,
        "rewrite_contaminated": 1,
    }
    removed = {line["place"]: line for line in read_lines(tmp_path / "blend/removed.jsonl")}
    assert removed["s.jsonl, row 1"]["benchmark"] == "quiz.jsonl, row 0, q"
    assert removed["s.jsonl, row 2"]["tokens"] > 50
    assert report["samples"] == 1


def test_where_answers_are_new_prompts_alone_make_duplicates(blend, served):
    rows = [{"prompt": "the same", "completion": text} for text in ("one", "two")]
    filters = {"exact_duplicates": True}
    assert blend({"a": rows}, filters=filters)["samples"] == 2
    report = blend({"a": rows}, output="new", filters=filters, rewrite=section(), confirm=True)
    assert report["samples"] == 1
    assert len(served.bodies) == 1
