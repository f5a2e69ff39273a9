"""The contract of every task in conf/task, without data: head, monitor, metrics, loss, decoding."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlora.config.build import build
from rlora.data.packing import IGNORED
from rlora.tasks.base import GenerationTask, Task

CONF = Path(__file__).parents[2] / "conf"
TASKS = sorted(file.stem for file in (CONF / "task").glob("[!_]*.yaml"))  # _glue.yaml is no task
MODELS = ("tiny_encoder", "tiny_decoder")
ROWS = 12
TOKENS, VOCABULARY = 5, 7
pytestmark = pytest.mark.filterwarnings("ignore:Metric `Spearman")


@pytest.fixture(params=TASKS)
def name(request):
    return request.param


@pytest.fixture
def node(compose, name):
    """The composed section `task` of the config; tests change it instead of composing again."""
    return compose(f"task={name}").config["task"]


@pytest.fixture
def task(node):
    return build(node)


def generates(task):
    return task.head()["kind"] == "text"


def outputs(task, seed=0):
    shape = (ROWS, TOKENS, VOCABULARY) if generates(task) else (ROWS, task.head()["num_labels"])
    return SimpleNamespace(logits=torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def labels(task):
    if generates(task):
        tokens = (torch.arange(ROWS * TOKENS) % VOCABULARY).reshape(ROWS, TOKENS)
        tokens[:, :2] = IGNORED  # the prompt
        return tokens
    if task.head()["kind"] == "regression":
        return torch.linspace(*task.score_range, ROWS)
    return torch.arange(ROWS) % task.head()["num_labels"]


def perfect(task):
    """Return outputs that predict the labels with certainty."""
    if task.head()["kind"] == "regression":
        return SimpleNamespace(logits=labels(task)[:, None])
    classes = VOCABULARY if generates(task) else task.head()["num_labels"]
    return SimpleNamespace(
        logits=20.0 * torch.nn.functional.one_hot(labels(task).clamp_min(0), classes).float()
    )


def test_the_task_has_the_name_of_its_file(task, name):
    assert isinstance(task, Task)
    assert task.name == name


def test_the_head_has_a_known_kind(task):
    head = task.head()
    assert set(head) == {"kind", "num_labels", "labels"}
    if head["kind"] == "regression":
        assert (head["num_labels"], task.labels) == (1, None)
        assert task.score_range[0] < task.score_range[1]
    elif head["kind"] == "text":
        assert task.trained_modules == ()
    else:
        assert head["kind"] == "classification"
        assert head["num_labels"] == len(task.labels) == len(set(task.labels)) >= 2


def test_the_monitor_is_a_metric(task):
    assert task.monitor in task.new_metrics()
    assert task.mode in ("max", "min")
    assert isinstance(task, GenerationTask) == (task.reported is not None)


def test_loss_predictions_and_metrics_agree(task):
    out, batch = outputs(task), {"labels": labels(task)}
    loss, predicted = task.loss(out, batch), task.decode(out)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.isfinite()
    assert predicted.shape == ((ROWS, TOKENS, VOCABULARY) if generates(task) else (ROWS,))
    assert predicted.dtype == (
        torch.int64 if task.head()["kind"] == "classification" else torch.float32
    )
    metrics = task.new_metrics()
    metrics.update(predicted, batch["labels"])
    assert all(score.isfinite() for score in metrics.compute().values())


def test_perfect_outputs_have_the_best_scores(task):
    batch = {"labels": labels(task)}
    metrics = task.new_metrics()
    metrics.update(task.decode(perfect(task)), batch["labels"])
    assert float(metrics.compute()[task.monitor]) == pytest.approx(1.0)
    assert task.mode == ("min" if generates(task) else "max")
    smoothing = getattr(task, "label_smoothing", 0.0)
    # Label smoothing gives the other tokens, each of probability e^-20, a share of the loss.
    minimum = smoothing * 20.0 * (VOCABULARY - 1) / VOCABULARY
    assert float(task.loss(perfect(task), batch)) == pytest.approx(minimum, abs=1e-6)
    if not smoothing:
        assert float(task.loss(outputs(task), batch)) > 0.1


def test_the_loss_is_computed_in_float32(task):
    out = SimpleNamespace(logits=outputs(task).logits.bfloat16())
    same = SimpleNamespace(logits=out.logits.float())
    batch = {"labels": labels(task)}
    assert task.loss(out, batch).dtype == torch.float32
    assert torch.equal(task.loss(out, batch), task.loss(same, batch))


def test_new_metrics_share_no_state(task):
    first, second = task.new_metrics(), task.new_metrics()
    first.update(task.decode(outputs(task)), labels(task))
    second.update(task.decode(perfect(task)), labels(task))
    assert float(second.compute()[task.monitor]) == pytest.approx(1.0)


@pytest.mark.parametrize("model", MODELS)
def test_a_backbone_supports_the_task(task, compose, model):
    backbone_node = compose(f"model={model}").config["model"]
    if generates(task) and model == "tiny_encoder":
        with pytest.raises(ValueError, match="generates no text: choose a decoder"):
            build(backbone_node, **task.head(), seed=0)
        return
    backbone = build(backbone_node, **task.head(), seed=0)
    if generates(task):
        assert backbone.head_parameters(task.trained_modules) == []
        return
    trained = backbone.head_parameters(task.trained_modules)
    assert trained
    assert all(name.startswith(("classifier", "score")) for name in trained)
    batch = backbone.processor(["good", "terrible news"], padding=True, return_tensors="pt")
    out = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert task.decode(out).shape == (2,)
    assert out.logits.shape == (2, task.head()["num_labels"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("monitor", "nonsense"),
        ("mode", "up"),
        ("batch_size", 0),
        ("eval_batch_size", 0),
        ("max_length", 0),
        ("num_workers", -1),
        ("split_seed", -1),
        ("sample_seed", -1),
        ("shots", 0),
    ],
)
def test_an_invalid_setting_raises_with_its_key(node, name, key, value):
    if key not in node:
        pytest.skip(f"{name} has no {key}")
    with pytest.raises(ValueError, match=rf"task\.{key}={value}") as caught:
        build(node | {key: value})
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_setting_raises(node):
    with pytest.raises(ValueError, match="batchsize"):
        build(node | {"batchsize": 3})


def test_the_config_is_json(node):
    assert json.loads(json.dumps(node)) == node


def test_the_bounded_loss_is_in_0_1_and_has_a_gradient(task):
    if task.head()["kind"] != "classification":
        assert not task.has_bounded_loss
        with pytest.raises(NotImplementedError, match=r"no loss in \[0, 1\]"):
            task.bounded_loss(outputs(task), {"labels": labels(task)})
        return
    assert task.has_bounded_loss
    batch, outputs_of_labels = {"labels": labels(task)}, perfect(task)
    assert task.bounded_loss(outputs_of_labels, batch).item() == pytest.approx(0.0, abs=1e-6)
    wrong = SimpleNamespace(logits=outputs_of_labels.logits.roll(1, dims=1))
    assert task.bounded_loss(wrong, batch).item() == pytest.approx(1.0)
    random = outputs(task)
    random.logits.requires_grad_()
    loss = task.bounded_loss(random, batch)
    assert 0 < loss.item() < 1
    assert torch.autograd.grad(loss, random.logits)[0].abs().sum() > 0
