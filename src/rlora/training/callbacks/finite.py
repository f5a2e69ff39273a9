"""The callback that stops a run whose numbers are not finite."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from rlora.regularizers.base import Regularizer


class NotFiniteError(ValueError):
    """The loss of an evaluation is not finite."""


class StopNonFinite(L.Callback):
    """Raise where a loss, a trained parameter or a posterior's sigma is nan or infinite.

    Reading a loss waits for the device. The losses of the steps are therefore read together:
    every `log_every_n_steps` steps, before each validation, and at the end of each epoch, when the
    trained numbers are read too. All these moments precede the checkpoints and the record.

    An infinite gradient is no error: with float16 the loss scaler skips such a step, and otherwise
    the parameters show it.
    """

    def __init__(self) -> None:
        # since the last reading: step, learning rates and loss of each batch
        self._unread: list[tuple[int, dict[str, float], Tensor]] = []
        self._rates: dict[
            str, float
        ] = {}  # of the present batch: the schedule moves before its end
        self._interval = 1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the interval from the loggers."""
        self._interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the learning rates of the batch."""
        groups = trainer.optimizers[0].param_groups
        self._rates = {str(group.get("name", i)): group["lr"] for i, group in enumerate(groups)}

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the loss; read all that are kept where the loggers read, too."""
        accumulates = trainer.fit_loop._should_accumulate()
        step = trainer.global_step + accumulates  # the step that the batch belongs to
        self._unread.append((step, self._rates, outputs["loss"]))
        if not accumulates and step % self._interval == 0:
            self._read_losses(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the losses and the trained numbers before they are scored."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._read(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the losses and the trained numbers before they are saved."""
        self._read(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the losses of the evaluation."""
        for name, value in trainer.callback_metrics.items():
            if name.endswith("/loss") and not name.startswith("train/") and not value.isfinite():
                raise NotFiniteError(_describe(trainer, name, float(value)))

    on_test_end = on_validation_end

    def _read(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._read_losses(trainer)
        names = _not_finite(dict(_trained_numbers(module)))
        if _on_any_process(trainer, bool(names)):
            raise ValueError(
                f"training diverged: {names[0] if names else 'a trained number'} is not finite "
                f"after step {trainer.global_step}, with {_show(self._rates)}; {_advice(trainer)}"
            )

    def _read_losses(self, trainer: L.Trainer) -> None:
        unread, self._unread = self._unread, []
        values = torch.stack([loss for *_, loss in unread]).tolist() if unread else []
        bad = [
            (step, rates, value)
            for (step, rates, _), value in zip(unread, values, strict=True)
            if value - value != 0  # nan or infinite
        ]
        if not _on_any_process(trainer, bool(bad)):
            return
        if not bad:
            raise ValueError(
                f"training diverged: the loss of another process is not finite up to step "
                f"{trainer.global_step}; {_advice(trainer)}"
            )
        step, rates, value = bad[0]
        raise ValueError(
            f"training diverged: the loss of step {step} is {value}, with {_show(rates)}; "
            f"{_advice(trainer)}"
        )


def _describe(trainer: L.Trainer, name: str, value: float) -> str:
    """Return one sentence on the loss of an evaluation that is not finite."""
    if trainer.global_step:  # this process has trained; the test follows
        return (
            f"training diverged: {name} is {value} after step {trainer.global_step}; "
            f"{_advice(trainer)}"
        )
    return (
        f"{name} is {value}: the outputs of the model are not finite; evaluate other weights, or "
        "set trainer.precision=32-true"
    )


def _show(rates: Mapping[str, float]) -> str:
    return "learning rates " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())


def _advice(trainer: L.Trainer) -> str:
    advice = "lower optimizer.lr and optimizer.head_lr, or raise scheduler.warmup"
    if str(trainer.precision) == "16-mixed":
        advice += ", or set trainer.precision=bf16-mixed, whose range is that of float32"
    return advice


def _trained_numbers(module: L.LightningModule) -> Iterator[tuple[str, Tensor]]:
    yield from (pair for pair in module.named_parameters() if pair[1].requires_grad)
    regularizer = getattr(module, "regularizer", None)
    if isinstance(regularizer, Regularizer) and regularizer.is_posterior:
        for group in regularizer.posterior.members:
            yield f"sigma of {group}", regularizer.posterior.sigma(group)


@torch.no_grad()
def _not_finite(numbers: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors with a number that is not finite; read the device once."""
    if not numbers:
        return []
    finite = torch.stack([tensor.isfinite().all() for tensor in numbers.values()]).tolist()
    return [name for name, good in zip(numbers, finite, strict=True) if not good]


def _on_any_process(trainer: L.Trainer, found: bool) -> bool:
    """Return whether any process found it: all raise together, and none waits for the others."""
    return bool(trainer.strategy.reduce_boolean_decision(found, all=False))
