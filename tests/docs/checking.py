"""Whether a command or a Python block of the docs would be understood: by the real parsers, not run."""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blocks import ROOT, Block, all_blocks

from ultralong_hf import cli
from ultralong_hf.errors import UltraLongError
from ultralong_hf.recipes import PRESETS, load_recipe
from ultralong_hf.recipes.located_yaml import LocatedYaml
from ultralong_hf.recipes.schema import section_names

STAGES = {"cpt": "cpt", "sft": "sft", "dpo": "preference", "orpo": "orpo", "grpo": "grpo"}
PLAIN = {
    "[",
    "done",
    "sleep",
    "kill",
    "ls",
    "echo",
    "diff",
    "cd",
    "git",
    "source",
    "export",
    "cat",
    "transformers",
}


class Fault(Exception):  # noqa: N818 -- a finding about a block
    """Why a block is wrong."""


def quietly(call: Callable[[], Any]) -> Any:
    """The call's result; what a parser says when it exits becomes a Fault."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return call()
    except SystemExit as stopped:
        if stopped.code:
            raise Fault(said.getvalue().strip().splitlines()[-1]) from None
    except UltraLongError as error:
        raise Fault(str(error)) from None


class Checker:
    """Checks commands; recipes that the docs show are written to `folder` first."""

    def __init__(self, folder: Path) -> None:
        self.recipes: dict[str, str] = {}
        self.scripts = {b.name for b in all_blocks() if b.language in ("python", "bash", "sh") and b.name}
        for block in all_blocks():
            if block.language == "yaml" and block.name:
                (folder / block.name).write_text(block.text, encoding="utf-8")
                self.recipes[block.name] = str(folder / block.name)

    def check(self, words: list[str]) -> None:
        """Raises Fault where the command would not be understood."""
        name = words[0].rsplit("/", 1)[-1]
        if name in PLAIN:
            return
        check = getattr(self, f"_{name}", None)
        if check is None:
            raise Fault(f"nothing here knows how to check `{name}`: see tests/docs/checking.py")
        check(words[1:])

    def recipe(self, name: str) -> str:
        """A recipe that the docs show, a preset, or the lab's in place of one that is the reader's."""
        if name in self.recipes:
            return self.recipes[name]
        if "." not in name and name not in PRESETS and name.islower():
            raise Fault(f"{name} is no preset")
        return name if name in PRESETS else "lab"

    def _ultralong(self, words: list[str]) -> None:
        words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in words]  # a variable may stand for a number
        if tuple(words[:2]) in cli.NESTED:
            module = importlib.import_module(f"ultralong_hf.commands.{cli.NESTED[words[0], words[1]]}")
            quietly(lambda: module.parse(words[2:]))
            return
        command = next((word for word in words if not word.startswith("-")), None)
        given = quietly(lambda: cli.build_parser(command).parse_args(words))
        if given is not None and isinstance(getattr(given, "recipe", None), str):
            quietly(lambda: load_recipe(self.recipe(given.recipe)))

    def _accelerate(self, words: list[str]) -> None:
        from accelerate.commands.launch import launch_command_parser

        if words[0] != "launch":
            return
        given = quietly(lambda: launch_command_parser().parse_args(words[1:]))
        script = ROOT / given.training_script
        if not script.exists():
            raise Fault(f"there is no {given.training_script}")
        if script.stem in STAGES:
            self._stage(script.stem, given.training_script_args)

    def _stage(self, script: str, words: list[str]) -> None:
        from ultralong_hf.training.command_line import parse_recipe

        words = [word for word in words if word not in ("...", "$@")]
        if "--recipe" in words:
            at = words.index("--recipe") + 1
            words[at] = self.recipe(words[at])
        quietly(lambda: parse_recipe(STAGES[script], words))

    def _python(self, words: list[str]) -> None:
        if words[0] in self.scripts or words[0].startswith("-"):
            return
        script = ROOT / words[0]
        if not script.exists():
            raise Fault(f"there is no {words[0]}")
        source = script.read_text(encoding="utf-8")
        options = [w.partition("=")[0] for w in words[1:] if w.startswith("--")]
        if unknown := [option for option in options if f'"{option}"' not in source]:
            raise Fault(f"{words[0]} has no {', '.join(unknown)}")

    def _make(self, words: list[str]) -> None:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        if unknown := [w for w in words if "=" not in w and w not in targets]:
            raise Fault(f"the Makefile has no {', '.join(unknown)}")

    def _pip(self, words: list[str]) -> None:
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        known = re.findall(r"^(\w+) = \[", project.split("[project.optional-dependencies]")[1], re.M)
        for word in words:
            match = re.fullmatch(r"(?:\.|ultralong-hf)\[([\w,-]+)\]", word)
            if match and (unknown := set(match[1].split(",")) - set(known)):
                raise Fault(f"there is no extra {', '.join(unknown)}")

    def _pytest(self, words: list[str]) -> None:
        for word in words:
            path, _, test = word.partition("::")
            if path.startswith("tests") and not (ROOT / path).exists():
                raise Fault(f"there is no {path}")
            if test and f"def {test}" not in (ROOT / path).read_text(encoding="utf-8"):
                raise Fault(f"{path} has no {test}")

    def _sbatch(self, words: list[str]) -> None:
        script = next(word for word in words if not word.startswith("-"))
        if script not in self.scripts and not script.endswith(".sbatch"):
            raise Fault(f"there is no {script}")

    def _bash(self, words: list[str]) -> None:
        top = words[0].partition("/")[0]  # a folder that is not of the repository is the reader's
        if (ROOT / top).exists() and not (ROOT / words[0]).exists():
            raise Fault(f"there is no {words[0]}")

    def _hf(self, words: list[str]) -> None:
        import click
        from huggingface_hub.cli.hf import app

        command = app
        try:
            while isinstance(command, click.Group):
                _, command, words = command.resolve_command(click.Context(command), list(words))
            command.make_context("hf", words).close()
        except click.UsageError as error:
            raise Fault(f"hf: {error.format_message().splitlines()[0]}") from None


def check_recipe(block: Block) -> None:
    """A YAML block: whole recipes load; parts of one are put on top of the lab's; others are only parsed."""
    try:
        values = LocatedYaml(block.place, block.text).values
    except UltraLongError as error:
        raise Fault(str(error)) from None
    if not values or not set(values) <= set(section_names()):
        return
    if {"model", "data"} <= set(values) and block.name:
        return  # its file is loaded with the commands that name it, and in test_named_recipes_load
    overrides = {f"{s}.{k}": v for s, part in values.items() for k, v in part.items()}
    quietly(lambda: load_recipe("lab", overrides))


