"""A model in process: the same answers as a fresh reading, and no token read twice."""

import itertools
import threading

import numpy as np
import pytest
import torch
from chat_models import BOOK, NOTES, ask, make_engine, make_model, make_tokenizer, question

from ultralong_hf.chat.documents import Document
from ultralong_hf.chat.engine import Options, Piece, Prefill, Waiting
from ultralong_hf.chat.prompting import Turn
from ultralong_hf.errors import ChatError, DoesNotFit


@pytest.fixture
def engine():
    return make_engine()


def _by_transformers(model, ids, new_tokens):
    prompt = torch.from_numpy(ids.astype(np.int64))[None]
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    answer = out[0, prompt.shape[1] :].tolist()
    return answer[: answer.index(1)] if 1 in answer else answer


def _turn(text, reply):
    return Turn(text, reply.text, reply.ids)


@pytest.mark.parametrize("chunk", [7, 128, 5000])
def test_answers_equal_those_of_transformers(chunk):
    engine = make_engine(chunk=chunk)
    ids = engine.write(question()).ids
    assert list(ask(engine)[1].ids) == _by_transformers(engine.model, ids, 12)


@pytest.mark.parametrize("sliding_window", [None, 64])
def test_a_conversation_equals_one_that_is_read_anew_each_time(sliding_window):
    model = make_model(sliding_window=sliding_window)
    kept, turns = make_engine(model), []
    for text in ("First?", "And the second?", "The third, then?"):
        asked = question(text, turns=turns)
        reply = ask(kept, asked)[1]
        fresh = ask(make_engine(model), asked)[1]
        assert reply.ids == fresh.ids
        assert reply.prompt_tokens == fresh.prompt_tokens
        assert fresh.reused_tokens == 0
        if turns:
            assert reply.reused_tokens > 0.9 * reply.prompt_tokens
        turns.append(_turn(text, reply))


def test_reused_tokens_are_counted_exactly(engine):
    first = ask(engine)[1]
    prompt = engine.write(question())
    turns = [_turn("What is it?", first)]
    second = ask(engine, question("More?", turns=turns))[1]
    # The last token of an answer is chosen and never read.
    assert second.reused_tokens == len(prompt.ids) + len(first.ids) - 1
    assert second.prompt_tokens == len(engine.write(question("More?", turns=turns)).ids)
    calls = []
    handle = engine.model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(args[0].shape[1]), with_kwargs=True
    )
    third = ask(engine, question("Other?", turns=turns), max_new_tokens=1)[1]
    handle.remove()
    assert sum(calls) == third.prompt_tokens - third.reused_tokens


def test_a_branch_reuses_all_before_it(engine):
    first = ask(engine)[1]
    turns = [_turn("What is it?", first)]
    ask(engine, question("This way?", turns=turns))
    edited = question("That way?", turns=turns)
    before, after = engine.write(question("This way?", turns=turns)), engine.write(edited)
    common = next(i for i, (a, b) in enumerate(zip(before.ids, after.ids, strict=False)) if a != b)
    reply = ask(engine, edited)[1]
    assert reply.reused_tokens == common
    assert reply.ids == ask(make_engine(engine.model), edited)[1].ids


def test_regenerating_reads_a_single_token(engine):
    first = ask(engine)[1]
    again = ask(engine)[1]
    assert again.reused_tokens == again.prompt_tokens - 1
    assert again.ids == first.ids


def test_a_sliding_window_model_goes_back_to_the_end_of_the_documents():
    engine = make_engine(make_model(sliding_window=64))
    ask(engine)
    reply = ask(engine, question("Something else altogether?"))[1]
    assert reply.reused_tokens == engine.write(question()).frozen
    fresh = ask(make_engine(make_model(sliding_window=64)), question("Something else altogether?"))[1]
    assert reply.ids == fresh.ids


def test_another_document_behind_reuses_the_first(engine):
    ask(engine)
    reply = ask(engine, question(documents=(BOOK, NOTES)))[1]
    assert reply.reused_tokens >= len(engine.encode("mine", BOOK))
    assert reply.ids == ask(make_engine(engine.model), question(documents=(BOOK, NOTES)))[1].ids


def test_documents_have_caches_of_their_own(engine):
    ask(engine)
    ask(engine, question(documents=(NOTES,)))
    assert ask(engine)[1].reused_tokens > len(engine.encode("mine", BOOK))
    names = [entry.documents[0][0] for entry in engine.cache_use("mine").entries]
    assert names == ["book.txt", "notes.md"]


