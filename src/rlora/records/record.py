"""The run record, results.json: one schema, one writer, one reader. Standard library only."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from rlora.io.atomic import write_atomically
from rlora.records.scores import not_finite

SCHEMA = 2  # 1 is rlora 0.1
RECORD_FILE = "results.json"
STUDY_FILE = "records.jsonl"  # all records of a study, one per line


@dataclass
class Run:
    """What was run and when.

    Args:
        task: Option of the config group, as are model, adapter and regularizer.
        model: See task.
        adapter: See task.
        regularizer: See task.
        seed: Seed of the run.
        directory: Run folder.
        started: Start time, ISO 8601 in UTC.
        seconds: Wall time, including the sessions that a resumed run continues.
        command: Overrides of the command line.
        trained: Whether the run trained.
        from_checkpoint: The `ckpt_path` it started from.
        config_hash: See `rlora.config.config_hash`.
        inputs: See `rlora.records.identity.Identity`; empty in records of earlier versions.
        code: See `Identity`; empty in records of earlier versions.
    """

    task: str
    model: str
    adapter: str
    regularizer: str
    seed: int
    directory: str
    started: str
    seconds: float
    command: list[str]
    trained: bool
    from_checkpoint: str | None = None
    config_hash: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    code: str = ""


@dataclass
class Parameters:
    """Trainable parameters of the adapter and of the head, and all parameters of the backbone."""

    adapter: int
    head: int
    backbone: int
    percent: float


@dataclass
class Training:
    """The training. `seconds` is the wall time of fitting, validation included."""

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    examples_per_second: float = 0.0
    tokens_per_second: float = 0.0
    best_epoch: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Environment:
    """Hardware and software of a run. Memory in MiB."""

    host: str
    platform: str
    device: str
    precision: str
    threads: int
    peak_memory_mib: float
    peak_device_memory_mib: float | None
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]


@dataclass
class RunRecord:
    """All numbers of a finished run.

    Args:
        run: What was run.
        parameters: Parameter counts.
        scores: Final scores by "<stage>/<metric>".
        monitor: The score that selected the best epoch.
        training: Course of the training.
        environment: Hardware and software.
        data: Facts about the task's data: splits, sizes, convention, source, fingerprint.
        backbone: Source and fingerprint of the backbone.
        adapter_file_bytes: Size of adapter.safetensors, without the head; None if not saved.
        config: The resolved config.
        certificate: Numbers of the PAC-Bayes certificate, if one was computed.
        schema: Version of this schema.
        reported: The test metric to report. Empty: the monitored one.
        missing: Reason for each score that could not be computed or is undefined, by name.
    """

    run: Run
    parameters: Parameters
    scores: dict[str, float]
    monitor: str
    training: Training
    environment: Environment
    data: dict[str, Any]
    backbone: dict[str, str]
    adapter_file_bytes: int | None
    config: dict[str, Any]
    certificate: dict[str, Any] | None = None
    schema: int = SCHEMA
    reported: str = ""
    missing: dict[str, str] = field(default_factory=dict)

    def headline(self, split: str) -> str:
        """Return the metric to report on a split. Selection always uses the monitored one."""
        monitored = self.monitor.partition("/")[2]
        return (self.reported or monitored) if split == "test" else monitored


def summary_metrics(record: RunRecord) -> dict[str, float]:
    """Return the final numbers for loggers.

    Keys are final/<stage>/<metric>, final/<stage>_score (the reported metric),
    parameters/<part> and certificate/<number>.
    """
    metrics = {f"final/{name}": score for name, score in record.scores.items()}
    for split in ("validation", "test"):
        name = f"{split}/{record.headline(split)}"
        if name in record.scores:
            metrics[f"final/{split}_score"] = record.scores[name]
    for name, value in asdict(record.parameters).items():
        metrics[f"parameters/{name}"] = float(value)
    if record.certificate:
        for name in ("bound", "risk", "kl"):
            metrics[f"certificate/{name}"] = float(record.certificate[name])
    return metrics


PARTS: dict[str, Any] = {
    "run": Run,
    "parameters": Parameters,
    "training": Training,
    "environment": Environment,
}
TYPES = {part: get_type_hints(part) for part in (RunRecord, *PARTS.values())}
CERTIFICATE = {  # the keys that reports read
    "bound": float,
    "risk": float,
    "kl": float,
    "rows": int,
    "by_group": dict[str, float],
    "baseline": dict[str, float | str],
    "test": dict[str, dict[str, float]],
}


def write_record(record: RunRecord, directory: Path) -> Path:
    """Write results.json atomically, so that its presence means a finished run.

    Raises:
        ValueError: a number is nan or infinite, which JSON cannot hold.
    """
    content = asdict(record)
    if name := not_finite(content):
        raise ValueError(f"{name} of the run's record is not finite: no record is written")
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_atomically(directory / RECORD_FILE, text.encode())


def read_record(path: Path) -> RunRecord:
    """Read results.json, given the file or its run folder.

    Raises:
        ValueError: the record is missing, unreadable, or has another schema.
    """
    path = path / RECORD_FILE if path.is_dir() else path
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{path} does not exist: the run did not finish, or this is not a run directory"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a run record: {error}") from error
    return parse_record(raw, str(path))


def parse_study_line(line: str, place: str) -> RunRecord:
    """Parse a record from JSON text.

    Args:
        line: JSON text.
        place: Where it came from, for messages.

    Raises:
        ValueError: it is not a record, or has another schema.
    """
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} cannot be read as a run record: {error}") from None
    return parse_record(raw, place)


def parse_record(raw: Any, place: str) -> RunRecord:
    """Parse a record from plain values.

    Args:
        raw: Values as JSON has them.
        place: Where they came from, for messages.

    Raises:
        ValueError: it is not a record, or has another schema.
    """
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema == 1:
        raise ValueError(
            f"{place} was written by rlora 0.1, which this version does not read: run it again, or "
            "report on it with rlora 0.1"
        )
    if schema != SCHEMA:
        raise ValueError(f"{place} has record schema {schema}: this version reads schema {SCHEMA}")
    try:
        values = {key: PARTS[key](**v) if key in PARTS else v for key, v in raw.items()}
        record = RunRecord(**values)
    except TypeError as error:
        known = ", ".join(item.name for item in fields(RunRecord))
        raise ValueError(f"{place} has other fields than a record ({known}): {error}") from error
    _check(vars(record), TYPES[RunRecord], f"{place}: ")
    for name, part in PARTS.items():
        _check(vars(values[name]), TYPES[part], f"{place}: {name}.")
    if record.certificate is not None:
        _check(record.certificate, CERTIFICATE, f"{place}: certificate.")
    return record


def _check(values: dict[str, Any], types: dict[str, Any], prefix: str) -> None:
    for key, expected in types.items():
        if key not in values or not _fits(values[key], expected):
            name = getattr(expected, "__name__", expected)
            raise ValueError(f"{prefix}{key} is missing or not of type {name}")


def _fits(value: Any, expected: Any) -> bool:
    """Return whether a value fits a type, as far as records use types. An int fits float."""
    inner = get_args(expected)
    if expected is Any:
        return True
    if get_origin(expected) is UnionType:
        return any(_fits(value, each) for each in inner)
    if get_origin(expected) is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if get_origin(expected) is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    number = int | float if expected is float else expected
    # bool is a subclass of int, but true is no number
    return isinstance(value, number) and (expected is bool or not isinstance(value, bool))
