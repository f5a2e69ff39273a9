"""Certificates of runs: with a prior without data, with a learned one, afterwards; and what is refused."""

import json

import pytest
import torch

from rlora.evaluation.certify import Certification, check_prior
from rlora.records.record import read_record
from rlora.regularizers.certificate import CertificateOptions
from rlora.regularizers.noise import sample_per_step

FEW = ["certificate.draws=200", "certificate.rows_per_draw=7", "certify=true"]
POSTERIOR = ["adapter.rank=2", "regularizer=pac_bayes"]
SPLIT = [*POSTERIOR, "regularizer.prior=split", "task.batch_size=10"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
    "ignore:Total length of `list`",
)


@pytest.fixture(scope="module")
def certified(tiny_run, tmp_path_factory):
    """The folder of a run with a learned prior and a certificate."""
    folder = tmp_path_factory.mktemp("certified")
    tiny_run(*SPLIT, *FEW, folder=folder)
    return folder


def test_the_report_is_complete_and_consistent(certified):
    found = read_record(certified).certificate
    assert 0 <= found["risk"] <= found["risk_upper"] <= found["bound"] <= 1
    assert found["rows"] == 30  # of 60, half are the prior's
    assert found["draws"] >= 200
    assert found["sampling"] == "one posterior sample per row"  # RLoRA and a linear head
    assert found["by_group"]["rows"] <= found["rows"]
    assert found["confidence"] == pytest.approx(0.965)
    assert found["baseline"]["rows"] == 30
    assert found["baseline"]["error"] < found["baseline"]["bound"]
    assert found["gap"] == found["bound"] - found["baseline"]["bound"]
    assert set(found["test"]["test"]) == {"mean", "posterior"}
    assert found["test"]["test"]["mean"] == pytest.approx(
        1 - read_record(certified).scores["test/accuracy"]
    )
    assert found["kl"] > 0
    assert found["prior_facts"]["kind"] == "learned"


def test_the_prior_is_a_run_of_its_own_on_the_other_part(certified):
    own, prior = read_record(certified), read_record(certified / "prior")
    assert (own.data["part"], prior.data["part"]) == ("rest", "prior")
    assert own.data["parts"] == prior.data["parts"]
    assert prior.run.regularizer == "none"
    assert prior.certificate is None
    assert (certified / "prior" / "adapter").is_dir()


def test_a_finished_run_is_certified_afterwards_with_the_same_numbers(
    certified, tiny_run, tmp_path
):
    tiny_run("train=false", f"ckpt_path='{certified}'", *FEW, folder=tmp_path)
    assert read_record(tmp_path).certificate == read_record(certified).certificate


def test_a_prior_without_data_certifies_all_rows_and_names_no_rival(tiny_run, tmp_path):
    tiny_run(*POSTERIOR, "adapter=lora", *FEW, "certificate.tune_sigma0=true", folder=tmp_path)
    found = read_record(tmp_path).certificate
    assert found["rows"] == 56  # of 60, in draws of seven
    assert found["sampling"] == "one posterior sample per 7 rows"
    assert found["draws"] >= 200
    assert "no predictor of this run is independent" in found["baseline"]["reason"]
    assert found["gap"] is None
    assert len(found["union_bound_terms"]) == 3


def test_a_prior_of_another_run_is_taken(certified, tiny_run, tmp_path):
    tiny_run(
        *POSTERIOR,
        f"regularizer.prior='{certified / 'prior'}'",
        "task.batch_size=10",
        *FEW,
        folder=tmp_path,
    )
    assert (
        read_record(tmp_path).certificate["baseline"]
        == read_record(certified).certificate["baseline"]
    )
    assert not (tmp_path / "prior").exists()


def test_a_finished_prior_is_not_learned_again(certified, tiny_run):
    before = (certified / "prior" / "results.json").stat().st_mtime_ns
    tiny_run(*SPLIT, *FEW, folder=certified)
    assert (certified / "prior" / "results.json").stat().st_mtime_ns == before


def test_the_risk_is_the_mean_error_of_its_draws(tiny_experiment, tmp_path):
    experiment = tiny_experiment(
        *POSTERIOR, "adapter=lora", "regularizer.sigma_head=0.5", folder=tmp_path
    )
    experiment.run()
    module, options = experiment.module, CertificateOptions(draws=8, rows_per_draw=15)
    trainer = experiment.trainer
    certification = Certification(
        module,
        options,
        device=torch.device("cpu"),
        precision=trainer.precision_plugin,
        console=experiment.console,
    )
    seeds = []
    drawn = certification._sample
    certification._sample = lambda seed, examples: seeds.append(seed) or drawn(seed, examples)
    rows = torch.arange(60).numpy()
    found = certification.gibbs_risk("x", rows)
    assert (found.rows, found.draws) == (60, 8)
    assert len(set(seeds)) == 8
    losses = []
    for number in range(2):
        batches = module.task.certification_loader(certification_rows(module, rows), 15)
        for seed, batch in zip(seeds[4 * number :], batches, strict=False):
            with sample_per_step(module.regularizer.posterior, seed), torch.no_grad():
                wrong = module.task.decode(module(batch)) != batch["labels"]
            losses.append(wrong.double().mean().item())
    assert found.risk == pytest.approx(sum(losses) / 8)


