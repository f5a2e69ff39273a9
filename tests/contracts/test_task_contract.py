"""What every task of conf/task keeps to, without its data: head, monitor, metrics, loss and decoding."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlora.config.build import build
from rlora.data.packing import IGNORED
from rlora.tasks.base import Task, Writer

TASKS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "task").glob("*.yaml"))
MODELS = ("tiny_encoder", "tiny_decoder")
ROWS = 12
TOKENS, WORDS = 5, 7  # of texts
pytestmark = pytest.mark.filterwarnings("ignore:Metric `Spearman")


@pytest.fixture(params=TASKS)
def name(request):
    return request.param


@pytest.fixture
def task(compose, name):
    return build(compose(f"task={name}").config["task"])


def writes(task):
    return task.head()["kind"] == "text"


def outputs(task, seed=0):
    shape = (ROWS, TOKENS, WORDS) if writes(task) else (ROWS, task.head()["num_labels"])
    return SimpleNamespace(logits=torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def labels(task):
    if writes(task):
        found = (torch.arange(ROWS * TOKENS) % WORDS).reshape(ROWS, TOKENS)
        found[:, :2] = IGNORED  # of a prompt
        return found
    if task.head()["kind"] == "regression":
        return torch.linspace(*task.score_range, ROWS)
    return torch.arange(ROWS) % task.head()["num_labels"]


def perfect(task):
    """Outputs that say exactly what the labels are."""
    if task.head()["kind"] == "regression":
        return SimpleNamespace(logits=labels(task)[:, None])
    classes = WORDS if writes(task) else task.head()["num_labels"]
    return SimpleNamespace(
        logits=20.0 * torch.nn.functional.one_hot(labels(task).clamp_min(0), classes).float()
    )


def test_it_is_a_task_with_its_name(task, name):
    assert isinstance(task, Task)
    assert task.name == name


def test_its_head_is_one_a_model_can_build(task):
    head = task.head()
    assert set(head) == {"kind", "num_labels"}
    if head["kind"] == "regression":
        assert (head["num_labels"], task.labels) == (1, None)
        assert task.score_range[0] < task.score_range[1]
    elif head["kind"] == "text":
        assert task.trained_modules == ()
    else:
        assert head["kind"] == "classification"
        assert head["num_labels"] == len(task.labels) == len(set(task.labels)) >= 2


def test_its_monitor_is_one_of_its_metrics(task):
    assert task.monitor in task.new_metrics()
    assert task.mode in ("max", "min")
    assert isinstance(task, Writer) == (task.reported is not None)


def test_loss_decode_and_metrics_fit(task):
    out, batch = outputs(task), {"labels": labels(task)}
    loss, predicted = task.loss(out, batch), task.decode(out)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.isfinite()
    assert predicted.shape == ((ROWS, TOKENS, WORDS) if writes(task) else (ROWS,))
    assert predicted.dtype == (
        torch.int64 if task.head()["kind"] == "classification" else torch.float32
    )
    metrics = task.new_metrics()
    metrics.update(predicted, batch["labels"])
    assert all(score.isfinite() for score in metrics.compute().values())


def test_a_perfect_answer_scores_best(task):
    batch = {"labels": labels(task)}
    metrics = task.new_metrics()
    metrics.update(task.decode(perfect(task)), batch["labels"])
    assert float(metrics.compute()[task.monitor]) == pytest.approx(1.0)
    assert task.mode == ("min" if writes(task) else "max")
    smoothing = getattr(task, "label_smoothing", 0.0)
    smallest = (
        smoothing * 20.0 * (WORDS - 1) / WORDS
    )  # the smoothed share of the other words, each e^-20
    assert float(task.loss(perfect(task), batch)) == pytest.approx(smallest, abs=1e-6)
    if not smoothing:
        assert float(task.loss(outputs(task), batch)) > 0.1


def test_the_loss_of_half_precision_is_taken_in_float32(task):
    out = SimpleNamespace(logits=outputs(task).logits.bfloat16())
    same = SimpleNamespace(logits=out.logits.float())
    batch = {"labels": labels(task)}
    assert task.loss(out, batch).dtype == torch.float32
    assert torch.equal(task.loss(out, batch), task.loss(same, batch))


def test_new_metrics_share_nothing(task):
    first, second = task.new_metrics(), task.new_metrics()
    first.update(task.decode(outputs(task)), labels(task))
    second.update(task.decode(perfect(task)), labels(task))
    assert float(second.compute()[task.monitor]) == pytest.approx(1.0)


@pytest.mark.parametrize("model", MODELS)
def test_a_backbone_answers_it(task, compose, model):
    node = compose(f"model={model}").config["model"]
    if writes(task) and model == "tiny_encoder":
        with pytest.raises(
            ValueError, match="is an encoder and generates no text: choose a decoder"
        ):
            build(node, **task.head(), seed=0)
        return
    backbone = build(node, **task.head(), seed=0)
    if writes(task):
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
    "words",
    [
        "task.monitor=nonsense",
        "task.mode=up",
        "task.batch_size=0",
        "task.eval_batch_size=0",
        "task.max_length=0",
        "task.num_workers=-1",
        "task.split_seed=-1",
        "task.sample_seed=-1",
        "task.shots=0",
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(compose, name, words):
    key = words.partition("=")[0].removeprefix("task.")
    if key not in compose(f"task={name}").config["task"]:
        pytest.skip(f"{name} has no {key}")
    node = compose(f"task={name}", words).config["task"]
    with pytest.raises(ValueError, match=words.partition("=")[0].replace(".", r"\.")) as caught:
        build(node)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_setting_is_refused(compose, name):
    node = compose(f"task={name}").config["task"] | {"batchsize": 3}
    with pytest.raises(ValueError, match="batchsize"):
        build(node)


def test_its_config_is_plain(compose, name):
    node = compose(f"task={name}").config["task"]
    assert json.loads(json.dumps(node)) == node


def test_its_bounded_loss_lies_in_0_1_and_can_be_followed(task):
    if task.head()["kind"] != "classification":
        assert not task.has_bounded_loss
        with pytest.raises(NotImplementedError, match=r"no loss in \[0, 1\]"):
            task.bounded_loss(outputs(task), {"labels": labels(task)})
        return
    assert task.has_bounded_loss
    batch, wrong = {"labels": labels(task)}, perfect(task)
    assert task.bounded_loss(wrong, batch).item() == pytest.approx(0.0, abs=1e-6)
    wrong.logits = wrong.logits.roll(1, dims=1)
    assert task.bounded_loss(wrong, batch).item() == pytest.approx(1.0)
    some = outputs(task)
    some.logits.requires_grad_()
    loss = task.bounded_loss(some, batch)
    assert 0 < loss.item() < 1
    assert torch.autograd.grad(loss, some.logits)[0].abs().sum() > 0
