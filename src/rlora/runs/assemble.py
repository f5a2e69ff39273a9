"""The parts of a run: task, backbone, adapters, module and trainer, built from its plan."""

import datetime
import time
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
from rich.console import Console

from rlora.adapters import AdapterSet, checkpoint, inject
from rlora.config.allowlist import saved_config
from rlora.config.build import build
from rlora.evaluation import certify, prior_run
from rlora.models.backbone import Backbone
from rlora.runs.plan import RunPlan
from rlora.tasks.base import Task
from rlora.training.callbacks.recorder import Recorder
from rlora.training.module import FineTuning
from rlora.training.trainer import make_trainer


@dataclass(frozen=True)
class Moment:
    """The start of a run, by the calendar and by the clock that measures durations.

    Args:
        utc: Date and time.
        clock: `time.perf_counter()`, in seconds.
    """

    utc: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    clock: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Parts:
    """All parts of a run, built and connected.

    Args:
        plan: What the run does.
        task: The task, with its data.
        backbone: The model without adapters' bookkeeping, its processor and fingerprint.
        adapters: The adapters in the backbone.
        module: The Lightning module, with the optimizer's settings.
        trainer: The Lightning trainer, with callbacks and loggers.
        recorder: The callback that collects what the record says of training.
        console: Where progress and tables are printed.
        started: When the run started.
    """

    plan: RunPlan
    task: Task
    backbone: Backbone
    adapters: AdapterSet
    module: FineTuning
    trainer: L.Trainer
    recorder: Recorder
    console: Console
    started: Moment


def assemble(
    plan: RunPlan,
    console: Console,
    *,
    prior: Path | None = None,
    started: Moment | None = None,
) -> Parts:
    """Build the parts of a run.

    Args:
        plan: What the run does.
        console: Where progress and tables are printed.
        prior: Folder of the finished run that learned the prior; None for a prior without data.
        started: When the run started; None for now.

    Raises:
        ValueError: An option is out of range, or the parts do not fit each other.
    """
    started = started or Moment()
    config = plan.config
    L.seed_everything(config["seed"], workers=True, verbose=False)
    task: Task = build(config["task"])
    backbone: Backbone = build(config["model"], **task.head(), seed=config["seed"])
    task.setup(backbone.processor, seed=config["seed"], cache_dir=Path(config["paths"]["cache"]))
    if config["predict"] and not task.predict_loaders():
        raise ValueError(
            f"predict=true is invalid: task={task.name} has no unlabeled test split; "
            "set predict=false"
        )
    adapters = inject(
        backbone.model,
        build(config["adapter"]),
        seed=config["seed"],
        head=backbone.head_parameters(task.trained_modules),
    )
    module = _build_module(plan, task, backbone, adapters)
    if prior is not None:
        _start_from_prior(module, prior, config, backbone.fingerprint)
    if config["certify"]:
        certify.check(module, plan.certificate)
    recorder = Recorder(started.clock)
    # last, because loggers start here: what fails before leaves no run in W&B
    trainer = make_trainer(config, plan.choices, task, adapters, recorder)
    return Parts(plan, task, backbone, adapters, module, trainer, recorder, console, started)


def _build_module(
    plan: RunPlan, task: Task, backbone: Backbone, adapters: AdapterSet
) -> FineTuning:
    config = plan.config
    module = FineTuning(
        adapters=adapters,
        task=task,
        regularizer=build(config["regularizer"]),
        optimizer=lambda groups: build(config["optimizer"], groups),
        scheduler=lambda optimizer, total_steps: build(
            config["scheduler"], optimizer, total_steps=total_steps
        ),
        seed=config["seed"],
        compatibility={
            "backbone": backbone.fingerprint,
            "random_structure": adapters.digest,
            "method": checkpoint.weight_options(adapters.method),
            "task": plan.choices.get("task", ""),
        },
        run_config=saved_config(config, plan.choices),
    )
    if config["compile"]:
        # in place: torch.compile(module) would prefix the names of all parameters
        module.model.compile(backend="inductor" if config["compile"] is True else config["compile"])
    return module


def _start_from_prior(
    module: FineTuning, prior: Path, config: dict[str, object], fingerprint: str
) -> None:
    """Load the mean of a learned prior, both as the start and as the prior's mean."""
    facts = prior_run.read_facts(prior, config)
    certify.check_prior(module.task, facts)
    checkpoint.load(module.adapter_set, prior / "adapter", fingerprint=fingerprint)
    module.regularizer.recenter(facts)
