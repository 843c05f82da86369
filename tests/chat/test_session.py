"""Sessions: what is one user's stays so, and goes with the session."""

import json
import threading

import pytest
from chat_models import BOOK, NOTES, make_engine, make_model

from ultralong_hf.chat.documents import Document, Limits
from ultralong_hf.chat.engine import Options, Piece, Prefill, Reply
from ultralong_hf.chat.session import ChatService, ServiceLimits
from ultralong_hf.errors import ChatError, DoesNotFit

OPTIONS = Options(max_new_tokens=8, passages=2)


@pytest.fixture
def service():
    return ChatService(make_engine(), options=OPTIONS)


@pytest.fixture
def session(service):
    session = service.open()
    session.add_document(BOOK)
    return session


def _last(events):
    return list(events)[-1]


def test_turns_are_kept_and_reused(session):
    first = _last(session.ask("What is it?"))
    second = _last(session.ask("And then?"))
    assert isinstance(second, Reply)
    assert [turn.question for turn in session.turns] == ["What is it?", "And then?"]
    assert session.turns[0].reply == first
    assert second.reused_tokens == first.prompt_tokens + first.new_tokens - 1
    assert session.turns[1].summary.startswith(f"reused {second.reused_tokens:,} of {second.prompt_tokens:,}")


def test_editing_and_regenerating_replace_the_last_turn(session):
    _last(session.ask("First?"))
    reply = _last(session.ask("Second?"))
    again = _last(session.regenerate())
    assert again.ids == reply.ids
    _last(session.edit("Third?"))
    assert [turn.question for turn in session.turns] == ["First?", "Third?"]


def test_an_earlier_question_is_edited_and_what_followed_is_forgotten(session):
    for question in ("First?", "Second?", "Third?"):
        _last(session.ask(question))
    _last(session.edit("Other?", turn=1))
    assert [turn.question for turn in session.turns] == ["First?", "Other?"]
    with pytest.raises(ChatError, match="no longer in the chat"):
        session.edit("Other?", turn=2)


def test_what_is_asked_aside_leaves_the_chat_alone_and_goes_with_it(service, session):
    _last(session.ask("First?"))
    turns, engine = list(session.turns), service.engine
    reply = _last(session.ask_aside([NOTES], "What is green?"))
    assert isinstance(reply, Reply)
    assert session.turns == turns
    assert [document.name for document in session.documents] == ["book.txt"]
    held = [entry.session for entry in engine.pool._held]
    assert len(held) == 2
    assert all(name.startswith(session.name) for name in held)
    assert sum(len(known) for known in engine._encoded.values()) == 1  # ids of what is asked aside go at once
    service.close(session.name)
    assert engine.pool._held == []
    assert engine._encoded == {}


def test_ids_of_documents_that_were_taken_out_are_forgotten(service, session):
    session.add_document(NOTES)
    session.meter()
    known = service.engine._encoded[session.name]
    assert set(known) == {BOOK.digest, NOTES.digest}
    session.remove("notes.md")
    assert set(service.engine._encoded[session.name]) == {BOOK.digest}


def test_evidence_is_looked_up_for_each_answer():
    start = 'It is 12345, "the moon said so".'
    session = ChatService(make_engine(answer_start=start), options=OPTIONS).open()
    session.add_document(BOOK)
    _last(session.ask("What is the number?"))
    value, quote = session.turns[0].evidence.claims[:2]
    assert (value.text, str(value.hits[0].place)) == ("12345", "book.txt, line 1")
    assert (quote.text, quote.found) == ("the moon said so", False)
    assert not session.turns[0].evidence.verified


def test_new_documents_start_the_chat_anew(session):
    _last(session.ask("First?"))
    session.add_document(NOTES)
    assert session.turns == []
    session.remove("notes.md")
    assert [document.name for document in session.documents] == ["book.txt"]
    with pytest.raises(ChatError, match=r"no document 'notes\.md'"):
        session.remove("notes.md")


def test_the_same_document_twice_is_refused(session):
    with pytest.raises(ChatError, match="in this chat already"):
        session.add_document(BOOK)


def test_files_are_added_and_refused_one_by_one(session, tmp_path):
    (tmp_path / "upload-1").write_text("some notes")
    (tmp_path / "upload-2").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    refusals = session.add(
        [tmp_path / "upload-1", tmp_path / "upload-2"], names=["my notes.txt", "photo.png"]
    )
    assert [document.name for document in session.documents] == ["book.txt", "my notes.txt"]
    assert [str(refusal) for refusal in refusals] == ["photo.png: a picture: only text is read."]


def test_a_session_holds_a_bounded_text(tmp_path):
    service = ChatService(make_engine(), service_limits=ServiceLimits(session_characters=100))
    session = service.open()
    with pytest.raises(ChatError, match=r"hold 1,540 characters; the limit of a chat is 100"):
        session.add_document(BOOK)


def test_a_question_that_cannot_be_asked_changes_nothing(session):
    _last(session.ask("First?"))
    for bad in ("", "  ", "x" * 30_000):
        with pytest.raises(ChatError):
            list(session.ask(bad))
    with pytest.raises(DoesNotFit):
        list(session.ask("Next?", Options(max_new_tokens=10_000)))
    assert len(session.turns) == 1
    assert not session.busy


