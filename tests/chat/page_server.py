"""The page over the lab's base model, a browser, and what tests do with both."""

import asyncio
import gc
import os
import shutil
import time
import warnings
from contextlib import contextmanager

from ultralong_hf.chat.engine import Options, Piece, Prefill, Reply
from ultralong_hf.chat.engine_local import LocalEngine
from ultralong_hf.chat.opening import LAB_ANSWER_START
from ultralong_hf.chat.page.serving import Where, serve
from ultralong_hf.chat.session import ChatService
from ultralong_hf.lab.base import base_model_path

NOTES = """# Notes
The bell rings at six, and the stove is lit.
The access code of the upper harbour is 40713.
Ropes are checked every Monday.
The room number of the old mill is 51946.
Salt is bought in spring.
"""
OTHER = NOTES.replace("40713", "82615").replace("51946", "37408").replace("stove", "lamp")
SLOWLY = "Slowly, please?"
"""This question is answered word by word until it is stopped."""


def find_chromium():
    return (
        os.environ.get("ULTRALONG_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )


class Engine:
    """The lab's base model, which reads 256 tokens; slow where it is asked to be."""

    def __init__(self):
        self._inner = LocalEngine.from_pretrained(
            base_model_path(),
            style="bare",
            name="the lab's base model",
            answer_start=LAB_ANSWER_START,
            cache_bytes=32 * 1024**2,
        )

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def ask(self, question, options, stop):
        return self._slowly(stop) if question.question == SLOWLY else self._inner.ask(question, options, stop)

    def _slowly(self, stop):
        for read in range(0, 200, 10):
            yield Prefill(read, 200, 0, 9.0)
            if stop.wait(0.05):
                break
        text = ""
        while not stop.wait(0.05):
            text += "word "
            yield Piece("word ")
        yield Reply(text, "stopped", 200, 0, len(text) // 5, 1.0, 2.0)


def lab_service():
    return ChatService(Engine(), options=Options(max_new_tokens=24))


@contextmanager
def page_of(service, where=None):
    """The served page. Event loops that Gradio leaves open are collected here, where they warn nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        served = serve(service, where or Where(), say=lambda text: None)
        try:
            yield served
        finally:
            served.close()
            del served
            asyncio.set_event_loop(None)
            gc.collect()


class Tab:
    """A page in the browser."""

    def __init__(self, page, url):
        self.page = page
        self.answered, self.failed = [], []
        page.on("response", lambda response: self.answered.append(response.url))
        page.on("requestfailed", lambda request: self.failed.append((request.url, request.failure)))
        page.set_default_timeout(20_000)
        page.goto(url)
        page.wait_for_selector("body[data-ready=yes]", state="attached")

    def upload(self, path, *, waits_for="#ul-total"):
        self.page.set_input_files("#ul-uploads input[type=file]", path)
        if waits_for:
            self.page.wait_for_selector(waits_for)

    def ask(self, question):
        """Asks and waits for the whole answer; gives its text, the note below it included."""
        answers = self.page.locator("[data-testid=bot]")
        before = answers.count()
        self.start(question)
        self.page.wait_for_function(f"document.querySelectorAll('[data-testid=bot] em').length > {before}")
        return answers.nth(before).inner_text()

    def start(self, question):
        self.page.fill("#ul-question textarea", question)
        self.page.press("#ul-question textarea", "Enter")

    def see(self, text):
        self.page.get_by_text(text).first.wait_for()


def wait_until(true, seconds=20.0):
    """Raises AssertionError."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.05)
