import json
import random
import re

import pytest

from ultralong_hf.cli import main
from ultralong_hf.data.grounding.pairs import PairSettings, account_text, make_pairs, prepare_pairs
from ultralong_hf.data.grounding.prompts import LineText, draw_distractors, ground
from ultralong_hf.data.tokenization import load_tokenizer
from ultralong_hf.errors import ConversationError, DocumentError, RecipeError, StoreError
from ultralong_hf.lab.base import base_model_path
from ultralong_hf.lab.facts import Fact
from ultralong_hf.recipes import load_recipe
from ultralong_hf.training.pairs import make_grounded, pair_rows

TEXT = "\n".join(f"line {n}: the boats of the harbour lie at the quay until the tide" for n in range(300))
SETTINGS = PairSettings(
    pairs=24, lengths=(300, 700), distractors=4, hallucinated_share=0.4, unanswerable_share=0.25, seed=5
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(base_model_path()))


@pytest.fixture(scope="module")
def lines(tokenizer):
    return LineText.read([TEXT], tokenizer, 10**6)


@pytest.fixture(scope="module")
def pairs(lines):
    return list(make_pairs(lines, SETTINGS))


def test_distractors_differ_in_one_part_of_their_name_and_in_their_value():
    asked = Fact("access code", "upper harbour", "40713")
    found = draw_distractors(random.Random(1), asked, 9)
    assert (
        len({fact.value for fact in (asked, *found)}) == len({fact.statement for fact in found} | {""}) == 10
    )
    for turn, fact in enumerate(found):
        same = (fact.kind == asked.kind, fact.place.split()[1] == "harbour", fact.place.split()[0] == "upper")
        assert same == [(True, True, False), (False, True, True), (True, False, True)][turn % 3]
    assert len(draw_distractors(random.Random(1), asked, 60)) == 60, "other places when kinds run out"


def test_a_grounded_text_fills_its_room_with_whole_lines_and_all_facts(lines):
    for seed in range(6):
        found = ground(random.Random(seed), lines, 400, distractors=5)
        assert 400 - 40 < lines.count(found.text) <= 400
        for fact in (found.asked, *found.distractors):
            assert found.text.split("\n").count(fact.statement) == 1
        rest = [line for line in found.text.split("\n") if line.startswith("line ")]
        first = int(re.match(r"line (\d+)", rest[0]).group(1))
        assert rest == [TEXT.split("\n")[(first + n) % 300] for n in range(len(rest))]
    assert ground(random.Random(0), lines, 50, distractors=5) is None


def test_a_ring_goes_round_and_long_lines_are_broken(tokenizer):
    ring = LineText.read(["a\n\nbb\n", "word " * 200], tokenizer, 10**6)
    assert ring.lines[:2] == ["a", "bb"]
    assert all(len(line) <= 400 for line in ring.lines)
    twice = ring.from_line(1, 2 * ring.tokens)
    assert twice == (ring.lines[1:] + ring.lines[:1]) * 2
    with pytest.raises(DocumentError, match="the documents hold no text"):
        LineText.read(["\n \n"], tokenizer, 10)


def test_the_chosen_answer_is_the_texts_and_the_rejected_one_is_not(pairs):
    kinds = {pair["kind"] for pair in pairs}
    assert kinds == {"distractor", "hallucinated", "unanswerable, distractor", "unanswerable, hallucinated"}
    for pair in pairs:
        text, question = pair["prompt"][0]["content"].rsplit("\n\n", 1)
        (chosen,), (rejected,) = pair["chosen"], pair["rejected"]
        stated = chosen["content"] in text.split("\n")
        assert stated == (pair["kind"] in ("distractor", "hallucinated"))
        assert rejected["content"] not in text
        assert rejected["content"].split(" is ")[0] in question.replace("What is the", "The").replace("?", "")
        assert (pair["wrong"] in text) == pair["kind"].endswith("distractor")
        if not stated:
            assert chosen["content"].startswith("The text does not say the ")
            assert pair["depth"] is pair["value"] is None


