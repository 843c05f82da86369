"""The sources of a blend, opened: names that ship with this package stand for what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, NamedTuple

from ultralong_hf.data.instructions.records import Record, RecordSource, open_source
from ultralong_hf.data.reading.records import Report, digest
from ultralong_hf.data.reading.values import Fields
from ultralong_hf.errors import ConversationError
from ultralong_hf.recipes.checking import Faults, build
from ultralong_hf.recipes.located_yaml import LocatedYaml
from ultralong_hf.recipes.schema import LAB, SAFETY, SAMPLE, ConversationSource, InstructSection

BLENDS = ("ultralong",)
"""Lists of sources that ship, each a file of `blends`."""
SAMPLE_DOMAINS = ("general", "math", "code")


class BlendSource(NamedTuple):
    """A source as the recipe has it, and its records."""

    entry: ConversationSource
    records: RecordSource
    fields: Fields
    """What else a record must hold to be of this source."""


def expand(sources: list[ConversationSource]) -> list[ConversationSource]:
    """Each named list of sources in place of its name."""
    found: list[ConversationSource] = []
    for source in sources:
        if source.path in BLENDS:
            found += read_blend(source.path)
        elif source.path == SAMPLE:
            found += [
                ConversationSource(
                    path=f"{SAMPLE}/{domain}", label=f"sample-{domain}", domain=domain, licence="Apache-2.0"
                )
                for domain in SAMPLE_DOMAINS
            ]
        else:
            found.append(source)
    return found


def read_blend(name: str) -> list[ConversationSource]:
    """The sources of a list that ships."""
    file = LocatedYaml(name, resources.files(__package__).joinpath(f"blends/{name}.yaml").read_text("utf-8"))
    faults = Faults(name, file.lines)
    sources = [
        build(ConversationSource, value, ("sources", n), faults)
        for n, value in enumerate(file.values["sources"])
    ]
    assert not faults.messages, faults.messages
    return sources


def open_sources(section: InstructSection) -> list[BlendSource]:
    """All sources of the section; only fingerprints are read. Raises ConversationError with all faults."""
    opened: list[BlendSource] = []
    faults: list[str] = []
    for entry in expand(section.sources):
        try:
            records = _open(entry, section)
        except ConversationError as error:
            faults += error.faults
            continue
        where = tuple(
            (tuple(field.split(".")), tuple(value) if isinstance(value, list) else (value,))
            for field, value in (entry.where or {}).items()
        )
        opened.append(BlendSource(entry, records, Fields("", where)))
    labels = [source.records.label for source in opened]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        faults.append(
            f"several sources are called {twice[0]!r}: give each a label of its own, by which it is reported."
        )
    if not section.sources:
        faults.append("instruct.sources is empty: name files, Hub datasets, or `sample`.")
    if faults:
        raise ConversationError(*faults)
    return opened


def _open(entry: ConversationSource, section: InstructSection) -> RecordSource:
    if entry.path == LAB:
        from ultralong_hf.lab.corpus import conversations

        return _made(LAB, section.seed, conversations)
    if entry.path == SAFETY:
        from ultralong_hf.data.safety import safety_conversations

        return _made(SAFETY, section.seed, safety_conversations)
    if entry.path.startswith(f"{SAMPLE}/") and entry.path.split("/")[1] in SAMPLE_DOMAINS:
        file = resources.files(__package__).joinpath(f"{SAMPLE}/{entry.path.split('/')[1]}.jsonl")
        opened = open_source(dataclasses.replace(entry, path=str(file)))
        return dataclasses.replace(opened, origin="shipped with ultralong_hf")
    return open_source(entry, section.data_dir)


def _made(name: str, seed: int, make: Callable[[int], Iterator[dict[str, Any]]]) -> RecordSource:
    def read(report: Report) -> Iterator[Record]:
        for row, value in enumerate(make(seed)):
            yield Record(value, f"{name}, row {row + 1}", 0, row)

    return RecordSource(name, read, digest([name, seed]), f"made from the seed {seed}")
