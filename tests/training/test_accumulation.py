"""Accumulated gradients equal those of one big batch: unequal micro-batches, windows, processes."""

import numpy as np
import pytest
import torch
from rich.console import Console

from recorded_gradients import recorded, still
from rlora.config.job import Job
from rlora.records.record import read_record
from rlora.runs import weights
from rlora.runs.assemble import assemble
from rlora.runs.console import quieten
from rlora.runs.plan import resolve
from rlora.training.averages import GradientWindow

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")
ROWS = 16


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Folder of an E2E set with 16 texts of 6 to 489 tokens, which are bytes."""
    folder = tmp_path_factory.mktemp("e2e")
    words = np.linspace(5, 488, ROWS).astype(int)
    rows = [f"name[A{i % 10}],{'abcd efgh '[i % 7 :] * 60}"[: 9 + n] for i, n in enumerate(words)]
    splits = {"trainset": rows, "devset": rows[:2], "testset_w_refs": rows[:2]}
    for file, lines in splits.items():
        (folder / f"{file}.csv").write_text("\n".join(["mr,ref", *lines, ""]))
    return folder


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Folder of an STS-B set with 16 training rows."""
    folder = tmp_path_factory.mktemp("glue")
    (folder / "STS-B").mkdir()
    lines = [f"the {'first ' * (i % 5)}text {i}\ttext {i}\t{i % 6}.5" for i in range(ROWS)]
    for file in ("train", "dev"):
        content = "\n".join(["sentence1\tsentence2\tscore", *lines, ""])
        (folder / "STS-B" / f"{file}.tsv").write_text(content.replace("5.5", "5.0"))
    return folder


@pytest.fixture
def overrides(texts, scores, small_lexicon, cache):
    """Overrides of each kind of task, with 16 training rows."""
    quiet = ("trainer=cpu", "trainer.enable_progress_bar=false", f"paths.cache='{cache}'")
    language = (*quiet, *still("tiny_decoder"), "task=e2e", "task.max_length=510")
    language = (*language, f"task.path='{texts}'")
    encoder = (*quiet, *still("tiny_encoder"))
    lexicon = ("task=lexicon", f"task.path='{small_lexicon}'", f"task.train_size={ROWS}")
    regression = ("task=stsb", f"task.path='{scores}'", "task.validation=dev")
    return {
        "texts": language,
        "packed": (*language, "task.packing=true"),
        "classification": (*encoder, *lexicon),
        "regression": (*encoder, *regression),
    }


@pytest.fixture
def parts(compose, overrides, tmp_path):
    """Function (kind, batch_size, micro_batches, *more): the parts of a run."""
    quieten()

    def make(kind, batch_size, micro_batches, *more):
        sizes = (f"task.batch_size={batch_size}", f"task.eval_batch_size={batch_size}")
        window = f"trainer.accumulate_grad_batches={micro_batches}"
        words = [*overrides[kind], *sizes, window, *more]
        composed = compose(*words, folder=tmp_path)
        plan = resolve(composed.config, Job(tmp_path, composed.choices, words))
        return assemble(plan, Console(quiet=True))

    return make


@pytest.fixture
def gradients(parts):
    """Function (kind, batch_size, micro_batches): targets and gradient of every step."""
    return lambda *arguments: recorded(parts(*arguments))


def assert_same_gradient(ours, expected):
    cosine = torch.nn.functional.cosine_similarity(ours.double(), expected.double(), dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-6)
    assert ours.norm().item() == pytest.approx(expected.norm().item(), rel=1e-5)


KINDS = ["texts", "packed", "classification", "regression"]


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_equal_the_big_batch(gradients, kind):
    [(targets, expected)] = gradients(kind, ROWS, 1)
    [(accumulated, ours)] = gradients(kind, 4, 4)
    assert accumulated == targets
    assert_same_gradient(ours, expected)


@pytest.mark.parametrize("kind", ["texts", "classification"])
def test_an_incomplete_last_window_averages_over_its_own_targets(gradients, kind):
    [(targets, expected)] = gradients(kind, ROWS, 1)
    steps = gradients(kind, 3, 4)  # windows of 12 and 4 rows; the last micro-batch has one row
    assert len(steps) == 2
    assert sum(count for count, _ in steps) == targets
    # without steps between them, the windows together are the big batch
    assert_same_gradient(sum(count / targets * gradient for count, gradient in steps), expected)
    assert steps[1][1].norm() > expected.norm() / 2


