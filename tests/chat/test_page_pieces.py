"""The page's pure parts: what is shown of documents, answers, meters and tries. No browser, no model."""

import pytest
from chat_models import BOOK, NOTES

from ultralong_hf.chat.chat import ChatTurn
from ultralong_hf.chat.documents import Document, Mark
from ultralong_hf.chat.engine import CacheEntry, CacheUse, Prefill, Reply
from ultralong_hf.chat.evidence import find_evidence
from ultralong_hf.chat.meter import Meter, Recall
from ultralong_hf.chat.needle_lab import Attempt, expected_of, insert
from ultralong_hf.chat.page import panels, texts
from ultralong_hf.chat.page.escaping import answer_markdown, plain_markdown
from ultralong_hf.chat.page.examples import EXAMPLES, questions_of
from ultralong_hf.chat.page.heat_map import heat_map
from ultralong_hf.chat.page.messages import turn_messages, turn_of
from ultralong_hf.chat.page.viewer import AFTER, BEFORE, Spot, document_html

EVIL = '<script>alert(1)</script> & "quotes"'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**bold** and `a < b`", "**bold** and `a < b`"),
        ("<img src=x>", "&lt;img src=x>"),
        ("![p](http://x)", "!\\[p]\\(http://x)"),
        ("[click](javascript:alert(1))", "[click]\\(javascript:alert(1))"),
        ("[a][b]\n\n[b]: http://x", "[a]\\[b]\n\n[b]\\: http://x"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n&lt;i>"),
        ("```\n<b> of an open fence", "```\n<b> of an open fence"),
    ],
)
def test_an_answers_markdown_fetches_and_hides_nothing(text, shown):
    assert answer_markdown(text) == shown


def test_letters_stay_letters_in_markdown():
    assert plain_markdown("a *b* <c> [d](e)") == "a \\*b\\* \\<c\\> \\[d\\](e)"


def test_a_meter_shows_numbers_names_and_the_recall_mark():
    meter = Meter(
        documents=(("<b>.md", 3000), ("b.txt", 500)),
        around=100,
        answer=400,
        window=8000,
        recall=Recall(4000, 4000, "needle"),
        exact=True,
    )
    shown = panels.meter(meter, [Document("<b>.md", "text", "PDF", warnings=("page 3: <i>",), pages=7)])
    assert '<span id="ul-total">4,000</span> / 8,000' in shown
    assert "width:37.50%" in shown
    assert 'style="left:50.00%"' in shown
    assert "&lt;b&gt;.md <small>PDF, 7 p.</small>" in shown
    assert "page 3: &lt;i&gt;" in shown
    assert "<b>.md" not in shown
    assert "over" not in shown


def test_a_meter_that_is_full_says_how_much_is_too_much():
    meter = Meter((("a", 900),), 50, 100, 1000, None, False)
    shown = panels.meter(meter, [])
    assert 'class="ul-meter over"' in shown
    assert "50 too many" in shown
    assert "≈ 1,050" in shown


def test_progress_and_cache_are_told_in_words():
    shown = panels.progress(Prefill(2048, 12000, 512, 7.6))
    assert "Reading: 2,048 of 12,000 tokens (512 reused), 8 s left" in shown
    assert '<progress max="12000" value="2048">' in shown
    assert "<progress></progress>" in panels.progress(Prefill(0, None, 0, None))
    use = CacheUse(3 * 1024**2, 1024**3, (CacheEntry((("<a>", 100, 2048),), 120, 4096, False),))
    told = panels.cache(use)
    assert "3.0 MiB of 1.0 GiB" in told
    assert "120 tokens, 4.0 KiB" in told
    assert "&lt;a&gt;: 100 tokens, 2.0 KiB" in told
    assert panels.cache(None) == f"<p>{texts.CACHE_OF_SERVER}</p>"


def test_what_is_said_of_names_is_escaped():
    assert "<script>" not in panels.problem(EVIL) + panels.status(EVIL)


def test_a_place_is_shown_with_its_lines_numbered_and_marked():
    document = Document("a.md", "one\ntwo <b>\nthree\n", "text")
    at = document.text.index("<b>")
    shown = document_html(document, at, [Spot(at, at + 3, chosen=True), Spot(0, 3)])
    assert "a.md, line 2" in shown
    assert "<i>1</i><span><mark>one</mark></span>" in shown
    assert '<i>2</i><span>two <mark class="chosen">&lt;b&gt;</mark></span>' in shown
    assert "<i>3</i><span>three</span>" in shown


