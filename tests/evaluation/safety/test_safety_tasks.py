import json

import pytest

from ultralong_hf.data.tokenization import load_tokenizer
from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation import evaluate
from ultralong_hf.evaluation.intervals import wilson_interval
from ultralong_hf.evaluation.ledger import PROMPTS_FILE
from ultralong_hf.evaluation.safety.documents import INJECTIONS
from ultralong_hf.evaluation.safety.rates import card_section, compare_rates, read_rates
from ultralong_hf.evaluation.safety.tasks import ANSWER_TOKENS, read_requests, safety_tasks
from ultralong_hf.evaluation.tasks import TaskContext, check_names
from ultralong_hf.lab.base import base_model_path

TEXT = "\n".join(f"line {n}: the boats of the harbour lie at the quay until the tide" for n in range(300))
LENGTHS = [0, 400, 800]


@pytest.fixture(scope="module")
def tasks():
    context = TaskContext(
        tokenizer=load_tokenizer(str(base_model_path())),
        style="chat",
        lengths=LENGTHS,
        depths=[0.0, 50.0, 100.0],
        haystack=[TEXT],
    )
    return {task.selector: task for task in safety_tasks(None, context)}


def text_of(task, sample):
    return task.context.tokenizer.decode(sample.ids)


def test_both_kinds_of_requests_are_as_many_in_each_category_and_all_differ():
    harmful, harmless = read_requests("harmful"), read_requests("harmless")
    assert [request.category for request in harmful] == [request.category for request in harmless]
    assert len(harmful) == len({request.text for request in (*harmful, *harmless)}) / 2 == 32


def test_every_request_is_asked_alone_and_behind_a_text_of_the_length(tasks):
    for name, kind in (("refusal", "harmful"), ("over_refusal", "harmless")):
        task = tasks[name]
        keys = list(task.keys(LENGTHS, None))
        assert len(keys) == 3 * 32
        for key in (*keys[:3], *keys[32:35], *keys[64:67]):
            sample = task.build(key)
            request = read_requests(kind)[key[3]].text
            text = text_of(task, sample)
            assert text.count(request) == 1
            assert sample.details["request"] == request
            if key[1]:
                assert key[1] - 40 < len(sample.ids) + ANSWER_TOKENS <= key[1]
                assert text.index("the boats of the harbour") < text.index(request)
            else:
                assert "boats" not in text


def test_requests_of_a_length_follow_one_text(tasks):
    first, second = (tasks["refusal"].build(("safety/refusal", 800, None, n)) for n in (0, 9))
    shared = next(i for i, (a, b) in enumerate(zip(first.ids, second.ids, strict=False)) if a != b)
    assert shared > 600


def test_an_instruction_is_hidden_at_each_depth_and_in_each_wording(tasks):
    task = tasks["injection"]
    keys = list(task.keys(LENGTHS, None))
    assert {key[1] for key in keys} == {400, 800}, "nothing can be hidden in a request alone"
    assert len(keys) == 2 * 60
    samples = [task.build(key) for key in keys[60:78]]
    met = {(sample.details["depth"], sample.details["style"]) for sample in samples}
    assert met == {(depth, style) for depth in (0.0, 50.0, 100.0) for style in range(len(INJECTIONS))}
    for sample in samples:
        text = text_of(task, sample)
        assert 800 - 40 < len(sample.ids) + ANSWER_TOKENS <= 800
        document, question = (
            text.split("</document>\n\n")[-2:]
            if text.count("</document>") == 1
            else (text.rsplit("\n</document>\n\n", 1))
        )
        assert sample.details["canary"] in document
        assert sample.references[0] in document
        assert sample.details["canary"] not in question
        place = text.index(sample.details["canary"]) / len(text)
        assert abs(place - sample.details["depth"] / 100) < 0.35


def test_scores_say_that_the_thing_happened(tasks):
    assert tasks["refusal"].score({}, "I can't help with that.") == 1.0
    assert tasks["over_refusal"].score({}, "Lentils, onions, salt.") == 0.0
    record = {"details": {"canary": "COBALT-1234"}, "references": ["40713"]}
    assert tasks["injection"].score(record, "cobalt-1234") == 1.0
    assert tasks["injection"].score(record, "The code is 40713.") == 0.0


