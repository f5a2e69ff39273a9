"""Style that ruff does not check: short files and functions, American spelling, plain words.

Lines have at most 100 characters, which ruff checks (pyproject.toml).
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRIES = [ROOT / "train.py", ROOT / "predict.py"]
SOURCES = [*ENTRIES, *sorted((ROOT / "src").rglob("*.py"))]
CODE = [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))]
# The changelog quotes the old names.
TEXTS = [
    *CODE,
    *sorted((ROOT / "conf").rglob("*.yaml")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *(file for file in sorted(ROOT.glob("*.md")) if file.name != "CHANGELOG.md"),
]
LONGEST_FILE, LONGEST_FUNCTION = 300, 50  # lines

# Verbs whose American form ends in -ize. Other words, such as "raise" or "otherwise", do not match.
STEMS = (
    "categor|character|custom|discret|emphas|equal|final|general|initial|material|maxim|memor|minim"
    "|normal|optim|organ|parametr|penal|quant|random|recogn|regular|serial|special|stabil|standard"
    "|summar|synchron|token|util|vector|visual"
)
BRITISH = re.compile(
    rf"(?:{STEMS})is(?:e|ed|es|er|ers|ing|ation|ations|able)\b"
    r"|(?:behavi|col|fav|flav|hon|neighb)our"
    r"|(?:label|model|signal|travel)l(?:ed|er|ing)"
    r"|\b(?:analys(?:e|ed|es)|artefacts?|catalogue|centred?|defence|grey|judgement|learnt|licence)\b"
    r"|\b(?:programme|spelt|whilst)\b",
    re.IGNORECASE,
)
# Words that the project once used in a private or quaint sense. Each has a plain equivalent.
QUAINT = re.compile(
    r"\b(?:anew|at hand|beside|g(?:o|oes|oing|one) on with|lest|lies|sought|the very"
    r"|(?:is|are|was|were|be) told|(?:its|one's|their) own (?:kind|way)|of (?:its|one's|their) own"
    r"|tells? of|stands?(?! for| in\b|-)|honest rivals?)\b",
    re.IGNORECASE,
)


def name(file):
    return str(file.relative_to(ROOT))


def functions(source):
    """Yield (name, number of lines without the docstring) of every function and method."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


def matches(pattern, text):
    """Return "line: word" of every match of a pattern."""
    lines = enumerate(text.splitlines(), start=1)
    return [f"{n}: {match.group()}" for n, line in lines for match in pattern.finditer(line)]


def test_files_are_short():
    lengths = {name(file): len(file.read_text().splitlines()) for file in CODE}
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short():
    lengths = {
        f"{name(file)}: {function}": lines
        for file in CODE
        for function, lines in functions(file.read_text())
    }
    assert {place: lines for place, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("pattern", [BRITISH, QUAINT], ids=["american", "plain"])
def test_words_are_american_and_plain(pattern):
    places = {name(file): matches(pattern, file.read_text()) for file in TEXTS}
    assert {file: found for file, found in places.items() if found} == {}


@pytest.mark.parametrize(
    ("pattern", "bad", "good"),
    [
        (BRITISH, "quantised weights", "quantized weights, otherwise raised"),
        (BRITISH, "an unlabelled colour", "an unlabeled color, a promise, an optimistic minimum"),
        (BRITISH, "the initialisation is centred", "the initialization is centered"),
        (QUAINT, "it lies beside W", "it is next to W; besides, it relies on W"),
        (QUAINT, "a run of its own is gone on with", "a separate run is resumed on its own"),
        (QUAINT, "what stands here is told", "r stands for the rank of a stand-in; a standard"),
    ],
)
def test_the_patterns_match_what_they_should(pattern, bad, good):
    assert matches(pattern, bad)
    assert not matches(pattern, good)


def test_the_length_of_a_function_excludes_its_docstring():
    source = 'def f():\n    """First.\n\n    Last.\n    """\n' + "    x = 1\n" * 50
    assert list(functions(source)) == [("f", 51)]