def certification_rows(module, rows):
    import numpy as np

    return np.random.default_rng(module.seed).permutation(rows)


def test_a_prior_that_saw_the_examples_is_refused(tiny_run, tmp_path):
    tiny_run("adapter.rank=2", folder=tmp_path / "whole")
    with pytest.raises(
        ValueError,
        match=r"overlap those to be certified, .* \(it has part=None, this run part=rest",
    ):
        tiny_run(*POSTERIOR, f"regularizer.prior='{tmp_path / 'whole'}'", folder=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_rival_of_another_run_stands_in(certified, tiny_experiment, tmp_path):
    words = [
        *POSTERIOR,
        "task.part=rest",
        "task.batch_size=10",
        *FEW,
        f"certificate.baseline='{certified / 'prior'}'",
    ]
    experiment = tiny_experiment(*words, folder=tmp_path)
    experiment.run()
    found, learned = read_record(tmp_path).certificate, read_record(certified).certificate
    assert found["prior_facts"]["kind"] == "start"
    assert {**found["baseline"], "predictor": ""} == {**learned["baseline"], "predictor": ""}
    assert found["gap"] == found["bound"] - found["baseline"]["bound"]
    own = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    state = experiment.module.state_dict()
    assert all(torch.equal(state[key], value) for key, value in own.items()), (
        "the run's own numbers are back"
    )


def test_a_rival_that_saw_the_examples_is_refused(tiny_run, tmp_path):
    tiny_run("adapter.rank=2", folder=tmp_path / "whole")
    with pytest.raises(
        ValueError, match="the baseline was learned on examples that overlap those to be certified"
    ):
        tiny_run(
            *POSTERIOR,
            *FEW,
            f"certificate.baseline='{tmp_path / 'whole'}'",
            folder=tmp_path / "run",
        )
    with pytest.raises(
        ValueError,
        match=r"certificate\.baseline=nowhere is invalid: expected the folder of a finished run",
    ):
        tiny_run(*POSTERIOR, *FEW, "certificate.baseline=nowhere", folder=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


class Rows:
    """A task as far as the check looks at it."""

    def __init__(self, part="rest", rest="b", shared=0):
        self.facts, self.shared = {"part": part, "parts": {"prior": "a", "rest": rest}}, shared

    def describe(self):
        return self.facts

    def train_rows_in_validation(self):
        return self.shared


def test_a_prior_must_come_from_the_same_division_and_be_chosen_elsewhere():
    learned = {"kind": "learned", "part": "prior", "parts": {"prior": "a", "rest": "b"}}
    check_prior(Rows(), learned)
    check_prior(Rows(part=None, shared=9), {"kind": "start"})
    with pytest.raises(ValueError, match="another split"):
        check_prior(Rows(rest="c"), learned)
    with pytest.raises(ValueError, match="contains 3 of the rows to be certified"):
        check_prior(Rows(shared=3), learned)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["certify=true"], "certify=true is invalid: expected a run that learns a posterior"),
        ([*SPLIT, "task.part=prior"], r"task\.part=prior is invalid with regularizer\.prior=split"),
        ([*SPLIT, "task.shots=4"], r"task\.part=prior and task\.shots=4 each choose"),
        (
            [*POSTERIOR, "regularizer.prior=nowhere"],
            r"regularizer\.prior=nowhere is invalid: expected start, split or the folder of a finished run",
        ),
        ([*POSTERIOR, "certify=true", "certificate.draws=0"], r"certificate\.draws=0"),
        ([*SPLIT, "task.prior_fraction=0.001"], r"leave no rows for prior"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_training(words, told, tiny_run, tmp_path):
    with pytest.raises(ValueError, match=told):
        tiny_run(*words, folder=tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_a_task_without_0_1_loss_is_refused(tiny_run, tmp_path, monkeypatch):
    from rlora.tasks.lexicon import Lexicon

    monkeypatch.setattr(Lexicon, "has_bounded_loss", False)
    with pytest.raises(ValueError, match="expected classification, whose 0-1 loss is bounded"):
        tiny_run(*POSTERIOR, "regularizer.objective=elbo", "certify=true", folder=tmp_path)


def test_another_models_posterior_is_refused(certified, tiny_run, tmp_path):
    file = certified / "adapter" / "regularizer.safetensors"
    content = file.read_bytes()
    words = ["train=false", f"ckpt_path='{certified}'", *FEW]
    try:
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="is damaged or cut short"):
            tiny_run(*words, folder=tmp_path / "cut")
        file.unlink()
        with pytest.raises(ValueError, match="was trained without this regularizer"):
            tiny_run(*words, folder=tmp_path / "gone")
    finally:
        file.write_bytes(content)
    card = json.loads((certified / "adapter" / "adapter.json").read_text())
    assert card["prior_facts"]["part"] == "prior"
