"""What the README and the results tell to type works as it stands."""

import re
import shlex

import pytest
import torch
import transformers

README = "README.md"
PLACEHOLDERS = {"OPTIONS"}  # of a table below the command
WORKED_EXAMPLES = {"task=reviews"}  # tests/docs/test_worked_examples.py runs these pages
LONGEST = 900  # words of the README


def commands(file):
    lines = file.read_text().replace("\\\n", " ").splitlines()
    return [
        shlex.split(line, comments=True)[2:]
        for line in map(str.strip, lines)
        if line.startswith("python train.py")
    ]


def test_every_command_composes(root, compose):
    assert len(commands(root / README)) >= 3
    assert sum(len(commands(page)) for page in (root / "docs").rglob("*.md")) >= 50
    documents = [root / README, *(root / "docs").rglob("*.md")]
    for words in (words for document in documents for words in commands(document)):
        if "--help" in words or set(words) & WORKED_EXAMPLES:
            continue
        overrides = [word for word in words if word != "-m" and word not in PLACEHOLDERS]
        if "-m" in words:  # the first job of a multirun
            overrides = [re.sub(r"^([\w.]+)=([^\[,]+),.*$", r"\1=\2", word) for word in overrides]
        config = compose(*overrides).config
        assert {"model", "task", "adapter", "regularizer"} <= set(config)


def test_the_python_example_runs(root):
    (block,) = re.findall(r"```python\n(.*?)```", (root / README).read_text(), flags=re.DOTALL)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
    )
    names = {
        "model": transformers.BertForSequenceClassification(config),
        "batch": {"input_ids": torch.ones(1, 4, dtype=torch.long)},
    }
    exec(block, names)
    assert names["adapters"].report().adapter == 2 * 2 * 32


@pytest.mark.parametrize("target", ["make train", "make test"])
def test_the_two_commands_are_there(root, target):
    assert target in (root / README).read_text()
    assert re.search(rf"^{target.split()[1]}:", (root / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_readme_is_short(root):
    assert len((root / README).read_text().split()) <= LONGEST
