"""The Lightning module: batch -> backbone with adapters -> task loss -> regularizer -> log."""

import contextlib
import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from rlora.adapters import AdapterSet
from rlora.data.batch import Batch, num_targets
from rlora.regularizers.base import Regularizer, Step
from rlora.tasks.base import Task
from rlora.training import checkpoints
from rlora.training.attention_masks import known_padding
from rlora.training.averages import GradientWindow, TargetMean
from rlora.training.optimizers import follow_schedule

log = logging.getLogger(__name__)


def step_seed(*parts: int) -> int:
    """Return the seed of a training step.

    A pure function of (seed, epoch, batch, rank), so that a resumed run repeats the dropout.
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


class FineTuning(L.LightningModule):
    """Fine-tune an adapted backbone on a task under a regularizer.

    The optimizer and the checkpoints hold only the trainable parameters and tensors derived from W.

    Args:
        adapters: Adapters in the backbone, as `inject` returns them.
        task: Task after `setup`.
        regularizer: Changes the objective of a step, or leaves it.
        optimizer: Builds the optimizer from the groups of trainable parameters.
        scheduler: Builds the learning-rate schedule from optimizer and total_steps.
        seed: Seed of dropout and of the regularizer's noise.
        compatibility: Plain facts that a checkpoint and the model it is loaded into must share.
        run_config: The resolved config, stored in checkpoints.

    Raises:
        ValueError: The regularizer needs a loss in [0, 1], and the task has none.
    """

    def __init__(
        self,
        *,
        adapters: AdapterSet,
        task: Task,
        regularizer: Regularizer,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., LRScheduler],
        seed: int,
        compatibility: dict[str, Any],
        run_config: dict[str, Any],
    ) -> None:
        super().__init__()
        # transformers loads models in evaluation mode, without dropout
        self.model = adapters.model.train()
        self.regularizer = regularizer
        self.adapter_set, self.task, self.seed = adapters, task, seed
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.compatibility, self.run_config = compatibility, run_config
        self.loader_names: dict[str, list[str]] = {}
        self.start = (0, 0)  # epoch, and its batches that a resumed run skips
        self.metrics, self.losses = nn.ModuleDict(), nn.ModuleDict()  # by loader
        self.train_loss = TargetMean()
        self._unscored: set[str] = set()  # loaders without rows for this process
        self._window = GradientWindow()
        if regularizer.needs_bounded_loss and not task.has_bounded_loss:
            raise ValueError(
                f"task={task.name} is invalid with this regularizer.objective: expected a loss in "
                "[0, 1], as classification has; set regularizer.objective=elbo or pac_tuning"
            )
        regularizer.prepare(self.model, self.parameter_groups(), task.num_train_examples)
        self._perturbation = contextlib.ExitStack()

    def parameter_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """Return the trainable parameters by group ("adapter", "head") and stable name."""
        return self.adapter_set.parameter_groups()

    # data

    def train_dataloader(self) -> DataLoader:
        """Return this rank's training batches, without those that a resumed run has done."""
        loader = self.task.train_loader(
            rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )
        epoch, batches = self.start
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        loader.batch_sampler.skip(batches)  # type: ignore[union-attr]
        return loader

    def resume_from(self, checkpoint: dict[str, Any]) -> None:
        """Start the training batches where a checkpoint stopped.

        Lightning asks for the loader before it restores its counters, so the module sets them.
        """
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]["current"]
        inside = epochs["processed"] < epochs["ready"]
        self.start = (
            epochs["processed"],
            loop["epoch_loop.batch_progress"]["current"]["processed"] if inside else 0,
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the validation split."""
        return self._evaluation_loaders("validation", self.task.validation_loaders)

    def test_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the test splits."""
        return self._evaluation_loaders("test", self.task.test_loaders)

    def predict_dataloader(self) -> list[DataLoader]:
        """Return the loaders of the unlabeled splits."""
        return self._evaluation_loaders("predict", self.task.predict_loaders)

    def _evaluation_loaders(
        self, stage: str, make: Callable[..., dict[str, DataLoader]]
    ) -> list[DataLoader]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        loaders = make(rank=rank, world_size=world_size)
        # Lightning runs its loops on all processes or on none, so that a process without rows runs
        # the first one's batches, and scores none of them
        empty = {name for name, loader in loaders.items() if rank and not len(loader)}
        if empty:
            first = make(rank=0, world_size=world_size)
            loaders |= {name: first[name] for name in empty}
        self._unscored = self._unscored - set(loaders) | empty
        self.loader_names[stage] = list(loaders)
        for name in loaders:
            if stage != "predict" and name not in self.metrics:
                metrics = self.task.new_metrics().clone(prefix=f"{name}/")
                self.metrics[name] = metrics.to(self.device)
                self.losses[name] = TargetMean().to(self.device)
        return list(loaders.values())

    # steps

    def forward(self, batch: Batch) -> Any:
        """Run the backbone on the inputs of a batch."""
        with known_padding(batch["padded"]):
            return self.model(**batch["inputs"])

    def on_train_start(self) -> None:
        """Log each epoch at least once, and set the rates of a run resumed with more epochs."""
        trainer: Any = self.trainer  # whose class does not declare the attribute
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, steps)
        for config in trainer.lr_scheduler_configs:
            follow_schedule(config.scheduler)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step's dropout."""
        torch.manual_seed(step_seed(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective of one batch.

        The parameters stay perturbed in backward, as gradient checkpointing runs forward there.
        """
        targets = num_targets(batch)
        # a packed batch has fewer rows than examples
        step = self._step(batch_idx, len(batch["index"]))
        self._perturbation.close()  # a step that failed may have left it open
        self._perturbation.enter_context(self.regularizer.perturbed(step))
        outputs = self(batch)
        loss = self.task.loss(outputs, batch)
        objective = self.regularizer.objective(
            step, loss, lambda: self.task.bounded_loss(outputs, batch)
        )
        options: dict[str, Any] = {"on_step": True, "on_epoch": True, "batch_size": targets}
        self.train_loss.update(loss.detach(), targets)
        self.log("train/loss", self.train_loss, metric_attribute="train_loss", **options)
        for name, value in self.regularizer.metrics().items():
            self.log(f"train/{name}", value.float(), **options)
        return self._window.weighted(objective, targets, batch_idx, self.trainer)

    def _step(self, batch_idx: int, examples: int) -> Step:
        return Step(
            seed=step_seed(self.seed, self.current_epoch, batch_idx),
            rank=self.global_rank,
            progress=self.trainer.global_step
            / max(1.0, float(self.trainer.estimated_stepping_batches)),
            examples=examples,
        )

    def on_after_backward(self) -> None:
        """Restore the parameters."""
        self._perturbation.close()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Complete an accumulated gradient, without that of what the regularizer freezes."""
        self._window.correct(optimizer, self.trainer)
        for parameter in self.regularizer.frozen(self._step(0, 1)):
            parameter.grad = None

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch."""
        self._evaluate("validation", batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one batch."""
        self._evaluate("test", batch, dataloader_idx)

    def _evaluate(self, stage: str, batch: Batch, dataloader_idx: int) -> None:
        name = self.loader_names[stage][dataloader_idx]
        outputs = self(batch)
        metrics: MetricCollection = self.metrics[name]  # type: ignore[assignment]
        mean: TargetMean = self.losses[name]  # type: ignore[assignment]
        if name not in self._unscored:
            mean.update(self.task.loss(outputs, batch), num_targets(batch))
            metrics.update(self.task.decode(outputs), batch["labels"])
        options: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "add_dataloader_idx": False,
            "batch_size": len(batch["index"]),
        }
        self.log(f"{name}/loss", mean, metric_attribute=f"losses.{name}", **options)
        self.log_dict(metrics, prog_bar=stage == "validation", **options)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the positions (B,) and predictions (B,) of the rows of a batch."""
        return batch["index"].cpu(), self.task.decode(self(batch)).cpu()

    # optimization

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and the schedule over optimizer steps."""
        optimizer = self._make_optimizer(self.parameter_groups())
        for group in optimizer.param_groups:
            group["lr"] *= self.regularizer.mean_rate
        for group in self.regularizer.parameter_groups():
            optimizer.add_param_group(group)
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = self._make_scheduler(optimizer, total_steps=total)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove the frozen tensors and add what a load checks."""
        kept = checkpoints.saved_keys(self)
        checkpoint["state_dict"] = {
            key: v for key, v in checkpoint["state_dict"].items() if key in kept
        }
        checkpoint["rlora"] = {
            "format": checkpoints.CHECKPOINT_FORMAT,
            "compatibility": self.compatibility,
            "data": self.task.fingerprint,
            "config": self.run_config,
            "prior_facts": self.regularizer.prior_facts,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits, and add the frozen tensors, so that loading is strict.

        Raises:
            ValueError: The checkpoint belongs to another backbone, adapter or random structure.
        """
        saved = checkpoint.get("rlora", {}).get("compatibility", {})
        checkpoints.check_compatible(saved, self.compatibility)
        checkpoint["state_dict"] = checkpoints.completed_state(checkpoint["state_dict"], self)
        # required: a learned prior mistaken for the start values would void a certificate
        self.regularizer.prior_facts = checkpoint["rlora"]["prior_facts"]


def write_predictions(trainer: L.Trainer, module: FineTuning, directory: Path) -> None:
    """Predict the unlabeled splits and write one file per split."""
    outputs = trainer.predict(module) or []
    names = module.loader_names["predict"]
    for name, batches in zip(names, outputs if len(names) > 1 else [outputs], strict=True):
        index = torch.cat([rows for rows, _ in batches])
        values = torch.cat([predicted for _, predicted in batches])[index.argsort()]
        file = module.task.write_predictions(directory, name, values.tolist())
        log.info("wrote predictions to %s", file)
