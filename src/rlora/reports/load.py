"""Run records, loaded from disk as scores: one per run and metric.

A run that cannot be scored is skipped, and the reason is kept for the report.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlora.config.flatten import flatten
from rlora.records.record import (
    RECORD_FILE,
    STUDY_FILE,
    RunRecord,
    parse_study_line,
    read_record,
)
from rlora.records.status import FAILED, FINISHED, run_folders, run_status
from rlora.records.study_file import study_lines
from rlora.reports.metric_format import MetricFormat, metric_format


@dataclass(frozen=True)
class Score:
    """The score of a finished run by one metric.

    Attributes:
        settings: Values by dotted key: the whole config, with `task`, `model`, `adapter` and
            `regularizer` as names, `seed`, and `metric`.
        value: The score on `split`.
        split: Split of the score.
        format: Format of the metric.
        validation: The monitored score on the validation split, negated where smaller is better.
            Hyperparameters are chosen by it. None if the run was not scored on validation.
        record: The whole run record.
    """

    settings: dict[str, Any]
    value: float
    split: str
    format: MetricFormat
    validation: float | None
    record: RunRecord


@dataclass(frozen=True)
class LoadedRun:
    """A run record and the path it was read from."""

    source: str
    record: RunRecord


@dataclass(frozen=True)
class SkippedRun:
    """A path or run that does not count, and the reason."""

    source: str
    reason: str


UNFINISHED = None  # a run folder with neither a result nor an error: running, or killed
RunItem = LoadedRun | SkippedRun | None


@dataclass(frozen=True)
class LoadResult:
    """The scores of all loaded runs.

    Attributes:
        scores: One score per run and requested metric.
        skipped: Runs that do not count.
        unfinished: Number of run folders with neither a result nor an error.
        split: Split of the scores.
    """

    scores: list[Score]
    skipped: list[SkippedRun]
    unfinished: int = 0
    split: str = "test"


class RunLoader:
    """A loader of run folders, at any depth, and of `records.jsonl` files.

    It parses a record file again only after the file has changed, so that `--watch` stays cheap.

    Args:
        split: Split of the scores: "test" or "validation"; None means test, or validation if no
            run has a test score.
        metrics: Metrics to load; empty means the main metric of each run.
    """

    def __init__(self, split: str | None = None, metrics: Sequence[str] = ()) -> None:
        self.split, self.metrics = split, metrics
        self._records: dict[tuple[Path, int], RunRecord] = {}  # by file and time of its change

    def load(self, paths: Iterable[Path], extra: Iterable[RunItem] = ()) -> LoadResult:
        """Load the runs that exist now.

        Args:
            paths: Run folders, folders of run folders, and record files.
            extra: Runs from another source, such as W&B.

        Raises:
            ValueError: No run has a score; the message lists the reasons.
        """
        items = [item for path in paths for item in self._items(path)] + list(extra)
        runs = [item for item in items if isinstance(item, LoadedRun)]
        skipped = [item for item in items if isinstance(item, SkippedRun)]
        return collect_scores(runs, self.split, self.metrics, skipped, items.count(UNFINISHED))

    def _items(self, path: Path) -> list[RunItem]:
        empty = SkippedRun(str(path), "holds no run: expected a folder of runs or a records.jsonl")
        return list(self._walk(path)) or [empty]

    def _walk(self, path: Path) -> Iterator[RunItem]:
        if not path.exists():
            reason = "does not exist: expected a folder of runs or a records.jsonl"
            yield SkippedRun(str(path), reason)
        elif path.suffix == ".jsonl":
            yield from _study_runs(path)
        elif path.is_file():
            yield self._run(path)
        else:
            for folder in run_folders(path):
                yield self._folder_run(folder)
            for file in sorted(path.rglob(STUDY_FILE)):
                yield from _study_runs(file)

    def _folder_run(self, folder: Path) -> RunItem:
        status = run_status(folder)
        if status.state == FINISHED:
            return self._run(folder / RECORD_FILE)
        if status.state == FAILED:
            return SkippedRun(str(folder), f"failed: {status.reason}")
        return UNFINISHED

    def _run(self, file: Path) -> LoadedRun | SkippedRun:
        try:
            key = (file, file.stat().st_mtime_ns)
            if key not in self._records:
                self._records[key] = read_record(file)
        except (ValueError, OSError) as error:
            return _skipped(str(file), error)
        return LoadedRun(str(file), self._records[key])


def _study_runs(file: Path) -> Iterator[LoadedRun | SkippedRun]:
    for source, line in study_lines(file):
        try:
            yield LoadedRun(source, parse_study_line(line, source))
        except ValueError as error:
            yield _skipped(source, error)


def _skipped(source: str, error: Exception) -> SkippedRun:
    return SkippedRun(source, str(error).removeprefix(f"{source} "))


def collect_scores(
    runs: Iterable[LoadedRun],
    split: str | None = None,
    metrics: Sequence[str] = (),
    skipped: Iterable[SkippedRun] = (),
    unfinished: int = 0,
) -> LoadResult:
    """Return the scores of runs, each run counted once.

    Args:
        runs: Loaded runs; the same run may occur several times.
        split: Split of the scores; None means test, or validation if no run has a test score.
        metrics: Metrics; empty means the main metric of each run.
        skipped: Runs that were skipped before.
        unfinished: Number of unfinished runs.

    Raises:
        ValueError: No run has a score; the message lists the reasons.
    """
    latest, repeated = _latest_runs(runs)
    scores, all_skipped = list[Score](), [*skipped, *repeated]
    split = split or _default_split(latest, metrics)
    for run in latest:
        for metric in metrics or [run.record.headline(split)]:
            score = score_run(run.record, split, metric)
            if isinstance(score, Score):
                scores.append(score)
            else:
                source = f"{run.source} ({run.record.run.directory})"
                all_skipped.append(SkippedRun(source, score))
    if not scores:
        raise ValueError(_no_scores_message(all_skipped, unfinished))
    return LoadResult(scores, all_skipped, unfinished, split)


def _default_split(runs: Iterable[LoadedRun], metrics: Sequence[str]) -> str:
    """Return "test", or "validation" for runs without any test score, as searches leave them."""
    names = {name for run in runs for name in run.record.scores}
    validated = {
        _score_name(run.record, "validation", name) for run in runs for name in metrics or [""]
    }
    is_tested = any(name.startswith("test") for name in names)
    return "validation" if validated & names and not is_tested else "test"


def _score_name(record: RunRecord, split: str, metric: str) -> str:
    """Return the name of a score in a record; an empty metric means the main one."""
    metric = metric or record.headline(split)
    return metric if "/" in metric else f"{split}/{metric}"


def _latest_runs(runs: Iterable[LoadedRun]) -> tuple[list[LoadedRun], list[SkippedRun]]:
    """Return the latest execution of each run, and the earlier ones as skipped."""
    latest, repeated = dict[str, LoadedRun](), []
    for run in runs:
        key = run.record.run.config_hash or run.record.run.directory
        other = latest.get(key)
        if other is None:
            latest[key] = run
        elif other.record.run.started != run.record.run.started:
            # With equal start times it is one execution, read from its folder and from its study.
            first, last = sorted((other, run), key=lambda item: item.record.run.started)
            reason = f"superseded: the same run was repeated on {last.record.run.started}"
            if first.record.data.get("fingerprint") != last.record.data.get("fingerprint"):
                reason += ", on other data"
            if first.record.run.code != last.record.run.code:
                reason += ", by other code"
            repeated.append(SkippedRun(first.source, reason))
            latest[key] = last
    return list(latest.values()), repeated


def score_run(record: RunRecord, split: str, metric: str) -> Score | str:
    """Return the score of a run by a metric, or the reason why it has none."""
    run, name = record.run, _score_name(record, split, metric)
    value = record.scores.get(name)
    if value is None:
        reason = record.missing.get(name, "expected another --split or --metric")
        return f"has no score {name}: {reason}"
    if not math.isfinite(value):
        return f"its {name} is {value}"
    settings = {
        **flatten(record.config),
        "task": run.task,
        "model": run.model,
        "adapter": run.adapter,
        "regularizer": run.regularizer,
        "seed": run.seed,
        "metric": metric,
    }
    monitored = record.headline("validation")
    larger_is_better = settings.get("task.mode", "max") == "max"
    validation = record.scores.get(f"validation/{monitored}")
    if validation is not None and not larger_is_better:
        validation = -validation
    scale = metric_format(metric)
    if metric == monitored:  # the task itself declares the direction of its metric
        scale = replace(scale, larger_is_better=larger_is_better)
    return Score(settings, value, name.partition("/")[0], scale, validation, record)


def _no_scores_message(skipped: list[SkippedRun], unfinished: int) -> str:
    reasons = [f"{run.source} {run.reason}" for run in skipped[:3]]
    if len(skipped) > 3:
        reasons[-1] += f", and {len(skipped) - 3} more"
    if unfinished:
        reasons.append(f"{unfinished} unfinished")
    return f"no finished run to report: {'; '.join(reasons)}"


def unique_runs(scores: Iterable[Score]) -> list[Score]:
    """Return one score per run, for values that do not depend on the metric, such as costs."""
    return list({id(score.record): score for score in scores}.values())
