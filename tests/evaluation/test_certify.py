"""Certificates of runs: with a prior of the start values, with a learned one, after training."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

from rlora.evaluation.certify import Certification, check_prior, print_certificate
from rlora.records.record import read_record
from rlora.regularizers.base import Regularizer
from rlora.regularizers.certificate import CertificateOptions
from rlora.regularizers.noise import sample_per_step
from rlora.regularizers.posterior import GaussianPosterior

CERTIFY = ["certificate.draws=100", "certificate.rows_per_draw=7", "certify=true"]
POSTERIOR = ["adapter.rank=2", "regularizer=pac_bayes"]
SPLIT = [*POSTERIOR, "regularizer.prior=split", "task.batch_size=10"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:The number of training batches",
    "ignore:The dirpath has changed",
    "ignore:Total length of `list`",
)


@pytest.fixture(scope="module")
def certified(tiny_run, tmp_path_factory):
    """Folder of a run with a learned prior and a certificate."""
    folder = tmp_path_factory.mktemp("certified")
    tiny_run(*SPLIT, *CERTIFY, folder=folder)
    return folder


@pytest.fixture(scope="module")
def overlapping(tiny_run, tmp_path_factory):
    """Folder of a run on the whole training set."""
    folder = tmp_path_factory.mktemp("overlapping")
    tiny_run("adapter.rank=2", folder=folder)
    return folder


def test_the_report_is_complete_and_consistent(certified):
    certificate = read_record(certified).certificate
    assert 0 <= certificate["risk"] <= certificate["risk_upper"] <= certificate["bound"] <= 1
    assert certificate["rows"] == 30  # the other half of the 60 belongs to the prior
    assert certificate["draws"] >= 100
    assert certificate["sampling"] == "one posterior sample per row"  # RLoRA and a linear head
    assert certificate["by_group"]["rows"] <= certificate["rows"]
    assert certificate["confidence"] == pytest.approx(0.965)
    assert certificate["baseline"]["rows"] == 30
    assert certificate["baseline"]["error"] < certificate["baseline"]["bound"]
    assert certificate["gap"] == certificate["bound"] - certificate["baseline"]["bound"]
    assert set(certificate["test"]["test"]) == {"mean", "posterior"}
    assert certificate["test"]["test"]["mean"] == pytest.approx(
        1 - read_record(certified).scores["test/accuracy"]
    )
    assert certificate["kl"] > 0
    assert certificate["prior_facts"]["kind"] == "learned"


def test_the_prior_is_a_separate_run_on_the_other_part(certified):
    posterior, prior = read_record(certified), read_record(certified / "prior")
    assert (posterior.data["part"], prior.data["part"]) == ("rest", "prior")
    assert posterior.data["parts"] == prior.data["parts"]
    assert prior.run.regularizer == "none"
    assert prior.certificate is None
    assert (certified / "prior" / "adapter").is_dir()


def test_certifying_a_finished_run_gives_the_same_numbers(certified, tiny_run, tmp_path):
    tiny_run("train=false", f"ckpt_path='{certified}'", *CERTIFY, folder=tmp_path)
    assert read_record(tmp_path).certificate == read_record(certified).certificate


def test_with_a_prior_of_the_start_values_all_rows_are_certified_without_a_baseline(
    tiny_run, tmp_path
):
    tiny_run(*POSTERIOR, "adapter=lora", *CERTIFY, "certificate.tune_sigma0=true", folder=tmp_path)
    certificate = read_record(tmp_path).certificate
    assert certificate["rows"] == 56  # of 60, seven rows per sample
    assert certificate["sampling"] == "one posterior sample per 7 rows"
    assert certificate["draws"] >= 100
    assert "no predictor of this run is independent" in certificate["baseline"]["reason"]
    assert certificate["gap"] is None
    assert len(certificate["union_bound_terms"]) == 3


def test_the_prior_of_another_run_can_be_used(certified, tiny_run, tmp_path):
    tiny_run(
        *POSTERIOR,
        f"regularizer.prior='{certified / 'prior'}'",
        "task.batch_size=10",
        *CERTIFY,
        folder=tmp_path,
    )
    assert (
        read_record(tmp_path).certificate["baseline"]
        == read_record(certified).certificate["baseline"]
    )
    assert not (tmp_path / "prior").exists()


def test_a_finished_prior_is_not_trained_again(certified, tiny_run):
    before = (certified / "prior" / "results.json").stat().st_mtime_ns
    tiny_run(*SPLIT, *CERTIFY, folder=certified)
    assert (certified / "prior" / "results.json").stat().st_mtime_ns == before


def test_the_risk_is_the_mean_error_of_the_samples(tiny_execution, tmp_path):
    parts, _ = tiny_execution(
        *POSTERIOR, "adapter=lora", "regularizer.sigma_head=0.5", folder=tmp_path
    )
    module, options = parts.module, CertificateOptions(draws=8, rows_per_draw=15)
    trainer = parts.trainer
    certification = Certification(
        module,
        options,
        device=torch.device("cpu"),
        precision=trainer.precision_plugin,
        console=parts.console,
    )
    seeds = []
    sample = certification._sample
    certification._sample = lambda seed, examples: seeds.append(seed) or sample(seed, examples)
    rows = torch.arange(60).numpy()
    gibbs = certification.gibbs_risk("x", rows)
    assert (gibbs.rows, gibbs.draws) == (60, 8)
    assert len(set(seeds)) == 8
    losses = []
    for number in range(2):
        batches = module.task.certification_loader(certification_rows(module, rows), 15)
        for seed, batch in zip(seeds[4 * number :], batches, strict=False):
            with sample_per_step(module.regularizer.posterior, seed), torch.no_grad():
                wrong = module.task.decode(module(batch)) != batch["labels"]
            losses.append(wrong.double().mean().item())
    assert gibbs.risk == pytest.approx(sum(losses) / 8)


def certification_rows(module, rows):
    return np.random.default_rng(module.seed).permutation(rows)


def test_a_prior_that_saw_the_examples_is_refused(overlapping, tiny_run, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"overlap those to be certified, .* \(it has part=None, this run part=rest",
    ):
        tiny_run(*POSTERIOR, f"regularizer.prior='{overlapping}'", folder=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def test_another_run_can_be_the_baseline(certified, tiny_execution, tmp_path):
    overrides = [
        *POSTERIOR,
        "task.part=rest",
        "task.batch_size=10",
        *CERTIFY,
        f"certificate.baseline='{certified / 'prior'}'",
    ]
    parts, _ = tiny_execution(*overrides, folder=tmp_path)
    certificate = read_record(tmp_path).certificate
    learned = read_record(certified).certificate
    assert certificate["prior_facts"]["kind"] == "start"
    assert {**certificate["baseline"], "predictor": ""} == {**learned["baseline"], "predictor": ""}
    assert certificate["gap"] == certificate["bound"] - certificate["baseline"]["bound"]
    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    state = parts.module.state_dict()
    assert all(torch.equal(state[key], value) for key, value in saved.items()), (
        "the parameters of the run are not restored"
    )


def test_a_baseline_that_saw_the_examples_is_refused(overlapping, tiny_run, tmp_path):
    with pytest.raises(
        ValueError, match="the baseline was learned on examples that overlap those to be certified"
    ):
        tiny_run(
            *POSTERIOR,
            *CERTIFY,
            f"certificate.baseline='{overlapping}'",
            folder=tmp_path / "run",
        )
    with pytest.raises(
        ValueError,
        match=r"certificate\.baseline=nowhere is invalid: expected the folder of a finished run",
    ):
        tiny_run(*POSTERIOR, *CERTIFY, "certificate.baseline=nowhere", folder=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


class PartsTask:
    """The part of a task that `check_prior` reads."""

    def __init__(self, part="rest", rest="b", shared=0):
        self.facts, self.shared = {"part": part, "parts": {"prior": "a", "rest": rest}}, shared

    def describe(self):
        return self.facts

    def train_rows_in_validation(self):
        return self.shared


def test_a_prior_must_come_from_the_same_split_and_other_validation_rows():
    learned = {"kind": "learned", "part": "prior", "parts": {"prior": "a", "rest": "b"}}
    check_prior(PartsTask(), learned)
    check_prior(PartsTask(part=None, shared=9), {"kind": "start"})
    with pytest.raises(ValueError, match="another split"):
        check_prior(PartsTask(rest="c"), learned)
    with pytest.raises(ValueError, match="contains 3 of the rows to be certified"):
        check_prior(PartsTask(shared=3), learned)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["certify=true"], "certify=true is invalid: expected a run that learns a posterior"),
        ([*SPLIT, "task.part=prior"], r"task\.part=prior is invalid with regularizer\.prior=split"),
        ([*SPLIT, "task.shots=4"], r"task\.part=rest and task\.shots=4 each choose"),
        (
            [*POSTERIOR, "regularizer.prior=nowhere"],
            r"regularizer\.prior=nowhere is invalid: expected start, split or the folder",
        ),
        ([*POSTERIOR, "certify=true", "certificate.draws=0"], r"certificate\.draws=0"),
        ([*SPLIT, "task.prior_fraction=0.001"], r"leave no rows for prior"),
    ],
)
def test_invalid_certificates_are_refused_before_training(overrides, message, tiny_run, tmp_path):
    with pytest.raises(ValueError, match=message):
        tiny_run(*overrides, folder=tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_a_task_without_0_1_loss_is_refused(tiny_run, tmp_path, monkeypatch):
    from rlora.tasks.lexicon import Lexicon

    monkeypatch.setattr(Lexicon, "has_bounded_loss", False)
    with pytest.raises(ValueError, match="expected classification, whose 0-1 loss is bounded"):
        tiny_run(*POSTERIOR, "regularizer.objective=elbo", "certify=true", folder=tmp_path)


def test_a_damaged_or_missing_posterior_is_refused(certified, tiny_run, tmp_path):
    file = certified / "adapter" / "regularizer.safetensors"
    content = file.read_bytes()
    overrides = ["train=false", f"ckpt_path='{certified}'", *CERTIFY]
    try:
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="is damaged or cut short"):
            tiny_run(*overrides, folder=tmp_path / "cut")
        file.unlink()
        with pytest.raises(ValueError, match="was trained without this regularizer"):
            tiny_run(*overrides, folder=tmp_path / "gone")
    finally:
        file.write_bytes(content)
    manifest = json.loads((certified / "adapter" / "adapter.json").read_text())
    assert manifest["prior_facts"]["part"] == "prior"


class FixedSigma(Regularizer):
    """A posterior other than `PACBayes`: sigma stays at sigma0 and only the means train."""

    is_posterior = True

    def prepare(self, model, parameters, num_examples):
        self.posterior = GaussianPosterior(model, parameters, {"adapter": 0.01, "head": 0.01})
        self.posterior.requires_grad_(False)

    def perturbed(self, step):
        return sample_per_step(self.posterior, step.seed)

    def objective(self, step, loss, bounded):
        return loss


def test_any_regularizer_that_is_a_posterior_can_be_certified(tiny_run, tmp_path):
    target = f"regularizer._target_={__name__}.FixedSigma"
    tiny_run("adapter.rank=2", "regularizer=none", target, *CERTIFY, folder=tmp_path)
    certificate = read_record(tmp_path).certificate
    assert certificate["risk"] <= certificate["bound"] <= 1
    assert certificate["kl"] > 0
    assert (tmp_path / "adapter" / "regularizer.safetensors").is_file()


def test_the_printed_table_names_every_quantity(certified):
    console = Console(record=True, width=200)
    print_certificate(read_record(certified).certificate, console)
    text = console.export_text()
    for label in ("risk bound", "confidence", "posterior risk", "KL", "union-bound terms",
                  "held-out baseline", "gap", "dev error", "assumption"):  # fmt: skip
        assert f" {label}" in text
