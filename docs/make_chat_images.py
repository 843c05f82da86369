"""Pictures of the chat's page for docs/images: desktop in light and dark, a phone, the needle lab.

python docs/make_chat_images.py [--lab outputs/quickstart] [--output docs/images]

Needs Playwright's package and a chromium (on PATH, or named in ULTRALONG_CHROMIUM); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads

from playwright.sync_api import Browser, Page, sync_playwright

from ultralong_hf.chat.default_model import lab_model
from ultralong_hf.chat.engine import Options
from ultralong_hf.chat.opening import LAB_ANSWER_START, open_chat_engine
from ultralong_hf.chat.page.examples import EXAMPLES
from ultralong_hf.chat.page.serving import serve
from ultralong_hf.chat.session import ChatService

DESKTOP = {"width": 1360, "height": 820}
PHONE = {"width": 390, "height": 844}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lab", type=Path, help="a quickstart's folder (default: the lab's own)")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    folder = args.lab or lab_model()
    engine, recall = open_chat_engine(
        folder / "model",
        report=folder,
        style="bare",
        name="the lab's model",
        answer_start=LAB_ANSWER_START,
        cache_bytes=256 * 1024**2,
    )
    served = serve(ChatService(engine, recall=recall, options=Options(max_new_tokens=32)))
    chromium = os.environ.get("ULTRALONG_CHROMIUM") or shutil.which("chromium")
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, scheme in (("chat", "light"), ("chat-dark", "dark")):
                chat(
                    open_page(browser, served.url, viewport=DESKTOP, color_scheme=scheme), args.output / name
                )
            phone = open_page(
                browser, served.url, viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True
            )
            chat(phone, args.output / "chat-phone")
            needle_lab(open_page(browser, served.url, viewport=DESKTOP), args.output / "needle-lab")
            browser.close()
    finally:
        served.close()


def open_page(browser: Browser, url: str, **options: Any) -> Page:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector("body[data-ready=yes]", state="attached")
    for example in EXAMPLES:
        page.get_by_role("button", name=example.title).click()
        page.locator("#ul-meter").get_by_text(example.file).wait_for()
    return page


def chat(page: Page, path: Path) -> None:
    """Two questions and the second one's evidence."""
    for number, example in enumerate(EXAMPLES, start=1):
        page.fill("#ul-question textarea", example.questions[0])
        page.press("#ul-question textarea", "Enter")
        page.wait_for_function(f"document.querySelectorAll('[data-testid=bot] em').length == {number}")
    save(page, path)


def needle_lab(page: Page, path: Path) -> None:
    """Five depths at three lengths."""
    page.get_by_role("tab", name="Needle lab").click()
    page.get_by_role("radio", name="512").wait_for()
    tried = 0
    for length in ("512", "1,024", "whole"):
        page.get_by_role("radio", name=length).check()
        page.get_by_role("button", name="Try five depths").click()
        tried += 5
        page.wait_for_function(
            f"document.querySelectorAll('.ul-map .hit, .ul-map .miss, .ul-map .some').length == {tried}"
        )
    save(page, path)


def save(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(500)  # the marked passage comes into sight
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path.with_suffix(".png"))
    print(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
