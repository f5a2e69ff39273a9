"""Learned priors: a separate run on the part of the training set that the certificate excludes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlora.config.flatten import move_paths
from rlora.config.job import Job
from rlora.data.disjoint_parts import PRIOR, REST
from rlora.records.record import RunRecord, read_record
from rlora.regularizers.base import PriorFacts

START, SPLIT = "start", "split"  # values of regularizer.prior other than a folder
FOLDER = "prior"  # of the prior's run, inside the folder of the posterior's run
SHARED = ("model", "adapter", "seed")  # config sections that must be equal in both runs


def prior_option(config: dict[str, Any]) -> str:
    """Return `regularizer.prior`: "start", "split" or a folder; "start" without a posterior."""
    return str((config.get("regularizer") or {}).get("prior", START))


def with_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with `task.part=rest` if its prior is learned.

    Raises:
        ValueError: the task has no parts, or the config names another part.
    """
    option = prior_option(config)
    if option == START:
        return config
    task = config["task"]
    if "part" not in task:
        raise ValueError(
            f"regularizer.prior={option} is invalid: expected a task with task.part; set "
            "regularizer.prior=start"
        )
    if task["part"] not in (None, REST):
        raise ValueError(
            f"task.part={task['part']} is invalid with regularizer.prior={option}: expected "
            f"{REST}, on which the posterior trains; set task.part=null"
        )
    return {**config, "task": {**task, "part": REST}}


def find(
    config: dict[str, Any], job: Job, *, run: Callable[[dict[str, Any], Job], object]
) -> Path | None:
    """Return the folder of the finished run that learned the prior, training it if needed.

    Args:
        config: Config of the run that needs the prior.
        job: Its job.
        run: Executes a config and job, unless the same run has finished in the job's folder.

    Returns:
        None if the prior is the start values, or if nothing is trained.
    """
    option = prior_option(config)
    if option == START or not config["train"]:
        return None
    if option != SPLIT:
        return Path(option).expanduser()
    prior_config, prior_job = job_of(config, job)
    run(prior_config, prior_job)
    return prior_job.directory


def job_of(config: dict[str, Any], job: Job) -> tuple[dict[str, Any], Job]:
    """Return config and job of the run that learns the prior, in a subfolder of this run."""
    folder = job.directory / FOLDER
    moved = move_paths(config, str(job.directory), str(folder))
    prior_config = {
        **moved,
        "regularizer": {"_target_": "rlora.regularizers.none.NoRegularizer"},
        "task": {**moved["task"], "part": PRIOR},
        "train": True,
        "predict": False,
        "certify": False,
        "ckpt_path": None,
        "print_config": False,
        "study": None,
    }
    choices = {**job.choices, "regularizer": "none"}
    return prior_config, replace(job, directory=folder, choices=choices, overrides=[])


def read_facts(folder: Path, config: dict[str, Any], key: str = "regularizer.prior") -> PriorFacts:
    """Return the facts of a learned prior, or of a held-out baseline, from the record of its run.

    Args:
        folder: Folder of that run.
        config: Config of the run that uses it.
        key: Config key that names the folder, for error messages.

    Raises:
        ValueError: the folder has no finished run, or one of another model, adapter or seed.
    """
    try:
        record: RunRecord = read_record(folder)
    except ValueError as error:
        others = f"{START}, {SPLIT} or " if key == "regularizer.prior" else ""
        raise ValueError(
            f"{key}={folder} is invalid: expected {others}the folder of a finished run; {error}"
        ) from error
    if differing := [name for name in SHARED if record.config.get(name) != config[name]]:
        raise ValueError(
            f"{key}={folder} is invalid: it was trained with another {', '.join(differing)}; use "
            "the same, or set regularizer.prior=split to train one"
        )
    return {
        "kind": "learned",
        "part": record.data.get("part"),
        "parts": record.data.get("parts"),
        "scores": record.scores,
    }
