"""Every hostile or broken file is refused or read: none crashes, hangs, or leaves its folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_files import hostile_files

from ultralong_hf.chat.documents import Document, Limits, read_document
from ultralong_hf.errors import UploadError

FILES = hostile_files()
# Small enough that a file which needed more would be caught, large enough for a loaded machine.
LIMITS = Limits(seconds=50, memory_bytes=700 * 1024**2, characters=4_000_000)


def _outcome(path):
    try:
        return read_document(path, LIMITS)
    except UploadError as error:
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def outcomes(folder):
    """Each file's document, or the error that refused it."""
    for name, (content, _) in FILES.items():
        (folder / name).write_bytes(content)
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(FILES, pool.map(lambda name: _outcome(folder / name), FILES), strict=True))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES), (
        "something was written beside them"
    )
    return found


def test_there_are_at_least_forty():
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", FILES)
def test_is_refused_or_read(name, outcomes, folder):
    outcome, expected = outcomes[name], FILES[name][1]
    if isinstance(outcome, UploadError):
        assert str(folder) not in str(outcome)
        assert "Traceback" not in str(outcome)
        assert "/tmp" not in str(outcome)
        assert expected == "either" or expected.startswith("refused:"), outcome
        assert expected.partition(": ")[2] in str(outcome)
    else:
        assert isinstance(outcome, Document)
        assert expected == "either" or expected.startswith("read:"), outcome.text[:200]
        assert expected.partition(": ")[2] in outcome.text
        assert str(folder) not in outcome.text


def test_nothing_of_the_machine_or_of_scripts_is_in_a_text(outcomes):
    read = [outcome for outcome in outcomes.values() if isinstance(outcome, Document)]
    assert len(read) >= 25
    for document in read:
        for word in ("root:x:0", "EVIL", "HIDDEN", "app.alert", "color:red"):
            assert word not in document.text


def test_names_and_texts_hold_nothing_that_hides_or_reorders(outcomes):
    read = [outcome for outcome in outcomes.values() if isinstance(outcome, Document)]
    for document in read:
        for unseen in ("\u202e", "\x07", "\x1b", "\0", "\U000e0069"):
            assert unseen not in document.name
            assert unseen not in document.text
        assert len(document.name) <= 120


def test_what_was_left_out_is_told(outcomes):
    def warnings(name):
        return " ".join(outcomes[name].warnings)

    assert "links and special files" in warnings("symlink.zip")
    assert "nested too deep" in warnings("deep.zip")
    assert "2 hidden passages" in warnings("hidden.html")
    assert "invisible characters" in warnings("smuggled.txt")
    assert "it is PDF" in warnings("really_pdf.txt")
    assert "guessed" in warnings("latin1.txt")


def test_a_folder_is_read_without_following_its_links(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("SECRET")
    top = tmp_path / "repo"
    (top / "src").mkdir(parents=True)
    (top / "node_modules").mkdir()
    (top / "src" / "a.py").write_text("print('a')\n")
    (top / "node_modules" / "junk.js").write_text("junk\n")
    (top / "built.log").write_text("log\n")
    (top / ".gitignore").write_text("*.log\n")
    (top / "link.txt").symlink_to(secret)
    (top / "up").symlink_to(tmp_path)
    Path(top / "pipe").unlink(missing_ok=True)
    import os

    os.mkfifo(top / "pipe")
    document = read_document(top, LIMITS)
    assert document.kind == "folder"
    assert "src/\n  a.py" in document.text
    assert "==== src/a.py ====" in document.text
    for absent in ("SECRET", "junk", "built.log"):
        assert absent not in document.text
    at = document.text.index("print")
    assert str(document.place(at, at + 5)) == "repo: src/a.py, line 1"


def test_a_linked_upload_is_read_where_the_user_named_it(tmp_path):
    """A path that the user gives may be a link; one inside an upload may not."""
    (tmp_path / "real.txt").write_text("words")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    assert read_document(tmp_path / "link.txt", LIMITS).text == "words"
