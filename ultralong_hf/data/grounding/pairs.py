"""Preference pairs without a judge: a grounded answer, and one that a distractor or nothing at all supports.

pairs.jsonl    a pair a line: prompt, chosen, rejected (messages), kind, length, tokens, depth, value, wrong
pairs.json     settings, counts and the digest of the first; written last: without it the folder is unfinished
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ultralong_hf.data.grounding.prompts import GroundedText, LineText, ground, invent_value
from ultralong_hf.data.storing.shards import file_sha256, read_json, write_json, write_json_lines
from ultralong_hf.data.tokenization import tokenizer_digest
from ultralong_hf.errors import ConversationError, StoreError

PAIRS, MANIFEST, FORMAT = "pairs.jsonl", "pairs.json", 1
SPARE_TOKENS = 262_144
"""Of text beyond the longest pair, so that pairs begin at different places."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What pairs are made by; the same settings, documents and tokenizer give the same pairs."""

    pairs: int = 1000
    lengths: tuple[int, ...] = (1024,)
    """Tokens of prompt and answer, by turns: short and long prompts are mixed."""
    distractors: int = 6
    hallucinated_share: float = 0.5
    """Of the pairs: the rejected value stands nowhere in the text; in the others it is a distractor's."""
    unanswerable_share: float = 0.0
    """Of the pairs: the text does not hold the fact, and the chosen answer says so."""
    seed: int = 0


