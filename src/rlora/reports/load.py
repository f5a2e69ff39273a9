"""Run records as rows of plain values, one a run; what cannot count is named."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlora.config.flatten import flatten
from rlora.records.record import (
    RECORD_FILE,
    STUDY_FILE,
    RunRecord,
    parse_study_line,
    read_record,
    study_lines,
)
from rlora.records.status import FAILED, FINISHED, run_folders, run_status
from rlora.reports.metrics import Shown, shown


@dataclass(frozen=True)
class Measured:
    """A finished run, by one metric.

    Attributes:
        facts: What was run, by dotted key: task, model, adapter and regularizer by name, seed, and the whole config.
        score: What a metric says on the split asked for; the fact `metric` names it.
        shown: How that metric is shown.
        validation: The monitored score on the validation split, for choices, negative where smaller is better; None
            where it was not scored there.
        record: All of it.
    """

    facts: dict[str, Any]
    score: float
    shown: Shown
    validation: float | None
    record: RunRecord


@dataclass(frozen=True)
class Problem:
    """What was left out, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What was read.

    Attributes:
        runs: Each run once for each metric asked for.
        problems: What could not count.
        unfinished: Number of run folders without a result or an error: running, or killed.
    """

    runs: list[Measured]
    problems: list[Problem]
    unfinished: int = 0


@dataclass(frozen=True)
class Found:
    """A record and where it was found."""

    place: str
    record: RunRecord


class Reader:
    """Reads folders of runs (at any depth) and files with a record a line; a record is parsed once, however often read.

    Args:
        split: "test" or "validation": whose scores are asked for.
        metrics: Which; none: of each run the one that stands for it.
    """

    def __init__(self, split: str = "test", metrics: Sequence[str] = ()) -> None:
        self.split, self.metrics = split, metrics
        self._known: dict[tuple[Path, int], RunRecord] = {}

    def read(self, paths: Iterable[Path], more: Iterable["Found | Problem | None"] = ()) -> Reading:
        """Read what is there now.

        Args:
            paths: Folders and files.
            more: What was found elsewhere: records, what is none, and None for an unfinished run.

        Raises:
            ValueError: not one run can be counted; says why.
        """
        items = [item for path in paths for item in self._look(path)] + list(more)
        problems = [item for item in items if isinstance(item, Problem)]
        found = [item for item in items if isinstance(item, Found)]
        return gather(
            found, self.split, self.metrics, problems, len(items) - len(problems) - len(found)
        )

    def _look(self, path: Path) -> list["Found | Problem | None"]:
        nothing = Problem(str(path), "holds no run: give a folder of runs or a records.jsonl")
        return list(self._walk(path)) or [nothing]

    def _walk(self, path: Path) -> Iterator["Found | Problem | None"]:
        if not path.exists():
            yield Problem(str(path), "does not exist: give a folder of runs or a records.jsonl")
        elif path.suffix == ".jsonl":
            yield from _lines(path)
        elif path.is_file():
            yield self._single(path)
        else:
            for folder in run_folders(path):
                ended = run_status(folder)
                if ended.state == FINISHED:
                    yield self._single(folder / RECORD_FILE)
                else:
                    yield (
                        Problem(str(folder), f"failed: {ended.reason}")
                        if ended.state == FAILED
                        else None
                    )
            for file in sorted(path.rglob(STUDY_FILE)):
                yield from _lines(file)

    def _single(self, file: Path) -> "Found | Problem":
        try:
            key = (file, file.stat().st_mtime_ns)
            if key not in self._known:
                self._known[key] = read_record(file)
        except (ValueError, OSError) as error:
            return _problem(str(file), error)
        return Found(str(file), self._known[key])


def _lines(file: Path) -> Iterator[Found | Problem]:
    for place, line in study_lines(file):
        try:
            yield Found(place, parse_study_line(line, place))
        except ValueError as error:
            yield _problem(place, error)


def _problem(place: str, error: Exception) -> Problem:
    return Problem(place, str(error).removeprefix(f"{place} "))


def gather(
    found: Iterable[Found],
    split: str,
    metrics: Sequence[str] = (),
    problems: Iterable[Problem] = (),
    unfinished: int = 0,
) -> Reading:
    """Count each run once, and leave out those without a score.

    Raises:
        ValueError: not one run can be counted; says why.
    """
    told, latest = list(problems), dict[str, Found]()
    for item in found:
        run = item.record.run
        key = run.identity or run.directory
        other = latest.get(key)
        if other is not None and other.record.run.started != run.started:
            first, last = sorted((other, item), key=lambda each: each.record.run.started)
            told.append(
                Problem(
                    first.place,
                    f"the same run was repeated on {last.record.run.started}, which counts",
                )
            )
            latest[key] = last
        elif other is None:
            latest[key] = item
    runs = []
    for item in latest.values():
        for metric in metrics or [item.record.headline(split)]:
            made = measured(item.record, split, metric)
            if isinstance(made, Measured):
                runs.append(made)
            else:
                told.append(Problem(f"{item.place} ({item.record.run.directory})", made))
    if not runs:
        raise ValueError(_nothing(told, unfinished))
    return Reading(runs, told, unfinished)


def measured(record: RunRecord, split: str, metric: str) -> Measured | str:
    """One run's row of a metric; or why there is none."""
    run, name = record.run, metric if "/" in metric else f"{split}/{metric}"
    score = record.scores.get(name)
    if score is None:
        return f"has no score {name}: {record.missing.get(name, 'leave it out, or see --split and --metric')}"
    if not math.isfinite(score):
        return f"its {name} is {score}"
    named = {
        "task": run.task,
        "model": run.model,
        "adapter": run.adapter,
        "regularizer": run.regularizer,
    }
    facts = {**flatten(record.config), **named, "seed": run.seed, "metric": metric}
    monitored, larger = record.headline("validation"), facts.get("task.mode", "max") == "max"
    validation = record.scores.get(f"validation/{monitored}")
    if validation is not None and not larger:
        validation = -validation
    how = shown(metric)
    return Measured(
        facts,
        score,
        replace(how, larger_is_better=larger) if metric == monitored else how,
        validation,
        record,
    )


