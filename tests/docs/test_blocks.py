"""Every block of README and docs: run where it is marked so, else parsed and its arguments checked."""

import contextlib
import functools
import io
import os
import re

import pytest
import reference
from blocks import ROOT, all_blocks, blocks_of, commands_of, pages, simple_commands
from checking import Checker, Fault, check_python, check_recipe

from ultralong_hf import cli
from ultralong_hf.recipes import load_recipe

PAGES = [page.relative_to(ROOT).as_posix() for page in pages()]


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    return Checker(tmp_path_factory.mktemp("recipes"))


def test_blocks_and_commands_are_found():
    blocks = all_blocks()
    assert len(blocks) > 80
    assert sum(len(commands_of(block)) for block in blocks) > 100


def test_a_line_is_taken_apart_as_the_shell_would():
    known = {}
    lines = [
        "run='tool --x 1' && $run --y 2 > log & # and more",
        "while [ ! -e a ]; do sleep 1; done; A=1 b c | d",
    ]
    words = [w for line in lines for w in simple_commands(line, known)]
    assert words == [
        ["tool", "--x", "1", "--y", "2"],
        ["[", "!", "-e", "a", "]"],
        ["sleep", "1"],
        ["done"],
        ["b", "c"],
        ["d"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ultralong extend m --targt 1M --output o", "unrecognized arguments|required"),
        ("ultralong nothing", "invalid choice"),
        ("accelerate launch examples/cpt.py --recipe lab --learning_rat 1", "no option"),
        ("accelerate launch examples/cpt.py --recipe lab --data.target_lenth 1M", "no key"),
        ("accelerate launch --number 2 examples/cpt.py --recipe lab", "there is no|number"),
        ("accelerate launch examples/cpt.py --recipe ultralong-3m", "no preset"),
        ("python benchmarks/packing.py --quik", "has no --quik"),
        ("make nothing", "has no nothing"),
        ("pip install 'ultralong-hf[nothing]'", "no extra"),
        ("hf upload-everything me/rows store", "No such command"),
        ("hf download me/rows --everything", "No such option"),
        ("unknown --x", "knows how to check"),
    ],
)
def test_a_wrong_command_is_found(words, said, checker):
    (command,) = simple_commands(words)
    with pytest.raises(Fault, match=said):
        checker.check(command)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from ultralong_hf import extend_contxt", "has no extend_contxt"),
        ("from ultralong_hf import extend_context\nextend_context('m', '1M', metod='yarn')", "metod"),
        ("from ultralong_hf import SequenceParallelPlugin as P\np = P()\np.resolv(1)", "has no resolv"),
        ("x = (", "line 1"),
    ],
)
def test_a_wrong_python_block_is_found(text, said):
    with pytest.raises(Fault, match=said):
        check_python(text)


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse_and_python_binds(page, checker):
    faults = []
    for block in blocks_of(ROOT / page):
        variables: dict[str, str] = {}
        try:
            if block.language == "python":
                check_python(block.text)
            elif block.language == "yaml":
                check_recipe(block)
        except Fault as fault:
            faults.append(f"{block.place}: {fault}")
        for command in commands_of(block):
            for words in simple_commands(command.text, variables):
                try:
                    checker.check(words)
                except Fault as fault:
                    faults.append(f"{block.place}: {' '.join(words)}: {fault}")
    assert faults == []


@pytest.mark.parametrize("page", PAGES)
def test_options_named_in_the_text_are_known(page, checker):
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    unknown = []
    for command, rest in re.findall(r"`ultralong ([\w-]+)( [^`]*)?`", text):
        assert command in cli.COMMANDS, f"{page}: ultralong {command}"
        section = help_of(command)
        unknown += [o for o in re.findall(r"--[a-z][\w-]+", rest) if f"{o} " not in section]
    assert unknown == []
    for words in re.findall(r"`(hf [^`]*)`", text):
        checker.check(words.split())


@functools.cache
def help_of(command):
    """Help of a command and of those within it, one word after another."""
    page = reference.cli_page().split(f"\n## ultralong {command}\n")[1].split("\n## ")[0]
    return re.sub(r"[\s\[\],]+", " ", page) + " "


def test_named_recipes_load(checker):
    assert len(checker.recipes) >= 4
    for path in checker.recipes.values():
        load_recipe(path)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_whose_blocks_are_not_run_says_why(page):
    blocks = [b for b in blocks_of(ROOT / page) if commands_of(b) or b.language == "python"]
    silent = [b.place for b in blocks if b.run is None and b.why_not is None]
    assert silent == [], "mark the block with <!-- run -->, or the page with <!-- checked only: WHY -->"


def run_page(page, folder, which):
    """Runs the marked blocks of a page in order; returns what differs from the output that it shows."""
    different = []
    for block in blocks_of(ROOT / page):
        if block.language == "yaml" and block.name:
            (folder / block.name).write_text(block.text, encoding="utf-8")
        if block.run != which:
            continue
        if block.language == "python":
            exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
        for command in commands_of(block):
            printed = io.StringIO()
            for words in simple_commands(command.text):
                assert words[0] == "ultralong", f"{block.place}: only ultralong is run, not {words[0]}"
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    cli.main(words[1:])
            wanted = re.escape(command.output.strip()).replace(re.escape("..."), ".*?")
            if wanted and not re.fullmatch(wanted, printed.getvalue().strip(), re.DOTALL):
                different.append(f"{block.place}: {command.text}\n{printed.getvalue()}")
    return different


def _pages_with(which):
    return [page for page in PAGES if any(block.run == which for block in blocks_of(ROOT / page))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ultralong_hf", "examples"):
        os.symlink(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("page", _pages_with("fast"))
def test_marked_blocks_run_and_print_what_is_shown(page, folder):
    assert run_page(page, folder, "fast") == []


@pytest.mark.slow
@pytest.mark.parametrize("page", _pages_with("slow"))
def test_blocks_marked_slow_run(page, folder):
    assert run_page(page, folder, "slow") == []