def prepare_pairs(
    documents: Iterable[str],
    *,
    tokenizer: Any,
    settings: PairSettings,
    output_dir: str | Path,
    origin: str = "texts",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Makes `settings.pairs` pairs in `output_dir`, or finds them whole there; returns their account.

    origin: what the account calls the documents; it is part of what must be equal. Raises ConversationError
    for lengths without room, StoreError for a folder with other pairs.
    """
    folder = Path(output_dir)
    told = _told(settings, tokenizer, origin)
    if (folder / MANIFEST).is_file():
        return _reuse(folder, told)
    folder.mkdir(parents=True, exist_ok=True)
    lines = LineText.read(documents, tokenizer, max(settings.lengths) + SPARE_TOKENS)
    rows = list(
        tqdm(
            make_pairs(lines, settings),
            total=settings.pairs,
            desc="pairs",
            disable=None if progress is None else not progress,
        )
    )
    write_json_lines(folder / PAIRS, rows)
    account = {"format": FORMAT, "settings": told, **count_pairs(rows), "text_tokens": lines.tokens}
    account["sha256"] = file_sha256(folder / PAIRS)
    write_json(folder / MANIFEST, account)
    return account


def make_pairs(lines: LineText, settings: PairSettings) -> Iterator[dict[str, Any]]:
    """The pairs in order; each hangs on the seed and its number alone."""
    for number in range(settings.pairs):
        length = settings.lengths[number % len(settings.lengths)]
        yield _pair(random.Random(f"grounded {settings.seed}/{number}"), lines, length, settings)


def count_pairs(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of finished pairs: by kind, by length with their tokens, and by quarter of the text."""
    rows = list(rows)
    lengths = sorted({row["length"] for row in rows})
    by_length = {
        str(length): {
            "pairs": len(own := [row["tokens"] for row in rows if row["length"] == length]),
            "tokens": {"least": min(own), "mean": round(sum(own) / len(own), 1), "most": max(own)},
        }
        for length in lengths
    }
    quarters = Counter(min(3, int(row["depth"] // 25)) for row in rows if row["depth"] is not None)
    return {
        "pairs": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "by_kind": dict(sorted(Counter(row["kind"] for row in rows).items())),
        "by_length": by_length,
        "by_depth": {f"{25 * q}-{25 * q + 25} %": quarters[q] for q in range(4)},
    }


def account_text(account: Mapping[str, Any], example: Mapping[str, Any] | None = None) -> str:
    """The account as lines, and one pair as it is read."""
    lines = [f"{account['pairs']:,} pairs, {account['tokens']:,} tokens of prompts and chosen answers"]
    lines += [f"  {kind:<24}{count:>8,}" for kind, count in account["by_kind"].items()]
    lines.append(f"{'length':>10}{'pairs':>8}{'least':>10}{'mean':>12}{'most':>10}  tokens")
    for length, row in account["by_length"].items():
        tokens = row["tokens"]
        lines.append(
            f"{int(length):>10,}{row['pairs']:>8,}{tokens['least']:>10,}{tokens['mean']:>12,}{tokens['most']:>10,}"
        )
    lines.append("asked facts by depth: " + ", ".join(f"{k}: {v:,}" for k, v in account["by_depth"].items()))
    if example is not None:
        question = example["prompt"][-1]["content"].rsplit("\n\n", 1)[-1]
        lines += [
            f"first pair ({example['kind']}): {question}",
            f"  chosen   {example['chosen'][0]['content']}",
            f"  rejected {example['rejected'][0]['content']}",
        ]
    return "\n".join(lines)


def _pair(rng: random.Random, lines: LineText, length: int, settings: PairSettings) -> dict[str, Any]:
    is_stated = rng.random() >= settings.unanswerable_share
    is_invented = rng.random() < settings.hallucinated_share or not settings.distractors
    state = rng.getstate()
    room = length
    while room > 0:
        rng.setstate(state)
        found = ground(rng, lines, room, distractors=settings.distractors, is_stated=is_stated)
        if found is None:
            break
        row = _row(rng, found, is_invented=is_invented)
        tokens = _tokens(lines, row)
        if tokens <= length:
            return {**row, "length": length, "tokens": tokens}
        room -= tokens - length
    raise ConversationError(
        f"{length:,} tokens are too few for a pair with {settings.distractors} distractors: use greater "
        "lengths, or fewer distractors."
    )


def _row(rng: random.Random, found: GroundedText, *, is_invented: bool) -> dict[str, Any]:
    asked = found.asked
    known = found.values
    if is_invented:
        # what nobody has said of a fact that is not there may as well be its own value
        wrong, source = invent_value(rng, known), "hallucinated"
    else:
        wrong, source = found.distractors[0].value, "distractor"
    good = (
        asked.statement
        if found.is_stated
        else f"The text does not say the {asked.kind} of the {asked.place}."
    )
    return {
        "prompt": [{"role": "user", "content": f"{found.text}\n\n{asked.question}"}],
        "chosen": [{"role": "assistant", "content": good}],
        "rejected": [{"role": "assistant", "content": f"{asked.answer_prefix} {wrong}."}],
        "kind": source if found.is_stated else f"unanswerable, {source}",
        "depth": found.depth if found.is_stated else None,
        "value": asked.value if found.is_stated else None,
        "wrong": wrong,
        "distractors": [fact.statement for fact in found.distractors],
    }


def _tokens(lines: LineText, row: Mapping[str, Any]) -> int:
    """Of the prompt with its longer answer, chat template included."""
    tokenizer = lines.tokenizer
    counts = []
    for name in ("chosen", "rejected"):
        messages = [*row["prompt"], *row[name]]
        if tokenizer.chat_template is None:
            text = "".join(message["content"] for message in messages)
        else:
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        counts.append(len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]))
    return max(counts)


def _told(settings: PairSettings, tokenizer: Any, origin: str) -> dict[str, Any]:
    return {
        "pairs": settings.pairs,
        "lengths": list(settings.lengths),
        "distractors": settings.distractors,
        "hallucinated_share": settings.hallucinated_share,
        "unanswerable_share": settings.unanswerable_share,
        "seed": settings.seed,
        "tokenizer": tokenizer_digest(tokenizer),
        "template": tokenizer.chat_template,
        "documents": origin,
    }


def _reuse(folder: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    account = read_json(folder / MANIFEST, FORMAT)
    other = [key for key, value in told.items() if account["settings"].get(key) != value]
    if other:
        raise StoreError(f"{folder} holds pairs made with another {', '.join(other)}. Use another folder.")
    if file_sha256(folder / PAIRS) != account["sha256"]:
        raise StoreError(f"{folder / PAIRS} does not match its digest in {MANIFEST}. Delete the folder.")
    return account
