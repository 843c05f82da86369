import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultralong_hf.data.instructions import json_lists
from ultralong_hf.data.instructions.json_lists import is_json_list, read_json_list
from ultralong_hf.data.reading.decompression import DamagedError

VALUES = [{"a": [1, {"b": "é\n]"}]}, [], "x", 12345, -1.5e3, None, {"long": "y" * 50}]


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_is_read_as_pythons_parser_reads_it_whatever_the_blocks(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(json_lists, "_BLOCK_BYTES", block)
    path = tmp_path / "list.json"
    path.write_text(
        "\ufeff \n" + json.dumps(VALUES, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert is_json_list(str(path))
    assert list(read_json_list(str(path))) == VALUES


@given(st.lists(st.recursive(st.none() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)))
def test_any_list_is_read_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("lists") / "list.json"
    path.write_text(json.dumps(values))
    assert list(read_json_list(str(path))) == values


def test_a_compressed_list_is_read(tmp_path):
    path = tmp_path / "list.json.gz"
    path.write_bytes(gzip.compress(json.dumps(VALUES).encode()))
    assert is_json_list(str(path))
    assert list(read_json_list(str(path))) == VALUES


@pytest.mark.parametrize("text", ["", '{"a": 1}\n{"a": 2}', " \n"])
def test_other_files_are_no_lists(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert not is_json_list(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("text", "good", "word", "message"),
    [
        ('[{"a": 1}, {"a": ', 1, "ends early", "it is no JSON"),
        ('[{"a": 1}', 1, "ends early", "the list does not end"),
        ('[{"a": 1} {"a": 2}]', 1, "damaged", "'{' stands where a comma or the end of the list is expected"),
        ('[{"a": 1}, {a: 2}, 3]', 1, "damaged", "it is no JSON"),
        ("[", 0, "ends early", "it is no JSON"),
    ],
)
def test_all_before_the_damage_is_given(tmp_path, text, good, word, message):
    (tmp_path / "x.json").write_text(text)
    values = read_json_list(str(tmp_path / "x.json"))
    assert [next(values) for _ in range(good)] == [{"a": 1}] * good
    with pytest.raises(DamagedError, match=message) as caught:
        next(values)
    assert caught.value.word == word
