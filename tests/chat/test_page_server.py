"""The page's server: who may come in, what it hands out, what uploads may name. No browser."""

import asyncio
from pathlib import Path

import httpx2
import pytest
from chat_models import BOOK, make_engine

gr = pytest.importorskip("gradio")

from page_server import page_of, wait_until  # noqa: E402

from ultralong_hf.chat.documents import Limits  # noqa: E402
from ultralong_hf.chat.documents.limits import MIB  # noqa: E402
from ultralong_hf.chat.engine import Options  # noqa: E402
from ultralong_hf.chat.page import serving  # noqa: E402
from ultralong_hf.chat.page.guarding import LOOPBACK_NAMES, Guard  # noqa: E402
from ultralong_hf.chat.page.rooms import Rooms  # noqa: E402
from ultralong_hf.chat.page.serving import Where, serve  # noqa: E402
from ultralong_hf.chat.page.uploads import delete, uploaded, with_progress  # noqa: E402
from ultralong_hf.chat.session import ChatService, ServiceLimits  # noqa: E402
from ultralong_hf.errors import ChatError, UploadError  # noqa: E402


class Request:
    """What handlers read of Gradio's."""

    def __init__(self, session_hash, username=None):
        self.session_hash, self.username = session_hash, username


@pytest.fixture
def service():
    limits = Limits(file_bytes=MIB)
    return ChatService(make_engine(), limits=limits, options=Options(max_new_tokens=8))


@pytest.mark.parametrize("where", [{"host": "0.0.0.0"}, {"host": "example.org"}, {"share": True}])
def test_others_are_let_in_only_with_a_password(where):
    with pytest.raises(ChatError, match="--auth USER:PASSWORD"):
        Where(**where)
    assert Where(**where, auth=(("ada", "secret"),)).auth
    assert Where(host="::1").host == "::1"


@pytest.mark.filterwarnings("ignore")
def test_the_server_answers_its_own_names_alone_and_fetches_nothing(service):
    with page_of(service, Where(auth=(("ada", "secret"),))) as served:
        with httpx2.Client(base_url=served.url) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert "connect-src 'self'" in page.headers["content-security-policy"]
            assert page.headers["x-content-type-options"] == "nosniff"
            assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
            assert client.get("/gradio_api/file=http://example.org/x").status_code == 403
            assert client.get("/gradio_api/proxy=http://example.org/x").status_code == 403
            assert client.get("/gradio_api/file=/etc/passwd").status_code in (401, 403, 404)
            assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
            assert client.get("/config").status_code == 401
            wrong = client.post("/login", data={"username": "ada", "password": "guess"})
            assert wrong.status_code == 400
            assert client.post("/login", data={"username": "ada", "password": "secret"}).status_code == 200
            config = client.get("/config").json()
            assert config["analytics_enabled"] is False
            visible = {one["api_visibility"] for one in config["dependencies"] if one["backend_fn"]}
            assert visible == {"private"}
            big = client.post("/gradio_api/upload", files={"files": bytes(MIB + 1)})
            assert big.status_code == 413
            assert client.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
        folder = served.folder
        assert folder.stat().st_mode & 0o077 == 0
        port = int(served.url.rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(ChatError, match=f"port {port}: taken"):
            serve(service, Where(port=port), say=lambda text: None)
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore")
def test_an_upload_that_nobody_takes_is_deleted(service, monkeypatch):
    monkeypatch.setattr(serving, "SWEEP_SECONDS", 1)
    monkeypatch.setattr(serving, "UPLOAD_SECONDS", 1)
    with page_of(service) as served:
        answer = httpx2.post(f"{served.url}gradio_api/upload", files={"files": ("a.txt", b"x")})
        path = Path(answer.json()[0])
        assert path.is_relative_to(served.folder)
        assert path.exists()
        wait_until(lambda: not path.exists())


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("localhost", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("[::1]", True),
        ("a.b", False),
        ("", False),
    ],
)
def test_a_guard_knows_its_hosts(host, let_in):
    guard = Guard(None, hosts=LOOPBACK_NAMES)
    assert guard._is_host({"headers": [(b"host", host.encode())]}) is let_in
    assert Guard(None, hosts=None)._is_host({"headers": []})


def test_a_guard_leaves_what_is_not_http_alone():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Guard(app, hosts=())({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]


def test_a_room_is_one_tabs_and_goes_with_it(service):
    rooms = Rooms(service, [BOOK])
    one, two = rooms.of(Request("a")), rooms.of(Request("b"))
    assert one.session.name != two.session.name
    assert rooms.of(Request("a")) is one
    assert rooms.of(Request("a", "ada")) is not one
    assert [document.name for document in one.session.documents] == ["book.txt"]
    one.session.remove("book.txt")
    assert len(two.session.documents) == 1
    folder = one.folder()
    (folder / "cache.safetensors").write_text("x")
    rooms.close(Request("a"))
    assert not folder.exists()
    assert one.session.closed
    assert rooms.of(Request("a")) is not one
    rooms.close_all()
    assert len(rooms) == service.sessions == 0


def test_a_room_whose_session_was_swept_says_so_once():
    now = [0.0]
    bounds = ServiceLimits(idle_seconds=60)
    rooms = Rooms(ChatService(make_engine(), service_limits=bounds, clock=lambda: now[0]))
    room = rooms.of(Request("a"))
    now[0] = 100.0
    rooms.service.sweep()
    with pytest.raises(ChatError, match="Reload the page"):
        rooms.of(Request("a"))
    assert rooms.of(Request("a")) is not room
    now[0] = 200.0
    rooms.drop_ended()
    assert len(rooms) == 0


def test_uploads_are_files_of_the_upload_folder_alone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "abc").mkdir(parents=True)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(home))
    good = home / "abc" / "notes.md"
    good.write_text("notes")
    (tmp_path / "secret").write_text("secret")
    (home / "link").symlink_to(tmp_path / "secret")
    found = uploaded([{"path": str(good), "orig_name": "my notes.md"}])
    assert [(one.path, one.name) for one in found] == [(good, "my notes.md")]
    for path in (
        str(tmp_path / "secret"),
        str(home / ".." / "secret"),
        str(home / "link"),
        str(home),
        "http://example.org/x",
        "",
        None,
        7,
    ):
        with pytest.raises(UploadError, match="did not arrive"):
            uploaded([{"path": path}])
    for payload in ("text", [None], [["a"]], None):
        with pytest.raises(UploadError):
            uploaded(payload)
    delete(found)
    assert not good.parent.exists()


def test_work_tells_how_far_it_is_and_raises_what_went_wrong():
    def work(say):
        say("one")
        say("two")
        return [3]

    assert list(with_progress(work)) == ["one", "two", [3]]

    def fails(say):
        say("one")
        raise UploadError("no")

    said = with_progress(fails)
    assert next(said) == "one"
    with pytest.raises(UploadError, match="no"):
        next(said)
