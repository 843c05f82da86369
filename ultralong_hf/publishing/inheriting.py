"""Which licence a release inherits, from whom, and what of it must be in the folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralong_hf.errors import ReleaseError
from ultralong_hf.publishing.licences import (
    KNOWN_BASES,
    LICENCES,
    Licence,
    also_binding,
    licence_files,
    notice_text,
)
from ultralong_hf.recipes.schema import LAB

_CARD = "README.md"
LAB_NAME = "the small base model that ships with ultralong-hf"


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that a release was made from."""

    name: str | None
    """A hub id, or words; None: not known."""
    on_hub: bool
    folder: Path | None
    """Where its card and licence files lie, if here."""
    metadata: dict[str, Any]
    """Of its card."""


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """The licence of a release. `licence` is what the hub's metadata say; None: not known."""

    licence: str | None
    name: str | None
    link: str | None
    rules: tuple[Licence, ...]
    found: str


def find_base(base: str | None) -> Base:
    """What is known here of a base: a folder, a hub id with what the cache holds of it, or `lab`.

    Nothing is fetched.
    """
    if base is None:
        return Base(name=None, on_hub=False, folder=None, metadata={})
    if base == LAB:
        return Base(name=LAB_NAME, on_hub=False, folder=None, metadata={"license": "apache-2.0"})
    path = Path(base).expanduser()
    if path.is_dir():
        metadata = _metadata(path / _CARD)
        origin = metadata.get("base_model")
        told = f"{path.name}, from {origin}" if isinstance(origin, str) else path.name
        return Base(name=told, on_hub=False, folder=path, metadata=metadata)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        cached = try_to_load_from_cache(base, _CARD) or try_to_load_from_cache(base, "config.json")
    except HFValidationError:
        raise ReleaseError(
            f"base {base!r} is no folder here, and no hub id such as 'org/name' either."
        ) from None
    folder = Path(cached).parent if isinstance(cached, str) else None
    metadata = _metadata(folder / _CARD) if folder else {}
    return Base(name=base, on_hub=True, folder=folder, metadata=metadata)


def inherit(base: Base, *, given: str | None) -> Inherited:
    """The licence: the one `given`, else the base card's, else that of a known base, else none.

    `given`: an identifier of the hub, or the name of one of LICENCES.
    """
    named, link, found = None, None, ""
    if given is not None:
        identifier: str | None = given
        found = "The licence was stated by whoever made this release."
    elif base.metadata.get("license"):
        identifier = str(base.metadata["license"])
        named, link = base.metadata.get("license_name"), base.metadata.get("license_link")
        found = f"The licence is that of {base.name}, as its card states it."
        if base.name == LAB_NAME:
            found = f"The licence is that of {base.name}."
    else:
        identifier = next((one for start, one in KNOWN_BASES if (base.name or "").startswith(start)), None)
        found = f"The licence is that of {base.name}, as its makers publish it; its card was not at hand."
    if identifier is None:
        found = (
            f"The licence of {base.name or 'the base model'} is not known to whoever made this release, so "
            "none is stated. Find it before you use this model: it binds this one too."
        )
    rule = LICENCES.get(str(named)) if identifier == "other" else LICENCES.get(identifier or "")
    if rule is not None:
        identifier, named, link = rule.id, rule.name or named, link or rule.link
    rules = [rule] if rule else []
    llama = also_binding(base.name or "")
    if llama is not None and llama not in rules:
        rules.append(llama)
    return Inherited(licence=identifier, name=named, link=link, rules=tuple(rules), found=found)


def settle_licence(folder: Path, base: Base, inherited: Inherited, name: str, changes: str) -> list[str]:
    """Puts licence and notice files into `folder`; returns what the licence demands and is not there."""
    if base.folder is not None:
        for file in licence_files(base.folder):
            if not (folder / file).exists():
                shutil.copyfile(base.folder / file, folder / file)
    names = licence_files(folder)
    notice = next((one for one in names if one.lower().startswith("notice")), "NOTICE")
    present = (folder / notice).read_text(encoding="utf-8") if notice in names else ""
    text = notice_text(inherited.rules, base.name, changes, present)
    if text is not None:
        (folder / notice).write_text(text, encoding="utf-8")
    faults = []
    for rule in inherited.rules:
        if rule.name_begins and not name.lower().startswith(rule.name_begins.lower()):
            faults.append(
                f"the {rule.title} demands a name that begins with {rule.name_begins!r}, and this is "
                f"{name!r}: give another by --name, or by --repo-id."
            )
        if rule.copy_travels and not _has_text(folder) and base.name != LAB_NAME:
            faults.append(
                f"the {rule.title} demands a copy of its text with the weights, and neither the model nor "
                f"its base has one here: put it into the model's folder as LICENSE ({rule.link})."
            )
    return list(dict.fromkeys(faults))


def _has_text(folder: Path) -> bool:
    return any(one.lower().startswith(("licen", "copying")) for one in licence_files(folder))


def _metadata(card: Path) -> dict[str, Any]:
    from huggingface_hub.repocard import metadata_load

    if not card.is_file():
        return {}
    try:
        found = metadata_load(card)
    except Exception:  # YAML's errors of a foreign card: as good as none
        return {}
    return found if isinstance(found, dict) else {}