def test_the_prompt_grows_beyond_its_first_room(engine):
    turns = [Turn("Long?", "words " * 400)]
    assert ask(engine)[1].reused_tokens == 0
    asked = question("And now?", turns=turns)
    assert len(engine.write(asked).ids) > engine.pool._held[0].capacity
    reply = ask(engine, asked)[1]
    assert reply.reused_tokens >= engine.write(asked).frozen
    assert reply.ids == ask(make_engine(engine.model), asked)[1].ids


def test_progress_counts_up_to_the_prompt_by_chunks(engine):
    events, reply = ask(engine)
    reads = [event for event in events if isinstance(event, Prefill)]
    assert reads[0] == Prefill(0, reply.prompt_tokens, 0, None)
    assert reads[-1].read == reply.prompt_tokens
    assert reads[-1].seconds_left == 0
    steps = [after.read - before.read for before, after in itertools.pairwise(reads)]
    assert max(steps) == 128
    assert all(event.seconds_left is not None for event in reads[1:])


def test_pieces_are_the_text(engine):
    events, reply = ask(engine, max_new_tokens=40)
    assert "".join(event.text for event in events if isinstance(event, Piece)) == reply.text
    assert reply.text == engine.tokenizer.decode(list(reply.ids), skip_special_tokens=True)
    assert reply.new_tokens == len(reply.ids)


def test_reading_is_stopped_within_a_chunk_and_goes_on_there(engine):
    stop = threading.Event()
    reads = []
    events = engine.ask(question(), Options(max_new_tokens=4), stop)
    for event in events:
        if isinstance(event, Prefill):
            reads.append(event.read)
            if event.read >= 256:
                stop.set()
    assert event.finish_reason == "stopped"
    assert event.text == ""
    assert max(reads) == 256
    reply = ask(engine)[1]
    assert reply.reused_tokens == 256
    assert reply.ids == ask(make_engine(engine.model))[1].ids


def test_writing_is_stopped_within_a_token(engine):
    stop, pieces = threading.Event(), 0
    for event in engine.ask(question(), Options(max_new_tokens=200, passages=0), stop):
        if isinstance(event, Piece):
            pieces += 1
            if pieces == 3:
                stop.set()
    assert event.finish_reason == "stopped"
    assert event.text
    assert pieces <= 4


def test_an_abandoned_answer_leaves_the_engine_usable(engine):
    events = engine.ask(question(), Options(), threading.Event())
    next(events)
    next(events)
    events.close()
    assert ask(engine)[1].finish_reason in ("stop", "length")
    assert not any(held.in_use for held in engine.pool._held)


def test_a_prompt_beyond_the_window_is_refused_with_the_numbers():
    engine = make_engine(make_model(max_position_embeddings=512))
    tokens = len(engine.write(question()).ids)
    with pytest.raises(DoesNotFit, match=rf"{tokens:,} tokens.*{tokens + 12 - 512:,} more than.* 512"):
        ask(engine)


