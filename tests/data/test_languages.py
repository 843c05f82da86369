from __future__ import annotations

from ultralong_hf.data.filtering.languages import detect_languages, excerpt, language_labels

SENTENCES = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "ru": "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "hi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
}


def test_tells_languages_apart_offline():
    found, confidence = detect_languages(list(SENTENCES.values()))
    assert [language_labels()[number] for number in found] == list(SENTENCES)
    assert confidence.min() > 0.8


def test_texts_without_letters_are_of_no_sure_language():
    _, confidence = detect_languages(["", "\n\n", "3.14"])
    assert confidence.max() < 0.5


def test_a_foreign_first_page_does_not_decide_for_a_long_text():
    found, _ = detect_languages([SENTENCES["en"] * 10 + SENTENCES["fr"] * 200])
    assert language_labels()[found[0]] == "fr"


def test_excerpts_are_spread_over_a_long_text_and_reach_its_end():
    text = "".join(chr(n) for n in range(256, 256 + 4096))
    pieces = excerpt(text).split("\n")
    assert [len(piece) for piece in pieces] == [256] * 4
    assert [text.index(piece) for piece in pieces] == [0, 1280, 2560, 3840]
    assert excerpt("short") == "short"
