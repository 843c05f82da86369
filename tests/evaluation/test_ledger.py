import json

import pytest

from ultralong_hf.errors import EvaluationError
from ultralong_hf.evaluation.ledger import Ledger

SETTINGS = {"model": "m", "seed": 0}


def _record(sample):
    return {"task": "needle", "length": 64, "depth": 50.0, "sample": sample, "prompt": "text", "hit": True}


def _samples(ledger):
    return [record["sample"] for record in ledger.records.values()]


def test_goes_on_with_what_is_finished(tmp_path):
    Ledger(tmp_path, SETTINGS).append([_record(0), _record(1)])
    ledger = Ledger(tmp_path, SETTINGS)
    assert _samples(ledger) == [0, 1]
    ledger.append([_record(2)])
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [_record(0), _record(1), _record(2)]


def test_prompts_without_an_answer_are_asked_again(tmp_path):
    failed = {**_record(1), "failure": "500: boom", "score": None}
    Ledger(tmp_path, SETTINGS).append([_record(0), failed, _record(2)])
    assert _samples(Ledger(tmp_path, SETTINGS)) == [0, 2]
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [_record(0), _record(2)]


def test_long_prompts_stay_on_disk_and_out_of_memory(tmp_path):
    on_disk, in_memory = Ledger(tmp_path, SETTINGS), Ledger(None, SETTINGS)
    for ledger in (on_disk, in_memory):
        ledger.append([_record(0)])
    assert ["prompt" in record for record in on_disk.records.values()] == [False]
    assert ["prompt" in record for record in in_memory.records.values()] == [True]


@pytest.mark.parametrize("torn", [b'{"task": "need', b'{"task": "needle"}', b"\xff\x00"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    Ledger(tmp_path, SETTINGS).append([_record(0), _record(1)])
    path = tmp_path / "prompts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert _samples(Ledger(tmp_path, SETTINGS)) == [0, 1]
    assert path.read_bytes() == whole


def test_a_damaged_line_is_an_error(tmp_path):
    Ledger(tmp_path, SETTINGS).append([_record(0)])
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"{broken\n" + path.read_bytes())
    with pytest.raises(EvaluationError, match="line 1, is damaged"):
        Ledger(tmp_path, SETTINGS)


def test_another_evaluations_folder_is_refused(tmp_path):
    Ledger(tmp_path, SETTINGS)
    with pytest.raises(EvaluationError, match="another evaluation; it differs in seed"):
        Ledger(tmp_path, {**SETTINGS, "seed": 1})


def test_prompts_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "prompts.jsonl").write_text("")
    with pytest.raises(EvaluationError, match=r"without its run\.json"):
        Ledger(tmp_path, SETTINGS)


def test_a_damaged_run_file_is_an_error(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"run\.json is damaged"):
        Ledger(tmp_path, SETTINGS)
