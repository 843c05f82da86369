"""The blend of the SFT stage on disk: made from its sources, whole or not at all, and read again.

blend.json            settings, counts and digests; written last, so a folder without it is unfinished
messages.jsonl        a conversation a line: messages, domain, source, place, tokens
samples/              a `datasets` folder of the same in the same order: input_ids, labels
removed.jsonl         only if any were left out but for the quotas: place, reason, details
bad_records.jsonl     only if records were no conversations: places and what was wrong
report.json, report.txt, report.png   the counts of each step
rewrites.jsonl        only if answers are written anew: all that were received
work/                 in place of the first until then: each source, once it is read
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ultralong_hf.data.instructions.choosing import Choice, choose
from ultralong_hf.data.instructions.collecting import Collected, collect
from ultralong_hf.data.instructions.encoding import ChatEncoder
from ultralong_hf.data.instructions.filtering import CODES, KEPT, REASONS, ConversationFilters
from ultralong_hf.data.instructions.report import blend_report
from ultralong_hf.data.instructions.rewriting import Estimate, Ledger, Usage, estimate, rewrite
from ultralong_hf.data.instructions.sources import BlendSource, open_sources
from ultralong_hf.data.instructions.writing import Sample, check_files, write_blend
from ultralong_hf.data.reading.bad_records import RecordPolicy
from ultralong_hf.data.storing.shards import read_json
from ultralong_hf.data.tokenization import load_tokenizer, tokenizer_digest
from ultralong_hf.errors import ConversationError, StoreError
from ultralong_hf.recipes.schema import InstructSection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MANIFEST, WORK, LEDGER, LOCK = "blend.json", "work", "rewrites.jsonl", ".lock"
FORMAT = 1


class UnconfirmedError(ConversationError):
    """Answers would be asked for that nobody has agreed to pay for. `estimate` says what they take."""

    def __init__(self, estimate: Estimate, lines: list[str]) -> None:
        super().__init__(*lines)
        self.estimate = estimate


def prepare_blend(
    section: InstructSection,
    *,
    tokenizer: PreTrainedTokenizerBase | str,
    output_dir: str | Path,
    confirm_requests: bool = False,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Makes the blend of `section` in `output_dir`, or goes on with it; gives its report.

    The same sources, settings and seed give the same files. With `section.rewrite`, answers are asked for
    only after `confirm_requests`; without, UnconfirmedError tells what they would take, and what was read is
    kept.
    Raises ConversationError, DocumentError and StoreError with what is wrong.
    """
    folder = Path(output_dir)
    encoder = ChatEncoder(load_tokenizer(tokenizer), section.chat_template)
    filters = ConversationFilters(section.filters, by_prompt=section.rewrite is not None)
    with _locked(folder):
        sources = open_sources(section)
        settings = _settings(section, encoder, filters, sources)
        if (folder / MANIFEST).is_file():
            manifest = read_json(folder / MANIFEST, FORMAT)
            _check_same(folder, manifest["settings"], settings)
            if not check_files(folder, manifest["files"]):
                report: dict[str, Any] = manifest["report"]
                return report
            (folder / MANIFEST).unlink()
        run = _Run(section, encoder, filters, sources, folder)
        report = run.make(settings, confirm_requests=confirm_requests, say=say or (lambda line: None))
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return report


def load_blend(
    path: str | Path, *, tokenizer: PreTrainedTokenizerBase | None = None, verify: bool = True
) -> Dataset:
    """The samples of a finished blend: columns input_ids and labels.

    Raises StoreError for a folder that holds none, that is damaged, or whose tokenizer is another.
    """
    from datasets import load_from_disk

    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise StoreError(
            f"{folder} holds no finished blend: it has no {MANIFEST}. Make it with "
            f"`ultralong prepare --stage sft --output {folder}`."
        )
    manifest = read_json(folder / MANIFEST, FORMAT)
    if tokenizer is not None and tokenizer_digest(tokenizer) != manifest["settings"]["tokenizer_sha256"]:
        raise StoreError(
            f"{folder} was made with another tokenizer. Make the blend with this one, in another folder."
        )
    if verify and (damaged := check_files(folder, manifest["files"])):
        raise StoreError(
            f"{folder / damaged[0]} does not match its digest in {MANIFEST}. Run the same `ultralong prepare "
            "--stage sft` again: the blend is made anew."
        )
    return load_from_disk(str(folder / "samples"))


