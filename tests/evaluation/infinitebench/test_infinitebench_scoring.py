"""InfiniteBench's rules on answers that take every branch; values are read off its compute_scores.py."""

from __future__ import annotations

import sys

import pytest

from ultralong_hf.errors import MachineError
from ultralong_hf.evaluation.infinitebench import scoring


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("71432", 1),
        (" The pass key is 71432. Remember 1.", 1),
        ("key71432x", 1),
        ("7143", 0),
        ("071432", 0),  # digits are compared as text
        ("7,1432", 0),  # the first run of digits is 7
        ("1 71432", 0),
        ("none", 0),
        ("", 0),
    ],
)
def test_passkey_and_number_are_the_first_run_of_digits(answer, expected):
    assert scoring.first_number_is(answer, "71432") == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('"ab-12"', 1),
        ("{key:ab-12}", 1),
        ("It's\nab-12!", 1),
        ("ab-123", 0),
        ("(ab-12)", 0),  # parentheses and semicolons are no marks
        ("ab-12;", 0),
        ("AB-12", 0),
        ("", 0),
    ],
)
def test_a_value_is_a_whole_word_between_marks(answer, expected):
    assert scoring.has_word(answer, "ab-12") == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("john", ["JOHN", "MARY"], 1),
        ("It is John.", ["JOHN"], 1),
        ("Mary", ["JOHN", "MARY"], 0),  # the first name alone
        ("Johnny", ["JOHN"], 0),
        ("John", ["John"], 0),  # the answer is put in upper case, the name is not
        ("MARY ANN", ["MARY ANN"], 0),  # words are compared, so two words are never found
        ("", ["JOHN"], 0),
    ],
)
def test_a_character_is_a_word_in_upper_case(answer, label, expected):
    assert scoring.has_name(answer, label) == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("The mill, in the harbour.", ["mill harbour"], 0.8),
        ("the mill", ["north", "A mill by the sea", "mill"], 1.0),  # the best of the references
        ("mill sea", ["mill by sea"], 0.8),
        ("north", ["south"], 0.0),
        ("", ["south"], 0.0),
        ("north", [], 0.0),
    ],
)
def test_english_questions_are_word_f1(answer, label, expected):
    assert scoring.english_f1(answer, label) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("张三。", ["张三"], 1.0),
        ("是张三", ["李四", "张三"], 0.8),  # characters: P 2/3, R 1
        ("张 三 a", ["A张三"], 1.0),  # blanks and case do not count
        ("《红楼》", ["红楼"], 0.8),  # 》 is on the list of punctuation, 《 is not
        ("李四", ["张三"], 0.0),
        ("。", ["张三"], 0.0),
    ],
)
def test_chinese_questions_are_character_f1(answer, label, expected):
    assert scoring.chinese_f1(answer, label) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("the old mill", ["the old mill"], 1.0),
        ("The Old, MILL!", ["the old mill"], 1.0),
        ("old mill", ["the old mill north"], 2 / 3),  # P 1, R 2/4
        ("mills", ["mill"], 0.0),  # unstemmed
        ("one two\nthree four", ["three four\none two"], 1.0),  # lines are sentences, their order is free
        ("one two three four", ["three four one two"], 0.5),  # one sentence: its order counts
        ("old mill", ["north", "old mill"], 1.0),  # the best of the references
        ("", ["old mill"], 0.0),
        ("磨坊", ["磨坊"], 0.0),  # the tokenizer of rouge-score knows a-z and 0-9 only
    ],
)
def test_summaries_are_rouge_lsum(answer, label, expected):
    assert scoring.rouge_lsum(answer, label) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", 1),
        (" B. The harbour", 1),
        ("A", 0),
        ("Because of C", 1),  # begins with B
        ("Certainly B", 0),  # begins with C
        ("The harbour", 1),  # the option's text
        ("the harbour", 0),
        ("", 0),
        ("  \n", 0),
        ("The answer is: B", 1),
        ("The answer is: The harbour", 1),
        ("The answer is: C", 0),
        ("The answer is:B", 0),  # the letter after the prefix is skipped
        ("The answer is:", 0),
        ("My answer: B.", 1),
        ("My answer:", 0),
        ("I say the answer is B", 1),
        ("I say the answer is", 0),
        ("the correct option is 'B'", 1),  # the quote becomes a blank, and blanks become one
        ("the correct option is B", 1),
        ("the answer\nis B", 1),  # marks and line ends are blanks before prefixes are looked for
        ("the answer is: C, but the option is B", 0),  # the first prefix of the list decides
        ("the option is C, the answer is B", 1),  # by the list's order, not the text's
        ("I think B", 1),
        ("I think C or B", 0),
        ("I think it is BC", 0),  # a piece of ABCD, so the choice, and no label
        ("I think (B)", 0),  # parentheses stay
        ("maybe", 0),
    ],
)
def test_book_choices(answer, expected):
    assert scoring.book_choice(answer, ["The harbour", "B"]) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B.", 1),
        ("B: get_x", 1),
        (" \nB. get_x", 1),
        ("B", 0),  # a letter alone is wrong
        ("B)", 0),
        ("A.", 0),
        ("get_x", 0),
        ("The answer is: B", 1),
        ("The answer is: get_x", 1),
        ("The answer is: **B**", 1),  # stars are blanks, two of which become one
        ("The answer is: C", 0),
        ("The answer is:", 0),
        ("The answer is:B", 0),  # the letter after the prefix is skipped
        ("The bug is: B", 1),
        ("The correct option is: B", 1),  # "is:" is found first
        ("answer: B", 1),
        ("answer:", 0),
        ("the answer is B", 0),  # without a colon it is no prefix
        ("answer: C. The answer is: B", 1),  # by the list's order
        ("it is: C. answer: B", 0),
        ("error is: Option B", 1),  # the word option is a blank
        ("nothing", 0),
        ("", 0),
    ],
)
def test_code_choices(answer, expected):
    assert scoring.code_choice(answer, ["get_x", "B"]) == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        (" -14.", -14, 1),
        ("The return value is: 12", 12, 1),
        ("`12`", 12, 1),
        ("func(3) = 12\n", 12, 1),
        ("12 is it", 12, 0),  # the last word counts
        ("12.0", 12, 0),  # the point parts it: the last word is 0
        ("3.12", 12, 1),
        ("12,", 12, 0),
        ("012", 12, 1),
        ("twelve", 12, 0),
        ("", 12, 0),
        (" . ", 12, 0),
    ],
)
def test_a_return_value_is_the_last_word(answer, label, expected):
    assert scoring.last_word_is(answer, label) == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("53", 53, 1),
        ("It is 53.", 53, 1),
        ("5 3", 53, 0),
        ("-53", 53, 1),  # the sign is not read
        ("-53", -53, 0),
        ("3.5", 3.5, 1),
        ("3.50 or 4", 3.5, 1),
        ("3", 3.5, 0),
        ("3", 3.0, 1),
        ("none", 53, 0),
        ("", 53, 0),
        ("53.0", 53, 1),  # upstream ends with a ValueError here
        ("53.7", 53, 0),
    ],
)
def test_a_number_found_is_the_first_one(answer, label, expected):
    assert scoring.first_value_is(answer, label) == expected


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ("[1, 4, 8]", [1, 4, 8], 1.0),
        ("1 4 9", [1, 4, 8, 8], 0.5),  # up to the first wrong one
        ("1, 5, 8", [1, 4, 8], 1 / 3),
        ("2, 4, 8", [1, 4, 8], 0.0),
        ("1", [1, 4, 8], 1 / 3),
        ("1 4 8 9 9", [1, 4, 8], 1.0),  # what comes after does not count
        ("1, -4", [1, -4], 0.5),  # signs are lost, so a negative value is never right
        ("1, -4", [1, 4], 1.0),
        ("", [1], 0.0),
    ],
)
def test_intermediate_values_count_up_to_the_first_wrong_one(answer, label, expected):
    assert scoring.leading_values(answer, label) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [("1, 4, 8", [4, 8], 1.0), ("4, 8", [4, 8], 0.0), ("7", [7], 0.0), ("", [7], 0.0)],
)
def test_the_first_value_is_dropped_for_the_prompts_of_gpt4(answer, label, expected):
    assert scoring.gpt4_values(answer, label) == expected


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MachineError, match=r"the library rouge-score .* pip install 'ultralong-hf\[eval\]'"):
        scoring.rouge_lsum("a", ["a"])
