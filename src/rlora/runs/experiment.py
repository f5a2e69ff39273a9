"""A run, from the composed config to the record: compose -> train -> test -> write."""

import contextlib
import datetime
import json
import logging
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.console import Console

from rlora.adapters import AdapterSet, checkpoint, inject
from rlora.config.allowlist import saved_config
from rlora.config.build import build, print_config, to_plain
from rlora.config.config_hash import config_hash
from rlora.config.job import Job, check_job
from rlora.evaluation import certify, generate, prior_run
from rlora.integrations import wandb_run
from rlora.io.atomic import write_atomically
from rlora.models.backbone import Backbone
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
from rlora.regularizers.certificate import CertificateOptions
from rlora.runs import resume
from rlora.runs.console import print_summary, quieten
from rlora.tasks.base import Task, Writer
from rlora.training.allocator import keep_freed_memory
from rlora.training.callbacks.recorder import Recorder
from rlora.training.module import FineTuning, write_predictions
from rlora.training.trainer import GROUPS, make_trainer

log = logging.getLogger(__name__)


def run(config: DictConfig, job: Job) -> float | None:
    """Run one job and return its monitored score on the validation split, for a sweeper to maximize.

    On failure the traceback is left in error.log, and no results.json; in a multirun the others go on, and this one has
    no score.
    """
    values = to_plain(config)
    if (found := study.finished_record(values, job)) is not None:
        return _to_maximize(found)
    keep_freed_memory()
    reset_peak_memory()
    console = Console()
    try:
        record = Experiment(values, job, console).run()
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be full, which is then the error to tell
            write_atomically(job.directory / "error.log", traceback.format_exc().encode())
        if job.multirun and isinstance(error, Exception):
            log.error(
                "failed, the others go on: %s", " ".join(str(error).split()) or type(error).__name__
            )
            return None
        if isinstance(error, MisconfigurationException):  # Lightning's word for wrong input
            raise ValueError(str(error)) from error
        raise
    if is_first_process():
        print_summary(record, console)
    return _to_maximize(record)


def _to_maximize(record: RunRecord) -> float | None:
    score = record.scores.get(record.monitor)
    return -score if score is not None and record.config["task"].get("mode") == "min" else score


