"""What the licence of a base model demands of a release made from it.

The clauses are told in short; they are no legal advice, and the licence's own text decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_HUB_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-
sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc
lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown
other
"""
HUB_LICENCES = frozenset(_HUB_LICENCES.split())
"""Identifiers that the hub takes for `license` (hub documentation, "Licenses"); there may be more by now."""

LICENCE_FILES = re.compile(r"(licen[cs]e|notice|use[_-]?policy|copying)", re.IGNORECASE)
"""Begin the names of files that travel with the weights."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """One licence, as far as a release must obey it."""

    id: str
    """As the hub writes it in `license`; `other` has a `name` and a `link`."""
    title: str
    link: str
    name: str | None = None
    """`license_name` of what the hub has no identifier for."""
    name_begins: str | None = None
    """What the release's name must begin with."""
    display: str | None = None
    """Words to be shown prominently."""
    notice: str | None = None
    """A line that a file NOTICE must hold."""
    copy_travels: bool = True
    """The licence's text must be given with the weights."""
    terms: tuple[str, ...] = ()
    """For the card."""


def _llama(id: str, version: str, *, display: str, begins: str, notice: str, path: str) -> Licence:
    return Licence(
        id=id,
        title=f"{version} Community License",
        link=path,
        name_begins=begins,
        display=display,
        notice=notice,
        terms=(
            "Use must follow Meta's Acceptable Use Policy.",
            "Whoever has more than 700 million monthly users needs a licence from Meta.",
            f'A model made from this one must be named so that it begins with "{begins}".',
        ),
    )


def _llama_3x(id: str, number: str, folder: str) -> Licence:
    return _llama(
        id,
        f"Llama {number}",
        display="Built with Llama",
        begins="Llama",
        notice=(
            f"Llama {number} is licensed under the Llama {number} Community License, Copyright © Meta "
            "Platforms, Inc. All Rights Reserved."
        ),
        path=f"https://www.llama.com/{folder}/license/",
    )


LICENCES: dict[str, Licence] = {
    licence.name or licence.id: licence
    for licence in (
        # Sections 1.b.i (copy, words, name) and 1.b.iii (notice) of each; section 1.b of Llama 3's.
        _llama_3x("llama3.1", "3.1", "llama3_1"),
        _llama_3x("llama3.2", "3.2", "llama3_2"),
        _llama_3x("llama3.3", "3.3", "llama3_3"),
        _llama_3x("llama4", "4", "llama4"),
        _llama(
            "llama3",
            "Meta Llama 3",
            display="Built with Meta Llama 3",
            begins="Llama 3",
            notice=(
                "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta "
                "Platforms, Inc. All Rights Reserved."
            ),
            path="https://www.llama.com/llama3/license/",
        ),
        Licence(
            id="gemma",  # section 3.1 of the terms
            title="Gemma Terms of Use",
            link="https://ai.google.dev/gemma/terms",
            notice="Gemma is provided under and subject to the Gemma Terms of Use found at "
            "ai.google.dev/gemma/terms",
            terms=(
                "Gemma's Prohibited Use Policy binds whoever gets this model, too.",
                "Files that were changed say so in NOTICE.",
            ),
        ),
        Licence(
            id="other",
            name="qwen",
            title="Qwen LICENSE AGREEMENT",
            link="https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE",
            display="Built with Qwen",
            notice="Qwen is licensed under the Qwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. "
            "All Rights Reserved.",
            terms=("Files that were changed say so in NOTICE.",),
        ),
        Licence(
            id="other",
            name="qwen-research",
            title="Qwen RESEARCH LICENSE AGREEMENT",
            link="https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
            display="Built with Qwen",
            notice="Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c) Alibaba "
            "Cloud. All Rights Reserved.",
            terms=("Not for commercial use.", "Files that were changed say so in NOTICE."),
        ),
        Licence(
            id="apache-2.0",  # section 4
            title="Apache License 2.0",
            link="https://www.apache.org/licenses/LICENSE-2.0",
            terms=("Files that were changed say so in NOTICE.",),
        ),
        Licence(id="mit", title="MIT License", link="https://opensource.org/license/mit"),
        Licence(
            id="cc-by-nc-4.0",
            title="Creative Commons Attribution Non Commercial 4.0",
            link="https://creativecommons.org/licenses/by-nc/4.0/",
            copy_travels=False,  # section 3.a.1.C: the address is enough
            terms=("Not for commercial use.", "The base model's makers are named, and what was changed."),
        ),
        Licence(
            id="cc-by-4.0",
            title="Creative Commons Attribution 4.0",
            link="https://creativecommons.org/licenses/by/4.0/",
            copy_travels=False,
            terms=("The base model's makers are named, and what was changed.",),
        ),
    )
}
"""What is known; of any other licence a release states the name, and that its terms were not looked at."""

KNOWN_BASES: tuple[tuple[str, str], ...] = (
    ("meta-llama/Llama-3.1-", "llama3.1"),
    ("meta-llama/Meta-Llama-3.1-", "llama3.1"),
    ("meta-llama/Llama-3.2-", "llama3.2"),
    ("meta-llama/Llama-3.3-", "llama3.3"),
    ("meta-llama/Meta-Llama-3-", "llama3"),
    ("nvidia/Llama-3.1-8B-UltraLong-", "cc-by-nc-4.0"),
    ("google/gemma-2", "gemma"),
    ("google/gemma-3", "gemma"),
    ("Qwen/Qwen3-", "apache-2.0"),
)
"""Beginnings of hub ids -> licence, for bases whose card is not at hand."""

_LLAMA_NAMES = {"3": "llama3", "31": "llama3.1", "32": "llama3.2", "33": "llama3.3", "4": "llama4"}


def also_binding(base: str) -> Licence | None:
    """Meta's licence where a base is named after a Llama: derivatives stay bound to it, whatever they add.

    >>> also_binding("nvidia/Llama-3.1-8B-UltraLong-1M-Instruct").id
    'llama3.1'
    """
    match = re.search(r"llama[-_ ]?([34])(?:[._]?([123])(?![0-9]|b\b))?", base, re.IGNORECASE)
    key = (match[1] + (match[2] or "")) if match else ""
    return LICENCES.get(_LLAMA_NAMES.get(key, ""))


def licence_files(folder: Path) -> list[str]:
    """Names of the files with licences and notices in a model folder."""
    return sorted(p.name for p in folder.iterdir() if p.is_file() and LICENCE_FILES.match(p.name))


def notice_text(rules: Sequence[Licence], base: str | None, changes: str, present: str = "") -> str | None:
    """The text of NOTICE: what is there, the lines that the licences want, and what was changed.

    None where no licence wants one.
    """
    wanted = [rule.notice for rule in rules if rule.notice]
    says_changes = any("NOTICE" in term for rule in rules for term in rule.terms)
    if not wanted and not says_changes and not present:
        return None
    lines = [present.rstrip()] if present.strip() else []
    lines += [line for line in wanted if line not in present]
    if base and changes not in present:
        lines.append(changes)
    return "\n\n".join(lines) + "\n"
