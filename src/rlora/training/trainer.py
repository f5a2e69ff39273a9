"""The Lightning trainer of a run: its callbacks, loggers and checkpoints."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from rlora.adapters import AdapterSet
from rlora.config.build import build
from rlora.config.flatten import flatten
from rlora.tasks.base import Task
from rlora.training.callbacks.checkpoint import AtomicCheckpointIO
from rlora.training.callbacks.finite import StopNonFinite
from rlora.training.callbacks.merged_evaluation import MergedEvaluation

GROUPS = ("task", "model", "adapter", "regularizer")  # their options name a run


def make_trainer(
    config: dict[str, Any],
    choices: dict[str, str],
    task: Task,
    adapters: AdapterSet,
    recorder: L.Callback,
) -> L.Trainer:
    """Build the trainer of a config, with its callbacks and loggers.

    Args:
        config: Plain and resolved.
        choices: Group to option, for the loggers.
        task: Its monitored score selects the best epoch.
        adapters: Merged during evaluation.
        recorder: Collects what the record says of training.
    """
    monitor = f"validation/{task.monitor}"
    # The first waits for the device, so that the recorder's clock stops after the last step; what
    # follows the recorder, such as merging, counts as validation and not as training.
    callbacks: list[L.Callback] = [StopNonFinite(), recorder]
    if config["merge_for_evaluation"]:
        callbacks.append(MergedEvaluation(adapters))
    for node in (config.get("callbacks") or {}).values():
        monitored = {"monitor": monitor, "mode": task.mode} if "monitor" in node else {}
        callbacks.append(build({k: v for k, v in node.items() if k not in monitored}, **monitored))
    if not config["trainer"].get("enable_progress_bar", True):
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    loggers: list[Logger] = [build(node) for node in (config.get("logger") or {}).values()]
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            continue  # config.yaml is in the same folder
        logger.log_hyperparams({**flatten(config), **{k: choices.get(k, "") for k in GROUPS}})
    trainer: L.Trainer = build(
        config["trainer"],
        logger=loggers,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=saves,
    )
    return trainer
