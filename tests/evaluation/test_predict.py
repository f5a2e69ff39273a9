"""Predictions that sample from a posterior do not depend on how it was trained or batched."""

import pytest
import torch

from rlora.config.build import build
from rlora.evaluation.predict import Predictor
from rlora.runs.load import load_run

ROWS = [("good",), ("terrible",), ("so and so",)]
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
    together = predictor.answer(ROWS)
    for row, answer in zip(reversed(ROWS), reversed(together), strict=True):
        (alone,) = predictor.answer([row])
        assert answer["spread"]["positive"] > 0.001
        assert alone["spread"] == pytest.approx(answer["spread"], abs=1e-5)
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
