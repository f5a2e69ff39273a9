"""Imports point one way, heavy optional libraries stay inside functions, and files stay short."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
FILES = [ROOT / "train.py", ROOT / "predict.py", *sorted(SRC.rglob("*.py"))]
HYDRA = {"hydra", "omegaconf"}
HEAVY = {"wandb", "wandb_workspaces", "peft", "matplotlib", "altair", "vl_convert", "jinja2", "optuna", "pycocoevalcap"}
LONGEST = 325
LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
ANY = None  # any library but Hydra

# package or module: what it may import of this project, and which libraries beside Python's own
RULES = {
    "train": ({"rlora.runs.experiment", "rlora.config.build"}, HYDRA),
    "rlora.runs.experiment": ({"rlora"}, "with hydra"),
    "rlora.config.build": ({"rlora.config.job", "rlora.config.flatten"}, "with hydra"),
    "rlora.config.job": (set(), set()),
    "rlora.records.record": ({"rlora.io.atomic"}, set()),
    "rlora.ops": ({"rlora.ops"}, {"torch", "numpy", "triton"}),
    "rlora.adapters": ({"rlora.ops", "rlora.adapters", "rlora.io"}, {"torch", "numpy", "safetensors", "peft"}),
    "rlora.regularizers": ({"rlora.regularizers"}, {"torch", "scipy"}),
    "rlora.tasks": (
        {"rlora.tasks", "rlora.data", "rlora.metrics", "rlora.integrations.hf_hub", "rlora.io.atomic"},
        ANY,
    ),
    "rlora.metrics": ({"rlora.metrics"}, {"rich", "pycocoevalcap"}),
    "rlora.models": ({"rlora.models", "rlora.integrations.hf_hub", "rlora.ops"}, ANY),
    "rlora.training.module": (
        {"rlora.adapters", "rlora.tasks.base", "rlora.regularizers.base", "rlora.training.attention_masks"},
        ANY,
    ),
    "rlora.training.callbacks": ({"rlora.training.callbacks", "rlora.records.record", "rlora.adapters"}, ANY),
    "rlora.training.optimizers": (set(), ANY),
    "rlora.runs.resume": ({"rlora.adapters", "rlora.io", "rlora.config.allowlist"}, ANY),
    "rlora.config.allowlist": (set(), set()),
    "rlora.records.environment": ({"rlora.records.record"}, ANY),
    "rlora.runs.console": ({"rlora.records.record"}, ANY),
    "rlora.integrations.hf_hub": (set(), ANY),
    "rlora.config.flatten": (set(), set()),
    "rlora.config.config_hash": ({"rlora.config.flatten"}, set()),
    "rlora.runs.multirun": ({"rlora.records.status", "rlora.records.record"}, "with hydra"),
    "rlora.records.study": (
        {"rlora.config.config_hash", "rlora.config.job", "rlora.records.status", "rlora.records.record"},
        set(),
    ),
    "rlora.training.trainer": (
        {
            "rlora.config.build",
            "rlora.config.flatten",
            "rlora.adapters",
            "rlora.training.callbacks",
            "rlora.tasks.base",
        },
        ANY,
    ),
    "rlora.evaluation.prior_run": (
        {"rlora.config.config_hash", "rlora.config.job", "rlora.config.flatten", "rlora.records.record"},
        set(),
    ),
    "rlora.evaluation.certify": (
        {
            "rlora.evaluation.prior_run",
            "rlora.adapters",
            "rlora.training.module",
            "rlora.regularizers",
            "rlora.tasks.base",
            "rlora.data.disjoint_parts",
        },
        ANY,
    ),
    "rlora.evaluation.generate": (
        {"rlora.adapters", "rlora.io.atomic", "rlora.training.module", "rlora.tasks.base"},
        ANY,
    ),
    "rlora.export": (
        {
            "rlora.adapters",
            "rlora.config.build",
            "rlora.runs.console",
            "rlora.export",
            "rlora.models",
            "rlora.runs.load",
        },
        ANY,
    ),
    "rlora.runs.load": (
        {
            "rlora.adapters",
            "rlora.config.build",
            "rlora.models.backbone",
            "rlora.records.record",
            "rlora.regularizers.base",
            "rlora.runs.resume",
        },
        ANY,
    ),
    "rlora.evaluation.inputs": (set(), set()),
    "rlora.evaluation.predict": (
        {
            "rlora.config.build",
            "rlora.runs.console",
            "rlora.evaluation.generate",
            "rlora.config.flatten",
            "rlora.runs.load",
            "rlora.regularizers.base",
            "rlora.evaluation.inputs",
            "rlora.tasks",
            "rlora.data",
        },
        ANY,
    ),
    "predict": ({"rlora.evaluation.predict"}, set()),
    "rlora.records.status": ({"rlora.records.record"}, set()),
    "rlora.reports": (
        {"rlora.reports", "rlora.config.flatten", "rlora.records.record", "rlora.records.status", "rlora.io.atomic"},
        {"scipy", "numpy", "rich", "matplotlib", "altair", "vl_convert", "jinja2", "wandb"},
    ),
    "rlora.integrations.wandb_dashboards": ({"rlora.io.atomic"}, {"wandb_workspaces"}),
    "rlora.training.attention_masks": (set(), {"torch", "transformers"}),
    "rlora.training.allocator": (set(), set()),
    "rlora.integrations.wandb_run": (set(), set()),
    "rlora.io": ({"rlora.io"}, {"torch", "safetensors"}),
    "rlora.config": (set(), set()),
    "rlora.records": (set(), set()),
    "rlora.integrations": (set(), set()),
    "rlora.data": ({"rlora.data", "rlora.integrations", "rlora.io"}, ANY),
    "rlora": (set(), set()),  # the package's own __init__
}


def module_name(file):
    parts = file.relative_to(SRC if SRC in file.parents else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file) for file in FILES}


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def rule_of(module):
    """The rule of the longest name that holds the module; the bare package is for its __init__ alone."""
    fitting = [name for name in RULES if module == name or (name != "rlora" and within(module, {name}))]
    return RULES[max(fitting, key=len)] if fitting else None


def imported(node, module):
    """Full names that an import statement takes from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: -node.level]
        base = ".".join([*parents, *([base] if base else [])])
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else base for name in names]  # a module, or something in one


