"""A checked release -> the hub, through huggingface_hub. The token is that of its login or of HF_TOKEN."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ultralong_hf.errors import EndpointError, ReleaseError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ultralong_hf.publishing.release import Release


def upload(release: Release, *, private: bool, api: HfApi | None = None) -> Release:
    """Uploads the folder to `release.repo_id`, made where it is missing; the Release with its address.

    Files of an earlier release that this one lacks are removed there. An upload that broke off goes on where
    it was: huggingface_hub skips what the hub has. Raises ReleaseError for a release with
    faults and where the hub refuses the card, EndpointError for anything else that the hub says.
    """
    if release.faults:
        raise ReleaseError(*release.faults)
    assert release.repo_id is not None
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = api or HfApi()
    card = ModelCard.load(release.folder / "README.md")
    try:
        validate_card(card)
        api.create_repo(release.repo_id, private=private, repo_type="model", exist_ok=True)
        url = _send(api, release)
    except HFValidationError as error:
        raise ReleaseError(f"--repo-id {release.repo_id!r}: {error}") from error
    except ValueError as error:
        raise ReleaseError(f"the hub refuses the card: {' '.join(str(error).split())}") from error
    except (HfHubHTTPError, OSError) as error:
        raise EndpointError(
            f"the hub did not take {release.repo_id}: {' '.join(str(error).split())[:300]} Log in (`hf auth "
            "login`) or set HF_TOKEN with the right to write there; then run the same command again."
        ) from error
    return replace(release, url=url)


def validate_card(card: Any) -> None:
    """The hub's own check of the metadata, over the network."""
    card.validate(repo_type="model")


def _send(api: HfApi, release: Release) -> str:
    assert release.repo_id is not None
    commit = api.upload_folder(
        repo_id=release.repo_id,
        folder_path=release.folder,
        repo_type="model",
        commit_message=f"Upload {release.name}",
        delete_patterns=["*.safetensors", "*.json", "images/*"],
    )
    return str(commit.commit_url)
