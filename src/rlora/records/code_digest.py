"""A digest of the source code that the result of a run depends on.

It covers the modules that the config builds from, and all that they import: another adapter, the
reports and the documentation do not count. Comments, docstrings and formatting do not count either.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import itertools
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "rlora"
ROOT = "rlora.runs.experiment"  # trains, tests and certifies; the config's targets are added
# These change no result: they name, write and present it.
PRESENTATION = (
    "rlora.config",
    "rlora.records",
    "rlora.reports",
    "rlora.export",
    "rlora.integrations",
    "rlora.runs.console",
)
STDLIB = sysconfig.get_path("stdlib")
INSTALLED = {"site-packages", "dist-packages"}  # folders, of this interpreter or another
DERIVED = {"ctx", "kind", "type_comment"}  # fields of a syntax tree that change nothing
PLAIN = {str, int, float, bool, bytes}


def code_digest(config: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of the source code behind a config.

    Installed libraries do not count: the record lists their versions.

    Args:
        config: Plain and resolved; its `_target_` values name the modules to start from.
    """
    files = source_files(config)
    lines = (f"{name} {read_source(file).digest}" for name, file in sorted(files.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_files(config: dict[str, Any]) -> dict[str, Path]:
    """Return the source files that count for a config, by module."""
    files = dict[str, Path]()
    waiting = [ROOT, *_modules(config)]
    while waiting:
        name = waiting.pop()
        file = None if name in files else _source(name)
        if file is not None:
            files[name] = file
            waiting += _imported(file, name)
    return files


def _modules(config: dict[str, Any]) -> Iterator[str]:
    """Yield the modules of every `_target_`, which may be a class inside a class, or a method."""
    for target in _targets(config):
        yield from _with_parents(target.rpartition(".")[0])


def _with_parents(name: str) -> Iterator[str]:
    """Yield `a`, `a.b` and `a.b.c` of `a.b.c`: Python runs the packages that hold a module too."""
    yield from itertools.accumulate(name.split("."), "{}.{}".format)


def _targets(config: Any) -> Iterator[str]:
    """Yield every `_target_` in a config."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        if key == "_target_":
            yield str(value)
        elif isinstance(value, dict | list):
            yield from _targets(value)


@functools.cache  # also the functions below: a process loads its code once
def _source(name: str) -> Path | None:
    """Return the source file of a module that counts, or None.

    A name that is no module, such as a class inside one, has none.
    """
    package = name.partition(".")[0]
    if any(f"{name}.".startswith(f"{each}.") for each in PRESENTATION):
        return None
    # To find `a.b`, Python imports `a`: installed libraries are left out before that.
    if name == PACKAGE or not (package == PACKAGE or _is_local(package)):
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent is no package, or cannot be imported
        return None
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    return file if file is not None and file.is_file() else None  # a namespace has no file


@functools.cache
def _is_local(package: str) -> bool:
    """Return whether a top-level module or package is the user's, not built in or installed."""
    try:
        spec = importlib.util.find_spec(package) if package else None
    except ValueError:  # __main__, or a module made by hand
        return False
    if spec is None:
        return False
    # entries of sys.path may be paths instead of texts
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    return not any(
        not place.is_absolute() or place.is_relative_to(STDLIB) or INSTALLED & set(place.parts)
        for place in places
    )


@dataclass(frozen=True)
class Source:
    """A source file: its digest, and what it imports, as (level, module, names)."""

    digest: str
    imports: list[tuple[int, str, list[str]]]


@functools.cache
def read_source(file: Path) -> Source:
    """Return the SHA-256 (hex) of a file's code without comments, docstrings and formatting.

    The digest is independent of the version of Python. Compiled code counts by its
    bytes, and so does code that Python cannot read: importing it raises the error.
    """
    content = file.read_bytes()
    tree = None
    if file.suffix == ".py":
        with contextlib.suppress(SyntaxError, ValueError):
            tree = ast.parse(content)
    if tree is None:
        return Source(hashlib.sha256(content).hexdigest(), [])
    # the tree is not kept: Python's garbage collector would look through it again and again
    return Source(
        hashlib.sha256(repr(_plain(tree)).encode()).hexdigest(),
        list(_import_statements(tree)),
    )


def _plain(node: Any) -> Any:
    """Return a syntax tree as nested lists.

    Absent and empty fields are left out, as later versions of Python add some.
    """
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    result: list[Any] = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(value, list) and value and _is_docstring(value[0]):
            value = value[1:]
        if value is not None and value != [] and name not in DERIVED:
            result += [name, value if type(value) in PLAIN else _plain(value)]
    return result


def _is_docstring(node: ast.AST) -> bool:
    """Return whether a statement is a lone string, which has no effect."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _import_statements(node: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the imports below a node, also those inside functions."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name, []) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.level, node.module or "", [alias.name for alias in node.names]
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        statements = getattr(node, field, ())  # a lambda and `a if b else c` hold no list
        for statement in statements if isinstance(statements, list) else ():
            yield from _import_statements(statement)


def _imported(file: Path, name: str) -> Iterator[str]:
    """Yield the full names that a module imports."""
    for level, module, names in read_source(file).imports:
        base = _base(level, module, file, name)
        yield from _with_parents(base)
        yield from (f"{base}.{each}" for each in names)  # where it is a module


def _base(level: int, module: str, file: Path, name: str) -> str:
    """Return the full name that an import starts at; relative ones have levels."""
    if not level:
        return module
    parents = name.split(".")
    kept = parents[: len(parents) - level + (file.stem == "__init__")]
    return ".".join([*kept, *([module] if module else [])])
