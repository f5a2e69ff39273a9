"""The weights of a run: trained from the start, resumed, or loaded for an evaluation."""

import logging
from pathlib import Path
from typing import Any

from rlora.adapters import checkpoint
from rlora.records.record import RECORD_FILE
from rlora.runs import resume
from rlora.runs.assemble import Parts

log = logging.getLogger(__name__)


def train(parts: Parts) -> dict[str, float]:
    """Train, load the best epoch, and return its validation scores.

    A saved adapter is a start: optimizer and epochs begin at zero. A saved checkpoint is resumed,
    with both.

    Raises:
        ValueError: The checkpoint has trained all epochs already, or on other data.
    """
    saved, trainer = parts.plan.saved, parts.trainer
    resumed = saved.checkpoint if saved else None
    if saved and saved.adapter:
        _load_adapter(parts, saved.adapter)
    if resumed:
        state = resume.read_checkpoint(resumed)
        _check_unfinished(parts, state)
        _check_data(parts, state)
        parts.module.resume_from(state)
    try:
        trainer.fit(parts.module, ckpt_path=resumed, weights_only=True)
    except SystemExit:  # Lightning turns Ctrl-C into it
        raise KeyboardInterrupt from None
    if not (history := parts.recorder.history):
        raise ValueError("no epoch was trained: set higher limits, such as trainer.max_time")
    row = history[-1]
    # without checkpoints (callbacks=progress) the last epoch is the result
    if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
        epoch = _load_checkpoint(parts, Path(best))
        row = next(row for row in history if row["epoch"] == epoch)
    parts.recorder.best_epoch = int(row["epoch"])
    return {key: value for key, value in row.items() if key.startswith("validation")}


def load(parts: Parts) -> None:
    """Load the weights to evaluate; without a saved run the untrained model is evaluated.

    Raises:
        ValueError: The saved weights do not fit the parts.
    """
    saved, config = parts.plan.saved, parts.plan.config
    unused_head = parts.backbone.unused_head
    if saved is None and unused_head and not config["adapter"].get("path"):
        raise ValueError(
            f"train=false is invalid: expected a head for task={parts.task.name} to evaluate, but "
            f"{unused_head}; set train=true, task.labels to its labels, or ckpt_path"
        )
    if saved is None and parts.adapters.starts_with_other_head:
        raise ValueError(
            f"adapter.path={config['adapter']['path']} holds the head of another task: choose its "
            "task with task=, or set train=true to start from the adapter"
        )
    if saved is None and config["adapter"].get("path"):
        log.info("evaluating the adapter of %s", config["adapter"]["path"])
    elif saved is None and not parts.backbone.fresh:
        log.info("evaluating the checkpoint of model= with its own head")
    elif saved is None:
        log.warning("train=false without ckpt_path: evaluating the untrained model")
    elif saved.adapter:
        _load_adapter(parts, saved.adapter)
    elif saved.checkpoint:
        _check_labels(parts)
        _load_checkpoint(parts, saved.checkpoint)


def _check_labels(parts: Parts) -> None:
    """Refuse other labels than the saved run's: the rows of its head are in their order."""
    plan = parts.plan
    before = plan.saved.config["task"].get("labels") if plan.saved else None
    now = plan.config["task"].get("labels")
    if before != now:
        raise ValueError(
            f"task.labels={now} is invalid: expected {before}, the labels of the saved head in "
            f"their order; omit task.labels, or start without ckpt_path={plan.config['ckpt_path']}"
        )


def _check_unfinished(parts: Parts, state: dict[str, Any]) -> None:
    """Refuse to resume a finished run, which has no epoch left to train."""
    saved, config = parts.plan.saved, parts.plan.config
    epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    limit = config["trainer"]["max_epochs"]
    all_trained = limit is not None and 0 <= limit <= epochs
    # without a record the run trained all epochs and stopped before its end: resuming it tests and
    # saves
    if all_trained and saved and (saved.folder / RECORD_FILE).is_file():
        raise ValueError(
            f"ckpt_path={config['ckpt_path']} has trained {epochs} of trainer.max_epochs={limit} "
            "epochs: set a higher trainer.max_epochs to resume, or train=false to evaluate"
        )


def _check_data(parts: Parts, state: dict[str, Any]) -> None:
    """Refuse to resume on other data; the record would hold the scores of a mixture."""
    data = parts.task.fingerprint
    if state["rlora"].get("data", data) != data:  # checkpoints of earlier versions have none
        raise ValueError(
            f"ckpt_path={parts.plan.config['ckpt_path']} was trained on other data: restore the "
            "files of task.path to resume, or start a new run"
        )


def _load_checkpoint(parts: Parts, path: Path) -> int:
    """Load the weights of a checkpoint and return its epoch."""
    state = resume.read_checkpoint(path)
    parts.module.on_load_checkpoint(state)
    parts.module.load_state_dict(state["state_dict"])
    return int(state["epoch"])


def _load_adapter(parts: Parts, directory: Path) -> None:
    """Load an adapter folder; the head only where it belongs to the same task."""
    saved, trains = parts.plan.saved, parts.plan.config["train"]
    saved_task = saved.config["choices"].get("task") if saved else None
    task = parts.plan.choices.get("task")
    same_task = saved_task == task
    if not same_task and not trains:
        raise ValueError(
            f"{directory} was trained on task={saved_task}, whose head does not fit task={task}: "
            "omit task=, or set train=true to start from the adapter"
        )
    if same_task:
        _check_labels(parts)
    else:
        log.info("the saved head belongs to another task: only the adapter is loaded")
    fingerprint = parts.backbone.fingerprint
    checkpoint.load(parts.adapters, directory, fingerprint=fingerprint, head=same_task)
    if not trains:
        resume.load_regularizer(parts.module.regularizer, directory)
