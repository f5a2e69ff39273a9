"""The README: its length, its Python example and its two first commands."""

import re

import pytest
import torch
import transformers

README = "README.md"
LONGEST = 900  # words


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
def test_it_names_the_two_first_commands(root, target):
    assert target in (root / README).read_text()
    assert re.search(rf"^{target.split()[1]}:", (root / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_readme_is_short(root):
    assert len((root / README).read_text().split()) <= LONGEST
