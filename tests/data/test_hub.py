"""Rows of the Hugging Face hub: the order of their labels."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
from torchmetrics.classification import MulticlassAccuracy

from rlora.data import hub


class HubRows(dict):
    """Rows of the hub: columns, and features with the names of the class ids."""

    features: ClassVar = {"label": SimpleNamespace(names=["negative", "positive"])}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0", "1"], [0, 1, 1]),
        (["1", "0"], [1, 0, 0]),
        (["positive", "negative"], [1, 0, 0]),
        (["Positive", "NEGATIVE"], [1, 0, 0]),
        (["bad", "good"], [0, 1, 1]),
    ],
)
def test_hub_labels_follow_the_order_of_the_task(build_task, monkeypatch, labels, expected):
    monkeypatch.delenv("RLORA_DATA", raising=False)
    rows = HubRows(sentence=["a", "b", "c"], label=[0, 1, 1])
    monkeypatch.setattr(hub, "load_split", lambda subset, split: rows)
    assert build_task("sst2", labels=labels).read()["train"].labels == expected


def test_other_names_than_the_hubs_count_by_position_and_are_told(build_task, monkeypatch, caplog):
    monkeypatch.delenv("RLORA_DATA", raising=False)
    rows = HubRows(sentence=["a", "b"], label=[0, 1])
    monkeypatch.setattr(hub, "load_split", lambda subset, split: rows)
    build_task("sst2", labels=["bad", "good"]).read()
    assert "count by position: bad = negative, good = positive" in caplog.text
    names = ["a", "b", "c"]
    metric = MulticlassAccuracy(num_classes=3, average="micro")
    with pytest.raises(ValueError, match=r"the hub's labels are .*negative.*; name as many"):
        build_task("sst2", labels=names, metrics={"accuracy": metric}).read()
