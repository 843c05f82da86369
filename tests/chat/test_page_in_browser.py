"""The page in a real browser: Debian's chromium, driven by Playwright; nothing is downloaded."""

import json
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from page_server import NOTES, OTHER, SLOWLY, Tab, find_chromium, lab_service, page_of, wait_until  # noqa: E402

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no chromium on PATH: install it (Debian: apt-get install chromium), or name it in "
        "ULTRALONG_CHROMIUM",
    ),
    pytest.mark.filterwarnings("ignore"),
]
CODE, ROOM = "What is the access code of the upper harbour?", "What is the room number of the old mill?"


@pytest.fixture(scope="module")
def served():
    with page_of(lab_service()) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_tab(served, browser):
    contexts = []

    def open_one(**options):
        contexts.append(browser.new_context(**options))
        return Tab(contexts[-1].new_page(), served.url)

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text(NOTES)
    return path


def test_a_document_is_asked_about_twice_and_read_once(open_tab, notes):
    tab = open_tab()
    tab.upload(notes)
    assert "notes.md" in tab.page.inner_text("#ul-meter")
    total = int(tab.page.inner_text("#ul-total"))
    assert 100 < total < 256
    first = tab.ask(ROOM)
    assert first.startswith("The room number of the old mill is 51946.")
    assert "reused 0 of" in first
    assert tab.page.inner_text("#ul-viewer mark.chosen").endswith("51946")
    assert "notes.md, line 5" in tab.page.inner_text("#ul-evidence")
    second = tab.ask(CODE)
    assert second.startswith("The access code of the upper harbour is 40713.")
    reused, of = second.split("reused ")[1].split(" tokens")[0].split(" of ")
    assert int(of) - int(reused) < 30 < int(reused)
    assert "notes.md, line 3" in tab.page.inner_text("#ul-viewer header")
    passage = tab.page.locator("#ul-passages label").last
    place = passage.inner_text().split(" · ")[1]
    assert "line 3" not in place
    passage.click()
    tab.page.locator("#ul-viewer header").get_by_text(place).wait_for()
    tab.page.locator("[data-testid=bot]").first.click()  # an earlier answer's evidence
    tab.page.locator("#ul-viewer header").get_by_text("notes.md, line 5").wait_for()


def test_nothing_is_fetched_from_elsewhere(open_tab, notes, served):
    tab = open_tab()
    tab.upload(notes)
    tab.ask("What is ![x](http://example.org/x.png) <img src=http://example.org/y.png>?")
    own = urlsplit(served.url).netloc
    answered = [url for url in tab.answered if url.startswith("http")]
    assert len(answered) > 10
    assert [url for url in answered if urlsplit(url).netloc != own] == []
    elsewhere = [(url, why) for url, why in tab.failed if urlsplit(url).netloc != own]
    assert {why for _, why in elsewhere} == {"csp"}  # the browser was told to fetch none


def test_an_answer_streams_and_is_stopped(open_tab):
    tab = open_tab()
    tab.start(SLOWLY)
    tab.see("Reading: ")
    answer = tab.page.locator("[data-testid=bot]")
    answer.get_by_text("word word").wait_for()
    length = len(answer.inner_text())
    wait_until(lambda: len(answer.inner_text()) > length)
    tab.page.click("#ul-stop")
    answer.get_by_text("stopped").wait_for()
    tab.page.wait_for_selector("#ul-send")


