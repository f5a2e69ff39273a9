"""The digest of the code: what a run depends on counts, and nothing else."""

import sys

import pytest

from rlora.records.code_digest import code_digest, digest_source, source_files

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
        return digest_source(file)

    return of


@pytest.mark.parametrize(
    "source", ["SCALE = 2  # twice", '"""Two."""\nSCALE=2', "SCALE = (\n    2\n)"]
)
def test_comments_docstrings_and_formatting_do_not_count(digest, source):
    assert digest(source) == digest("SCALE = 2")


@pytest.mark.parametrize("source", ["SCALE = 3", "SCALE = 2.0", "SCALE = 2\nSIGN = 1"])
def test_code_counts(digest, source):
    assert digest(source) != digest("SCALE = 2")
