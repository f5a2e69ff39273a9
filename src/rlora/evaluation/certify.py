"""Certificate of a trained posterior: checks of the examples, sampling over them, the report."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.precision import Precision
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from rlora.adapters import checkpoint
from rlora.data.batch import Batch, to_device
from rlora.data.disjoint_parts import PRIOR, REST, one_row_per_group
from rlora.evaluation import prior_run
from rlora.regularizers.base import PriorFacts
from rlora.regularizers.certificate import (
    CertificateOptions,
    GibbsRisk,
    baseline_bound,
    kl_and_terms,
    risk_bound,
)
from rlora.regularizers.noise import sample_per_example, sample_per_step, supports_per_example
from rlora.regularizers.posterior import GaussianPosterior
from rlora.tasks.base import Task
from rlora.training.module import FineTuning

NO_BASELINE = (
    "the prior is the start values, so no predictor of this run is independent of these examples; "
    "set certificate.baseline to the folder of a run with task.part=prior, and task.part=rest here"
)
ASSUMPTION = (
    "the certified rows are independent samples from one distribution; by_group uses one row of "
    "each group"
)


def check(module: FineTuning, options: CertificateOptions) -> None:
    """Check that a run can be certified, before any work is done.

    Raises:
        ValueError: no posterior, no 0-1 loss, or the baseline saw the rows to be certified.
    """
    if not module.regularizer.is_posterior:
        raise ValueError(
            "certify=true is invalid: expected a run that learns a posterior; set "
            "regularizer=pac_bayes"
        )
    if not module.task.has_bounded_loss:
        raise ValueError(
            f"certify=true is invalid for task={module.task.name}: expected classification, whose "
            "0-1 loss is bounded; set certify=false"
        )
    if options.baseline is not None:
        folder = Path(options.baseline).expanduser()
        facts = prior_run.read_facts(folder, module.run_config, "certificate.baseline")
        check_prior(module.task, facts, "baseline")


def check_prior(task: Task, facts: PriorFacts, name: str = "prior") -> None:
    """Check that a prior or baseline is independent of the examples to be certified.

    Args:
        task: Task whose training rows are certified. Its `describe` returns the chosen `part` and
            the digests of all `parts`.
        facts: How the prior or baseline was made.
        name: "prior" or "baseline", for error messages.

    Raises:
        ValueError: it was learned or selected on rows that overlap, or may overlap, the certified
            ones.
    """
    if facts["kind"] == "start":
        return
    data = task.describe()
    if shared := task.train_rows_in_validation():
        raise ValueError(
            f"the {name}'s epoch was chosen on the validation set, which contains {shared} of the "
            "rows to be certified; set task.validation=train to keep them apart"
        )
    same_split = facts["parts"] == data.get("parts")
    if (facts["part"], data.get("part")) != (PRIOR, REST) or not same_split:
        raise ValueError(
            f"the {name} was learned on examples that overlap those to be certified, or may do so: "
            "expected a run with task.part=prior, and task.part=rest of the same split here (it "
            f"has part={facts['part']}, this run part={data.get('part')}, of "
            f"{'the same' if same_split else 'another'} split)"
        )


class Certification:
    """Estimates and bounds the risk of a posterior on a task's training rows.

    Args:
        module: The trained module; its regularizer is a posterior.
        options: Confidence and number of samples.
        device: Device of the forward passes.
        precision: The trainer's precision, for the dtype of the forward passes.
        console: Shows progress.
    """

    def __init__(
        self,
        module: FineTuning,
        options: CertificateOptions,
        *,
        device: torch.device,
        precision: Precision,
        console: Console,
    ) -> None:
        self.module, self.task = module.to(device).eval(), module.task
        self.options, self.console = options, console
        self.device, self.precision = device, precision
        self.posterior: GaussianPosterior = module.regularizer.posterior
        self.prior_facts = module.regularizer.prior_facts
        self.per_example = supports_per_example(self.posterior)

    def certificate(self) -> dict[str, Any]:
        """Return all numbers of the report; see `risk_bound` and `baseline_bound`."""
        check_prior(self.task, self.prior_facts)
        kl, terms = kl_and_terms(self.posterior, self.options)
        rows = np.arange(self.task.num_train_examples)
        gibbs = self.gibbs_risk("certified rows", rows)
        # rows of one group (phrases of a sentence) are dependent; one of each is closer to i.i.d.
        group_rows = one_row_per_group(self.task.train_groups(), self.module.seed)
        group_gibbs = gibbs
        if len(group_rows) != len(rows):
            group_gibbs = self.gibbs_risk("one row of each group", group_rows)
        bound = risk_bound(gibbs, kl, terms, self.options)
        baseline = self._baseline(rows)
        tests = self.task.test_loaders()
        sampling = "row" if self.per_example else f"{self.options.rows_per_draw} rows"
        return {
            **asdict(bound),
            "by_group": asdict(risk_bound(group_gibbs, kl, terms, self.options)),
            "kl": kl,
            "union_bound_terms": [asdict(term) for term in terms],
            "confidence": 1 - self.options.delta - self.options.delta_mc,
            "options": asdict(self.options),
            "sampling": f"one posterior sample per {sampling}",
            "baseline": baseline,
            "gap": bound.bound - baseline["bound"] if "bound" in baseline else None,
            "test": {name: self._test_errors(name, loader) for name, loader in tests.items()},
            "assumption": ASSUMPTION,
            "prior_facts": self.prior_facts,
        }

    def gibbs_risk(self, label: str, rows: NDArray[np.int64]) -> GibbsRisk:
        """Estimate the posterior risk on some rows, in passes until there are enough samples.

        If the model supports one sample per row, the losses of all rows are independent, each with
        its own mean. Then m = rows x passes. Otherwise `rows_per_draw` rows share a sample, and
        their mean loss is one of the m independent losses. Rows that do not fill a batch are
        dropped at random beforehand, so that all means have equal weight.
        """
        size = 1 if self.per_example else min(self.options.rows_per_draw, len(rows))
        if not self.per_example:
            order = np.random.default_rng(self.module.seed).permutation(rows)
            rows = order[: len(rows) // size * size]
        passes = -(-self.options.draws // (len(rows) // size))
        loader = self.task.certification_loader(rows, None if self.per_example else size)
        errors = 0
        for number in range(passes):
            title = f"{label}, pass {number + 1} of {passes}"
            errors += self._sampled_errors(title, loader, label, number)
        return GibbsRisk(errors / (passes * len(rows)), len(rows), passes * len(rows) // size)

    def _sampled_errors(self, title: str, loader: DataLoader[Any], label: str, number: int) -> int:
        """Count errors over a loader with a new posterior sample for each batch."""
        errors = 0
        for index, batch in enumerate(self._track(loader, title)):
            # the seed depends on label, pass and batch: no sample occurs twice, reruns agree
            seed = _seed(self.module.seed, label, number, index)
            with self._sample(seed, len(batch["labels"])):
                errors += int(self._wrong(batch).sum())
        return errors

    def _sample(self, seed: int, examples: int) -> AbstractContextManager[None]:
        if self.per_example:
            return sample_per_example(self.posterior, seed, examples)
        return sample_per_step(self.posterior, seed)

    def _baseline(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        parameters: AbstractContextManager[None]
        if self.options.baseline is not None:
            predictor = self.options.baseline
            parameters = self._parameters_of(Path(predictor).expanduser())
        elif self.prior_facts["kind"] == "learned":
            predictor, parameters = "the prior mean", self.posterior.at_prior_mean()
        else:
            return {"reason": NO_BASELINE}
        with parameters:
            errors = self._errors("baseline", self.task.certification_loader(rows, None))
        return {
            "predictor": f"{predictor}, which never trained on these rows",
            **baseline_bound(errors, len(rows), self.options),
        }

    @contextmanager
    def _parameters_of(self, folder: Path) -> Iterator[None]:
        """Replace the trainable parameters by those of another run."""
        adapters = self.module.adapter_set
        trained = [*adapters.adapter_parameters().values(), *adapters.head_parameters().values()]
        saved = [parameter.detach().clone() for parameter in trained]
        fingerprint = self.module.compatibility["backbone"]
        checkpoint.load(adapters, folder / "adapter", fingerprint=fingerprint)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(trained, saved, strict=True):
                    parameter.copy_(value)

    def _test_errors(self, name: str, loader: DataLoader[Any]) -> dict[str, float]:
        """Return error rates of the posterior mean and of posterior samples."""
        size = len(loader.dataset)  # type: ignore[arg-type]
        sampled = self._sampled_errors(f"{name}, posterior samples", loader, name, 0)
        return {"mean": self._errors(name, loader) / size, "posterior": sampled / size}

    def _errors(self, title: str, loader: DataLoader[Any]) -> int:
        return sum(int(self._wrong(batch).sum()) for batch in self._track(loader, title))

    def _track(self, loader: DataLoader[Any], title: str) -> Iterable[Batch]:
        hide = not self.console.is_terminal  # a file would get an empty line from every bar
        return track(loader, title, console=self.console, transient=True, disable=hide)

    @torch.no_grad()
    def _wrong(self, batch: Batch) -> Tensor:
        """Return whether each row is misclassified, (B,)."""
        batch = to_device(batch, self.device)
        with self.precision.forward_context():
            outputs = self.module(batch)
        return self.task.decode(outputs) != batch["labels"]


def certify(
    module: FineTuning, trainer: L.Trainer, options: CertificateOptions, console: Console
) -> dict[str, Any]:
    """Certify a trained posterior, print the report and return it; see `Certification`."""
    certificate = Certification(
        module,
        options,
        device=trainer.strategy.root_device,
        precision=trainer.precision_plugin,
        console=console,
    ).certificate()
    print_certificate(certificate, console)
    return certificate


def _seed(*parts: int | str) -> int:
    digest = hashlib.sha256(repr(("certificate", *parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def print_certificate(certificate: dict[str, Any], console: Console) -> None:
    """Print the certificate as a table."""
    table = Table(title="PAC-Bayes certificate of the 0-1 risk", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, text in _lines(certificate):
        table.add_row(label, text)
    console.print(table)


def _lines(certificate: dict[str, Any]) -> list[tuple[str, str]]:
    baseline, by_group = certificate["baseline"], certificate["by_group"]
    terms = ", ".join(
        f"{term['nats']:.2f} nats ({term['choice']})" for term in certificate["union_bound_terms"]
    )
    baseline_text = baseline.get("reason") or (
        f"{baseline['bound']:.4f}, Clopper-Pearson (error {baseline['error']:.4f} on "
        f"{baseline['rows']:,} rows; {baseline['predictor']})"
    )
    risk = f"{certificate['risk']:.4f}, at most {certificate['risk_upper']:.4f}"
    gap = certificate["gap"]
    lines = [
        ("risk bound", f"{certificate['bound']:.4f}"),
        ("confidence", f"{100 * certificate['confidence']:.1f} %"),
        ("posterior risk", f"{risk} by {certificate['draws']:,} posterior samples"),
        ("KL", f"{certificate['kl']:.2f} nats over {certificate['rows']:,} rows"),
        ("union-bound terms", terms),
        ("bound, one row per group", f"{by_group['bound']:.4f} ({by_group['rows']:,} rows)"),
        ("held-out baseline", baseline_text),
        *([] if gap is None else [("gap: bound - baseline", f"{gap:+.4f}")]),
    ]
    for name, errors in certificate["test"].items():
        text = f"{errors['mean']:.4f} (posterior mean), {errors['posterior']:.4f} (samples)"
        lines.append((f"dev error ({name})", text))
    return [*lines, ("assumption", certificate["assumption"])]
