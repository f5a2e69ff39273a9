"""A prior that was learned: an ordinary run on the part of the training set that the certificate leaves alone."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlora.config.config_hash import config_hash
from rlora.config.flatten import move_paths
from rlora.config.job import Job
from rlora.records.record import RECORD_FILE, RunRecord, read_record

log = logging.getLogger(__name__)
START, SPLIT = "start", "split"
FOLDER = "prior"
SAME = ("model", "adapter", "seed")  # sections that a prior shares with its posterior


def of(config: dict[str, Any]) -> str:
    """What a config says of its prior: "start", "split" or a folder; "start" where it has no posterior."""
    return str((config.get("regularizer") or {}).get("prior", START))


def with_part(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the run whose prior is learned: it trains on the rest.

    Raises:
        ValueError: the task cannot be divided, or is to train on another part.
    """
    if of(config) == START:
        return config
    task = config["task"]
    if "part" not in task:
        raise ValueError(
            f"regularizer.prior={of(config)} needs a task that can be divided; this one has no task.part"
        )
    if task["part"] not in (None, "rest"):
        raise ValueError(
            f"task.part={task['part']} with regularizer.prior={of(config)}: the posterior trains on the rest; leave "
            "task.part out"
        )
    return {**config, "task": {**task, "part": "rest"}}


def find(
    config: dict[str, Any], job: Job, *, run: Callable[[dict[str, Any], Job], object]
) -> Path | None:
    """The folder of the finished run that learned the prior; None for a prior without data.

    Args:
        config: Of the run that needs the prior.
        job: The same.
        run: Runs another config, here the prior's where it has not finished yet.
    """
    asked = of(config)
    if asked == START or not config["train"]:
        return None
    if asked != SPLIT:
        return Path(asked).expanduser()
    own, its_job = job_of(config, job)
    if not finished(own, its_job.directory):
        log.info("learning the prior in %s", its_job.directory)
        run(own, its_job)
    return its_job.directory


def job_of(config: dict[str, Any], job: Job) -> tuple[dict[str, Any], Job]:
    """The config and job of the run that learns the prior, in a folder of its own below this run's."""
    folder = job.directory / FOLDER
    there = move_paths(config, str(job.directory), str(folder))
    own = {
        **there,
        "regularizer": {"_target_": "rlora.regularizers.none.NoRegularizer"},
        "task": {**there["task"], "part": "prior"},
        "train": True,
        "predict": False,
        "certify": False,
        "ckpt_path": None,
        "print_config": False,
        "study": None,
    }
    return own, replace(
        job, directory=folder, choices={**job.choices, "regularizer": "none"}, overrides=[]
    )


def finished(config: dict[str, Any], folder: Path) -> bool:
    """Whether a run of this very config lies finished in a folder, as after a break in the posterior's training."""
    return (folder / RECORD_FILE).is_file() and read_record(folder).run.identity == config_hash(
        config, str(folder)
    )


def facts(folder: Path, config: dict[str, Any], key: str = "regularizer.prior") -> dict[str, Any]:
    """What a certificate has to know of a learned prior, or of a rival: its part and the digests of all parts.

    Raises:
        ValueError: no finished run lies there, or it is one of another model, adapter or seed.
    """
    try:
        record: RunRecord = read_record(folder)
    except ValueError as error:
        others = "start, split or " if key == "regularizer.prior" else ""
        raise ValueError(
            f"{key}={folder} is not {others}the folder of a finished run: {error}"
        ) from error
    if other := [key for key in SAME if record.config.get(key) != config[key]]:
        raise ValueError(
            f"{key}={folder} was learned with another {', '.join(other)}: use the same, or let "
            "regularizer.prior=split learn one"
        )
    return {
        "kind": "learned",
        "part": record.data.get("part"),
        "parts": record.data.get("parts"),
        "scores": record.scores,
    }