def test_marks_that_overlap_are_cut_at_each_others_ends():
    document = Document("a", "abcdef", "text")
    shown = document_html(document, 0, [Spot(0, 4), Spot(2, 6, chosen=True)])
    assert '<mark>ab</mark><mark class="chosen">cd</mark><mark class="chosen">ef</mark>' in shown


def test_pages_and_files_are_named_in_the_viewer():
    paged = Document("a.pdf", "one\ntwo\n", "PDF", (Mark(0, page=1), Mark(4, page=2)), pages=2)
    assert '<div class="ul-file">page 2</div>' in document_html(paged, 5)
    packed = Document("a.zip", "one\ntwo\n", "ZIP", (Mark(0), Mark(4, file="<x>.py")))
    shown = document_html(packed, 5)
    assert '<div class="ul-file">&lt;x&gt;.py</div><div class="ul-line"><i>1</i><span>two' in shown


@pytest.mark.parametrize("text", ["word " * 200_000, "line of words\n" * 100_000, "x" * 1_000_000])
def test_only_a_window_of_a_long_document_is_sent(text):
    document = Document("long", text, "text")
    for at in (0, 500_001, len(text) - 2):
        shown = document_html(document, at, [Spot(at, min(at + 3, len(text)), chosen=True)])
        assert len(shown) < 8 * (BEFORE + AFTER)
        assert 'class="chosen"' in shown
    assert document_html(Document("empty", "", "text"), 0) == ""


def test_an_answer_tells_what_was_reused_and_what_is_not_in_the_documents():
    reply = Reply('It is "the moon said so".', "stop", 100, 90, 9, 0.1, 1.0)
    evidence = find_evidence(reply.text, [BOOK], question="?")
    question, answer = turn_messages([ChatTurn("What?", reply, evidence)])
    assert question == {"role": "user", "content": "What?"}
    assert "reused 90 of 100 tokens" in answer["content"]
    assert "Not in the documents" in answer["content"]
    assert [turn_of(index) for index in (0, 1, 2, 5, [3, 0])] == [0, 0, 1, 2, 1]


def test_each_example_holds_the_answers_to_its_questions():
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        text = example.document().text
        assert questions_of([example.document(), NOTES]) == list(example.questions)
        for question in example.questions:
            fact = question.removeprefix("What is ").removesuffix("?")
            assert f"{fact[0].upper()}{fact[1:]} is " in text
    assert questions_of([NOTES]) == []


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0, "HIDDEN\none\ntwo\nthree\n"),
        (40, "one\nHIDDEN\ntwo\nthree\n"),
        (60, "one\ntwo\nHIDDEN\nthree\n"),
        (100, "one\ntwo\nthree\nHIDDEN\n"),
    ],
)
def test_a_sentence_goes_to_the_line_nearest_to_its_depth(depth, expected):
    assert insert("one\ntwo\nthree\n", "HIDDEN", depth) == expected


def test_a_text_without_lines_is_cut_between_sentences_or_words():
    assert insert("One. Two. Three.", "HIDDEN.", 50) == "One. Two. HIDDEN. Three."
    assert insert("one two three", "HIDDEN", 60) == "one two HIDDEN three"
    assert insert("x" * 1000, "HIDDEN", 50) == "x" * 500 + " HIDDEN " + "x" * 500


def test_what_counts_as_found_is_read_from_the_sentence():
    assert expected_of("The access code of gate 4 is 58213.") == "58213"
    assert expected_of("The mayor is called Ada Lovelace.") == "Lovelace"
    assert expected_of("the secret is cheese") == "cheese"


def test_the_map_counts_tries_by_depth_and_length():
    tries = [
        Attempt(50, 512, 530, True, "a"),
        Attempt(50, 512, 530, False, "b"),
        Attempt(10, None, 2900, True, "c"),
        Attempt(0, 512, 530, False, "d"),
    ]
    shown = heat_map(tries)
    assert '<th scope="col">512</th><th scope="col">whole (2,900)</th>' in shown
    assert '<th scope="row">50 %</th><td class="some">1/2</td><td></td>' in shown
    assert '<th scope="row">10 %</th><td></td><td class="hit">1/1</td>' in shown
    assert '<th scope="row">0 %</th><td class="miss">0/1</td><td></td>' in shown
    assert texts.MAP_EMPTY in heat_map([])
