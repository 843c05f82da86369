"""What a release inherits, and what its folder must hold for it."""

import pytest
from huggingface_hub.repocard import metadata_load
from release_models import make_base

from ultralong_hf.errors import ReleaseError
from ultralong_hf.publishing import publish
from ultralong_hf.publishing.licences import KNOWN_BASES, LICENCES, also_binding, notice_text

LLAMA_NOTICE = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. "
    "All Rights Reserved."
)


def release(source, tmp_path, name="tiny", **options):
    made = publish(source, output_dir=tmp_path / "out" / name, **options)
    return made, metadata_load(made.folder / "README.md"), (made.folder / "README.md").read_text()


def test_a_llama_needs_its_name_its_notice_its_words_and_its_text(source, tmp_path):
    made, metadata, card = release(source, tmp_path, base="meta-llama/Llama-3.1-8B-Instruct")
    assert metadata["license"] == "llama3.1"
    assert metadata["base_model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert metadata["base_model_relation"] == "finetune"
    assert "**Built with Llama**" in card
    assert LLAMA_NOTICE in (made.folder / "NOTICE").read_text()
    [name, text] = made.faults
    assert "begins with 'Llama', and this is 'tiny'" in name
    assert "demands a copy of its text" in text


def test_a_llama_with_the_right_name_and_text_has_no_fault(source, tmp_path):
    (source / "LICENSE").write_text("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT")
    (source / "USE_POLICY.md").write_text("Acceptable Use Policy")
    made, _, _ = release(source, tmp_path, "Llama-3.1-tiny", base="meta-llama/Llama-3.1-8B-Instruct")
    assert made.faults == []
    assert {"LICENSE", "USE_POLICY.md", "NOTICE"} <= set(made.files)


def test_licence_files_come_from_the_base_and_its_notice_stays(source, tmp_path):
    base = make_base(
        tmp_path / "Llama-base",
        "license: llama3.1\nlanguage: [en, de]",
        **{"LICENSE.txt": "the agreement", "Notice": f"Made by us.\n{LLAMA_NOTICE}\n"},
    )
    made, metadata, _ = release(source, tmp_path, "Llama-tiny", base=str(base))
    assert made.faults == []
    assert (made.folder / "LICENSE.txt").read_text() == "the agreement"
    notice = (made.folder / "Notice").read_text()
    assert notice.count(LLAMA_NOTICE) == 1
    assert notice.startswith("Made by us.")
    assert "NOTICE" not in made.files
    assert metadata["language"] == ["en", "de"]
    assert "base_model" not in metadata  # a folder is no model of the hub


def test_what_was_made_from_a_llama_stays_bound_by_its_licence(source, tmp_path):
    made, metadata, card = release(source, tmp_path, base="nvidia/Llama-3.1-8B-UltraLong-1M-Instruct")
    assert metadata["license"] == "cc-by-nc-4.0"
    assert "Not for commercial use." in card
    assert "**Built with Llama**" in card
    assert LLAMA_NOTICE in (made.folder / "NOTICE").read_text()
    assert any("begins with 'Llama'" in fault for fault in made.faults)


def test_an_unknown_licence_is_said_and_none_invented(source, tmp_path):
    made, metadata, card = release(source, tmp_path, base="someone/some-model")
    assert "license" not in metadata
    assert "is not known to whoever made this release" in card
    assert made.faults == []
    assert any("licence of someone/some-model is not known" in note for note in made.notes)


def test_a_release_without_a_base_names_none(source, tmp_path):
    made, metadata, card = release(source, tmp_path)
    assert "base_model" not in metadata
    assert "license" not in metadata
    assert "a base model that this release does not name" in card
    assert made.faults == []


def test_a_licence_of_its_own_name_has_name_and_link(source, tmp_path):
    base = make_base(
        tmp_path / "base",
        "license: other\nlicense_name: qwen-research\nlicense_link: LICENSE",
        LICENSE="Qwen RESEARCH LICENSE AGREEMENT",
    )
    made, metadata, card = release(source, tmp_path, base=str(base))
    assert (metadata["license"], metadata["license_name"]) == ("other", "qwen-research")
    assert metadata["license_link"] == "LICENSE"
    assert "**Built with Qwen**" in card
    assert "Qwen RESEARCH LICENSE AGREEMENT, Copyright" in (made.folder / "NOTICE").read_text()
    assert made.faults == []


def test_a_licence_whose_terms_are_not_known_is_passed_on_with_a_warning(source, tmp_path):
    base = make_base(tmp_path / "base", "license: bigscience-openrail-m", LICENSE="...")
    made, metadata, card = release(source, tmp_path, base=str(base))
    assert metadata["license"] == "bigscience-openrail-m"
    assert "Its terms were not looked at for this release" in card
    assert made.faults == []


def test_a_stated_licence_outranks_the_bases(source, tmp_path):
    base = make_base(tmp_path / "base", "license: apache-2.0")
    _, metadata, _ = release(source, tmp_path, base=str(base), licence="mit")
    assert metadata["license"] == "mit"


def test_an_identifier_that_the_hub_may_not_know_is_told(source, tmp_path):
    made, _, _ = release(source, tmp_path, licence="apache2")
    assert any("'apache2' is not among the hub's identifiers" in note for note in made.notes)


def test_what_is_no_base_is_refused(source, tmp_path):
    with pytest.raises(ReleaseError, match="no folder here, and no hub id"):
        release(source, tmp_path, base="../not a model")


@pytest.mark.parametrize(
    ("base", "licence"),
    [
        ("meta-llama/Llama-3.1-8B", "llama3.1"),
        ("org/llama-3_1-8b-long", "llama3.1"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("org/Llama-3.2-1B", "llama3.2"),
        ("org/Llama-3.3-70B", "llama3.3"),
        ("meta-llama/Llama-4-Scout-17B-16E", "llama4"),
        ("org/Llama-3-30B", "llama3"),
    ],
)
def test_a_llama_is_known_by_its_name(base, licence):
    assert also_binding(base).id == licence


@pytest.mark.parametrize("base", ["Qwen/Qwen3-8B", "org/my-model-3.1", "huggyllama/llama-7b", ""])
def test_others_are_not_taken_for_one(base):
    assert also_binding(base) is None


def test_known_bases_have_known_licences():
    assert KNOWN_BASES
    assert all(licence in LICENCES for _, licence in KNOWN_BASES)


def test_no_notice_where_no_licence_wants_one():
    assert notice_text([LICENCES["mit"]], "a", "changed") is None
    assert notice_text([LICENCES["apache-2.0"]], "a", "changed") == "changed\n"
    assert notice_text([], "a", "changed", "theirs") == "theirs\n\nchanged\n"
