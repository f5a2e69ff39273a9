"""Matthews, Pearson, Spearman and perplexity against scikit-learn and scipy, edges included."""

import math
import warnings

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryMatthewsCorrCoef, MulticlassMatthewsCorrCoef
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from rlora.metrics.exact import Matthews, Pearson, Perplexity, Spearman, exact

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``compute`` method"),
    pytest.mark.filterwarnings("ignore:Metric `Spearman"),
    pytest.mark.filterwarnings("ignore:An input array is constant"),
]
CORRELATIONS = {"pearson": Pearson, "spearman": Spearman}


def score(metric, predicted, labels, parts=1):
    for rows in np.array_split(np.arange(len(labels)), parts):
        metric.update(torch.as_tensor(predicted)[rows], torch.as_tensor(labels)[rows])
    return float(metric.compute())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_matthews_equals_scikit_learn(classes):
    reference = pytest.importorskip("sklearn.metrics").matthews_corrcoef
    draw = np.random.default_rng(classes)
    for _ in range(200):
        rows, used = draw.integers(2, 40), draw.integers(1, classes + 1)
        labels, predicted = draw.integers(0, classes, rows), draw.integers(0, used, rows)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = reference(labels, predicted)
        parts = draw.integers(1, 4)
        assert score(Matthews(classes), predicted, labels, parts) == pytest.approx(
            expected, abs=1e-12
        )


@pytest.mark.parametrize("labels", [[1, 1, 0], [1] * 7 + [0] * 3, [1], [0, 0]])
@pytest.mark.parametrize("constant", [0, 1])
def test_matthews_of_constant_predictions_is_0(labels, constant):
    assert score(exact(BinaryMatthewsCorrCoef()), [constant] * len(labels), labels) == 0.0


def test_matthews_of_a_large_set_does_not_overflow():
    metric = Matthews()
    metric.confusion = torch.tensor([[3 * 10**9, 10**9], [10**9, 3 * 10**9]])
    assert float(metric.compute()) == pytest.approx(0.5, abs=1e-12)


def test_matthews_refuses_what_is_no_class():
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        score(Matthews(), [0, 2], [0, 1])
    with pytest.raises(ValueError, match="takes class ids"):
        score(Matthews(), [0.5, 0.1], [0, 1])
    assert score(Matthews(3, ignore_index=-1), [0, 1, 2, 0], [0, 1, 2, -1]) == 1.0
    assert math.isnan(float(Matthews().compute()))


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_correlation_equals_scipy(name):
    stats = pytest.importorskip("scipy.stats")
    reference = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name]
    draw = np.random.default_rng(0)
    for case in range(200):
        rows = int(draw.integers(2, 60))
        labels = np.round(draw.uniform(0, 5, rows), 1).astype(np.float32)
        scale = 10.0 ** draw.integers(-9, 10)
        # from float32's noise around 0 to large offsets, with and without ties
        predicted = scale * (labels + draw.normal(size=rows)) + (0 if case % 2 else 3 * scale)
        predicted = (np.round(predicted, 3) if case % 3 == 0 else predicted).astype(np.float32)
        if len(set(labels)) < 2 or np.ptp(predicted) < 1e-5 * np.abs(predicted).max():
            continue
        expected = reference(predicted.astype(np.float64), labels.astype(np.float64))[0]
        got = score(CORRELATIONS[name](), predicted, labels, parts=1 + case % 4)
        assert got == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_variations_of_1e_8_around_0_are_no_constant():
    predicted = np.array([1e-8, -1e-8, 3e-8, 0], dtype=np.float32)
    assert score(Spearman(), predicted, [2.0, 1.0, 3.0, 1.5]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize(
    "predicted",
    [
        [0.3] * 6,
        [0.0] * 6,
        [0.3, 0.3, 0.3, math.nextafter(0.3, 1), 0.3, 0.3],  # equal in float32
        [0.3, 0.30000004, 0.3, 0.3, 0.29999998, 0.3],  # one value, rounded differently
        [0.1, 0.2, math.nan, 0.3, 0.4, 0.5],
        [math.nan] * 6,
        [0.1, 0.2, math.inf, 0.3, 0.4, 0.5],
    ],
)
def test_a_correlation_with_constant_or_invalid_predictions_is_nan(name, predicted):
    labels = torch.tensor([0.0, 1.0, 2.0, 2.5, 4.0, 5.0])
    for parts in (1, 3):
        values = torch.tensor(predicted, dtype=torch.float32)
        assert math.isnan(score(CORRELATIONS[name](), values, labels, parts))
    if not math.isinf(max(predicted)):
        assert math.isnan(score(CORRELATIONS[name](), labels, values))


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_correlation_of_fewer_than_two_rows_is_nan(name):
    assert math.isnan(score(CORRELATIONS[name](), [1.0], [2.0]))
    assert math.isnan(float(CORRELATIONS[name]().compute()))
    assert CORRELATIONS[name].undefined


@pytest.mark.parametrize("make", [Matthews, Pearson, Spearman])
def test_states_of_two_processes_merge(make):
    draw = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(0, 2, (2, 40), generator=draw)
    if make is not Matthews:
        labels, predicted = torch.randn(2, 40, generator=draw)
    first, second = make(), make()
    first.update(predicted[:15], labels[:15])
    second.update(predicted[15:], labels[15:])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(score(make(), predicted, labels), abs=1e-12)
    gathered = make()  # as after a synchronization: tensors instead of lists
    for name, state in first.metric_state.items():
        setattr(gathered, name, torch.cat(state) if isinstance(state, list) else state)
    assert float(gathered.compute()) == float(first.compute())


def test_metrics_of_torchmetrics_are_replaced_where_they_are_wrong():
    assert isinstance(exact(BinaryMatthewsCorrCoef()), Matthews)
    assert exact(MulticlassMatthewsCorrCoef(num_classes=4)).num_classes == 4
    assert isinstance(exact(PearsonCorrCoef()), Pearson)
    assert isinstance(exact(SpearmanCorrCoef()), Spearman)
    assert isinstance(exact(PearsonCorrCoef(num_outputs=2)), PearsonCorrCoef)


def test_a_collection_computes_both_correlations():
    metrics = MetricCollection({"pearson": Pearson(), "spearman": Spearman()})
    for rows in ([1.0, 2.0], [9.0]):
        metrics.update(torch.tensor(rows), torch.tensor(rows) ** 2)
    values = metrics.compute()
    assert float(values["spearman"]) == pytest.approx(1.0)
    assert 0.9 < float(values["pearson"]) < 1.0


def test_perplexity_is_exact_and_does_not_underflow():
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 0] = 500.0  # the softmax of the label is 0 in float32
    labels = torch.tensor([[1, -100, 2]])
    metric = Perplexity(ignore_index=-100)
    metric.update(logits, labels)
    assert float(metric.compute()) == pytest.approx(math.exp((500 + math.log(4)) / 2))
    assert math.isnan(float(Perplexity(-100).compute()))
    metric.update(1e4 * logits, labels)
    assert math.isinf(float(metric.compute()))


@pytest.mark.parametrize("parts", [1, 7])
def test_perplexity_equals_float64(parts):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(70, 5, 11, generator=draw)
    labels = torch.randint(0, 11, (70, 5), generator=draw)
    metric = Perplexity(-100)
    for chunk, ids in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        metric.update(chunk, ids)
    losses = -logits.double().log_softmax(-1).gather(-1, labels[..., None])
    assert float(metric.compute()) == pytest.approx(float(losses.mean().exp()), rel=1e-7)
