"""The digest of the code: what a run depends on counts, and nothing else."""

import importlib
import py_compile
import sys

import pytest

from rlora.records import code_digest as code_digest_module
from rlora.records.code_digest import code_digest, read_source, source_files

LORA = {
    "adapter": {"_target_": "rlora.adapters.lora.LoRA"},
    "task": {"_target_": "rlora.tasks.lexicon.Lexicon", "metrics": {"m": {"_target_": "torch.f"}}},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Function (number): a package of a user whose adapter imports another of its modules."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(number, adapter="from . import formula"):
        # a new name each time, as a process loads its code once
        folder = tmp_path / f"project{number}"
        folder.mkdir()
        texts = {"adapter": adapter, "formula": "SCALE = 2", "other": "x = 1"}
        for name, text in texts.items():
            (folder / f"{name}.py").write_text(text)
        return {"adapter": {"_target_": f"project{number}.adapter.Mine"}}

    return write


def contents(config):
    """Return the modules of a user's package that count."""
    names = (name.partition(".") for name in source_files(config))
    return {module for package, _, module in names if package.startswith("project")}


def test_the_adapter_the_task_and_the_training_count():
    files = source_files(LORA)
    for name in (
        "adapters.lora",
        "ops.fused_linear",
        "tasks.lexicon",
        "training.module",
        "io.rows",
    ):
        assert f"rlora.{name}" in files
    assert all(file.is_file() for file in files.values())


def test_other_adapters_and_tasks_do_not_count():
    others = ("adapters.rlora", "adapters.nola", "adapters.peft.method", "tasks.glue")
    assert not {f"rlora.{name}" for name in others} & set(source_files(LORA))
    rlora = {**LORA, "adapter": {"_target_": "rlora.adapters.rlora.RLoRA"}}
    assert "rlora.adapters.rlora" in source_files(rlora)
    assert code_digest(rlora) != code_digest(LORA)


@pytest.mark.parametrize("part", ["reports", "export", "records", "config", "integrations"])
def test_what_presents_a_result_does_not_count(part):
    assert not [name for name in source_files(LORA) if name.startswith(f"rlora.{part}")]


def test_installed_libraries_are_neither_counted_nor_imported():
    before = set(sys.modules)
    config = {**LORA, "callbacks": [{"_target_": "mkdocs.config.base.Config"}]}
    assert not [name for name in source_files(config) if not name.startswith("rlora.")]
    assert "mkdocs" not in set(sys.modules) - before


def test_a_module_of_the_user_counts_with_its_imports(project):
    assert contents(project(1)) == {"adapter", "formula"}
    assert contents(project(2, "def f():\n    import project2.other")) == {"adapter", "other"}
    assert contents(project(3, "from project3.formula import SCALE")) == {"adapter", "formula"}


@pytest.fixture
def digest(tmp_path):
    """Function (source): the digest of a new file."""

    def of(source):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"  # a digest is cached by file
        file.write_text(source)
        return read_source(file).digest

    return of


@pytest.mark.parametrize(
    "source", ["SCALE = 2  # twice", '"""Two."""\nSCALE=2', "SCALE = (\n    2\n)"]
)
def test_comments_docstrings_and_formatting_do_not_count(digest, source):
    assert digest(source) == digest("SCALE = 2")


@pytest.mark.parametrize("source", ["SCALE = 3", "SCALE = 2.0", "SCALE = 2\nSIGN = 1"])
def test_code_counts(digest, source):
    assert digest(source) != digest("SCALE = 2")


def test_compiled_code_counts(project):
    config = project(4)
    file = source_files(config)["project4.formula"]
    before = code_digest(config)
    compiled = py_compile.compile(str(file), cfile=str(file.with_suffix(".pyc")))
    file.write_text("SCALE = 3")
    _forget()
    edited = code_digest(config)
    assert edited != before
    file.unlink()
    _forget()
    assert str(source_files(config)["project4.formula"]) == compiled
    assert code_digest(config) not in (before, edited)


def _forget():
    """Read the code again, as a new process does."""
    importlib.invalidate_caches()
    for cached in (code_digest_module._source, code_digest_module.read_source):
        cached.cache_clear()


@pytest.mark.parametrize("target", ["adapter.Mine.make", "adapter.Outer.Inner"])
def test_a_target_inside_a_class_counts(project, target):
    number = f"5{len(target)}"
    project(number)
    config = {"adapter": {"_target_": f"project{number}.{target}"}}
    assert contents(config) == {"adapter", "formula"}


def test_code_that_python_cannot_read_counts(project):
    """Importing it raises the error, and names the file."""
    assert contents(project(6, "def broken(:")) == {"adapter"}


def test_the_package_of_a_module_counts(project, tmp_path):
    config = project(7, "import project7.formula")
    (tmp_path / "project7" / "__init__.py").write_text("from . import other")
    assert contents(config) == {"", "adapter", "formula", "other"}


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_libraries_of_another_interpreter_are_installed(tmp_path, monkeypatch, folder):
    place = tmp_path / "lib" / folder
    place.mkdir(parents=True)
    name = f"library_{folder.partition('-')[0]}"
    (place / f"{name}.py").write_text("def f(): pass")
    monkeypatch.syspath_prepend(place)
    assert name not in source_files({"adapter": {"_target_": f"{name}.f"}})


@pytest.mark.parametrize("target", ["__main__.Mine", "f"])
def test_a_target_without_a_file_counts_for_nothing(target):
    assert code_digest({"adapter": {"_target_": target}}) == code_digest({})


def test_all_versions_of_python_give_one_digest(digest):
    """Pin the digest that Python 3.11 gives: another version may resume a study."""
    source = (
        "@f\nclass A(B):\n    async def g(self, a: int = 1, *b, c=2.5, **d) -> str:\n"
        "        return f'{a!r:>{c}} {d}' + b'x'.decode()\n"
    )
    assert digest(source).startswith("bde1ca91426edba7")
