"""Finished runs by config hash, and studies, whose records outlive the run folders."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlora.config.config_hash import hashed_config
from rlora.config.job import Job
from rlora.records.identity import CODE, SAME_CODE, SAME_CONFIG, Identity
from rlora.records.record import (
    RECORD_FILE,
    STUDY_FILE,
    RunRecord,
    read_record,
    write_record,
)
from rlora.records.status import run_folders
from rlora.records.study_file import append_execution, records_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A finished run: its record, and the file that holds it."""

    record: RunRecord
    file: Path


def finished_record(config: dict[str, Any], job: Job, identity: Identity) -> RunRecord | None:
    """Return the record of the same run if it finished before and this multirun skips such runs.

    The record is copied to this run's folder and to its study, so that both are complete.

    Args:
        config: Plain and resolved.
        job: The job that is about to run.
        identity: Its identity.

    Raises:
        ValueError: `skip_finished` is none of its values.
    """
    policy, study = check_policy(config), study_path(config)
    if not (job.multirun and policy):
        return None
    found = latest_finished(identity.config_hash, Path(config["paths"]["outputs"]), study)
    if found is None:
        return None
    if changes := _changes(found.record, identity, policy):
        kept = f" (skip_finished={SAME_CONFIG} keeps its result)" if changes == [CODE] else ""
        log.info("runs again: %s, but %s%s", _describe(found), _reason(found.record, changes), kept)
        return None
    log.info("skipped: %s; set skip_finished=false to run it again", _describe(found))
    if study:
        append_record(found.record, study)
    write_record(found.record, job.directory)
    return found.record


def is_finished_in(folder: Path, identity: Identity) -> bool:
    """Return whether a folder holds the record of a run with this identity."""
    if not (folder / RECORD_FILE).is_file():
        return False
    run = read_record(folder).run
    return run.config_hash == identity.config_hash and not identity.changes(run)


def check_policy(config: dict[str, Any]) -> str | None:
    """Return which finished runs a multirun skips; None for none of them.

    Raises:
        ValueError: `skip_finished` is none of its values.
    """
    policy = config["skip_finished"]
    if policy in (SAME_CODE, SAME_CONFIG):
        return str(policy)
    if policy is False:
        return None
    word = "null" if policy is None else policy
    raise ValueError(
        f"skip_finished={word} is invalid: expected {SAME_CODE}, {SAME_CONFIG} or false"
    )


def _changes(record: RunRecord, identity: Identity, policy: str) -> list[str]:
    changes = identity.changes(record.run)
    return [change for change in changes if policy == SAME_CODE or change != CODE]


def latest_finished(wanted: str, outputs: Path, study: Path | None = None) -> Finished | None:
    """Return the latest finished run with a config hash.

    Only the latest counts, as reports show only that one.

    Args:
        wanted: The config hash.
        outputs: Folder that holds run folders at any depth.
        study: File of the study, whose records need no folders.
    """
    found = list(_finished_in(wanted, outputs))
    if study:
        found += [Finished(record, study) for record in records_of(study, wanted)]
    return max(found, key=_rank, default=None)


def _rank(found: Finished) -> tuple[str, bool]:
    """Return the rank of a record: the latest, and of one execution that in the run's folder."""
    return found.record.run.started, found.file.parent == Path(found.record.run.directory)


def _finished_in(wanted: str, outputs: Path) -> Iterator[Finished]:
    for folder in run_folders(outputs):
        with contextlib.suppress(OSError, ValueError):  # an unfinished or damaged run is not one
            file = folder / RECORD_FILE
            if _hash_in(file, file.stat().st_mtime_ns) == wanted:
                yield Finished(read_record(file), file)


@functools.cache
def _hash_in(file: Path, modified: int) -> str:
    """Return a record's config hash. Cached, as each job of a multirun looks through all records.

    The time of modification is part of the cache key.
    """
    return read_record(file).run.config_hash


def _describe(found: Finished) -> str:
    """Return when a run finished, where its record is, and on which code and machine it ran."""
    run, environment = found.record.run, found.record.environment
    place = (
        f"{found.file}" if found.file.name == RECORD_FILE else f"{run.directory} in {found.file}"
    )
    code = _commit(environment.git_commit, environment.git_dirty)
    machine = environment.host or environment.device
    return f"the same run finished on {run.started} ({place}; {code}; machine {machine})"


def _commit(commit: str | None, dirty: bool | None) -> str:
    if commit is None:
        return "no commit known"
    return f"commit {commit[:10]}" + (" with uncommitted changes" if dirty else "")


def _reason(record: RunRecord, changes: list[str]) -> str:
    """Return why the record of a run with the same config does not count."""
    if not record.run.code:
        return "its record does not say which data and code it used"
    return f"{' and '.join(changes)} changed since then"


def study_path(config: dict[str, Any]) -> Path | None:
    """Return the file of a run's study, or None if the run belongs to no study."""
    if not config["study"]:
        return None
    return Path(config["paths"]["studies"]) / str(config["study"]) / STUDY_FILE


def append_record(record: RunRecord, file: Path) -> None:
    """Append a record to a study's file, unless it holds this execution of the run."""
    append_execution(portable_record(record), file)


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
