"""Every sentence of the page. Messages of errors, meter and evidence come from where they are found."""

from __future__ import annotations

TITLE = "UltraLong chat"
CHAT_TAB, NEEDLE_TAB = "Chat", "Needle lab"

DOCUMENTS = "Documents"
UPLOAD_KINDS = "PDF, DOCX, EPUB, HTML, Markdown, text, source files, ZIP"
EXAMPLES = "Or open an example"
REMOVE_WHICH, REMOVE = "Document to take out", "Take out"
CUT_BEGINNING = "Cut to fit: keep the beginning"
CUT_ENDS = "Cut to fit: keep both ends of each"
NO_DOCUMENTS = "No documents yet. Without one the model answers from what it learnt alone."
METER = "Window"
AROUND = "chat and frame"
ANSWER_ROOM = "kept for the answer"
RECALL_MARK = "recall measured up to here"
REMARKS = "remarks"

SETTINGS = "Answers"
MAX_TOKENS, MAX_TOKENS_INFO = "Longest answer", "tokens; they are kept free in the window"
TEMPERATURE, TEMPERATURE_INFO = "Temperature", "0: the most likely word each time"

CACHE = "Cache"
CACHE_SAVE, CACHE_LOAD = "Save this chat's cache", "Load a saved cache"
CACHE_OF_SERVER = "The server keeps the cache, if it has one."
CACHE_EMPTY = "Nothing of this chat is cached yet."

EXPORT = "Export"
EXPORT_MARKDOWN, EXPORT_JSON = "Markdown", "JSON"
NOTHING_TO_EXPORT = "There is no answer yet to export."

CHAT = "Chat"
CHAT_PLACEHOLDER = (
    "### Ask about your documents\n"
    "Drop books, papers or a zipped repository, or open an example. They are read once: the next question "
    "begins where the last one ended."
)
QUESTION = "Question"
QUESTION_PLACEHOLDER = "Ask about the documents (Shift+Enter: a new line)"
SEND, STOP = "Send", "Stop"
AGAIN, NEW_CHAT = "Answer again", "New chat"
THEME = "Light / dark"

EVIDENCE = "Evidence"
WHICH_ANSWER = "Answer"
PASSAGES = "Passages the answer rests on"
NO_EVIDENCE = "Passages that an answer rests on appear here."
VIEWER = "Document"
VIEWER_EMPTY = "Choose a document, or a passage, to read it here."
EARLIER, LATER = "Earlier", "Later"

NEEDLE_ABOUT = (
    "Hide a sentence of your own in the loaded documents, at a depth that you choose, and ask for it. "
    "The chat does not see it."
)
SENTENCE, SENTENCE_DEFAULT = "Sentence to hide", "The access code of the royal fountain is 58213."
NEEDLE_QUESTION, NEEDLE_QUESTION_DEFAULT = "Question", "What is the access code of the royal fountain?"
EXPECTED = "It is found if the answer holds"
EXPECTED_PLACEHOLDER = "the last number or name of the sentence"
DEPTH, DEPTH_INFO = "Depth in percent", "0: at the beginning, 100: at the end"
LENGTH, WHOLE_LENGTH = "Length", "whole"
HIDE, SWEEP, NEEDLE_CLEAR = "Hide and ask", "Try five depths", "Clear the map"
MAP_EMPTY = "Each try fills a cell: how deep the sentence stood, and how long the text was."
MAP_CAPTION = "Found, of tries, by depth and length in tokens"
NEEDLE_NO_DOCUMENTS = "Load a document in the Chat tab first: it is what the sentence hides in."
HIT, MISS = "Found", "Not found"

SESSION_ENDED = "This chat has ended, and its documents are deleted. Reload the page for a new one."
UPLOAD_GONE = "The upload did not arrive whole: try again."
CHAT_ANEW = "The chat begins anew, as the documents stand before it."
STOPPING = "Stopping ..."


def subtitle(model: str, window: int | None) -> str:
    return f"{model} · " + ("window unknown" if window is None else f"window {window:,} tokens")


def waiting(ahead: int) -> str:
    return f"{ahead} {'question is' if ahead == 1 else 'questions are'} answered first ..."


def reading(read: int, total: int | None, reused: int, seconds_left: float | None) -> str:
    """
    >>> reading(2048, 12000, 512, 7.6)
    'Reading: 2,048 of 12,000 tokens (512 reused), 8 s left'
    """
    if total is None:
        return "The server is reading ..."
    kept = f" ({reused:,} reused)" if reused else ""
    left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
    return f"Reading: {read:,} of {total:,} tokens{kept}{left}"


def reading_file(name: str, done: int, files: int) -> str:
    return f"Opening {name} ..." if files <= 1 else f"Opening {name}: file {done:,} of {files:,}"


def added(names: list[str], *, anew: bool) -> str:
    return f"Added: {', '.join(names)}." + (f" {CHAT_ANEW}" if anew else "")


def cut(notes: list[str]) -> str:
    return "Cut to fit. " + "; ".join(notes) + "."


def cache_saved(size: str) -> str:
    return f"Saved: {size}. It is used again only with the same model and documents."


def cache_loaded(tokens: int) -> str:
    return f"Loaded: {tokens:,} tokens need not be read again."


def cache_used(used: str, budget: str) -> str:
    return f"All chats: {used} of {budget}. The least recently used go first."


def cache_own(tokens: int, size: str) -> str:
    return f"This chat: {tokens:,} tokens, {size}"


def quoted_at(text: str, place: str) -> str:
    return f"“{text}” · {place}"


def attended_at(share: float, place: str) -> str:
    return f"attention {share:.0%} · {place}"


def answer_label(number: int, question: str) -> str:
    return f"{number}. {question}"


def tried(found: bool, depth: float, tokens: int, answer: str) -> str:
    return f"{HIT if found else MISS} at {depth:.0f} % of {tokens:,} tokens. Answer: {answer}"