def test_lengths_are_kept_with_the_template_and_mixed_by_turns(pairs, tokenizer):
    assert [pair["length"] for pair in pairs[:4]] == [300, 700, 300, 700]
    for pair in pairs:
        messages = [*pair["prompt"], *pair["chosen"]]
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert pair["length"] - 60 < len(ids) <= pair["tokens"] <= pair["length"]
    depths = [pair["depth"] for pair in pairs if pair["depth"] is not None]
    assert min(depths) < 25
    assert max(depths) > 75


def test_pairs_hang_on_seed_and_number_alone(lines, pairs):
    import dataclasses

    assert list(make_pairs(lines, dataclasses.replace(SETTINGS, pairs=5))) == pairs[:5]
    assert next(make_pairs(lines, dataclasses.replace(SETTINGS, seed=6))) != pairs[0]


def test_a_folder_is_made_once_and_its_account_adds_up(tokenizer, tmp_path, pairs):
    def make(**more):
        given = {"settings": SETTINGS, "origin": "boats", **more}
        return prepare_pairs([TEXT], tokenizer=tokenizer, output_dir=tmp_path / "p", progress=False, **given)

    account = make()
    written = [json.loads(line) for line in (tmp_path / "p" / "pairs.jsonl").read_text().splitlines()]
    assert written == pairs
    assert sum(account["by_kind"].values()) == account["pairs"] == 24
    assert account["tokens"] == sum(pair["tokens"] for pair in pairs)
    assert [row["pairs"] for row in account["by_length"].values()] == [12, 12]
    assert sum(account["by_depth"].values()) == sum(pair["depth"] is not None for pair in pairs)
    assert "first pair (" in account_text(account, written[0])
    stamp = (tmp_path / "p" / "pairs.jsonl").stat().st_mtime_ns
    assert make() == account
    assert (tmp_path / "p" / "pairs.jsonl").stat().st_mtime_ns == stamp
    with pytest.raises(StoreError, match=r"holds pairs made with another documents. Use another folder"):
        make(origin="other boats")
    (tmp_path / "p" / "pairs.jsonl").write_text("{}")
    with pytest.raises(StoreError, match="does not match its digest"):
        make()


def test_lengths_without_room_are_refused(lines):
    with pytest.raises(ConversationError, match="100 tokens are too few for a pair with 40 distractors"):
        next(make_pairs(lines, PairSettings(lengths=(100,), distractors=40)))


def test_a_recipe_trains_on_its_sources_and_then_on_grounded_pairs(tokenizer, tmp_path):
    keys = {"pairs": 3, "lengths": [256], "output_dir": str(tmp_path / "pairs")}
    recipe = load_recipe("lab", {f"preference_data.grounded.{key}": value for key, value in keys.items()})
    rows = list(pair_rows(recipe.preference_data, tokenizer))
    assert [place for place, _ in rows[-4:]] == [
        "lab, row 100",
        *(f"{tmp_path}/pairs/pairs.jsonl, line {n}" for n in (1, 2, 3)),
    ]
    assert set(rows[-1][1]) == {"prompt", "chosen", "rejected"}
    with pytest.raises(RecipeError, match=r"preference_data.grounded is missing"):
        make_grounded(load_recipe("lab").preference_data, tokenizer)


def test_the_command_makes_pairs_from_files(tmp_path, capsys):
    (tmp_path / "boats.txt").write_text(TEXT)
    arguments = ["prepare", "--stage", "preference", str(tmp_path / "boats.txt"), "--tokenizer", "lab"]
    made = ["--lengths", "256", "1K", "--pairs", "6", "--output", str(tmp_path / "pairs")]
    assert main([*arguments, *made]) == 0
    told = capsys.readouterr().out
    assert "6 pairs" in told
    assert "1,024       3" in told
    assert main([*arguments, *made, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 6
    assert main([*arguments, "--pairs", "6"]) == 2
    assert "error: --lengths, --output missing" in capsys.readouterr().err
    assert main([*arguments, *made, "--epochs", "2"]) == 2
    assert "error: --epochs would have no effect on preference pairs" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "boats.txt"), "--pairs", "6"]) == 2
    assert "error: --pairs would have no effect here: add --stage preference." in capsys.readouterr().err