@dataclass
class _Run:
    section: InstructSection
    encoder: ChatEncoder
    filters: ConversationFilters
    sources: list[BlendSource]
    folder: Path

    def make(
        self, settings: dict[str, Any], *, confirm_requests: bool, say: Callable[[str], None]
    ) -> dict[str, Any]:
        collected = self._collect(settings)
        choice = choose(self.sources, collected, self.section, self.filters)
        samples = _read_chosen(choice, collected)
        usage = None
        if self.section.rewrite is not None:
            usage = self._rewrite(choice, samples, confirmed=confirm_requests, say=say)
        samples = [sample for sample in samples if choice.codes[sample.number] == KEPT]
        if not samples:
            raise ConversationError(_nothing_left(choice))
        policy = RecordPolicy()
        policy.restore(*(one.state for one in collected))
        report = blend_report(self.section, self.sources, collected, choice, samples, self.encoder.notices)
        report["rewrites"] = None if usage is None else asdict(usage)
        write_blend(
            self.folder,
            samples,
            self.encoder,
            sources=self.sources,
            removed=self._removed(choice, collected),
            bad=[_bad_line(self.sources, bad) for bad in policy.bad],
            manifest={"format": FORMAT, "settings": settings, "report": report},
            name=MANIFEST,
        )
        return report

    def _collect(self, settings: dict[str, Any]) -> list[Collected]:
        """Every source, read or found in the work folder; all that cannot be read are told together."""
        (self.folder / WORK).mkdir(parents=True, exist_ok=True)
        reading = {
            key: settings[key] for key in ("tokenizer_sha256", "template_sha256", "columns", "filters")
        }
        return [
            collect(n, source, self.section, self.encoder, self.filters, self.folder / WORK, reading)
            for n, source in enumerate(self.sources)
        ]

    def _rewrite(
        self, choice: Choice, samples: list[Sample], *, confirmed: bool, say: Callable[[str], None]
    ) -> Usage:
        section = self.section.rewrite
        assert section is not None
        ledger = Ledger(Path(section.ledger) if section.ledger else self.folder / LEDGER)
        conversations = [sample.messages for sample in samples]
        needed = estimate(conversations, section, self.encoder, ledger)
        lines = needed.lines(section)
        if needed.requests and not confirmed:
            raise UnconfirmedError(
                needed,
                [
                    *lines,
                    "nothing was sent. Agree to this with --confirm-requests; what was read so far is kept.",
                ],
            )
        for line in lines if needed.requests else ():
            say(line)
        results, usage = rewrite(conversations, section, ledger)
        for sample, result in zip(samples, results, strict=True):
            if result.messages is None:
                _leave_out(choice, sample.number, result.reason, {"why": result.detail})
            else:
                sample.messages, sample.rewritten = result.messages, True
        self._check_rewritten(choice, [sample for sample in samples if sample.rewritten])
        return usage

    def _check_rewritten(self, choice: Choice, samples: list[Sample]) -> None:
        """New answers may be too long, and may hold a benchmark's text."""
        counts = self.encoder.count([self.encoder.render(sample.messages).text for sample in samples])
        for sample, tokens in zip(samples, counts, strict=True):
            choice.tokens[sample.number] = tokens
            if tokens > self.section.max_length:
                _leave_out(choice, sample.number, "rewrite_too_long", {"tokens": tokens})
        for n, detail in self.filters.find_contaminated([sample.messages for sample in samples]).items():
            if choice.codes[samples[n].number] == KEPT:
                _leave_out(choice, samples[n].number, "rewrite_contaminated", detail)

    def _removed(self, choice: Choice, collected: list[Collected]) -> Iterator[dict[str, Any]]:
        """What is left out with the reason. What is merely above the quotas is only counted."""
        named = (choice.codes != KEPT) & (choice.codes != CODES["over_quota"])
        wanted = set(np.flatnonzero(named).tolist())
        originals = {detail["of"] for n, detail in choice.details.items() if n in wanted and "of" in detail}
        starts = np.searchsorted(choice.source, np.arange(len(self.sources)))
        places: dict[int, str] = {}
        for n, one in enumerate(collected):
            here = np.array(sorted(m for m in wanted | originals if choice.source[m] == n), np.int64)
            for index, place, _ in one.rows(choice.index[here]):
                places[int(starts[n]) + index] = place
        for number in sorted(wanted):
            detail = dict(choice.details.get(number, {}))
            if "of" in detail:
                original = detail["of"]
                detail["of"] = {
                    "source": self.sources[choice.source[original]].records.label,
                    "place": places[original],
                }
            reason = REASONS[int(choice.codes[number])]
            if reason == "too_long":
                detail["tokens"] = int(choice.tokens[number])
            label = self.sources[choice.source[number]].records.label
            yield {"source": label, "place": places[number], "reason": reason, **detail}