def test_a_document_too_long_is_refused_with_numbers_and_cut_on_request(open_tab, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(NOTES * 6)
    tab = open_tab()
    tab.upload(path)
    message = tab.page.inner_text("#ul-meter .ul-problem")
    assert "do not fit into the window of 256" in message
    tab.start(CODE)
    tab.page.wait_for_selector("#ul-status .ul-problem")
    assert "more than the model's window of 256" in tab.page.inner_text("#ul-status")
    tab.page.click("#ul-cut-beginning")
    tab.see("Cut to fit.")
    assert tab.page.locator("#ul-meter .ul-problem").count() == 0
    assert "40713" in tab.ask(CODE)


def test_what_is_no_document_is_refused_and_deleted(open_tab, served, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    tab = open_tab()
    tab.upload(path, waits_for="#ul-status .ul-problem")
    assert "photo.png: a picture: only text is read." in tab.page.inner_text("#ul-status")
    assert list(served.folder.rglob("photo*")) == []


@pytest.mark.slow
def test_a_question_is_edited_and_answered_again(open_tab, notes):
    tab = open_tab()
    tab.upload(notes)
    tab.ask(ROOM)
    tab.page.get_by_role("button", name="Edit").click()
    tab.page.locator("#ul-chat textarea").fill(CODE)
    tab.page.get_by_role("button", name="Submit").click()
    answer = tab.page.locator("[data-testid=bot]")
    answer.get_by_text("40713").wait_for()
    answer.locator("em").wait_for()
    edited = answer.inner_text()
    assert tab.page.locator("[data-testid=user]").count() == 1
    tab.page.get_by_role("button", name="Answer again").click()
    wait_until(lambda: answer.count() and "reused" in (now := answer.inner_text()) and now != edited)
    assert "40713" in answer.inner_text()


def test_two_users_see_their_own_alone_and_leave_nothing(open_tab, served, notes, tmp_path):
    other = tmp_path / "other.md"
    other.write_text(OTHER)
    one, two = open_tab(), open_tab()
    one.upload(notes)
    two.upload(other)
    one.start(CODE)
    two.start(CODE)
    for tab, mine, theirs, name in ((one, "40713", "82615", "other.md"), (two, "82615", "40713", "notes.md")):
        tab.page.locator("[data-testid=bot] em").first.wait_for()
        text = tab.page.inner_text("body")
        assert mine in text
        assert theirs not in text
        assert name not in text
    before = len(served.rooms)
    one.page.close()
    two.page.close()
    wait_until(lambda: len(served.rooms) == before - 2)
    engine = served.rooms.service.engine
    wait_until(lambda: len(engine.pool._held) <= len(served.rooms))
    assert [path.name for path in served.folder.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_the_chat_is_exported_by_the_browser(open_tab, notes):
    tab = open_tab()
    tab.upload(notes)
    tab.ask(CODE)
    tab.page.click("#ul-export button")
    with tab.page.expect_download() as got:
        tab.page.get_by_role("button", name="JSON").click()
    found = json.loads(got.value.path().read_text(encoding="utf-8"))
    assert found["turns"][0]["answer"].endswith("40713.")
    with tab.page.expect_download() as got:
        tab.page.get_by_role("button", name="Markdown", exact=True).click()
    assert "notes.md, line 3" in got.value.path().read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_cache_is_saved_and_loaded_by_another_tab(open_tab, notes, tmp_path):
    tab = open_tab()
    tab.upload(notes)
    tab.ask(CODE)
    tab.page.click("#ul-cache button")
    with tab.page.expect_download() as got:
        tab.page.get_by_role("button", name="Save this chat's cache").click()
    saved = tmp_path / "cache.safetensors"
    got.value.save_as(saved)
    other = open_tab()
    other.upload(notes)
    other.page.click("#ul-cache button")
    other.page.set_input_files("#ul-cache input[type=file]", saved)
    other.see("need not be read again")
    assert "reused 0 of" not in other.ask(CODE)


@pytest.mark.slow
def test_a_sentence_is_hidden_and_found(open_tab, notes):
    tab = open_tab()
    tab.upload(notes)
    tab.page.get_by_role("tab", name="Needle lab").click()
    tab.page.get_by_role("button", name="Hide and ask").click()
    tab.see("ound at 50 %")
    assert "Found at 50 %" in tab.page.inner_text("#ul-needle-status")
    assert tab.page.inner_text(".ul-map td.hit") == "1/1"
    tab.page.get_by_role("button", name="Try five depths").click()
    tab.page.wait_for_function("document.querySelectorAll('.ul-map td.hit, .ul-map td.miss').length >= 5")


@pytest.mark.slow
def test_it_is_readable_on_a_phone_and_by_the_keyboard(open_tab, notes):
    tab = open_tab(viewport={"width": 390, "height": 800})
    tab.upload(notes)
    width = tab.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    assert tab.page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    tab.page.keyboard.type(CODE)
    tab.page.keyboard.press("Enter")
    tab.page.locator("[data-testid=bot] em").first.wait_for()
    tab.page.click("#ul-theme")
    assert tab.page.evaluate("document.body.classList.contains('dark')")
