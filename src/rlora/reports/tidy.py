"""Run records as rows of plain values, one a run."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlora.plain import flat
from rlora.records import FILE, Record, read_lines, read_record


@dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
        facts: What was run, by dotted key: task, model, adapter and regularizer by name, seed, and the whole config.
        score: The task's own score on the split asked for; None where it was not scored there.
        record: All of it.
    """

    facts: dict[str, Any]
    score: float | None
    record: Record


def load(paths: Iterable[Path], split: str = "test") -> list[Measured]:
    """Read the records of folders of runs (at any depth) and of files with a record a line, each run once.

    Raises:
        ValueError: a path does not exist or holds no record, or a record cannot be read.
    """
    found: dict[tuple[str, str], Record] = {}
    for path in paths:
        records = _read(path)
        if not records:
            raise ValueError(f"{path} holds no record of a finished run: give a folder of runs or a records.jsonl")
        for record in records:
            found.setdefault((record.run.identity or record.run.directory, record.run.started), record)
    return [measured(record, split) for record in found.values()]


def _read(path: Path) -> list[Record]:
    if path.is_dir():
        files = sorted(path.rglob("*.jsonl"))
        return [read_record(file) for file in sorted(path.rglob(FILE))] + [
            r for file in files for r in read_lines(file)
        ]
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give a folder of runs or a records.jsonl")
    return read_lines(path) if path.suffix == ".jsonl" else [read_record(path)]


def measured(record: Record, split: str) -> Measured:
    """One run's row."""
    run = record.run
    named = {"task": run.task, "model": run.model, "adapter": run.adapter, "regularizer": run.regularizer}
    metric = record.monitor.partition("/")[2]
    return Measured({**flat(record.config), **named, "seed": run.seed}, record.scores.get(f"{split}/{metric}"), record)
