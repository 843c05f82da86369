"""The way to the hub, with an API that is none."""

from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from ultralong_hf.errors import EndpointError, ReleaseError
from ultralong_hf.publishing import publish, uploading


class FakeApi:
    """Keeps the calls, in order."""

    endpoint = "https://hub.invalid"

    def __init__(self, fails=None):
        self.calls = []
        self.fails = fails

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))
        if self.fails:
            raise self.fails

    def upload_folder(self, **options):
        self.calls.append(("upload_folder", options["repo_id"], options))
        return SimpleNamespace(commit_url=f"{self.endpoint}/{options['repo_id']}/commit/1")


@pytest.fixture
def validated(monkeypatch):
    """The cards that the hub was asked about."""
    cards = []
    monkeypatch.setattr(uploading, "validate_card", cards.append)
    return cards


def release(source, tmp_path, **options):
    return publish(source, output_dir=tmp_path / "out" / "tiny", base="lab", **options)


def test_the_card_is_validated_before_anything_is_sent(source, tmp_path, validated):
    api = FakeApi()
    made = release(source, tmp_path, repo_id="me/tiny", private=True, api=api)
    assert made.url == "https://hub.invalid/me/tiny/commit/1"
    assert [call[:2] for call in api.calls] == [("create_repo", "me/tiny"), ("upload_folder", "me/tiny")]
    assert api.calls[0][2] == {"private": True, "repo_type": "model", "exist_ok": True}
    assert api.calls[1][2]["folder_path"] == made.folder
    assert "token" not in api.calls[1][2]
    [card] = validated
    assert card.data.license == "apache-2.0"


@pytest.mark.parametrize("options", [{}, {"repo_id": "me/tiny", "dry_run": True}])
def test_nothing_is_uploaded_unless_asked(source, tmp_path, validated, options):
    api = FakeApi()
    made = release(source, tmp_path, api=api, **options)
    assert made.url is None
    assert api.calls == []
    assert validated == []
    assert any("needs the network" in note for note in made.notes)


def test_a_release_with_faults_is_not_uploaded(source, tmp_path, validated):
    (source / "chat_template.jinja").write_text("nothing of yours")
    api = FakeApi()
    with pytest.raises(ReleaseError, match="chat template"):
        release(source, tmp_path, repo_id="me/tiny", api=api)
    assert api.calls == []
    assert validated == []


def test_what_the_hub_says_of_the_card_is_told(source, tmp_path, monkeypatch):
    def refuse(card):
        raise ValueError('"license" must be one of\n[...]')

    monkeypatch.setattr(uploading, "validate_card", refuse)
    api = FakeApi()
    with pytest.raises(ReleaseError, match='the hub refuses the card: "license" must be one of'):
        release(source, tmp_path, repo_id="me/tiny", api=api)
    assert api.calls == []


def test_a_hub_that_refuses_the_repository_is_an_error_of_the_endpoint(source, tmp_path, validated):
    request = httpx2.Request("POST", "https://hub.invalid/api/repos/create")
    error = HfHubHTTPError("403 Forbidden", response=httpx2.Response(403, request=request))
    with pytest.raises(EndpointError, match=r"did not take me/tiny: 403 Forbidden.*hf auth login"):
        release(source, tmp_path, repo_id="me/tiny", api=FakeApi(error))


def test_offline_is_told(source, tmp_path):
    """Tests run with HF_HUB_OFFLINE: the hub's own check is what meets it first."""
    with pytest.raises(EndpointError, match="did not take me/tiny"):
        release(source, tmp_path, repo_id="me/tiny", api=FakeApi())


def test_the_name_comes_from_the_repository(source, tmp_path, validated):
    made = release(source, tmp_path, repo_id="me/other", api=FakeApi())
    assert made.name == "other"