class Experiment:
    """One run's parts, built in order, and what is done with them."""

    def __init__(self, config: dict[str, Any], job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.started, self.clock = datetime.datetime.now(datetime.UTC), time.perf_counter()
        self.saved: resume.Saved | None = None
        self.missing: dict[str, str] = {}  # scores that could not be computed, and why
        self.choices, self.config_hash = job.choices, config_hash(config, str(job.directory))
        if config["ckpt_path"] is not None:
            self.saved = resume.find_saved(config["ckpt_path"], resume=config["train"])
            continues = self.saved.checkpoint is not None and config["train"]
            config, self.choices = resume.bring(
                config, job.choices, self.saved, job.overrides, resume=continues
            )
        if config["train"] or config["certify"]:
            config = prior_run.with_part(config)
        self.config = config
        check_job(config, job)
        if is_first_process():
            self._clear_old_results()
            text = yaml.safe_dump(saved_config(config, self.choices), sort_keys=False)
            write_atomically(job.directory / resume.CONFIG, text.encode())
            if config["print_config"]:
                print_config(config, console, self.choices)

    def _clear_old_results(self) -> None:
        """Nothing of an earlier run in this folder may look like this one's result."""
        for name in (RECORD_FILE, "error.log"):
            (self.job.directory / name).unlink(missing_ok=True)
        adapter = self.job.directory / "adapter"
        if self.config["train"] and not (self.saved and self.saved.adapter == adapter):
            shutil.rmtree(adapter, ignore_errors=True)

    def run(self) -> RunRecord:
        """Train if asked to, test, predict, and write what is left of it."""
        quieten()
        config = self.config
        resumed = (
            self.saved is not None and self.saved.checkpoint is not None
        )  # a checkpoint holds its prior
        self.certificate_options = CertificateOptions(**config["certificate"])
        learned = None if resumed else prior_run.find(config, self.job, run=self._run_another)
        L.seed_everything(config["seed"], workers=True, verbose=False)
        self.task: Task = build(config["task"])
        self.backbone: Backbone = build(config["model"], **self.task.head(), seed=config["seed"])
        self.task.setup(
            self.backbone.processor, seed=config["seed"], cache_dir=Path(config["paths"]["cache"])
        )
        if config["predict"] and not self.task.predict_loaders():
            raise ValueError(
                f"predict=true, but task={self.task.name} has no unlabeled test split here: leave it out"
            )
        self.adapters: AdapterSet = inject(
            self.backbone.model,
            build(config["adapter"]),
            seed=config["seed"],
            head=self.backbone.head_parameters(self.task.trained_modules),
        )
        self.module = self._module()
        if learned:
            self._start_from(learned)
        self.recorder = Recorder()
        if config["certify"]:
            certify.check(self.module, self.certificate_options)
        failed = True
        try:
            self.trainer = make_trainer(
                self.config, self.choices, self.task, self.adapters, self.recorder
            )
            scores = self._train() if config["train"] else {}
            if not config["train"]:
                self._load_for_evaluation()
            record = self._finish(scores)
            failed = False
        finally:
            wandb_run.close(failed)
        return record

    def _run_another(self, config: dict[str, Any], job: Job) -> None:
        Experiment(config, job, self.console).run()

    def _start_from(self, learned: Path) -> None:
        """Load a learned prior as the start values and as the mean of the prior."""
        facts = prior_run.read_facts(learned, self.config)
        certify.check_prior(self.task, facts)
        checkpoint.load(self.adapters, learned / "adapter", fingerprint=self.backbone.fingerprint)
        self.module.regularizer.recenter(facts)

    def _module(self) -> FineTuning:
        config = self.config
        compatibility = {
            "backbone": self.backbone.fingerprint,
            "random_structure": self.adapters.digest,
            "method": json.dumps(checkpoint.weight_options(self.adapters.method)),
            "task": self.choices.get("task", ""),
        }
        module = FineTuning(
            adapters=self.adapters,
            task=self.task,
            regularizer=build(config["regularizer"]),
            optimizer=lambda groups: build(config["optimizer"], groups),
            scheduler=lambda optimizer, total_steps: build(
                config["scheduler"], optimizer, total_steps=total_steps
            ),
            seed=config["seed"],
            compatibility=compatibility,
            run_config=saved_config(config, self.choices),
        )
        if config["compile"]:
            module.model.compile(
                backend="inductor" if config["compile"] is True else config["compile"]
            )
        return module

    def _train(self) -> dict[str, float]:
        """Fit, return to the best epoch, and save the adapter; gives the best epoch's validation scores."""
        checkpoint = self.saved.checkpoint if self.saved else None
        if self.saved and self.saved.adapter:
            self._load_adapter(
                self.saved.adapter
            )  # a start, not a resumption: optimizer and epochs begin anew
        if checkpoint:
            state = resume.read_checkpoint(checkpoint)
            self._check_unfinished(state)
            self.module.resume_from(state)
        try:
            self.trainer.fit(self.module, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        row = self.recorder.history[-1]
        best = getattr(
            self.trainer.checkpoint_callback, "best_model_path", ""
        )  # no checkpoints: the last epoch it is
        if best:
            epoch = self._load_checkpoint(Path(best))
            row = next(row for row in self.recorder.history if row["epoch"] == epoch)
        self.recorder.best_epoch = int(row["epoch"])
        return {key: value for key, value in row.items() if key.startswith("validation")}

    def _check_unfinished(self, state: dict[str, Any]) -> None:
        epochs = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        limit = self.config["trainer"]["max_epochs"]
        if (
            limit is not None
            and 0 <= limit <= epochs
            and self.saved
            and (self.saved.run / RECORD_FILE).is_file()
        ):
            raise ValueError(
                f"ckpt_path={self.config['ckpt_path']} has trained {epochs} of trainer.max_epochs={limit} epochs: "
                "set trainer.max_epochs higher to go on, or train=false to evaluate it"
            )

    def _load_for_evaluation(self) -> None:
        saved = self.saved
        if saved is None and self.config["adapter"].get("path"):
            log.info("the adapter of %s is evaluated", self.config["adapter"]["path"])
        elif saved is None:
            log.warning("train=false without ckpt_path: the untrained model is evaluated")
        elif saved.adapter:
            self._load_adapter(saved.adapter)
        elif saved.checkpoint:
            self._load_checkpoint(saved.checkpoint)

    def _load_checkpoint(self, path: Path) -> int:
        """Load the weights of a checkpoint and return its epoch."""
        state = resume.read_checkpoint(path)
        self.module.on_load_checkpoint(state)
        self.module.load_state_dict(state["state_dict"])
        return int(state["epoch"])

    def _load_adapter(self, directory: Path) -> None:
        there = self.saved.config["choices"].get("task") if self.saved else None
        here = self.choices.get("task")
        same_task = there == here
        if not same_task and not self.config["train"]:
            raise ValueError(
                f"{directory} was trained on task={there}, its head does not answer task={here}: leave task= out, or "
                "use train=true to start from the adapter"
            )
        if not same_task:
            log.info(
                "the saved head belongs to another task: the adapter is loaded, the head starts anew"
            )
        checkpoint.load(
            self.adapters, directory, fingerprint=self.backbone.fingerprint, head=same_task
        )
        if not self.config["train"]:
            resume.load_regularizer(self.module.regularizer, directory)

    def _finish(self, scores: dict[str, float]) -> RunRecord:
        config, directory = self.config, self.job.directory
        size = self._save_adapter() if config["train"] else None
        if config["test"]:
            scores |= self._test()
        if config["predict"]:
            write_predictions(self.trainer, self.module, self.job.directory / "predictions")
        certificate = None
        if config["certify"]:
            certificate = certify.certify(
                self.module, self.trainer, self.certificate_options, self.console
            )
        record = self._record(scores, size, certificate)
        for logger in self.trainer.loggers:
            logger.log_metrics(summary_metrics(record))
            logger.finalize("success")
        if self.trainer.is_global_zero:
            write_record(record, directory)
            wandb_run.keep(directory / RECORD_FILE)
            if file := study.study_path(config):
                study.append_record(record, file)
        return record

    def _test(self) -> dict[str, float]:
        scores = {}
        if self.task.test_loaders():
            self.trainer.test(self.module, verbose=False)
            scores = self._measured("test")
        elif not self.config["train"]:  # also starts the other processes, where there are several
            self.trainer.validate(self.module, verbose=False)
            scores = self._measured("validation")
        if isinstance(self.task, Writer):
            earlier = self.saved.run / "texts" if self.saved else None
            folder = self.job.directory / "texts"
            found = generate.write_and_score(
                self.module, self.trainer, folder, self.console, earlier
            )
            scores |= found.values
            self.missing = found.missing
            for name, reason in found.missing.items():
                log.warning("%s is not computed: %s", name, reason)
        return scores

    def _measured(self, stage: str) -> dict[str, float]:
        return {
            key: float(value)
            for key, value in self.trainer.callback_metrics.items()
            if key.startswith(stage)
        }

    def _save_adapter(self) -> int | None:
        if not self.trainer.is_global_zero:
            return None
        source = {"source": self.backbone.source, "fingerprint": self.backbone.fingerprint}
        extra = {
            "config": self.module.run_config,
            "prior_facts": self.module.regularizer.prior_facts,
        }
        beside = resume.regularizer_files(self.module.regularizer)
        return checkpoint.save(
            self.adapters,
            self.job.directory / "adapter",
            backbone=source,
            extra=extra,
            beside=beside,
        )

    def _record(
        self, scores: dict[str, float], size: int | None, certificate: dict[str, Any] | None
    ) -> RunRecord:
        config, report, monitor = (
            self.config,
            self.adapters.report(),
            f"validation/{self.task.monitor}",
        )
        return RunRecord(
            run=Run(
                **{group: self.choices.get(group, "") for group in GROUPS},
                seed=config["seed"],
                directory=str(self.job.directory),
                started=self.started.isoformat(timespec="seconds"),
                seconds=time.perf_counter() - self.clock,
                command=self.job.overrides,
                trained=config["train"],
                from_checkpoint=config["ckpt_path"],
                config_hash=self.config_hash,
            ),
            parameters=Parameters(report.adapter, report.head, report.backbone, report.percent),
            scores=scores,
            monitor=monitor,
            training=self.recorder.training(),
            environment=describe_environment(
                self.trainer.strategy.root_device, str(self.trainer.precision)
            ),
            data={**self.task.describe(), "fingerprint": self.task.fingerprint},
            backbone={
                "source": self.backbone.source,
                "fingerprint": self.backbone.fingerprint,
                "random_structure": self.adapters.digest,
            },
            adapter_file_bytes=size,
            config={"choices": self.choices, **config},
            certificate=certificate,
            reported=self.task.reported or "",
            missing=self.missing,
        )
