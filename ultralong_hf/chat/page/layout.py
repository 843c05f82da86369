"""What stands where on the page. No behaviour: the panels connect it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ultralong_hf.chat.engine import Options
from ultralong_hf.chat.page import texts
from ultralong_hf.chat.page.escaping import plain
from ultralong_hf.chat.page.examples import Example


@dataclass
class Parts:
    """The components that handlers read or change."""

    page: gr.Blocks
    uploads: gr.File
    examples: list[tuple[gr.Button, Example]]
    meter: gr.HTML
    remove: gr.Dropdown
    remove_button: gr.Button
    cuts: gr.Row
    cut_beginning: gr.Button
    cut_ends: gr.Button
    max_tokens: gr.Slider
    temperature: gr.Slider
    cache: gr.HTML
    cache_save: gr.Button
    cache_file: gr.DownloadButton
    cache_load: gr.UploadButton
    export_markdown: gr.Button
    export_json: gr.Button
    exported: gr.JSON
    chat: gr.Chatbot
    status: gr.HTML
    question: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    new_chat: gr.Button
    answers: gr.Dropdown
    evidence: gr.HTML
    passages: gr.Radio
    shown_document: gr.Dropdown
    viewer: gr.HTML
    earlier: gr.Button
    later: gr.Button
    needle: NeedleParts


@dataclass
class NeedleParts:
    sentence: gr.Textbox
    question: gr.Textbox
    expected: gr.Textbox
    depth: gr.Slider
    length: gr.Radio
    hide: gr.Button
    sweep: gr.Button
    stop: gr.Button
    clear: gr.Button
    status: gr.HTML
    map: gr.HTML
    tab: gr.Tab


def build_layout(*, model: str, window: int | None, options: Options, examples: Sequence[Example]) -> Parts:
    found: dict[str, Any] = {}
    with gr.Blocks(title=texts.TITLE, analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="ul-head"):
            gr.HTML(f"<h1>{texts.TITLE}</h1><p>{plain(texts.subtitle(model, window))}</p>")
            theme = gr.Button(texts.THEME, size="sm", scale=0, min_width=120, elem_id="ul-theme")
            theme.click(None, js="() => document.body.classList.toggle('dark')", api_visibility="private")
        with gr.Tabs():
            with gr.Tab(texts.CHAT_TAB), gr.Row(elem_id="ul-columns"):
                with gr.Column(scale=3, min_width=280, elem_id="ul-left"):
                    _documents(found, options, examples)
                with gr.Column(scale=5, min_width=340, elem_id="ul-middle"):
                    _chat(found)
                with gr.Column(scale=4, min_width=320, elem_id="ul-right"):
                    _evidence(found)
            with gr.Tab(texts.NEEDLE_TAB) as tab:
                needle = _needle(tab)
    return Parts(page=page, needle=needle, **found)


def _documents(found: dict[str, Any], options: Options, examples: Sequence[Example]) -> None:
    found["uploads"] = gr.File(label=texts.DOCUMENTS, file_count="multiple", height=120, elem_id="ul-uploads")
    gr.HTML(f'<p class="ul-hint">{texts.UPLOAD_KINDS}</p>')
    found["examples"] = []
    if examples:
        gr.HTML(f'<p class="ul-label">{texts.EXAMPLES}</p>')
        with gr.Row():
            for example in examples:
                button = gr.Button(example.title, size="sm", min_width=100, elem_classes="ul-example")
                found["examples"].append((button, example))
    found["meter"] = gr.HTML(f"<p>{texts.NO_DOCUMENTS}</p>", elem_id="ul-meter")
    with gr.Row(visible=False) as found["cuts"]:
        found["cut_beginning"] = gr.Button(texts.CUT_BEGINNING, size="sm", elem_id="ul-cut-beginning")
        found["cut_ends"] = gr.Button(texts.CUT_ENDS, size="sm", elem_id="ul-cut-ends")
    with gr.Row():
        found["remove"] = gr.Dropdown(
            [],
            label=texts.REMOVE_WHICH,
            show_label=False,
            container=False,
            visible=False,
            scale=3,
            min_width=140,
        )
        found["remove_button"] = gr.Button(texts.REMOVE, size="sm", visible=False, scale=1, min_width=80)
    with gr.Accordion(texts.SETTINGS, open=False):
        found["max_tokens"] = gr.Slider(
            8, max(4_096, options.max_new_tokens), options.max_new_tokens, step=8,
            label=texts.MAX_TOKENS, info=texts.MAX_TOKENS_INFO,
        )  # fmt: skip
        found["temperature"] = gr.Slider(
            0, 2, options.temperature, step=0.1, label=texts.TEMPERATURE, info=texts.TEMPERATURE_INFO
        )
    with gr.Accordion(texts.CACHE, open=False, elem_id="ul-cache"):
        found["cache"] = gr.HTML("")
        found["cache_save"] = gr.Button(texts.CACHE_SAVE, size="sm")
        found["cache_load"] = gr.UploadButton(
            texts.CACHE_LOAD, file_types=[".safetensors"], size="sm", elem_id="ul-cache-load"
        )
        found["cache_file"] = gr.DownloadButton(visible="hidden", elem_id="ul-cache-file")
    with gr.Accordion(texts.EXPORT, open=False, elem_id="ul-export"), gr.Row():
        found["export_markdown"] = gr.Button(texts.EXPORT_MARKDOWN, size="sm", min_width=80)
        found["export_json"] = gr.Button(texts.EXPORT_JSON, size="sm", min_width=80)
        found["exported"] = gr.JSON(visible=False)


def _chat(found: dict[str, Any]) -> None:
    found["chat"] = gr.Chatbot(
        label=texts.CHAT,
        show_label=False,
        height="max(360px, calc(100vh - 270px))",
        placeholder=texts.CHAT_PLACEHOLDER,
        editable="user",
        latex_delimiters=[],
        allow_tags=False,
        buttons=["copy"],
        feedback_options=None,
        elem_id="ul-chat",
    )
    found["status"] = gr.HTML("", elem_id="ul-status")
    with gr.Row(elem_id="ul-ask"):
        found["question"] = gr.Textbox(
            label=texts.QUESTION,
            show_label=False,
            container=False,
            placeholder=texts.QUESTION_PLACEHOLDER,
            lines=1,
            max_lines=8,
            autofocus=True,
            scale=5,
            min_width=120,
            elem_id="ul-question",
        )
        found["send"] = gr.Button(texts.SEND, variant="primary", scale=0, min_width=84, elem_id="ul-send")
        found["stop"] = gr.Button(
            texts.STOP, variant="stop", scale=0, min_width=84, visible=False, elem_id="ul-stop"
        )
    with gr.Row():
        found["again"] = gr.Button(texts.AGAIN, size="sm", min_width=100)
        found["new_chat"] = gr.Button(texts.NEW_CHAT, size="sm", min_width=100, elem_id="ul-new-chat")


def _evidence(found: dict[str, Any]) -> None:
    gr.HTML(f'<p class="ul-label">{texts.EVIDENCE}</p>')
    found["answers"] = gr.Dropdown([], label=texts.WHICH_ANSWER, container=False, visible=False)
    found["evidence"] = gr.HTML(f"<p>{texts.NO_EVIDENCE}</p>", elem_id="ul-evidence")
    found["passages"] = gr.Radio([], label=texts.PASSAGES, visible=False, elem_id="ul-passages")
    found["shown_document"] = gr.Dropdown(
        [], label=texts.VIEWER, container=False, visible=False, elem_id="ul-shown"
    )
    found["viewer"] = gr.HTML(f"<p>{texts.VIEWER_EMPTY}</p>", elem_id="ul-viewer")
    with gr.Row():
        found["earlier"] = gr.Button(texts.EARLIER, size="sm", min_width=80, visible=False)
        found["later"] = gr.Button(texts.LATER, size="sm", min_width=80, visible=False)


def _needle(tab: gr.Tab) -> NeedleParts:
    gr.HTML(f"<p>{texts.NEEDLE_ABOUT}</p>")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            sentence = gr.Textbox(
                texts.SENTENCE_DEFAULT, label=texts.SENTENCE, lines=2, elem_id="ul-sentence"
            )
            question = gr.Textbox(texts.NEEDLE_QUESTION_DEFAULT, label=texts.NEEDLE_QUESTION, lines=2)
            expected = gr.Textbox("", label=texts.EXPECTED, placeholder=texts.EXPECTED_PLACEHOLDER)
            depth = gr.Slider(
                0, 100, 50, step=1, label=texts.DEPTH, info=texts.DEPTH_INFO, elem_id="ul-depth"
            )
            length = gr.Radio([texts.WHOLE_LENGTH], value=texts.WHOLE_LENGTH, label=texts.LENGTH)
            with gr.Row():
                hide = gr.Button(texts.HIDE, variant="primary", min_width=120)
                sweep = gr.Button(texts.SWEEP, min_width=120)
                stop = gr.Button(texts.STOP, min_width=80)
        with gr.Column(scale=4, min_width=320):
            status = gr.HTML("", elem_id="ul-needle-status")
            heat = gr.HTML(f"<p>{texts.MAP_EMPTY}</p>", elem_id="ul-map")
            clear = gr.Button(texts.NEEDLE_CLEAR, size="sm", scale=0)
    return NeedleParts(
        sentence, question, expected, depth, length, hide, sweep, stop, clear, status, heat, tab
    )
