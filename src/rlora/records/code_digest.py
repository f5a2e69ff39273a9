"""A digest of the source code that the result of a run depends on.

It covers the modules that the config builds from, and all that they import: another adapter, the
reports and the documentation do not count. Comments, docstrings and formatting do not count either.
"""

import ast
import functools
import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Iterator
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
INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))


def code_digest(config: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of the source code behind a config.

    Installed libraries do not count: the record lists their versions.

    Args:
        config: Plain and resolved; its `_target_` values name the modules to start from.
    """
    files = source_files(config)
    lines = (f"{name} {digest_source(file)}" for name, file in sorted(files.items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def source_files(config: dict[str, Any]) -> dict[str, Path]:
    """Return the source files that count for a config, by module."""
    files = dict[str, Path]()
    waiting = [ROOT, *(target.rpartition(".")[0] for target in _targets(config))]
    while waiting:
        name = waiting.pop()
        file = None if name in files else _source(name)
        if file is not None:
            files[name] = file
            waiting += _imports(file, name)
    return files


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
    is_source = spec is not None and spec.origin is not None and spec.origin.endswith(".py")
    return Path(spec.origin) if is_source else None  # type: ignore[arg-type, union-attr]


@functools.cache
def _is_local(package: str) -> bool:
    """Return whether a top-level module or package is the user's, not built in or installed."""
    spec = importlib.util.find_spec(package) if package else None
    if spec is None:
        return False
    # entries of sys.path may be paths instead of texts
    places = [str(place) for place in spec.submodule_search_locations or [spec.origin or ""]]
    return all(os.path.isabs(place) and not place.startswith(INSTALLED) for place in places)


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes())


@functools.cache
def _imports(file: Path, name: str) -> list[str]:
    """Return the names that a module imports, at its top and inside functions."""
    names = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, file, name)
            names.append(base)
            names += [f"{base}.{alias.name}" for alias in node.names]  # where it is a module
    return names


def _base(node: ast.ImportFrom, file: Path, name: str) -> str:
    """Return the full name that a `from` import starts at."""
    if not node.level:
        return node.module or ""
    levels = node.level - (file.stem == "__init__")
    parents = name.split(".")
    kept = parents[: len(parents) - levels]
    return ".".join([*kept, *([node.module] if node.module else [])])


@functools.cache
def digest_source(file: Path) -> str:
    """Return the SHA-256 (hex) of a file's code without comments, docstrings and formatting."""
    tree = _tree(file)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            del body[0]  # `unparse` needs no body
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    """Return whether a statement is a lone string, which has no effect."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
