"""What NVIDIA's RULER says, as facts, each with its place in the repository NVIDIA/RULER (Apache-2.0).

Read in the authors' copies hsiehjackson/RULER (niah.py, variable_tracking.py: commits 56f7e8e, 4f6507e) and
fayejf/RULER (common_words_extraction.py, freq_words_extraction.py, qa.py: commit e58a79b), and in
jhuang265/RULER (synthetic.yaml, a464664), garrett361/RULER (data constants.py, 09f20b1) and
jeffwillette/RULER (eval constants.py, 80a8b5b).
"""

ARGUMENTS_SOURCE = "scripts/synthetic.yaml"
ARGUMENTS = {
    "niah_single_1": ("niah", "repeat", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("niah", "essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("niah", "essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("niah", "essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("niah", "needle", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("niah", "needle", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("niah", "essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("niah", "essay", "words", "numbers", 1, 1, 4),
    "vt": ("variable_tracking", {"num_chains": 1, "num_hops": 4}),
    "cwe": ("common_words_extraction", {"freq_cw": 30, "freq_ucw": 3, "num_cw": 10}),
    "fwe": ("freq_words_extraction", {"alpha": 2.0}),
    "qa_1": ("qa", {"dataset": "squad"}),
    "qa_2": ("qa", {"dataset": "hotpotqa"}),
}
"""niah: type_haystack, type_needle_k, type_needle_v, num_needle_k, num_needle_v, num_needle_q."""

WORDING_SOURCE = "scripts/data/synthetic/constants.py, TASKS"
WORDING = {
    "niah": (
        128,
        "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {type_needle_v} afterwards.\n{context}\nWhat are all the special magic "
        "{type_needle_v} for {query} mentioned in the provided text?",
        " The special magic {type_needle_v} for {query} mentioned in the provided text are",
    ),
    "variable_tracking": (
        30,
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
        "Question: Find all variables that are assigned the value {query} in the text above.",
        " Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are "
        "assgined the value {query}, they are: ",
    ),
    "common_words_extraction": (
        120,
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the "
        "ones that appear most often.\n{context}\nQuestion: What are the 10 most common words in the above "
        "list?",
        " Answer: The top 10 words that appear most often in the list are:",
    ),
    "freq_words_extraction": (
        50,
        "Read the following coded text and track the frequency of each coded word. Find the three most "
        "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore "
        "the dots '....'. What are the three most frequently appeared words in the above coded text?",
        " Answer: According to the coded text above, the three most frequently appeared words are:",
    ),
    "qa": (
        32,
        "Answer the question based on the given documents. Only give me the answer and do not output any "
        "other words.\n\nThe following are given documents.\n\n{context}\n\nAnswer the question based on the "
        "given documents. Only give me the answer and do not output any other words.\n\nQuestion: {query}",
        " Answer:",
    ),
}
"""tokens_to_generate, template, answer_prefix."""

ONE_SOURCE = "scripts/data/synthetic/niah.py, generate_input_output: with one answer the wording is replaced"
ONE = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))
NEEDLE_SOURCE = "scripts/data/synthetic/niah.py, needle"
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
NOISE_SOURCE = "scripts/data/synthetic/niah.py and variable_tracking.py, haystack and noise"
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DOCUMENT_SOURCE = "scripts/data/synthetic/qa.py, DOCUMENT_PROMPT"
DOCUMENT = "Document {i}:\n{document}"
DEPTHS_SOURCE = "scripts/data/synthetic/niah.py, DEPTHS: round(linspace(0, 100, num=40)), as int"
EXAMPLES_SOURCE = "scripts/data/synthetic/common_words_extraction.py, generate_input_output"
EXAMPLES = {"below 4096": ((20, 3, 1), (6, 1)), "else": ((40, 10, 3), (30, 3))}
"""(words, repeats of common and of other words) of the example; repeats in the question."""
LETTERS_SOURCE = "scripts/data/synthetic/variable_tracking.py, generate_chains: k"
LETTERS = (5, 3)
"""Of a variable's name, in the question and in the example."""
CODED_SOURCE = "scripts/data/synthetic/freq_words_extraction.py, coded_wordlen, vocab_size"
CODED = (6, 50)
METRICS_SOURCE = "scripts/eval/synthetic/constants.py, TASKS"
METRICS = {
    "niah": "string_match_all",
    "variable_tracking": "string_match_all",
    "common_words_extraction": "string_match_all",
    "freq_words_extraction": "string_match_all",
    "qa": "string_match_part",
}
