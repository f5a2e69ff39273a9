"""A run from the composed config to its record: resolve, assemble, execute."""

import logging
import math
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.console import Console

from rlora.adapters import checkpoint
from rlora.config.allowlist import saved_config
from rlora.config.build import print_config, to_plain
from rlora.config.job import Job, number_of_tasks
from rlora.evaluation import certify, generate, prior_run
from rlora.integrations import wandb_run
from rlora.io.atomic import write_atomically
from rlora.records import study
from rlora.records.environment import describe_environment, is_first_process, reset_peak_memory
from rlora.records.record import (
    RECORD_FILE,
    Parameters,
    Run,
    RunRecord,
    summary_metrics,
    write_record,
)
from rlora.records.scores import defined, undefined
from rlora.records.status import CONFIG, ERROR
from rlora.runs import resume, stopped, weights
from rlora.runs.assemble import Moment, Parts, assemble
from rlora.runs.claims import claim
from rlora.runs.console import print_start, print_summary, quieten
from rlora.runs.plan import RunPlan, resolve
from rlora.tasks.base import GenerationTask, TextScores
from rlora.training.allocator import keep_freed_memory
from rlora.training.callbacks.finite import NotFiniteError
from rlora.training.module import write_predictions
from rlora.training.trainer import GROUPS

log = logging.getLogger(__name__)


def run(config: DictConfig, job: Job) -> float:
    """Run one job and return its monitored validation score, for a sweeper to maximize.

    A run that fails writes its traceback to error.log and no results.json. In a multirun the other
    runs continue, and the failed one returns the worst score, -inf: a search then avoids its
    options. Without a number Optuna would ignore the trial, and nan would end the search.

    Raises:
        ValueError: The config is invalid.
    """
    values = to_plain(config)
    keep_freed_memory()
    reset_peak_memory()
    quieten()
    console = Console()
    plan = None
    try:
        plan = resolve(values, job)
        record = _finished_or_run(plan, job, console)
    except BaseException as error:
        if plan is None and not job.multirun:
            stopped.discard(job.directory, Path(str(values["paths"]["outputs"])))
        else:
            stopped.write_error(job.directory)
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(stopped.how_to_resume(job, values)) from error
        if job.multirun and isinstance(error, Exception):
            reason = " ".join(str(error).split()) or type(error).__name__
            log.error("failed, the other runs continue: %s", reason)
            return -math.inf
        if isinstance(error, MisconfigurationException):  # Lightning's error for invalid settings
            raise ValueError(str(error)) from error
        raise
    return -math.inf if record is None else _score_to_maximize(record)


def _finished_or_run(plan: RunPlan, job: Job, console: Console) -> RunRecord | None:
    """Return the record of the run, which is executed unless it has finished before.

    None if another process executes the same run of a multirun.
    """
    with _claimed(plan, job) as ours:
        if earlier := study.finished_record(plan.config, job, plan.identity):
            return earlier
        if not ours:
            log.info("not started: another process executes the same run")
            return None
        record = run_plan(plan, job, console)
    if is_first_process():
        print_summary(record, console)
    return record


def _claimed(plan: RunPlan, job: Job) -> AbstractContextManager[bool]:
    """Return the claim on a run of a multirun; other runs need none."""
    # the processes of one distributed run share its folder, and none of them may be left out
    if not job.multirun or number_of_tasks() > 1:
        return nullcontext(True)
    outputs = Path(plan.config["paths"]["outputs"])
    return claim(plan.identity.config_hash, outputs, wait=job.search)


def _score_to_maximize(record: RunRecord) -> float:
    """Return the monitored score with the sign of one to maximize; -inf where it is undefined."""
    score = record.scores.get(record.monitor, math.nan)
    if not math.isfinite(score):
        return -math.inf
    return -score if record.config["task"].get("mode") == "min" else score


def run_plan(plan: RunPlan, job: Job, console: Console) -> RunRecord:
    """Learn the prior where there is one to learn, then assemble and execute the run."""
    started = Moment()
    if is_first_process():
        prepare_folder(plan, job.directory)
        if plan.config["print_config"]:
            print_config(plan.config, console, plan.choices)
    prior = None
    if plan.saved is None or plan.saved.checkpoint is None:  # a checkpoint contains its prior
        prior = prior_run.find(
            plan.config,
            job,
            run=lambda config, its_job: _run_prior(config, its_job, console),
        )
    failed = True
    try:
        parts = assemble(plan, console, prior=prior, started=started)
        if is_first_process() and not plan.config["print_config"]:
            print_start(parts, str(job.directory), console)
        record = execute(parts, job)
        failed = False
    finally:
        wandb_run.close(failed)
    return record


def _run_prior(config: dict[str, Any], job: Job, console: Console) -> None:
    """Train a prior, unless an interrupted run has left exactly this one in the folder."""
    plan = resolve(config, job)
    if not study.is_finished_in(job.directory, plan.identity):
        log.info("training the prior in %s", job.directory)
        run_plan(plan, job, console)