@pytest.mark.parametrize("kind", ["texts", "classification"])
def test_a_penalty_counts_once_per_step(gradients, kind, monkeypatch):
    def objective(self, step, loss, bounded):
        return loss + sum(p.square().sum() for p in self.trained)

    def prepare(self, model, parameters, num_examples):
        self.trained = [p for group in parameters.values() for p in group.values()]

    monkeypatch.setattr("rlora.regularizers.none.NoRegularizer.objective", objective)
    monkeypatch.setattr("rlora.regularizers.none.NoRegularizer.prepare", prepare)
    [(_, expected)] = gradients(kind, ROWS, 1)
    assert_same_gradient(gradients(kind, 5, 4)[0][1], expected)


def test_equal_micro_batches_keep_every_bit(gradients, monkeypatch):
    ours = gradients("classification", 4, 2)
    monkeypatch.setattr(GradientWindow, "weighted", lambda self, loss, *_: loss)
    monkeypatch.setattr(GradientWindow, "correct", lambda *_: None)
    theirs = gradients("classification", 4, 2)
    assert len(ours) == 2
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_clipping_sees_the_gradient_of_the_big_batch(parts):
    trained = []
    for batch, micro_batches in ((ROWS, 1), (4, 4)):
        options = ("trainer.gradient_clip_val=1e-3", "optimizer.lr=0.1", "optimizer.eps=1e-3")
        made = parts("texts", batch, micro_batches, *options)
        made.trainer.fit(made.module)
        members = made.module.parameter_groups()["adapter"].values()
        trained.append(torch.cat([p.detach().flatten() for p in members]))
    # eps is far above the clipped gradients, so that the step is proportional to them
    assert torch.allclose(*trained, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["texts", "classification"])
def test_the_recorded_loss_does_not_depend_on_the_batch_size(parts, kind):
    rows = []
    for size in (ROWS, 3):
        made = parts(kind, size, 1)
        made.trainer.fit(made.module)
        rows.append(made.recorder.history[0])
    for key in ("train/loss", "validation/loss"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-5)


def test_two_processes_equal_the_big_batch(gradients, overrides, processes_of, tmp_path):
    [(targets, expected)] = gradients("texts", ROWS, 1)
    file = tmp_path / "gradients.pt"
    sizes = ("task.batch_size=4", "trainer.accumulate_grad_batches=2")
    script = ("tests/recorded_gradients.py", str(tmp_path), str(file))
    for process in processes_of(2, *script, *overrides["texts"], *sizes):
        assert process.returncode == 0, process.stdout
    [(counted, ours)] = torch.load(file, weights_only=True)
    assert counted < targets  # the rest is on the other process
    assert_same_gradient(ours, expected)


def test_more_processes_than_evaluation_batches(overrides, processes_of, parts, tmp_path):
    """Two of three processes have no row to score; correlations gather predictions of all rows."""
    sizes = ("task.batch_size=4", "task.eval_batch_size=64", f"paths.outputs='{tmp_path}'")
    run = tmp_path / "run"
    folder = (f"hydra.run.dir='{run}'", "callbacks=progress")
    for process in processes_of(3, "train.py", *overrides["regression"], *sizes, *folder):
        assert process.returncode == 0, process.stdout
    scores = read_record(run).scores
    assert {"validation/pearson", "test/spearman", "test/loss"} <= set(scores)
    alone = parts("regression", 64, 1, "train=false", f"ckpt_path='{run}'")
    weights.load(alone)
    [expected] = alone.trainer.test(alone.module, verbose=False)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-5)


def test_more_processes_than_training_batches_are_refused(overrides, processes_of, tmp_path):
    sizes = ("task.batch_size=12", f"paths.outputs='{tmp_path}'")
    for process in processes_of(2, "train.py", *overrides["classification"], *sizes):
        assert process.returncode == 1
        [error] = [line for line in process.stdout.splitlines() if line.startswith("error:")]
        assert "task.batch_size=12 on 2 processes needs 24 training examples" in error
