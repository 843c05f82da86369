"""InfiniteBench's prompts for three families of models, to the letter.

From OpenBMB/InfiniteBench, src/prompt.py at commit 753b69f (MIT). Its templates for Kimi send the text as an
uploaded file and those for RWKV cover one task, so neither is here.
"""

from __future__ import annotations

from collections.abc import Mapping

_SECRET = "There is an important info hidden inside a lot of irrelevant text. Find it"
_PASSKEY = (
    f"{_SECRET} and memorize them. I will quiz you about the important information there.\n\n{{context}}"
)
_NUMBER = f"{_SECRET}. I will quiz you about the important information there.\n\n{{context}}"
_KEY_VALUE = "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}"
_OPTIONS = "\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}"
_CHOICE = (
    "Read the book and answer the question.\n\n{context}\n\nQuestion: {question}\n\n"
    "Only one of the following options is correct, tell me the answer using one single letter "
    f"(A, B, C, or D). Don't say anything else.{_OPTIONS}"
)
_BOOK_ZH = "请根据以下书籍回答我的问题。\n\n{context}\n\n问题：{question}\n请尽量简短地回答。"
_FIND = "{prefix}\n\n{context}\n\n{input}"
_MASK = (
    'Below is a dialogue script where one random occurrence of a character name is replaced with "$$MASK$$", '
    "and you should try to guess who that character is."
)
_DIALOGUE = (
    f"{_MASK}\n\nThe dialogue:\n\n---\n\n{{context}}\n\n---\n\nEnd of dialogue.\n\n"
    'Which character is most likely "$$MASK$$"? Just say the name used by the scriptwriter '
    "(before the colon marks) of one single character and nothing else."
)
_CALCULATION = (
    "Let us calculate the intermediate values of an expression.{blank}\nExpression: 1 + 3 + 4\n"
    "Values: [1, 4, 8]\n\nExpression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: {{context}}\nValues:"
)


def _debugging(inspect: str) -> str:
    """The two that ask for it differ in one word."""
    return (
        "There is ONLY ONE function in the large project that is deliberately made to include an obvious "
        "error. Please find the function that contains the most obvious errors. I will give you four "
        f"options to narrow your scope. You can {inspect} the options and think. Eventually, tell me the "
        "answer using one single letter (A, B, C, or D).\n\n{context}\n\nWhich funtion has deliberate error?"
        f"{_OPTIONS}\n\nYou should first find the functions in the options. Repeat their content, inspect "
        "through code, and at last give me your answer for the function that has the deliberate and obvious "
        "error in A, B, C, or D."
    )


_GPT4 = {
    "passkey": f"{_PASSKEY}\n\n{{input}}",
    "number_string": f"{_NUMBER}\n\n{{input}}",
    "kv_retrieval": f"{_KEY_VALUE}\n\n{{input}}",
    "longbook_sum_eng": "Summarize the following book.\n\n{context}",
    "longbook_qa_eng": (
        "Read the book below and answer a question.\n\n{context}\n\nQuestion: {question}\n\nBe very concise."
    ),
    "longbook_choice_eng": _CHOICE,
    "longbook_qa_chn": _BOOK_ZH,
    "longdialogue_qa_eng": _DIALOGUE,
    "math_find": _FIND,
    "math_calc": "Compute the intermediate values in the following long expression.\n\n{context}",
    "code_run": (
        "Following is a set of Python functions. There is a function called named {func}.\n\n{context}\n\n"
        "Please give me the exact number of the return value of {func_call}. Be concise. "
        "Your response must end with the final returned value."
    ),
    "code_debug": _debugging("inspect"),
}
_YARN_MISTRAL = {
    "passkey": (
        f"{_SECRET} and memorize it. I will quiz you about the important information.\n\n{{context}}\n\n"
        "{input}\n\nThe pass key is"
    ),
    "number_string": f"{_NUMBER}\n\n{{input}}\n\nThe sequence of digits is",
    "kv_retrieval": f"{_KEY_VALUE}\n\n{{input}}",
    "longbook_sum_eng": "Summarize the book below.\n\n{context}\n\nSummary:",
    "longbook_qa_eng": (
        "Read the book and answer the question. Be very concise in your answer.\n\n{context}\n\n"
        "Question: {question}\nAnswer:"
    ),
    "longbook_choice_eng": (
        f"Read the book and answer the question.\n\n{{context}}\n\nQuestion: {{question}}{_OPTIONS}\n\n"
        "The letter of the correct answer is"
    ),
    "longbook_qa_chn": "阅读以下书籍然后回答问题。\n\n{context}\n\n问题：{question}\n答案：",
    "longdialogue_qa_eng": (
        f"{_MASK}\n\n{{context}}\n\nThe name that has been replaced with $$MASK$$ is likely"
    ),
    "math_find": _FIND,
    "math_calc": _CALCULATION.format(blank="\n"),
    "code_run": (
        "There is a function called {func} in the following Python code.\n\n{context}\n\n"
        "Please compute the exact value of {func_call}. The value of {func_call} is"
    ),
    "code_debug": (
        "Following is a Python code where exactly one of the functions/methods has a deliberate error "
        f"that makes it crash.\n\n{{context}}\n\nOptions:{_OPTIONS}\n\nThe correct option is:"
    ),
}
_CLAUDE2 = {
    **_GPT4,
    "passkey": f"{_PASSKEY}\n{{input}}\nThe pass key is",
    "number_string": f"{_NUMBER}\n{{input}}\nThe sequence of digits is",
    "kv_retrieval": f"{_NUMBER}\n{{input}}",  # as it stands there, the number task's words
    "longbook_qa_eng": (
        "Read the novel below and answer a question:\n\n{context}\n\n{input}\n"
        "Please answer as short as possible. The answer is: "
    ),
    "math_calc": _CALCULATION.format(blank=""),
    "code_run": (
        "In the file functions_module.py, there is a function called ${func}.\n\n\n"
        "Here is the content of functions_module.py:\n{context}\n\n"
        "Please give me the exact number of the return value of {func_call}. "
        "Your response should end with the sentence 'The return value is:'."
    ),
    "code_debug": _debugging("inspect through"),
}

TEMPLATES: Mapping[str, Mapping[str, str]] = {
    "gpt4": _GPT4,
    "yarn-mistral": _YARN_MISTRAL,
    "claude2": _CLAUDE2,
}