def _read_chosen(choice: Choice, collected: list[Collected]) -> list[Sample]:
    """The chosen conversations, in the order of the blend."""
    samples: list[Sample] = []
    for n, one in enumerate(collected):
        own = choice.of_source(n)
        chosen = own[choice.codes[own] == KEPT]
        for number, (_, place, messages) in zip(chosen, one.rows(choice.index[chosen]), strict=True):
            samples.append(Sample(int(number), n, place, messages))
    return sorted(samples, key=lambda sample: int(choice.order[sample.number]))


def _leave_out(choice: Choice, number: int, reason: str, detail: dict[str, Any]) -> None:
    choice.codes[number] = CODES[reason]
    choice.details[number] = detail


def _nothing_left(choice: Choice) -> str:
    found = {word: int((choice.codes == code).sum()) for code, word in REASONS.items()}
    reasons = ", ".join(f"{count:,} {word}" for word, count in found.items() if count) or "no record was one"
    return f"no conversation is left to train on: {reasons}."


def _bad_line(sources: list[BlendSource], bad: Any) -> dict[str, str]:
    return {"source": sources[bad.source].records.label, "place": bad.place, "reason": bad.reason}


def _settings(
    section: InstructSection, encoder: ChatEncoder, filters: ConversationFilters, sources: list[BlendSource]
) -> dict[str, Any]:
    """All that decides what is in the blend, as it comes back from JSON."""
    rewriting = section.rewrite and {
        key: getattr(section.rewrite, key)
        for key in ("model", "turns", "system", "max_tokens", "temperature")
    }
    return {
        "tokenizer_sha256": tokenizer_digest(encoder.tokenizer),
        "template_sha256": encoder.template_sha256,
        "sources": [_source_settings(source) for source in sources],
        "columns": [section.messages_column, section.prompt_column, section.completion_column],
        "filters": filters.settings(),
        "max_length": section.max_length,
        "samples": section.samples,
        "domains": section.domains,
        "rewrite": rewriting,
        "seed": section.seed,
    }


def _source_settings(source: BlendSource) -> dict[str, Any]:
    entry = asdict(source.entry)
    kept = {key: entry[key] for key in ("domain", "format", "columns", "where", "share")}
    return {"label": source.records.label, "fingerprint": source.records.fingerprint, **kept}


def _check_same(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    faults = [
        f"{folder} was made with other {key.removesuffix('_sha256')}: {there.get(key)!r:.200} there, "
        f"{value!r:.200} now. Choose another output_dir, or delete it."
        for key, value in now.items()
        if there.get(key) != value
    ]
    if faults:
        raise StoreError(*faults)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise StoreError(f"{folder} is being written by another process. Wait until it has ended.") from None
    except PermissionError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}.") from error
