"""Loading of a trained run: backbone, adapters, head, posterior and record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlora.adapters import AdapterSet, checkpoint, inject
from rlora.config.build import build
from rlora.models.backbone import Backbone
from rlora.records.record import RECORD_FILE, RunRecord, read_record
from rlora.regularizers.base import Regularizer
from rlora.regularizers.posterior import GaussianPosterior
from rlora.runs import resume


@dataclass(frozen=True)
class TrainedRun:
    """A trained run, loaded.

    Args:
        config: The resolved config, with the groups' `choices`.
        backbone: The model, its processor and fingerprint.
        adapters: The trained adapters and head in it.
        kind: The task's head: "classification", "regression" or "text".
        record: The run's record; None for an adapter folder without a run, and for an unfinished
            run.
        posterior: Posterior over the trainable parameters, if the run learned one.
    """

    config: dict[str, Any]
    backbone: Backbone
    adapters: AdapterSet
    kind: str
    record: RunRecord | None
    posterior: GaussianPosterior | None


def load_run(run: Path) -> TrainedRun:
    """Load a trained run, in evaluation mode.

    Args:
        run: Run folder or adapter folder.

    Raises:
        ValueError: The path holds no trained run, or its backbone has changed.
    """
    saved = resume.find_saved(str(run), resume=False, key="run")
    if saved.adapter is None:
        raise ValueError(f"{run} has no adapter folder: its training did not finish")
    config = saved.config
    task = build(config["task"])
    backbone: Backbone = build(config["model"], **task.head(), seed=config["seed"])
    head = backbone.head_parameters(task.trained_modules)
    adapters = inject(backbone.model, build(config["adapter"]), seed=config["seed"], head=head)
    regularizer: Regularizer = build(config["regularizer"])
    regularizer.prepare(backbone.model, adapters.parameter_groups(), num_examples=1)
    checkpoint.load(adapters, saved.adapter, fingerprint=backbone.fingerprint)
    resume.load_regularizer(regularizer, saved.adapter)
    backbone.model.eval()
    file = saved.folder / RECORD_FILE
    return TrainedRun(
        config,
        backbone,
        adapters,
        task.head()["kind"],
        read_record(file) if file.is_file() else None,
        regularizer.posterior if regularizer.is_posterior else None,
    )
