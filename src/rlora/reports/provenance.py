"""Where the runs of a report come from: commits, code and data, and what differs between them."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from rlora.records.record import RunRecord
from rlora.reports.load import Score, unique_runs

SHOWN = 8  # characters of a commit or digest
# Facts of record.data that select rows: with equal ones, equal data have equal fingerprints.
SELECTION = ("validation", "split_seed", "shots", "train_examples", "sample_seed", "part")


def provenance_notes(scores: Sequence[Score]) -> list[str]:
    """Return the commits of the records and warnings about code, data and weights that differ.

    Empty for records of one clean commit that read the same data and weights.
    """
    runs = unique_runs(scores)
    return [
        *_commit_notes([run.record for run in runs]),
        *_code_warnings(runs),
        *fingerprint_warnings(runs),
    ]


def fingerprint_warnings(scores: Sequence[Score]) -> list[str]:
    """Return a warning per task whose runs read different data, and per model with other weights.

    Runs with other sampling settings read other rows on purpose and are not compared.
    """
    records = [run.record for run in unique_runs(scores)]
    return [
        *_warnings(records, "data of task", _data_key, _data_fingerprint),
        *_warnings(records, "weights of model", _weights_key, _weights_fingerprint),
    ]


def published_data_warnings(own: Sequence[Score], published: Sequence[Score]) -> list[str]:
    """Return a warning per task and model whose fingerprint the published runs do not share."""
    warnings = []
    for what, key, fingerprint in (
        ("data of task", _data_key, _data_fingerprint),
        ("weights of model", _weights_key, _weights_fingerprint),
    ):
        first, second = (
            {key(run.record): fingerprint(run.record) for run in unique_runs(scores)}
            for scores in (own, published)
        )
        names = {each[0] for each in first.keys() & second.keys() if first[each] != second[each]}
        warnings += [
            f"warning: the {what} {name} differ from those of the published runs, so that their "
            "scores are not comparable"
            for name in sorted(names)
        ]
    return warnings


def _commit_notes(records: Sequence[RunRecord]) -> list[str]:
    """Return a sentence with the commits of the records.

    Empty if all records come from one commit without uncommitted changes.
    """
    commits = Counter(map(_commit_text, records))
    if len(commits) > 1 or any(record.environment.git_dirty for record in records):
        return [f"commits of the records: {counts_text(commits)}"]
    return []


def _code_warnings(runs: Sequence[Score]) -> list[str]:
    """Return a warning for each adapter and task whose runs have several digests of code."""
    groups: dict[tuple[str, ...], Counter[str]] = {}
    for run in runs:
        groups.setdefault(_code_key(run), Counter())[run.record.run.code[:SHOWN] or "unknown"] += 1
    return [
        f"warning: the code behind the results of {adapter} on {task} has changed between runs: "
        f"{counts_text(codes)}"
        for (adapter, task, *_), codes in groups.items()
        if len(codes) > 1
    ]


def _code_key(run: Score) -> tuple[str, ...]:
    """Return what has one digest of code: the digest covers the modules of all parts of a run."""
    names = [str(run.settings[key]) for key in ("adapter", "task", "model", "regularizer")]
    targets = [str(value) for key, value in run.settings.items() if key.endswith("_target_")]
    return (*names, *sorted(targets))


def commit_texts(records: Sequence[RunRecord]) -> list[str]:
    """Return the commits of the records, sorted; "unknown" for records without one."""
    return sorted({_commit_text(record) for record in records})


def counts_text(counts: dict[str, int]) -> str:
    """Return texts with their counts, the most frequent one first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{text} ({_runs_text(count)})" for text, count in ordered)


def _runs_text(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _commit_text(record: RunRecord) -> str:
    commit = (record.environment.git_commit or "unknown")[:SHOWN]
    return f"{commit} with uncommitted changes" if record.environment.git_dirty else commit


def _data_key(record: RunRecord) -> tuple[str, Hashable]:
    return record.run.task, repr([record.data.get(name) for name in SELECTION])


def _data_fingerprint(record: RunRecord) -> str:
    return str(record.data.get("fingerprint", ""))


def _weights_fingerprint(record: RunRecord) -> str:
    return record.backbone.get("fingerprint", "")


def _weights_key(record: RunRecord) -> tuple[str, Hashable]:
    return record.run.model, record.run.seed  # a random model has other weights for each seed


def _warnings(records: Sequence[RunRecord], what: str, key: Any, fingerprint: Any) -> list[str]:
    """Return a warning per name whose records with equal keys have different fingerprints."""
    groups: dict[Any, dict[str, list[RunRecord]]] = {}
    for record in records:
        groups.setdefault(key(record), {}).setdefault(fingerprint(record), []).append(record)
    differing: dict[str, dict[str, list[RunRecord]]] = {}
    for (name, _), found in groups.items():
        if len(found) > 1:
            for text, members in found.items():
                differing.setdefault(name, {}).setdefault(text, []).extend(members)
    return [
        f"warning: the {what} {name} differ between runs, so that scores are not comparable: "
        + "; ".join(_members_text(*item) for item in sorted(found.items(), key=_size))
        for name, found in differing.items()
    ]


def _size(item: tuple[str, list[RunRecord]]) -> int:
    return -len(item[1])


def _members_text(fingerprint: str, members: Sequence[RunRecord], most: int = 3) -> str:
    runs = [f"{record.run.adapter} seed {record.run.seed}" for record in members]
    names = ", ".join(runs[:most]) + (f" and {len(runs) - most} more" if len(runs) > most else "")
    return f"fingerprint {fingerprint[:SHOWN]} ({names})"
