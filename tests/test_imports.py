"""Imports point one way, and optional libraries are imported inside functions."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = [ROOT / "train.py", ROOT / "predict.py", *sorted(SRC.rglob("*.py"))]
HYDRA = {"hydra", "omegaconf"}
HEAVY = {
    "wandb",
    "wandb_workspaces",
    "peft",
    "matplotlib",
    "altair",
    "vl_convert",
    "jinja2",
    "optuna",
    "pycocoevalcap",
}
LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
ANY = None  # any library but Hydra

# Package or module -> modules of this project and third-party libraries that it may import. A
# module without a rule has the rule of its package. Imports point one way:
#   runs, export -> evaluation -> training -> tasks, adapters, models, regularizers
#     -> data, metrics, ops -> io
RULES = {
    "train": (
        {
            "rlora.runs.experiment",
            "rlora.runs.folder_names",
            "rlora.runs.parent",
            "rlora.config.build",
            "rlora.config.explain",
            "rlora.config.job",
            "rlora.io.command",
        },
        HYDRA,
    ),
    "predict": ({"rlora.runs.predict_cli", "rlora.io.command"}, set()),
    "rlora": ({"rlora.adapters"}, set()),  # the public names
    "rlora.io": ({"rlora.io"}, {"torch", "safetensors"}),
    "rlora.io.atomic": (set(), set()),
    "rlora.io.rows": (set(), set()),
    "rlora.io.json_values": ({"rlora.io.rows"}, set()),
    "rlora.io.yaml_values": ({"rlora.io.json_values"}, {"yaml"}),
    "rlora.io.foreign": (set(), set()),
    "rlora.io.command": (set(), set()),
    "rlora.ops": ({"rlora.ops"}, {"torch", "numpy", "triton"}),
    "rlora.metrics": (
        {"rlora.metrics", "rlora.io.rows", "rlora.io.command"},
        {"rich", "pycocoevalcap"},
    ),
    # torchmetrics' protocol; the others score texts without torch
    "rlora.metrics.exact": (set(), {"torch", "torchmetrics", "numpy", "scipy"}),
    "rlora.integrations": ({"rlora.io"}, ANY),
    "rlora.integrations.wandb_dashboards": ({"rlora.io", "rlora.reports.names"}, ANY),
    "rlora.config": ({"rlora.config"}, set()),
    "rlora.config.build": ({"rlora.config"}, "with hydra"),
    "rlora.config.explain": ({"rlora.config"}, "with hydra"),
    "rlora.records": ({"rlora.records", "rlora.config", "rlora.io.atomic"}, set()),
    "rlora.records.environment": ({"rlora.records.record"}, {"torch", "lightning"}),
    "rlora.data": ({"rlora.data", "rlora.integrations", "rlora.io"}, ANY),
    "rlora.adapters": (
        {"rlora.adapters", "rlora.ops", "rlora.io"},
        {"torch", "numpy", "safetensors"},
    ),
    "rlora.adapters.peft": ({"rlora.adapters", "rlora.ops", "rlora.io"}, {"torch", "peft"}),
    "rlora.models": ({"rlora.models", "rlora.integrations", "rlora.ops", "rlora.io.rows"}, ANY),
    "rlora.regularizers": ({"rlora.regularizers"}, {"torch", "scipy"}),
    "rlora.tasks": ({"rlora.tasks", "rlora.data", "rlora.metrics", "rlora.io"}, ANY),
    "rlora.training": (
        {
            "rlora.training",
            "rlora.adapters",
            "rlora.config",
            "rlora.io.atomic",
            "rlora.records",
            "rlora.regularizers.base",
            "rlora.tasks.base",
            "rlora.data.batch",
        },
        ANY,
    ),
    "rlora.evaluation": (
        {
            "rlora.evaluation",
            "rlora.training",
            "rlora.tasks",
            "rlora.data",
            "rlora.adapters",
            "rlora.models",
            "rlora.regularizers",
            "rlora.records",
            "rlora.config",
            "rlora.io",
        },
        ANY,
    ),
    "rlora.runs": ({"rlora"}, ANY),
    "rlora.runs.experiment": ({"rlora"}, "with hydra"),
    "rlora.runs.folder_names": ({"rlora.records"}, "with hydra"),
    "rlora.runs.multirun": ({"rlora.records", "rlora.config"}, "with hydra"),
    "rlora.export": (
        {
            "rlora.export",
            "rlora.runs",
            "rlora.adapters",
            "rlora.config",
            "rlora.models",
            "rlora.io",
        },
        ANY,
    ),
    "rlora.reports": (
        {
            "rlora.reports",
            "rlora.records",
            "rlora.config.flatten",
            "rlora.io.atomic",
            "rlora.io.command",
        },
        {"scipy", "numpy", "rich", "matplotlib", "altair", "vl_convert", "jinja2", "wandb"},
    ),
}


def module_name(file):
    parts = file.relative_to(SRC if SRC in file.parents else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file) for file in FILES}


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def rule_of(module):
    """Return the most specific rule of a module; the rule "rlora" is for its __init__ only."""
    fitting = [
        name for name in RULES if module == name or (name != "rlora" and within(module, {name}))
    ]
    return RULES[max(fitting, key=len)] if fitting else None


def imported(node, module):
    """Return the full names that an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: -node.level]
        base = ".".join([*parents, *([base] if base else [])])
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else base for name in names]


