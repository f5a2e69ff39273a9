"""A task names all files that it reads, so that a run is repeated after one of them has changed."""

import os
import sys
from pathlib import Path

import pytest

from rlora.config.build import build
from rlora.records.identity import digest_files

opened: list[str] | None = None


def record_opened(event, arguments):
    if opened is not None and event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])


sys.addaudithook(record_opened)  # it cannot be removed, so `opened` switches it


@pytest.mark.data
@pytest.mark.parametrize(
    "overrides",
    [
        "task=lexicon",
        "task=rte",
        "task=mrpc",
        "task=e2e",
        "task=e2e_text",
        "task=math task.train=[llm_adapters/AQuA/test.json]",
        "task=commonsense task.train=[llm_adapters/ARC-Easy/train.json] ~task.tests.hellaswag",
    ],
)
def test_a_task_reads_only_the_files_that_it_names(compose, overrides):
    global opened
    data = Path(os.environ["RLORA_DATA"]).resolve()
    config = compose(*overrides.split(), "model=tiny_decoder").config
    task = build(config["task"])
    named = {file.resolve() for file in task.input_files()}
    opened = []
    try:
        task.read()
        for read in ("read_unlabeled", "read_prompts"):
            getattr(task, read, dict)()
        read_files = {Path(file).resolve() for file in opened if Path(file).is_file()}
    finally:
        opened = None
    below = {file for file in read_files if data in file.parents or file.suffix == ".txt"}
    assert below
    assert below <= named


def test_the_digest_covers_names_and_bytes_of_all_files_but_not_their_place(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place / "data" / "deep").mkdir(parents=True)
        (tmp_path / place / "data" / "deep" / "x.tsv").write_text("one")
        (tmp_path / place / "data" / "y.tsv").write_text("two")
    (tmp_path / "b" / "data" / ".cache").write_text("hidden")
    first, second = (digest_files([tmp_path / place / "data"]) for place in ("a", "b"))
    assert first == second
    file = tmp_path / "b" / "data" / "deep" / "x.tsv"
    file.write_text("One")
    assert digest_files([tmp_path / "b" / "data"]) != first
    file.write_text("one")
    assert digest_files([tmp_path / "b" / "data"]) == first
    file.rename(file.with_name("z.tsv"))
    assert digest_files([tmp_path / "b" / "data"]) != first
    assert digest_files([tmp_path / "none"]) != digest_files([])
