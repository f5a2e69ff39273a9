"""The page on Python: its blocks run unchanged, one after the other."""

import re

import pytest
import torch


@pytest.mark.cli  # a long test, which starts early
@pytest.mark.filterwarnings("ignore")
def test_every_block_runs_in_order(root):
    blocks = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "python.md").read_text(), flags=re.DOTALL
    )
    assert len(blocks) >= 9
    names: dict = {}
    losses = []
    for block in blocks:
        exec(block, names)
        if "loss" in names:
            losses.append(float(names["loss"].detach()))
    assert losses[-1] < losses[0] or len(set(losses)) > 1
    merged = names["plain"]
    assert not any("lora" in name for name in merged.state_dict())
    with torch.no_grad():
        logits = merged(**names["batch"]).logits
        saved = type(merged).from_pretrained(names["folder"].with_name("merged"))
        torch.testing.assert_close(saved(**names["batch"]).logits, logits, rtol=1e-4, atol=1e-5)