def test_sampling_follows_its_seed(engine):
    warm = {"temperature": 1.0, "top_p": 0.95}
    one, same, other = (ask(engine, seed=seed, **warm)[1].ids for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_sessions_share_nothing(engine):
    ask(engine, question(session="mine"))
    reply = ask(engine, question(session="theirs"))[1]
    assert reply.reused_tokens == 0
    assert len(engine.cache_use("mine").entries) == 1
    engine.forget("mine")
    assert engine.cache_use("mine").entries == ()
    assert len(engine.cache_use("theirs").entries) == 1
    assert "mine" not in engine._encoded


def test_the_least_recently_used_cache_goes_first_and_the_budget_holds():
    probe = make_engine()
    ask(probe)
    size = probe.cache_use("mine").used_bytes
    engine = make_engine(cache_bytes=int(2.2 * size))
    for session in ("a", "b"):
        ask(engine, question(session=session))
    ask(engine, question(session="a"))
    ask(engine, question(session="c"))
    assert engine.cache_use("b").entries == ()
    assert len(engine.cache_use("a").entries) == len(engine.cache_use("c").entries) == 1
    assert engine.cache_use("a").used_bytes <= engine.cache_use("a").budget_bytes


def test_a_cache_beyond_the_budget_is_refused_with_the_numbers():
    engine = make_engine(cache_bytes=100_000)
    with pytest.raises(ChatError, match=r"takes 0 MiB; the budget for caches is 0 MiB"):
        ask(engine)
    assert engine.cache_use("mine").used_bytes == 0


def test_caches_in_use_are_not_dropped():
    probe = make_engine()
    ask(probe)
    engine = make_engine(cache_bytes=int(1.5 * probe.cache_use("mine").used_bytes))
    events = engine.ask(question(session="a"), Options(max_new_tokens=4), threading.Event())
    next(events)
    with pytest.raises(ChatError, match="in use by other answers"):
        ask(engine, question(session="b"))
    list(events)
    assert ask(engine, question(session="b"))[1].finish_reason in ("stop", "length")


def test_a_saved_cache_is_read_in_place_of_the_documents(tmp_path, engine):
    expected = ask(engine)[1]
    path = engine.save_cache("mine", [BOOK], tmp_path / "book.safetensors")
    other = make_engine(make_model())
    assert other.load_cache("theirs", [BOOK], path) == other.write(question()).frozen
    reply = ask(other, question(session="theirs"))[1]
    assert reply.reused_tokens == other.write(question()).frozen
    assert reply.ids == expected.ids
    assert [item.name for item in tmp_path.iterdir()] == ["book.safetensors"]


@pytest.mark.parametrize(
    ("made", "documents", "what"),
    [
        ({"model": make_model(seed=1)}, (BOOK,), "another model"),
        ({"model": make_model().to(torch.bfloat16)}, (BOOK,), "precision|another model"),
        ({"style": "bare"}, (BOOK,), "chat template or prompt style"),
        ({"tokenizer": make_tokenizer("{{ messages[0]['content'] }}x")}, (BOOK,), "chat template"),
        ({}, (NOTES,), "other documents"),
        ({}, (Document("book.txt", BOOK.text + ".", "text"),), "other documents"),
    ],
)
def test_a_saved_cache_of_something_else_is_refused(tmp_path, engine, made, documents, what):
    ask(engine)
    path = engine.save_cache("mine", [BOOK], tmp_path / "book.safetensors")
    other = make_engine(**made)
    with pytest.raises(ChatError, match=what):
        other.load_cache("mine", documents, path)
    assert other.cache_use("mine").used_bytes == 0


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_a_damaged_cache_file_is_refused(tmp_path, engine, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ChatError, match="cannot be read as a saved cache"):
        engine.load_cache("mine", [BOOK], path)


def test_a_cache_is_saved_only_after_reading(tmp_path, engine):
    with pytest.raises(ChatError, match="not been read yet"):
        engine.save_cache("mine", [BOOK], tmp_path / "book.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_questions_wait_their_turn(engine):
    engine = make_engine(running=1, waiting=1)
    running = engine.ask(question(session="a"), Options(max_new_tokens=2), threading.Event())
    next(running)
    waiting = engine.ask(question(session="b"), Options(max_new_tokens=2), threading.Event())
    assert next(waiting) == Waiting(1)
    with pytest.raises(ChatError, match="questions are waiting"):
        ask(engine, question(session="c"))
    list(running)
    assert list(waiting)[-1].finish_reason in ("stop", "length")


def test_answers_of_many_at_once_are_those_of_each_alone(engine):
    documents = [Document(f"{n}.txt", f"Number {n} is here.\n" * (10 + n), "text") for n in range(6)]
    alone = [ask(make_engine(engine.model), question(documents=(one,)))[1].ids for one in documents]
    found = [None] * 6

    def run(number):
        found[number] = ask(engine, question(session=str(number), documents=(documents[number],)))[1].ids

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone
    assert len(set(alone)) == 6


def test_a_given_start_is_a_part_of_the_answer_and_of_the_history():
    engine = make_engine(answer_start="The room")
    events, reply = ask(engine)
    assert reply.text.startswith("The room")
    assert "".join(event.text for event in events if isinstance(event, Piece)) == reply.text
    ids = engine.write(question()).ids
    assert list(reply.ids) == engine.tokenizer.encode("The room") + _by_transformers(engine.model, ids, 12)
    turns = [_turn("What is it?", reply)]
    assert ask(engine, question("More?", turns=turns))[1].reused_tokens == len(ids) + reply.new_tokens - 1
