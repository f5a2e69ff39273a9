"""Every command of the README and the documentation composes, or its parser accepts it."""

import argparse
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SEPARATORS = {"|", "&&", "&", ";", "<", ">", ">>"}
ENVIRONMENT = re.compile(r"[A-Z][A-Z_0-9]*=")
PROGRAMS = {"python", "make", "wandb"}  # the documentation names others, which are not checked
OTHER_MODULES = {"http.server", "mkdocs", "pip", "pytest", "venv"}
PLACEHOLDERS = {"OPTIONS"}  # the options that a table below the command lists
WORKED_EXAMPLES = {"task=reviews"}  # the page adds this option; see test_worked_examples.py


def fenced_lines(text):
    """Yield the lines of code blocks that may hold commands, with continued lines joined."""
    for language, block in re.findall(
        r"^```(\w*)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    ):
        if language in ("", "sh", "bash", "shell", "console"):
            yield from block.replace("\\\n", " ").splitlines()


def commands_of(text):
    """Yield the arguments of every command in the code blocks of a page."""
    for line in fenced_lines(text):
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # an apostrophe: the line is output
            continue
        for is_separator, command in itertools.groupby(words, lambda word: word in SEPARATORS):
            arguments = list(itertools.dropwhile(ENVIRONMENT.match, command))
            if not is_separator and arguments and arguments[0] in PROGRAMS:
                yield arguments


COMMANDS = [
    pytest.param(arguments, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, arguments in enumerate(commands_of(page.read_text()))
]


def select(*start):
    return [param for param in COMMANDS if param.values[0][: len(start)] == list(start)]


def first_job(overrides):
    """Return the overrides of the first run of a multirun."""
    return [re.sub(r"^([\w.]+)=([^\[,]+),.*$", r"\1=\2", override) for override in overrides]


@pytest.mark.parametrize("arguments", select("python", "train.py"))
def test_train_composes(compose, arguments):
    overrides = [word for word in arguments[2:] if word not in PLACEHOLDERS]
    if {"--help", "-sc"} & set(overrides):
        return
    if set(overrides) & WORKED_EXAMPLES:
        return
    if "-m" in overrides:
        overrides = first_job([word for word in overrides if word != "-m"])
    config = compose(*overrides).config
    assert {"model", "task", "adapter", "regularizer"} <= set(config)


class Parsed(Exception):
    """The arguments are valid; nothing else of the program runs."""


@pytest.fixture
def parse_only(monkeypatch):
    """Stop every program behind its parser."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


@pytest.mark.parametrize("arguments", select("python", "-m"))
def test_the_parser_of_a_module_accepts_the_arguments(arguments, parse_only):
    name, *rest = arguments[2:]
    if name in OTHER_MODULES:
        return
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    with pytest.raises(Parsed):
        module.main(rest)


@pytest.mark.parametrize("arguments", select("python", "predict.py"))
def test_predict_accepts_the_arguments(arguments, monkeypatch):
    from rlora.runs import predict_cli

    def load_run(*_, **__):
        raise Parsed

    monkeypatch.setattr(predict_cli, "load_run", load_run)
    monkeypatch.setattr(predict_cli, "check_input", lambda _: None)  # no such file here
    with pytest.raises(Parsed):
        predict_cli.main(arguments[2:])


@pytest.mark.parametrize("arguments", select("make"))
def test_make_has_the_target(arguments):
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments[1:]:
        pattern = rf"^{word.partition('=')[0]} \?=" if "=" in word else rf"^{word}:"
        assert re.search(pattern, makefile, flags=re.MULTILINE), word


@pytest.mark.parametrize("arguments", select("wandb", "sweep"))
def test_the_sweep_file_exists(arguments):
    assert (ROOT / arguments[2]).is_file()


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_files_that_a_command_names_exist(arguments):
    if arguments[0] == "python":
        assert arguments[1] in ("train.py", "predict.py", "-m", "-c")
    for argument in arguments[1:]:
        path = argument.rpartition("=")[2]
        if re.match(r"(conf|docs|src|sweeps|tests)/[\w./-]+$", path):
            assert (ROOT / path).exists(), path


def test_there_are_commands_of_every_program():
    assert len(select("python", "train.py")) >= 50
    assert len(select("python", "-m")) >= 15
    assert select("python", "predict.py")
    assert select("make")
    assert {"train", "test"} <= {param.values[0][1] for param in select("make")}
