"""Public names: `from rlora import ...`."""

import ast
import subprocess
import sys

import rlora


def typed_names(root):
    """Return name -> module of the imports that only type checkers execute."""
    tree = ast.parse((root / "src" / "rlora" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_names_for_type_checkers_equal_the_names_at_run_time(root):
    assert typed_names(root) == rlora._MODULES


def test_every_name_resolves():
    for name in rlora.__all__:
        assert getattr(rlora, name).__name__ == name
    assert {"inject", "load", "save", "LoRA", "RLoRA", "NOLA", "RandLoRA", "VeRA"} <= set(
        dir(rlora)
    )


def test_an_unknown_name_raises_an_attribute_error():
    assert not hasattr(rlora, "no_such_name")


def test_reports_start_without_torch():
    code = (
        "import sys, rlora.reports.__main__; sys.exit(bool({'torch', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
