"""The run record, results.json: one schema, one writer, one reader; no library but Python's own."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from rlora.io.atomic import write_atomically

SCHEMA = 1
RECORD_FILE = "results.json"
STUDY_FILE = "records.jsonl"  # a record a line, of a whole study


@dataclass
class Run:
    """What was run: the choices of the command line, and how it ended; identity: see `rlora.config.config_hash`."""

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
    identity: str = ""


@dataclass
class Parameters:
    """How many numbers train: by the adapter, by the head beside it; and how many the backbone has."""

    adapter: int
    head: int
    backbone: int
    percent: float


@dataclass
class Training:
    """The training itself; seconds are wall time of fitting, validation included."""

    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    examples_per_second: float = 0.0
    tokens_per_second: float = 0.0
    best_epoch: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Environment:
    """Where and with what it ran; memory in MiB."""

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
    """All that a finished run leaves in numbers.

    Args:
        scores: Final scores by "<stage>/<metric>".
        monitor: The score the best epoch was chosen by.
        data: The task's facts: splits, sizes, convention, source, fingerprint.
        backbone: Its source and fingerprint.
        adapter_file_bytes: Size of adapter.safetensors, the head apart; None where nothing was saved.
        config: The resolved config.
        certificate: A PAC-Bayes certificate's numbers, where one was asked for.
        reported: The metric of the test that stands for the run; empty: the monitored one.
        missing: Why scores of the test could not be computed, by name.
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
        """The metric that stands for the run on a split: choices are made by the monitored one."""
        monitored = self.monitor.partition("/")[2]
        return (self.reported or monitored) if split == "test" else monitored


def summary_metrics(record: RunRecord) -> dict[str, float]:
    """What a logger keeps of a finished run: final/<stage>/<metric>, the monitored ones as final/<stage>_score, ..."""
    found = {f"final/{name}": score for name, score in record.scores.items()}
    headlines = {split: f"{split}/{record.headline(split)}" for split in ("validation", "test")}
    found |= {
        f"final/{split}_score": record.scores[n]
        for split, n in headlines.items()
        if n in record.scores
    }
    found |= {
        f"parameters/{name}": float(value) for name, value in asdict(record.parameters).items()
    }
    if record.certificate:
        found |= {
            f"certificate/{name}": float(record.certificate[name])
            for name in ("bound", "risk", "kl")
        }
    return found


KINDS = {part: get_type_hints(part) for part in (RunRecord, Run, Parameters, Training, Environment)}
CERTIFICATE = {  # what reports read of one
    "bound": float,
    "risk": float,
    "kl": float,
    "rows": int,
    "by_group": dict[str, float],
    "baseline": dict[str, float | str],
    "test": dict[str, dict[str, float]],
}


def write_record(record: RunRecord, directory: Path) -> Path:
    """Write results.json at once or not at all, so that its presence means a finished run."""
    return write_atomically(
        directory / RECORD_FILE, (json.dumps(asdict(record), indent=2) + "\n").encode()
    )


def read_record(path: Path) -> RunRecord:
    """Read results.json, given itself or its run directory.

    Raises:
        ValueError: no record, unreadable, or of another schema.
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


def read_study(file: Path, *, holding: str = "") -> list[RunRecord]:
    """Read a file with a record a line; one that does not exist holds none.

    Args:
        file: See above.
        holding: Text that a line must hold to be read.

    Raises:
        ValueError: a line is no record.
    """
    return (
        [parse_study_line(line, place) for place, line in study_lines(file) if holding in line]
        if file.is_file()
        else []
    )


def study_lines(file: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file with their place, "file, line n"; without a last one that was cut off."""
    for number, line in enumerate(file.read_text(errors="replace").split("\n")[:-1], start=1):
        yield f"{file}, line {number}", line


def parse_study_line(line: str, place: str) -> RunRecord:
    """A record from its JSON.

    Raises:
        ValueError: it is none, or of another schema; begins with `place`.
    """
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} cannot be read as a run record: {error}") from None
    return parse_record(raw, place)


def parse_record(raw: Any, path: str) -> RunRecord:
    """A record from its plain JSON; `path` says where it came from.

    Raises:
        ValueError: it is none, or of another schema.
    """
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has record schema {schema}, this version reads schema {SCHEMA}")
    parts: dict[str, Any] = {
        "run": Run,
        "parameters": Parameters,
        "training": Training,
        "environment": Environment,
    }
    try:
        made = {key: parts[key](**value) if key in parts else value for key, value in raw.items()}
        record = RunRecord(**made)
    except TypeError as error:
        known = ", ".join(item.name for item in fields(RunRecord))
        raise ValueError(f"{path} does not hold a record's fields ({known}): {error}") from error
    for name, part in {"": record, **{f"{key}.": made[key] for key in parts}}.items():
        _check(vars(part), KINDS[type(part)], f"{path} holds a {name}")
    if record.certificate is not None:
        _check(record.certificate, CERTIFICATE, f"{path} holds a certificate.")
    return record


def _check(values: dict[str, Any], kinds: dict[str, Any], told: str) -> None:
    for key, kind in kinds.items():
        if key not in values or not _fits(values[key], kind):
            raise ValueError(f"{told}{key} that is no {getattr(kind, '__name__', kind)}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind, as far as records are annotated; a whole number is a float too."""
    kinds = get_args(kind)
    if kind is Any:
        return True
    if get_origin(kind) is UnionType:
        return any(_fits(value, each) for each in kinds)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, kinds[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, kinds[1]) for item in value.values())
    number = int | float if kind is float else kind
    return isinstance(value, number) and (kind is bool or not isinstance(value, bool))