def imports(source, module, *, inside_functions=True):
    """Return (line, full name) of every import, optionally without those inside functions.

    Without them, imports for type checkers are left out too: neither runs when the module loads.
    """

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield from ((child.lineno, name) for name in imported(child, module))
            elif inside_functions or not (
                isinstance(child, LATER) or ast.unparse(child).startswith("if TYPE_CHECKING:")
            ):
                yield from walk(child)

    return list(walk(ast.parse(source)))


def breaches(source, module):
    """Yield (line, name) of the imports that the rule of a module does not allow."""
    modules, libraries = rule_of(module)
    for line, name in imports(source, module):
        top = name.partition(".")[0]
        if top == "rlora":
            if not within(name, modules):
                yield line, name
        elif top in sys.stdlib_module_names or libraries == "with hydra":
            continue
        elif (libraries is ANY and top in HYDRA) or (libraries is not ANY and top not in libraries):
            yield line, name


def messages(file, lines):
    return [f"{file.relative_to(ROOT)}:{line} imports {name}" for line, name in lines]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_one_way(file):
    assert rule_of(module_name(file)), f"{file.relative_to(ROOT)} has no rule: add one to RULES"
    assert not messages(file, breaches(file.read_text(), module_name(file)))


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_optional_libraries_are_imported_where_they_are_used(file):
    lines = imports(file.read_text(), module_name(file), inside_functions=False)
    assert not messages(
        file, [(line, name) for line, name in lines if name.partition(".")[0] in HEAVY]
    )


def test_only_entry_points_import_hydra():
    users = {
        module_name(file)
        for file in FILES
        for _, name in imports(file.read_text(), module_name(file))
        if name.partition(".")[0] in HYDRA
    }
    runs = {"rlora.runs.experiment", "rlora.runs.folder_names", "rlora.runs.multirun"}
    assert users <= {"train", "rlora.config.build", "rlora.config.explain", *runs}


def test_every_rule_has_a_module():
    assert all(any(within(module, {name}) for module in MODULES) for name in RULES)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_a_file_has_a_specific_name_and_a_docstring(file):
    assert file.stem not in ("utils", "util", "helpers", "misc", "common")
    assert ast.get_docstring(ast.parse(file.read_text()))


@pytest.mark.parametrize(
    ("source", "module", "line"),
    [
        ("import torch\nimport lightning", "rlora.adapters.lora", 2),
        ("from rlora.tasks.base import Task", "rlora.adapters.lora", 1),
        ("def f():\n    from rlora import experiment", "rlora.tasks.glue", 2),
        ("from ..adapters import inject", "rlora.tasks.glue", 1),
        ("import rlora.training.module", "rlora.models.random_init", 1),
        ("from rlora.tasks.glue import GLUE", "rlora.training.module", 1),
        ("import numpy", "rlora.records.record", 1),
        ("import omegaconf", "rlora.tasks.glue", 1),
        ("from hydra.utils import instantiate", "rlora.runs.resume", 1),
    ],
)
def test_the_check_finds_an_import_in_the_wrong_direction(source, module, line):
    assert [number for number, _ in breaches(source, module)] == [line]


def test_the_check_distinguishes_modules_from_their_contents():
    assert imports(
        "from rlora.runs import resume\nfrom rlora.config.build import build",
        "rlora.runs.experiment",
    ) == [
        (1, "rlora.runs.resume"),
        (2, "rlora.config.build"),
    ]
    assert imports("def f():\n    import wandb", "rlora.x", inside_functions=False) == []
    assert imports(
        "try:\n    import wandb\nexcept ImportError:\n    pass", "rlora.x", inside_functions=False
    )
