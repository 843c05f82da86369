"""The server path against a real server on loopback: `transformers serve` with the lab's model."""

import logging
import socket
import time
from itertools import islice

import httpx2
import pytest
from transformers.cli.serve import Serve

from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.engines import ServerEngine, TransformersEngine
from ultralong_hf.lab import base_model_path
from ultralong_hf.lab.corpus import held_out_documents

MODEL = str(base_model_path())


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        server = Serve(
            force_model=MODEL, device="cpu", host="127.0.0.1", port=port, non_blocking=True, log_level="error"
        )
        try:
            for _ in range(100):
                try:
                    httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False)
                    break
                except httpx2.ConnectError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill_server()


def test_greedy_answers_are_those_of_the_model_in_this_process(url):
    here = TransformersEngine.from_pretrained(MODEL)
    there = ServerEngine(url, MODEL, tokenizer=here.tokenizer, concurrency=2)
    documents = list(islice(held_out_documents(), 12))
    prompts = [
        here.tokenizer(document[: 100 + 40 * at])["input_ids"] for at, document in enumerate(documents)
    ]
    answers = there.generate(prompts, 12)
    expected = here.generate(prompts, 12)
    assert there.form == "text"
    assert [answer.notes for answer in answers] == [()] * 12
    assert [answer.text for answer in answers] == [
        here.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected
    ]
    assert len({answer.text for answer in answers}) > 6


@pytest.mark.parametrize("prompt", ["chat", "plain"])
def test_needle_grids_are_equal_and_prompts_that_change_as_text_are_named(url, prompt):
    options = {"lengths": [128, 256], "depths": [0, 50, 100], "samples": 2, "progress": False}
    here = evaluate(MODEL, "needle", prompt=prompt, **options)
    there = evaluate(MODEL, "needle", prompt=prompt, engine=url, engine_model=MODEL, **options)
    assert here.cells == there.cells
    assert sum(cell["hits"] for cell in here.cells) >= 10
    equal = 0
    for ours, theirs in zip(here.prompts, there.prompts, strict=True):
        assert ours["prompt"] == theirs["prompt"]
        if not theirs["notes"]:
            assert ours["answer"] == theirs["answer"]
            equal += 1
    assert equal > 0
    assert any(note.endswith("prompts were sent as text.") for note in there.notes)
    assert any("retokenized: as text, the prompt becomes" in note for note in there.notes)
