"""`ultralong chat`: bad input is one line a fault and status 2, before anything is loaded."""

import signal

import pytest

from ultralong_hf.cli import main


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others in"),
        (["--share"], "--share lets others in"),
        (["--share", "--auth", "ada"], "--auth takes USER:PASSWORD"),
        (["--auth", ":x"], "--auth takes USER:PASSWORD"),
        (["MODEL", "--model", "OTHER"], "--model OTHER names a model beside MODEL"),
        (["--engine", "http://127.0.0.1:9/v1", "--cache-gib", "2"], "for a model in this process"),
        (["--port", "70000"], "--port 70000 is no port"),
        (["--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--temperature", "3"], "--temperature 3.0"),
        (["--documents", "missing.pdf"], "--documents missing.pdf: "),
    ],
)
def test_bad_input_is_told_in_a_line(arguments, fault, capsys, monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ULTRALONG_CHAT_AUTH", raising=False)
    assert main(["chat", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert fault in lines[0]


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chat", "--help"])
    assert ended.value.code == 0
    assert "example: ultralong chat --documents" in capsys.readouterr().out


def test_the_page_is_served_until_it_is_stopped(capsys, monkeypatch, tmp_path):
    """Options reach the service; Ctrl-C deletes and ends with status 0."""
    pytest.importorskip("gradio")
    from chat_models import make_engine

    from ultralong_hf.chat import opening
    from ultralong_hf.chat.page import serving

    (tmp_path / "notes.md").write_text("notes")
    seen = {}

    class Served:
        def wait(self):
            raise KeyboardInterrupt

        def close(self):
            seen["closed"] = True

    def serve(service, where, **options):
        seen.update(service=service, where=where, **options)
        return Served()

    def open_engine(model, engine, **options):
        seen["engine"] = (model, engine, options)
        return make_engine(), None

    monkeypatch.setenv("ULTRALONG_CHAT_AUTH", "ada:pass:word")
    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setattr("signal.signal", lambda *handler: seen.update(handler=handler))
    monkeypatch.setattr(opening, "open_chat_engine", open_engine)
    arguments = ["chat", "--documents", str(tmp_path / "notes.md"), "--host", "0.0.0.0", "--cache-gib", "0.5"]
    assert main(arguments) == 0
    assert seen["closed"]
    assert seen["handler"] == (signal.SIGTERM, signal.default_int_handler)
    assert seen["where"].auth == (("ada", "pass:word"),)
    assert [document.name for document in seen["documents"]] == ["notes.md"]
    assert seen["engine"][2]["cache_bytes"] == 512 * 1024**2
    assert seen["service"].options.max_new_tokens == 32
    assert "deleted" in capsys.readouterr().out