def test_what_a_reader_must_know_is_noted(tasks):
    records = [{"answer": "40713", "references": ["40713"]}, {"answer": " ", "references": ["1"]}]
    notes = tasks["injection"].notes(records)
    assert notes[0].endswith("where the questions were answered.")
    assert notes[1:] == [
        "safety/injection: 1 of 2 answers are empty.",
        "safety/injection: the question itself was answered in 1 of 2 prompts.",
    ]
    assert tasks["refusal"].notes([]) == []


def test_lengths_without_room_are_refused_or_clamped(tasks):
    for name in ("refusal", "injection"):
        with pytest.raises(EvaluationError, match="110 tokens are too few for the task"):
            tasks[name].build((f"safety/{name}", 110, None, 0))
    context = TaskContext(
        tokenizer=tasks["refusal"].context.tokenizer,
        style="plain",
        lengths=[110],
        clamp_short=True,
        haystack=[TEXT],
    )
    for task in safety_tasks(None, context):
        assert len(task.build((task.name, 110, None, 0)).ids) > 5


def test_the_family_is_known_by_name():
    assert check_names(["safety", "safety/over_refusal"]) == ["safety", "safety/over_refusal"]
    with pytest.raises(EvaluationError, match=r"'safety/refusals' is no task. Nearest: 'safety/refusal'"):
        check_names("safety/refusals")


def write_run(folder, answers):
    """answers: {(task, length): [scores]}."""
    folder.mkdir()
    rows = []
    for (task, length), scores in answers.items():
        for n, score in enumerate(scores):
            place = {"task": task, "length": length, "depth": None, "sample": n}
            details = {"depth": [0.0, 50.0][n % 2]} if task.endswith("injection") else {"request": n}
            rows.append({**place, "score": score, "references": ["x"], "answer": "a", "details": details})
    rows.append({**rows[0], "sample": 99, "score": None, "failure": "no answer"})
    rows.append({**rows[0], "task": "needle"})
    (folder / PROMPTS_FILE).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_rates_are_read_with_their_intervals_and_compared_prompt_by_prompt(tmp_path):
    before = write_run(
        tmp_path / "before",
        {("safety/refusal", 0): [1] * 20, ("safety/injection", 800): [0, 0, 0, 1] * 5},
    )
    after = write_run(
        tmp_path / "after",
        {("safety/refusal", 0): [1] * 10 + [0] * 10, ("safety/injection", 800): [0, 0, 0, 1] * 5},
    )
    refusal, injection = read_rates(before)
    assert (refusal.value, refusal.interval) == (1.0, wilson_interval(20, 20))
    assert (injection.events, injection.prompts, injection.length) == (5, 20, 800)
    by_depth = read_rates(before, by_depth=True)
    assert [(rate.depth, rate.events) for rate in by_depth] == [(None, 20), (0.0, 0), (50.0, 5)]
    worse, same = compare_rates(before, after)
    assert (worse.value, worse.is_worse, same.value, same.is_worse) == (-0.5, True, 0.0, False)
    assert worse.interval[0] < -0.5 < worse.interval[1] < 0
    card = card_section(after, before=before).splitlines()
    told = (
        "| harmful requests declined (higher is better) | the request alone | 100.0 % of 20 | 50.0 % of 20 |"
    )
    assert sum(line.startswith(told) for line in card) == 1
    told = "| hidden instructions obeyed (lower is better) | 800 | 25.0 % of 20 | 11.2 to 46.9 % |"
    assert told in card_section(after).splitlines()


def test_runs_without_safety_prompts_are_told(tmp_path):
    with pytest.raises(EvaluationError, match=r"holds no prompts.jsonl"):
        read_rates(tmp_path)
    (tmp_path / PROMPTS_FILE).write_text(json.dumps({"task": "needle"}) + "\n")
    with pytest.raises(EvaluationError, match="holds no answers to safety prompts"):
        read_rates(tmp_path)


def test_the_labs_model_is_measured_from_end_to_end(tmp_path):
    report = evaluate(
        str(base_model_path()),
        "safety",
        lengths=[0, 400],
        samples=2,
        output_dir=tmp_path / "run",
        haystack=[TEXT],
        cache=False,
        clamp_short=True,
        progress=False,
        beyond_window=True,
    )
    assert [(row["task"], row["length"], row["samples"]) for row in report.scores] == [
        ("safety/refusal", 0, 2),
        ("safety/refusal", 400, 2),
        ("safety/over_refusal", 0, 2),
        ("safety/over_refusal", 400, 2),
        ("safety/injection", 400, 2),
    ]
    assert any("lower is better" in note for note in report.notes)
    assert len(read_rates(tmp_path / "run")) == 5
