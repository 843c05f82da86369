"""What the page's events do, called as Gradio calls them; no browser and no server."""

import asyncio
import gc
from pathlib import Path

import pytest
from chat_models import BOOK, NOTES, make_engine, make_model
from chat_server import running_server

gr = pytest.importorskip("gradio")

from ultralong_hf.chat.engine import Options  # noqa: E402
from ultralong_hf.chat.engine_server import ServerChatEngine  # noqa: E402
from ultralong_hf.chat.page import texts  # noqa: E402
from ultralong_hf.chat.page.chat_panel import ChatPanel  # noqa: E402
from ultralong_hf.chat.page.documents_panel import DocumentsPanel  # noqa: E402
from ultralong_hf.chat.page.evidence_panel import EvidencePanel  # noqa: E402
from ultralong_hf.chat.page.examples import EXAMPLES  # noqa: E402
from ultralong_hf.chat.page.files_panel import FilesPanel  # noqa: E402
from ultralong_hf.chat.page.layout import build_layout  # noqa: E402
from ultralong_hf.chat.page.needle_panel import NeedlePanel  # noqa: E402
from ultralong_hf.chat.page.rooms import Rooms  # noqa: E402
from ultralong_hf.chat.session import ChatService  # noqa: E402

# Gradio leaves an event loop open, which is collected when the last of these tests ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed")


class Tab:
    """A request of one tab, as handlers see it."""

    session_hash, username = "tab", None


class Page:
    """All panels over a service with a small model."""

    def __init__(self, parts, documents=(BOOK,), *, engine=None, **made):
        self.parts = parts
        options = Options(max_new_tokens=8, passages=2)
        self.service = ChatService(engine or make_engine(**made), options=options)
        self.rooms = Rooms(self.service, documents)
        self.evidence = EvidencePanel(parts, self.rooms)
        self.documents = DocumentsPanel(parts, self.rooms, self.evidence)
        self.chat = ChatPanel(parts, self.rooms, self.documents, asked_at_once=2)
        self.files = FilesPanel(parts, self.rooms)
        self.needle = NeedlePanel(parts, self.rooms, asked_at_once=2)
        self.session = self.rooms.of(Tab).session


@pytest.fixture(scope="module")
def parts():
    yield build_layout(model="small", window=4096, options=Options(), examples=EXAMPLES)
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture
def page(parts):
    return Page(parts)


def merged(updates):
    found = {}
    for one in updates:
        found |= one
    return found


def test_an_answer_streams_and_ends_with_its_evidence(page):
    parts = page.parts
    updates = list(page.chat.ask("What is it?", 8, 0, Tab))
    assert updates[0][parts.question] == ""
    assert not updates[0][parts.send].visible
    assert updates[0][parts.stop].visible
    assert any("Reading: " in str(one.get(parts.status)) for one in updates)
    last = updates[-1]
    assert last[parts.send].visible
    assert not last[parts.stop].visible
    question, answer = page.session.turns[0].question, page.session.turns[0].answer
    assert question == "What is it?"
    shown = merged(updates)[parts.chat]
    assert "reused 0 of" in str(shown.value)
    assert answer[:3] in str(shown.value)
    assert len(last[parts.passages].choices) >= 2
    assert 'class="chosen"' in last[parts.viewer]


def test_a_question_that_cannot_be_asked_is_given_back_with_the_reason(page):
    parts = page.parts
    found = merged(page.chat.ask("What is it?", 100_000, 0, Tab))
    assert "96,762 more than" in found[parts.status]
    assert found[parts.question] == "What is it?"
    assert found[parts.send].visible
    assert page.session.turns == []
    assert "There is no question yet" in merged(page.chat.again(8, 0, Tab))[parts.status]


def test_a_question_is_not_asked_while_another_is_answered(page):
    first = page.chat.ask("What is it?", 8, 0, Tab)
    for one in first:
        if "Reading" in str(one.get(page.parts.status)):
            break
    found = merged(page.chat.ask("Another?", 8, 0, Tab))
    assert "being written already" in found[page.parts.status]
    assert page.parts.chat not in found
    first.close()
    assert not page.session.busy


def test_edit_retry_and_again_replace_a_turn(page):
    for question in ("One?", "Two?"):
        list(page.chat.ask(question, 8, 0, Tab))
    edit = gr.EditData(None, {"index": 2, "previous_value": "Two?", "value": "Three?"})
    list(page.chat.edit(8, 0, Tab, edit))
    assert [turn.question for turn in page.session.turns] == ["One?", "Three?"]
    list(page.chat.again(8, 0, Tab))
    list(page.chat.retry(8, 0, Tab, gr.RetryData(None, {"index": 2, "value": "Three?"})))
    assert [turn.question for turn in page.session.turns] == ["One?", "Three?"]
    example = gr.SelectData(None, {"index": 0, "value": {"text": "Four?"}})
    list(page.chat.ask_example(8, 0, Tab, example))
    assert len(page.session.turns) == 3
    gone = gr.EditData(None, {"index": 40, "previous_value": "", "value": "Five?"})
    assert "no longer in the chat" in merged(page.chat.edit(8, 0, Tab, gone))[page.parts.status]
    page.chat.clear(8, Tab)
    assert page.session.turns == []


def test_stop_is_heard(page):
    for one in page.chat.ask("What is it?", 400, 0, Tab):
        if "Reading" in str(one.get(page.parts.status)):
            assert texts.STOPPING in page.chat.stop(Tab)
    assert page.session.turns[0].reply.finish_reason == "stopped"


