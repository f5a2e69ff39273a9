"""The certificate of a trained posterior: which examples may be certified, the draws over them, and the report."""

import hashlib
from collections.abc import Iterator
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
from rlora.data.disjoint_parts import one_of_each
from rlora.evaluation import prior_run
from rlora.regularizers.certificate import (
    CertificateOptions,
    GibbsRisk,
    bound_of,
    divergence_of,
    rival_of,
)
from rlora.regularizers.noise import check_draws_for_each, draw_for_each, one_draw
from rlora.regularizers.pac_bayes import PACBayes
from rlora.regularizers.posterior import GaussianPosterior
from rlora.tasks.base import Task
from rlora.training.module import FineTuning

NO_RIVAL = (
    "with a prior of the start values no predictor is at hand that never saw these examples: give the folder of one "
    "trained on task.part=prior as certificate.rival, and train the posterior with task.part=rest"
)
ASSUMPTION = "the certified rows count as independent draws of one distribution; by_group takes one row of each group"


def check(module: FineTuning, options: CertificateOptions) -> None:
    """Refuse what cannot be certified, before any work is done.

    Raises:
        ValueError: no posterior, no 0-1 loss, or a rival that saw the rows.
    """
    if not isinstance(module.regularizer, PACBayes):
        raise ValueError(
            "certify=true needs a posterior, and this run has none: train it with regularizer=pac_bayes"
        )
    if not module.task.has_bounded_loss:
        raise ValueError(
            f"certify=true bounds the 0-1 loss of classification, which task={module.task.name} has not: leave it out"
        )
    if options.rival is not None:
        facts = prior_run.facts(
            Path(options.rival).expanduser(), module.run_config, "certificate.rival"
        )
        check_prior(module.task, facts, "rival")


def check_prior(task: Task, facts: dict[str, Any], name: str = "prior") -> None:
    """Refuse a prior, or a rival, that was learned, or chosen, on examples that are to be certified.

    Args:
        task: Whose training rows are to be certified; `describe` tells their `part` and the digests of all `parts`.
        facts: `kind` ("start" or "learned") and, of a learned one, what `rlora.evaluation.prior_run.facts` tells.
        name: What it is.

    Raises:
        ValueError: the rows overlap, or may do so.
    """
    if facts["kind"] == "start":
        return
    here = task.describe()
    if shared := task.train_rows_in_validation():
        raise ValueError(
            f"{shared} of the rows to be certified are rows of the validation set too, on which the {name}'s epoch was "
            "chosen: use task.validation=train, which keeps them apart"
        )
    if (facts["part"], here.get("part")) != ("prior", "rest") or facts["parts"] != here.get(
        "parts"
    ):
        raise ValueError(
            f"the {name} was learned on examples that overlap those to be certified, or may do so: it must come from "
            "task.part=prior and be certified on task.part=rest of the same division (there "
            f"part={facts['part']}, here part={here.get('part')}, "
            f"{'the same' if facts['parts'] == here.get('parts') else 'another'} division)"
        )