def imports(source, module, *, inside_functions=True):
    """(line, full name) of every import; those in functions run later, those for types never: both may be left out."""

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
    """(line, name) of the imports a module's rule does not allow."""
    own, libraries = rule_of(module)
    for line, name in imports(source, module):
        top = name.partition(".")[0]
        if top == "rlora":
            if not within(name, own):
                yield line, name
        elif top in sys.stdlib_module_names or libraries == "with hydra":
            continue
        elif (libraries is ANY and top in HYDRA) or (libraries is not ANY and top not in libraries):
            yield line, name


def told(file, found):
    return [f"{file.relative_to(ROOT)}:{line} imports {name}" for line, name in found]


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_one_way(file):
    assert rule_of(module_name(file)), f"{file.relative_to(ROOT)} has no rule: say in RULES what it may import"
    assert not told(file, breaches(file.read_text(), module_name(file)))


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_heavy_libraries_are_imported_where_they_are_used(file):
    found = imports(file.read_text(), module_name(file), inside_functions=False)
    assert not told(file, [(line, name) for line, name in found if name.partition(".")[0] in HEAVY])


def test_only_the_rim_knows_hydra():
    users = {
        module_name(file)
        for file in FILES
        for _, name in imports(file.read_text(), module_name(file))
        if name.partition(".")[0] in HYDRA
    }
    assert users <= {"train", "rlora.runs.experiment", "rlora.config.build", "rlora.runs.multirun"}


def test_every_rule_is_about_something():
    assert all(any(within(module, {name}) for module in MODULES) for name in RULES)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_a_file_is_short_and_says_what_it_is(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= LONGEST, f"{file.relative_to(ROOT)} has {len(lines)} lines"
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
def test_the_check_finds_an_arrow_that_runs_back(source, module, line):
    assert [found for found, _ in breaches(source, module)] == [line]


def test_the_check_tells_modules_from_their_contents():
    assert imports("from rlora import restore\nfrom rlora.config.build import build", "rlora.runs.experiment") == [
        (1, "rlora.runs.resume"),
        (2, "rlora.config.build"),
    ]
    assert imports("def f():\n    import wandb", "rlora.x", inside_functions=False) == []
    assert imports("try:\n    import wandb\nexcept ImportError:\n    pass", "rlora.x", inside_functions=False)