def prepare_folder(plan: RunPlan, directory: Path) -> None:
    """Remove the results of an earlier run from the folder and write the config."""
    for name in (RECORD_FILE, ERROR):
        (directory / name).unlink(missing_ok=True)
    adapter = directory / "adapter"
    if plan.config["train"] and not (plan.saved and plan.saved.adapter == adapter):
        shutil.rmtree(adapter, ignore_errors=True)
    content = yaml.safe_dump(saved_config(plan.config, plan.choices), sort_keys=False)
    write_atomically(directory / CONFIG, content.encode())


def execute(parts: Parts, job: Job) -> RunRecord:
    """Train or load, test, predict and certify as the plan says, and write the record."""
    config, directory = parts.plan.config, job.directory
    scores: dict[str, float] = {}
    missing: dict[str, str] = {}
    adapter_bytes = certificate = None
    if config["train"]:
        scores = weights.train(parts)
        adapter_bytes = _save_adapter(parts, directory / "adapter")
    else:
        weights.load(parts)
    if config["test"]:
        try:
            tested = _test(parts, directory)
        except NotFiniteError:
            if config["train"]:  # steps after the last validation diverged
                shutil.rmtree(directory / "adapter", ignore_errors=True)
            raise
        scores |= tested.values
        missing = tested.missing
    if config["predict"]:
        write_predictions(parts.trainer, parts.module, directory / "predictions")
    if config["certify"]:
        certificate = certify.certify(
            parts.module, parts.trainer, parts.plan.certificate, parts.console
        )
    record = _record(
        parts,
        job,
        scores=scores,
        missing=missing,
        adapter_file_bytes=adapter_bytes,
        certificate=certificate,
    )
    _publish(parts, record, directory)
    return record


def _publish(parts: Parts, record: RunRecord, directory: Path) -> None:
    """Log the final scores, then write the record: its presence means a finished run."""
    for logger in parts.trainer.loggers:
        logger.log_metrics(summary_metrics(record))
        logger.finalize("success")
    if parts.trainer.is_global_zero:
        write_record(record, directory)
        wandb_run.keep(directory / RECORD_FILE)
        if file := study.study_path(parts.plan.config):
            study.append_record(record, file)


def _save_adapter(parts: Parts, directory: Path) -> int | None:
    """Save adapter, head and regularizer; return the size of the adapter's file in bytes."""
    if not parts.trainer.is_global_zero:
        return None
    module, backbone = parts.module, parts.backbone
    return checkpoint.save(
        parts.adapters,
        directory,
        backbone={"source": backbone.source, "fingerprint": backbone.fingerprint},
        extra={"config": module.run_config, "prior_facts": module.regularizer.prior_facts},
        other_files=resume.regularizer_files(module.regularizer),
    )


def _test(parts: Parts, directory: Path) -> TextScores:
    """Return the test scores, and why others are missing."""
    trainer, module, saved = parts.trainer, parts.module, parts.plan.saved
    scores: dict[str, float] = {}
    if parts.task.test_loaders():
        trainer.test(module, verbose=False)
        scores = _logged_scores(parts, "test")
    elif not parts.plan.config["train"]:
        # a generation task: this also starts the other processes, where there are several
        trainer.validate(module, verbose=False)
        scores = _logged_scores(parts, "validation")
    if not isinstance(parts.task, GenerationTask):
        return TextScores(scores)
    earlier = saved.folder / "texts" if saved else None
    texts = generate.generate_and_score(
        module, trainer, directory / "texts", parts.console, earlier
    )
    for name, reason in texts.missing.items():
        log.warning("%s is not computed: %s", name, reason)
    return TextScores(scores | texts.values, texts.missing)


def _logged_scores(parts: Parts, stage: str) -> dict[str, float]:
    metrics = parts.trainer.callback_metrics
    return {key: float(value) for key, value in metrics.items() if key.startswith(stage)}


def _record(
    parts: Parts,
    job: Job,
    *,
    scores: dict[str, float],
    missing: dict[str, str],
    adapter_file_bytes: int | None,
    certificate: dict[str, Any] | None,
) -> RunRecord:
    plan, task, backbone = parts.plan, parts.task, parts.backbone
    config, report = plan.config, parts.adapters.report()
    device = parts.trainer.strategy.root_device
    return RunRecord(
        run=Run(
            **{group: plan.choices.get(group, "") for group in GROUPS},
            seed=config["seed"],
            directory=str(job.directory),
            started=parts.started.utc.isoformat(timespec="seconds"),
            seconds=parts.recorder.run_seconds(),
            command=job.overrides,
            trained=config["train"],
            from_checkpoint=config["ckpt_path"],
            config_hash=plan.identity.config_hash,
            inputs=plan.identity.inputs,
            code=plan.identity.code,
        ),
        parameters=Parameters(report.adapter, report.head, report.backbone, report.percent),
        scores=defined(scores),
        monitor=f"validation/{task.monitor}",
        training=parts.recorder.training(),
        environment=describe_environment(device, str(parts.trainer.precision)),
        data={**task.describe(), "fingerprint": task.fingerprint},
        backbone={
            "source": backbone.source,
            "fingerprint": backbone.fingerprint,
            "random_structure": parts.adapters.digest,
        },
        adapter_file_bytes=adapter_file_bytes,
        config={"choices": plan.choices, **config},
        certificate=certificate,
        reported=task.reported or "",
        missing=undefined(scores) | missing,
    )
