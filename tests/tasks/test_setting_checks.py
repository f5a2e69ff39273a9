"""Labels, score ranges and metrics that cannot work raise when the task is built, in one line."""

import re

import pytest
from torchmetrics import classification, regression

from rlora.tasks.setting_checks import check_metrics, checked_labels

pytestmark = pytest.mark.filterwarnings("ignore:Metric `Spearman")
TWO, THREE, RANGE = ["a", "b"], ["a", "b", "c"], [0, 5]
C, R = classification, regression


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        (C.BinaryAccuracy(), TWO),
        (C.BinaryF1Score(), TWO),
        (C.MulticlassAccuracy(num_classes=2), TWO),
        (C.MulticlassAccuracy(num_classes=3), THREE),
        (C.MulticlassF1Score(num_classes=3, validate_args=False), THREE),
        (C.MulticlassMatthewsCorrCoef(num_classes=3), THREE),
        (R.PearsonCorrCoef(), None),
        (R.SpearmanCorrCoef(), None),
        (R.MeanSquaredError(), None),
        (R.R2Score(), None),
    ],
)
def test_a_fitting_metric_is_accepted(metric, labels):
    check_metrics({"m": metric}, labels, None if labels else RANGE)


@pytest.mark.parametrize(
    ("metric", "labels", "remedy"),
    [
        (C.BinaryAccuracy(), THREE, "Multiclass... metric with num_classes=3"),
        (C.BinaryAccuracy(validate_args=False), THREE, "num_classes=3"),
        (C.BinaryF1Score(), THREE, "num_classes=3"),
        (C.BinaryMatthewsCorrCoef(), THREE, "num_classes=3"),
        (C.MulticlassAccuracy(num_classes=2), THREE, "num_classes=3"),
        (C.MulticlassAccuracy(num_classes=5), THREE, "num_classes=3"),
        (C.MulticlassAccuracy(num_classes=3), TWO, "Binary... metric"),
        (C.MulticlassAccuracy(num_classes=3, average=None), THREE, "expected one number"),
        (C.MulticlassConfusionMatrix(num_classes=3), THREE, "expected one number"),
        (C.BinaryAUROC(), TWO, "Binary... metric"),
        (C.MultilabelAccuracy(num_labels=3), THREE, "num_classes=3"),
        (R.PearsonCorrCoef(), THREE, "torchmetrics.classification"),
        (R.MeanSquaredError(), TWO, "torchmetrics.classification"),
        (C.BinaryAccuracy(), None, "torchmetrics.regression"),
        (C.MulticlassAccuracy(num_classes=6), None, "torchmetrics.regression"),
        (R.PearsonCorrCoef(num_outputs=2), None, "torchmetrics.regression"),
    ],
)
def test_a_metric_that_does_not_fit_the_labels_raises(metric, labels, remedy):
    with pytest.raises(ValueError, match=r"task\.metrics\.m=\w+") as caught:
        check_metrics({"m": metric}, labels, None if labels else RANGE)
    assert remedy in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_three_labels_with_binary_accuracy_raise_when_the_task_is_built(build_task):
    with pytest.raises(
        ValueError, match=r"task\.metrics\.accuracy=BinaryAccuracy .* 3 task\.label"
    ):
        build_task("rte", labels=THREE)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rte", {"labels": ["a"]}, "task.labels=['a'] is invalid: expected a list of two"),
        ("rte", {"labels": []}, "task.labels=[]"),
        ("rte", {"labels": ["a", "a"]}, "task.labels=['a', 'a']"),
        ("rte", {"labels": ["a", ""]}, "task.labels=['a', '']"),
        ("rte", {"labels": ["a", None]}, "task.labels=['a', None]"),
        ("rte", {"labels": [True, False]}, "each in quotes"),
        ("rte", {"labels": [0, "0"]}, "task.labels=['0', '0']"),
        ("rte", {"labels": "ab"}, "task.labels=ab is invalid"),
        ("rte", {"labels": {0: "no", 1: "yes"}}, "task.labels={0: 'no', 1: 'yes'} is invalid"),
        ("rte", {"labels": {"yes": 1, "no": 0}}, "expected a list"),
        ("rte", {"mode": "min"}, "task.mode=min is invalid: expected max"),
        ("stsb", {"score_range": [5, 0]}, "task.score_range=[5, 0] is invalid"),
        ("stsb", {"score_range": [0, 0]}, "two increasing numbers"),
        ("stsb", {"score_range": [0]}, "task.score_range=[0]"),
        ("stsb", {"score_range": [0, float("inf")]}, "task.score_range=[0, inf]"),
        ("stsb", {"score_range": ["0", "5"]}, "task.score_range=['0', '5']"),
        ("stsb", {"labels": TWO, "score_range": None}, "task.metrics.pearson=PearsonCorrCoef"),
        ("lexicon", {"labels": THREE}, "task.metrics.accuracy"),
        ("lexicon", {"labels": None}, "task.metrics.accuracy"),
    ],
)
def test_invalid_settings_raise(build_task, name, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build_task(name, **changes)
    assert len(str(caught.value).splitlines()) == 1


def test_whole_numbers_are_label_names(build_task):
    assert checked_labels([0, 1]) == ["0", "1"]
    assert build_task("sst2", labels=[0, 1]).head()["labels"] == ["0", "1"]