class Certification:
    """Draws from a posterior over a task's training rows.

    Args:
        module: The trained model.
        options: How certain, and how many draws.
        device: Where to compute.
        precision: The trainer's, for the dtype of the forward passes.
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
        self.module, self.task, self.options = module.to(device).eval(), module.task, options
        self.device, self.precision, self.console = device, precision, console
        regularizer = module.regularizer
        assert isinstance(regularizer, PACBayes)
        self.posterior: GaussianPosterior = regularizer.posterior
        self.own_draws = _can_draw_for_each(self.posterior)

    def certificate(self) -> dict[str, Any]:
        """All numbers of the report; see `bound_of` and `rival_of`."""
        check_prior(self.task, self.module.prior_facts)
        divergence, payments = divergence_of(self.posterior, self.options)
        rows = np.arange(self.task.num_train_examples)
        every = self.gibbs_risk("certified rows", rows)
        apart = one_of_each(self.task.train_groups(), self.module.seed)
        single = (
            every if len(apart) == len(rows) else self.gibbs_risk("one row of each group", apart)
        )
        bound = bound_of(every, divergence, payments, self.options)
        rival = self._rival(rows)
        return {
            **asdict(bound),
            "by_group": asdict(bound_of(single, divergence, payments, self.options)),
            "kl": divergence,
            "payments": [asdict(payment) for payment in payments],
            "confidence": 1 - self.options.delta - self.options.delta_mc,
            "options": asdict(self.options),
            "draw": "each row its own"
            if self.own_draws
            else f"one for {self.options.rows_per_draw} rows",
            "rival": rival,
            "gap": bound.bound - rival["bound"] if "bound" in rival else None,
            "test": {
                name: self._test_errors(name, loader)
                for name, loader in self.task.test_loaders().items()
            },
            "assumption": ASSUMPTION,
            "prior": self.module.prior_facts,
        }

    def gibbs_risk(self, label: str, rows: NDArray[np.int64]) -> GibbsRisk:
        """Draw over these rows until there are enough independent draws.

        Where examples can each have a draw, the losses of all rows are independent, each with a mean of its own, and m
        is rows times passes. Else a draw serves `rows_per_draw` rows, whose mean loss is one of m; rows that would fill
        no batch are left out at random beforehand, so that all means weigh the same.
        """
        size = 1 if self.own_draws else min(self.options.rows_per_draw, len(rows))
        if not self.own_draws:
            rows = np.random.default_rng(self.module.seed).permutation(rows)[
                : len(rows) // size * size
            ]
        passes = -(-self.options.draws // (len(rows) // size))
        loader = self.task.certification_loader(rows, None if self.own_draws else size)
        errors = 0
        for number in range(passes):
            title = f"{label}, pass {number + 1} of {passes}"
            for index, batch in enumerate(
                track(loader, title, console=self.console, transient=True)
            ):
                with self._drawn(
                    _seed(self.module.seed, label, number, index), len(batch["labels"])
                ):
                    errors += int(self._wrong(batch).sum())
        return GibbsRisk(errors / (passes * len(rows)), len(rows), passes * len(rows) // size)

    def _drawn(self, seed: int, examples: int) -> AbstractContextManager[None]:
        return (
            draw_for_each(self.posterior, seed, examples)
            if self.own_draws
            else one_draw(self.posterior, seed)
        )

    def _rival(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        of: str
        standing: AbstractContextManager[None]
        if self.options.rival is not None:
            of, standing = (
                self.options.rival,
                self._standing_in(Path(self.options.rival).expanduser()),
            )
        elif self.module.prior_facts["kind"] == "learned":
            of, standing = "the prior's mean", self.posterior.at_prior_mean()
        else:
            return {"reason": NO_RIVAL}
        with standing:
            errors = self._errors("the rival", self.task.certification_loader(rows, None))
        return {
            "of": f"{of}, which never trained on these rows",
            **rival_of(errors, len(rows), self.options),
        }

    @contextmanager
    def _standing_in(self, folder: Path) -> Iterator[None]:
        """Let another run's trained numbers stand in for this one's."""
        adapters = self.module.adapter_set
        trained = [*adapters.adapter_parameters().values(), *adapters.head_parameters().values()]
        own = [parameter.detach().clone() for parameter in trained]
        checkpoint.load(
            adapters, folder / "adapter", fingerprint=self.module.compatibility["backbone"]
        )
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(trained, own, strict=True):
                    parameter.copy_(value)

    def _test_errors(self, name: str, loader: DataLoader[Any]) -> dict[str, float]:
        """Errors of the posterior's mean and of draws from it."""
        size = len(loader.dataset)  # type: ignore[arg-type]
        drawn = 0
        for index, batch in enumerate(
            track(loader, f"{name}, draws", console=self.console, transient=True)
        ):
            with self._drawn(_seed(self.module.seed, name, 0, index), len(batch["labels"])):
                drawn += int(self._wrong(batch).sum())
        return {"mean": self._errors(name, loader) / size, "posterior": drawn / size}

    def _errors(self, title: str, loader: DataLoader[Any]) -> int:
        return sum(
            int(self._wrong(batch).sum())
            for batch in track(loader, title, console=self.console, transient=True)
        )

    @torch.no_grad()
    def _wrong(self, batch: Batch) -> Tensor:
        batch = to_device(batch, self.device)
        with self.precision.forward_context():
            outputs = self.module(batch)
        return self.task.decode(outputs) != batch["labels"]


def certify(
    module: FineTuning, trainer: L.Trainer, options: CertificateOptions, console: Console
) -> dict[str, Any]:
    """Certify a trained posterior and print the report; see `Certification`."""
    found = Certification(
        module,
        options,
        device=trainer.strategy.root_device,
        precision=trainer.precision_plugin,
        console=console,
    ).certificate()
    print_certificate(found, console)
    return found


def _can_draw_for_each(posterior: GaussianPosterior) -> bool:
    try:
        check_draws_for_each(posterior)
    except ValueError:
        return False
    return True


def _seed(*parts: int | str) -> int:
    return int.from_bytes(
        hashlib.sha256(repr(("certificate", *parts)).encode()).digest()[:7], "little"
    )


def print_certificate(found: dict[str, Any], console: Console) -> None:
    """Print the certificate as a table."""
    table = Table(title="PAC-Bayes certificate of the 0-1 risk", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, text in _lines(found):
        table.add_row(label, text)
    console.print(table)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    payments = ", ".join(
        f"{payment['what']}: {payment['nats']:.2f}" for payment in found["payments"]
    )
    rival, single = found["rival"], found["by_group"]
    told = (
        f"{rival['bound']:.4f} (error {rival['error']:.4f}, {rival['rows']:,} rows; {rival['of']})"
        if "bound" in rival
        else rival["reason"]
    )
    lines = [
        (f"risk at most, with {100 * found['confidence']:.1f} %", f"{found['bound']:.4f}"),
        (
            "posterior's risk",
            f"{found['risk']:.4f}, at most {found['risk_upper']:.4f} by {found['draws']:,} draws",
        ),
        ("KL", f"{found['kl']:.2f} nats over {found['rows']:,} rows; paid besides: {payments}"),
        ("one row of each group", f"{single['bound']:.4f} ({single['rows']:,} rows)"),
        ("rival, Clopper-Pearson", told),
    ]
    if found["gap"] is not None:
        lines.append(("bound - rival", f"{found['gap']:+.4f}"))
    for name, errors in found["test"].items():
        lines.append(
            (
                f"{name} error",
                f"{errors['mean']:.4f} (posterior's mean), {errors['posterior']:.4f} (draws)",
            )
        )
    return [*lines, ("assumed", found["assumption"])]