def test_documents_come_and_go(page, tmp_path, monkeypatch):
    parts = page.parts
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "notes.txt"
    path.write_text("some notes\n")
    payload = [{"path": str(path), "orig_name": "notes.txt"}]
    found = merged(page.documents.add(payload, 8, Tab))
    assert "Added: notes.txt." in found[parts.status]
    assert "notes.txt" in found[parts.meter]
    assert not path.exists()
    found = merged(page.documents.add([{"path": "/etc/passwd"}], 8, Tab))
    assert texts.UPLOAD_GONE in found[parts.status]
    assert Path("/etc/passwd").exists()
    list(page.chat.ask("What is it?", 8, 0, Tab))
    found = page.documents._adding(EXAMPLES[0])(8, Tab)
    assert texts.CHAT_ANEW in found[parts.status]
    assert EXAMPLES[0].file in found[parts.meter]
    assert found[parts.chat].examples[0]["text"] == EXAMPLES[0].questions[0]
    assert "in this chat already" in page.documents._adding(EXAMPLES[0])(8, Tab)[parts.status]
    page.documents.remove("notes.txt", 8, Tab)
    assert [one.name for one in page.session.documents] == ["book.txt", EXAMPLES[0].file]
    assert "no document" in page.documents.remove("notes.txt", 8, Tab)[parts.status]


def test_what_does_not_fit_is_cut_by_a_button(parts):
    page = Page(parts, model=make_model(max_position_embeddings=600))
    found = page.documents.show(8, Tab)
    assert "do not fit" in found[parts.meter]
    assert found[parts.cuts].visible
    found = page.documents.cut_ends(8, Tab)
    assert "Cut to fit." in found[parts.status]
    assert not found[parts.cuts].visible
    assert "do not fit" in page.documents.measure(500, Tab)[parts.meter]


def test_evidence_is_chosen_by_answer_passage_and_document(parts):
    page = Page(parts, (BOOK, NOTES), answer_start='It is 12345, "there and back again".')
    for question in ("One?", "Two?"):
        list(page.chat.ask(question, 8, 0, Tab))
    found = page.evidence.choose_answer(0, Tab)
    assert found[parts.answers].value == 0
    labels = [label for label, _ in found[parts.passages].choices]
    assert labels[0] == "“12345” · book.txt, line 1"
    found = page.evidence.choose_passage(1, Tab)
    assert "notes.md, line 1" in found[parts.viewer]
    assert '<mark class="chosen">there and back again</mark>' in found[parts.viewer]
    message = gr.SelectData(None, {"index": [3, 0], "value": ""})
    assert page.evidence.choose_message(Tab, message)[parts.answers].value == 1
    assert "book.txt" in page.evidence.choose_document(0, Tab)[parts.viewer]
    assert "book.txt" in page.evidence.later(Tab)[parts.viewer]
    assert "book.txt, lines 1-" in page.evidence.earlier(Tab)[parts.viewer]


def test_exports_and_caches(page, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    nothing, told = page.files.export_json(Tab)
    assert nothing is None
    assert texts.NOTHING_TO_EXPORT in told
    button, told, _ = page.files.save_cache(Tab)
    assert button.value is None
    assert "not been read yet" in told
    list(page.chat.ask("What is it?", 8, 0, Tab))
    exported, told = page.files.export_markdown(Tab)
    assert exported["name"] == "chat.md"
    assert "What is it?" in exported["text"]
    saved = page.rooms.of(Tab).session.save_cache(tmp_path / "a.safetensors")
    told, _ = page.files.load_cache([{"path": str(saved), "orig_name": "a.safetensors"}], Tab)
    assert "need not be read again" in told
    assert not saved.exists()
    told, _ = page.files.load_cache([{"path": str(tmp_path / "none")}], Tab)
    assert texts.UPLOAD_GONE in told


def test_the_needle_lab_tries_depths_and_shows_them(parts):
    page = Page(parts, answer_start="It is 4711")
    shown = page.needle.show(texts.WHOLE_LENGTH, Tab)
    assert [label for label, _ in shown[parts.needle.length].choices][-1] == texts.WHOLE_LENGTH
    asked = ("The code is 4711.", "What is the code?", "")
    found = merged(page.needle.hide(*asked, "256", 40, Tab))
    assert "Found at 40 %" in found[parts.needle.status]
    assert '<td class="hit">1/1</td>' in found[parts.needle.map]
    found = merged(page.needle.sweep(*asked, texts.WHOLE_LENGTH, Tab))
    assert found[parts.needle.map].count('class="hit"') == 6
    assert page.session.turns == []
    assert page.needle.clear(Tab)[parts.needle.map] == f"<p>{texts.MAP_EMPTY}</p>"
    found = merged(page.needle.hide("", "What?", "", texts.WHOLE_LENGTH, 40, Tab))
    assert "can be hidden" in found[parts.needle.status]


def test_over_a_server_the_page_tells_what_it_cannot(parts):
    with running_server() as server:
        page = Page(parts, engine=ServerChatEngine(server.url))
        found = merged(page.chat.ask("What is it?", 8, 0, Tab))
        assert "The code is 12345." in str(found[parts.chat].value)
        assert found[parts.cache] == f"<p>{texts.CACHE_OF_SERVER}</p>"
        assert "estimated" in found[parts.meter]
        assert "book.txt, line 1" in found[parts.evidence]
        _, told, _ = page.files.save_cache(Tab)
        assert "is the server" in told


def test_a_tab_whose_session_ended_is_told(page):
    page.service.close(page.session.name)
    assert texts.SESSION_ENDED in page.documents.show(8, Tab)[page.parts.status]
    page.documents.show(8, Tab)
    assert len(page.rooms) == 1
