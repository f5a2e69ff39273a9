"""Finished runs: found again wherever they lie; and a study's records, which outlive the folders of its runs."""

import contextlib
import fcntl
import functools
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlora.config.config_hash import config_hash, hashed_config
from rlora.config.job import Job
from rlora.records.record import (
    RECORD_FILE,
    STUDY_FILE,
    RunRecord,
    read_record,
    read_study,
    write_record,
)
from rlora.records.status import run_folders

log = logging.getLogger(__name__)


def finished_record(config: dict[str, Any], job: Job) -> RunRecord | None:
    """The record of the same run, where it finished before and this is a multirun that skips such runs.

    A copy is left in this run's folder and in its study, so that both are complete.
    """
    if not (job.multirun and config["skip_finished"]):
        return None
    wanted, study = config_hash(config, str(job.directory)), study_path(config)
    kept = read_study(study, holding=wanted) if study else []
    record = kept[0] if kept else find_finished(wanted, Path(config["paths"]["outputs"]))
    if record is not None:
        if study and not kept:
            append_record(record, study)
        log.info(
            "skipped: the same run finished on %s in %s", record.run.started, record.run.directory
        )
        write_record(record, job.directory)
    return record


def find_finished(wanted: str, outputs: Path) -> RunRecord | None:
    """The record of the finished run of this config hash anywhere below a folder; None where there is none."""
    for folder in run_folders(outputs):
        with contextlib.suppress(
            OSError, ValueError
        ):  # it did not finish, or was left half written
            file = folder / RECORD_FILE
            if _identity(file, file.stat().st_mtime_ns) == wanted:
                return read_record(file)
    return None


@functools.cache
def _identity(file: Path, changed: int) -> str:
    """A record's config hash; kept while the file is unchanged, for each job of a multirun looks through them all."""
    return read_record(file).run.identity


def study_path(config: dict[str, Any]) -> Path | None:
    """Where the records of a run's study are kept; None where it belongs to none."""
    return (
        Path(config["paths"]["studies"]) / str(config["study"]) / STUDY_FILE
        if config["study"]
        else None
    )


def append_record(record: RunRecord, file: Path) -> None:
    """Add a record to a study's file, as a line of its own, while others may do the same."""
    line = json.dumps(asdict(portable_record(record))) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)  # of a line that a full disk cut off
        stream.write(line.encode())


def portable_record(record: RunRecord) -> RunRecord:
    """A record without the names and paths of the machine it was made on, and of the epochs those that were scored."""
    folder = record.run.directory
    scored = [
        row for row in record.training.history if any(key.startswith("validation/") for key in row)
    ]
    return replace(
        record,
        training=replace(record.training, history=scored),
        run=replace(
            record.run,
            directory=Path(folder).name,
            command=_nameless(record.run.command),
            from_checkpoint=_nameless(record.run.from_checkpoint),
        ),
        environment=replace(record.environment, host="", platform=""),
        data=_nameless(record.data),
        backbone=_nameless(record.backbone),
        config=_nameless(hashed_config(record.config, folder)),
        certificate=_nameless(record.certificate),
    )


def _nameless(value: Any) -> Any:
    """Plain values with the last part alone of every absolute path, in `key=path` too."""
    if isinstance(value, dict):
        return {key: _nameless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nameless(item) for item in value]
    if not isinstance(value, str):
        return value
    key, equals, path = value.rpartition("=")
    path = path.strip("'\"")
    return f"{key}{equals}{Path(path).name}" if os.path.isabs(path) else value
