"""Finished runs by config hash, and studies, whose records outlive the run folders."""

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
    """Return the record of the same run if it finished before and this multirun skips such runs.

    The record is copied to this run's folder and to its study, so that both are complete.

    Args:
        config: Plain and resolved.
        job: The job that is about to run.
    """
    if not (job.multirun and config["skip_finished"]):
        return None
    wanted, study = config_hash(config, str(job.directory)), study_path(config)
    records = read_study(study, holding=wanted) if study else []
    record = records[0] if records else find_finished(wanted, Path(config["paths"]["outputs"]))
    if record is not None:
        if study and not records:
            append_record(record, study)
        log.info(
            "skipped: the same run finished on %s in %s", record.run.started, record.run.directory
        )
        write_record(record, job.directory)
    return record


def find_finished(wanted: str, outputs: Path) -> RunRecord | None:
    """Return the record of a finished run by its config hash.

    Args:
        wanted: The config hash.
        outputs: Folder that holds run folders at any depth.
    """
    for folder in run_folders(outputs):
        with contextlib.suppress(OSError, ValueError):  # an unfinished or damaged run is not one
            file = folder / RECORD_FILE
            if _hash_in(file, file.stat().st_mtime_ns) == wanted:
                return read_record(file)
    return None


@functools.cache
def _hash_in(file: Path, modified: int) -> str:
    """Return a record's config hash. Cached, as each job of a multirun looks through all records.

    The time of modification is part of the cache key.
    """
    return read_record(file).run.config_hash


def study_path(config: dict[str, Any]) -> Path | None:
    """Return the file of a run's study, or None if the run belongs to no study."""
    if not config["study"]:
        return None
    return Path(config["paths"]["studies"]) / str(config["study"]) / STUDY_FILE


def append_record(record: RunRecord, file: Path) -> None:
    """Append a record as one line to a study's file. Concurrent calls wait for each other."""
    line = json.dumps(asdict(portable_record(record))) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)  # drop a line that a full disk cut off
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def portable_record(record: RunRecord) -> RunRecord:
    """Return a record without host names and paths, and with scored epochs only in its history."""
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
            command=_without_folders(record.run.command),
            from_checkpoint=_without_folders(record.run.from_checkpoint),
        ),
        environment=replace(record.environment, host="", platform=""),
        data=_without_folders(record.data),
        backbone=_without_folders(record.backbone),
        config=_without_folders(hashed_config(record.config, folder)),
        certificate=_without_folders(record.certificate),
    )


def _without_folders(value: Any) -> Any:
    """Return plain values with absolute paths cut to their last part, in `key=path` too."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    key, equals, path = value.rpartition("=")
    path = path.strip("'\"")
    return f"{key}{equals}{Path(path).name}" if os.path.isabs(path) else value
