"""Predictions that sample from a posterior do not depend on how it was trained or batched."""

import pytest
import torch

from rlora.config.build import build
from rlora.evaluation.predict import PredictedRow, Predictor, RowScores, as_columns
from rlora.runs.load import load_run

WORDS = ("good", "terrible", "so and so")
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")


@pytest.fixture(scope="module", params=["per_step", "per_example", "none"])
def predictor(request, tiny_run, tmp_path_factory):
    """A predictor of a run with this noise."""
    folder = tmp_path_factory.mktemp(request.param)
    overrides = ["adapter=rlora", "regularizer=pac_bayes", "regularizer.sigma_head=0.1"]
    tiny_run(*overrides, f"regularizer.noise={request.param}", folder=folder)
    run = load_run(folder)
    task = build(run.config["task"])
    return Predictor(
        run.backbone, run.adapters, task, torch.device("cpu"), posterior=run.posterior, draws=8
    )


def test_samples_differ_and_are_the_same_for_every_batching(predictor):
    rows = list(predictor.check([(f"line {word}", {"text": word}) for word in WORDS]))
    together = predictor.answer(rows)
    for row, answer in zip(reversed(rows), reversed(together), strict=True):
        (alone,) = predictor.answer([row])
        assert answer["spread"]["positive"] > 0.001
        assert alone["spread"] == pytest.approx(answer["spread"], abs=1e-5)
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


@pytest.mark.parametrize(("name", "reason"), [("lexicon", "has no posterior"), ("e2e", "has no")])
def test_draws_without_a_posterior_over_a_classifier_are_refused(build_task, name, reason):
    with pytest.raises(ValueError, match=f"draws=4 has no effect, because the run {reason}"):
        Predictor(None, None, build_task(name), torch.device("cpu"), draws=4)


def test_a_task_that_predicts_nothing_is_refused(build_task):
    with pytest.raises(ValueError, match="run has the task e2e_text, which neither"):
        Predictor(None, None, build_task("e2e_text"), torch.device("cpu"))


def test_a_generation_task_samples_no_posterior(build_task):
    with pytest.raises(ValueError, match="generates texts by its mean"):
        Predictor(None, None, build_task("e2e"), torch.device("cpu"), posterior=object(), draws=4)


@pytest.mark.parametrize(
    ("name", "row", "columns"),
    [
        ("e2e", {"MR": "a", " Ref": "b"}, ["mr", "ref"]),  # the official testset.csv has MR
        ("gsm8k", {"Question": "a", "Answer": "b"}, ["question", "answer"]),
        ("stsb", {"Sentence1": "a", "SENTENCE2 ": "b", "Score": "1"}, None),
        ("mrpc", {"#1 string": "a", "#2 String": "b", "quality": "1"}, None),
        ("lexicon", {"Text": "a", "text": "b", "LABEL": ""}, ["Text", "text", "label"]),
    ],
)
def test_case_and_blanks_of_columns_do_not_count(build_task, name, row, columns):
    known = build_task(name).row_columns
    assert list(as_columns(row, known)) == (list(known) if columns is None else columns)
    assert list(as_columns(row, known).values()) == list(row.values())


def test_an_undefined_score_has_a_reason(build_task):
    scores = RowScores(build_task("stsb"))
    scores.add(PredictedRow("in", {}, ("a", "b"), 1.0, None), {"prediction": 2.0})
    assert scores.text().startswith("scores of 1 labeled rows: pearson not computed (it is nan")


@pytest.mark.parametrize(
    ("name", "column"),
    [("lexicon", "label"), ("stsb", "score"), ("gsm8k", "answer"), ("e2e", "ref")],
)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_blank_label_is_none(build_task, name, column, value):
    assert build_task(name).row_target({column: value}, "in") is None