def check_python(text: str) -> None:
    """Compiles; imports exist; calls of what is imported, and of methods of what it makes, bind."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise Fault(f"line {error.lineno}: {error.msg}") from None
    names: dict[str, Any] = dict(vars(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[(alias.asname or alias.name).split(".")[0]] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    raise Fault(f"{node.module} has no {alias.name}")
                names[alias.asname or alias.name] = getattr(module, alias.name)
    made: dict[str, type] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = _called(node.value.func, names, made)
            if inspect.isclass(called) and isinstance(node.targets[0], ast.Name):
                made[node.targets[0].id] = called
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node, _called(node.func, names, made))


def _called(func: ast.expr, names: dict[str, Any], made: dict[str, type]) -> Any:
    """What is called, where that is known; a method comes without its self."""
    if isinstance(func, ast.Name):
        return names.get(func.id)
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        owner = made.get(func.value.id, names.get(func.value.id))
        if owner is None:
            return None
        if not hasattr(owner, func.attr):
            raise Fault(f"{func.value.id} has no {func.attr}")
        found = getattr(owner, func.attr)
        if func.value.id in made and inspect.isfunction(found):
            return argparse.Namespace(method=found)
        return found
    return None


def _check_call(node: ast.Call, called: Any) -> None:
    method = isinstance(called, argparse.Namespace)
    target = called.method if method else called
    if target is None or any(isinstance(a, ast.Starred) for a in node.args):
        return
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return
    given = [None] * (len(node.args) + method)
    try:
        signature.bind_partial(*given, **{k.arg: None for k in node.keywords if k.arg})
    except TypeError as error:
        raise Fault(f"line {node.lineno}, {ast.unparse(node.func)}: {error}") from None