def _nothing(problems: list[Problem], unfinished: int) -> str:
    more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
    told = "; ".join(f"{problem.place} {problem.reason}" for problem in problems[:3]) + more
    running = f"{unfinished} unfinished" if unfinished else ""
    return f"no finished run to report: {'; '.join(part for part in (told, running) if part)}"


def once(runs: Iterable[Measured]) -> list[Measured]:
    """Each run once, by however many metrics it was measured."""
    return list({id(run.record): run for run in runs}.values())


def csv_text(runs: Iterable[Measured]) -> str:
    """All runs as CSV, one a line, unrounded: what was run, its scores, its costs and its certificate."""
    rows = [_row(run) for run in once(runs)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _row(run: Measured) -> dict[str, Any]:
    record = run.record
    certificate = record.certificate or {}
    choices = {key: run.facts[key] for key in ("task", "model", "adapter", "regularizer", "seed")}
    known = {*choices, "metric"}
    training = {
        key: value for key, value in flatten(asdict(record.training)).items() if key != "history"
    }
    return {
        **choices,
        **record.scores,
        **flatten(asdict(record.parameters), "parameters."),
        **{f"training.{key}": value for key, value in training.items()},
        "peak_memory_mib": record.environment.peak_memory_mib,
        "peak_device_memory_mib": record.environment.peak_device_memory_mib,
        "adapter_file_bytes": record.adapter_file_bytes,
        **{
            f"certificate.{key}": certificate[key]
            for key in ("bound", "risk", "kl", "rows")
            if key in certificate
        },
        "device": record.environment.device,
        "started": record.run.started,
        "identity": record.run.identity,
        "directory": record.run.directory,
        **{
            key: value
            for key, value in run.facts.items()
            if key not in known and not key.endswith("_target_")
        },
    }