def test_one_answer_at_a_time(session):
    events = session.ask("First?")
    next(events)
    with pytest.raises(ChatError, match="being written already"):
        next(session.ask("Second?"))
    with pytest.raises(ChatError, match="stop it first"):
        session.clear()
    events.close()
    assert not session.busy
    assert isinstance(_last(session.ask("Second?")), Reply)


def test_stop_keeps_what_is_written(session):
    for event in session.ask("First?", Options(max_new_tokens=300, passages=0)):
        if isinstance(event, Piece):
            session.stop()
    assert session.turns[0].reply.finish_reason == "stopped"
    assert session.turns[0].answer
    assert "stopped" in session.turns[0].summary
    assert isinstance(_last(session.ask("Go on?")), Reply)


def test_closing_deletes_everything(service, session):
    _last(session.ask("First?"))
    other = service.open()
    other.add_document(BOOK)
    _last(other.ask("First?"))
    service.close(session.name)
    assert session.documents == []
    assert session.turns == []
    assert service.engine.cache_use(session.name).entries == ()
    assert len(service.engine.cache_use(other.name).entries) == 1
    with pytest.raises(ChatError, match="has ended"):
        service.get(session.name)
    with pytest.raises(ChatError, match="has ended"):
        list(session.ask("Again?"))


def test_closing_ends_an_answer_and_leaves_no_cache(service, session):
    events = session.ask("First?", Options(max_new_tokens=300, passages=0))
    for event in events:
        if isinstance(event, Prefill) and event.read > 100:
            service.close(session.name)
    assert isinstance(event, Reply)
    assert event.finish_reason == "stopped"
    assert session.turns == []
    assert service.engine.pool._held == []
    assert service.engine._encoded == {}


def test_idle_sessions_are_swept_and_their_number_is_bounded():
    now = [0.0]
    bounds = ServiceLimits(sessions=2, idle_seconds=60)
    service = ChatService(make_engine(), service_limits=bounds, clock=lambda: now[0])
    first, second = service.open(), service.open()
    with pytest.raises(ChatError, match="2 chats are open"):
        service.open()
    now[0] = 50.0
    service.get(second.name)
    now[0] = 100.0
    third = service.open()
    assert service.sessions == 2
    assert service.get(third.name) is third
    with pytest.raises(ChatError):
        service.get(first.name)


def test_names_cannot_be_guessed(service):
    names = {service.open().name for _ in range(20)}
    assert len(names) == 20
    assert min(map(len, names)) >= 30


def test_users_at_once_get_their_own_answers(service):
    documents = [Document("d.txt", f"User {n} has number {n * 11111}.\n" * 12, "text") for n in range(1, 5)]
    alone = []
    for document in documents:
        session = ChatService(make_engine(), options=OPTIONS).open()
        session.add_document(document)
        alone.append([_last(session.ask(q)).ids for q in ("One?", "Two?")])
    found = {}

    def use(number):
        session = service.open()
        session.add_document(documents[number])
        found[number] = [_last(session.ask(q)).ids for q in ("One?", "Two?")]
        service.close(session.name)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == alone
    assert service.engine.pool._held == []


def test_a_cut_by_the_users_choice_fits():
    service = ChatService(make_engine(make_model(max_position_embeddings=600)), options=OPTIONS)
    session = service.open()
    session.add_document(BOOK)
    assert not session.meter().fits
    notes = session.cut("ends")
    assert session.meter().fits
    assert notes
    assert isinstance(_last(session.ask("What?")), Reply)


def test_a_cache_goes_to_disk_and_back(service, session, tmp_path):
    _last(session.ask("First?"))
    path = session.save_cache(tmp_path / "cache.safetensors")
    other = service.open()
    other.add_document(BOOK)
    read = other.load_cache(path)
    assert _last(other.ask("First?")).reused_tokens == read


def test_exports_hold_everything_and_render_nothing(service, tmp_path):
    session = service.open()
    session.add_document(
        Document("<b>evil</b>.md", "# [link](http://x)\n<script>alert(1)</script>\n" * 9, "Markdown")
    )
    _last(session.ask("What <i>is</i> it?"))
    text = session.to_markdown()
    assert text.startswith("# Chat with small\n\n## Documents\n\n- \\<b\\>evil")
    assert "<script>" not in text
    assert "<i>" not in text
    assert "## 1. What \\<i\\>is" in text
    found = json.loads(session.to_json())
    assert found["model"] == "small"
    assert found["documents"][0]["digest"] == session.documents[0].digest
    turn = found["turns"][0]
    assert turn["answer"] == session.turns[0].answer
    assert turn["prompt_tokens"] == session.turns[0].reply.prompt_tokens
    assert len(turn["passages"]) == len(session.turns[0].passages)
    for passage in turn["passages"]:
        start, end = passage["characters"]
        assert passage["text"] == session.documents[0].text[start:end]


def test_limits_reach_the_readers(tmp_path):
    (tmp_path / "a.txt").write_text("words " * 2000)
    session = ChatService(make_engine(), limits=Limits(characters=1000)).open()
    assert "more than 1,000 characters" in str(session.add([tmp_path / "a.txt"])[0])
