"""Runs on Weights & Biases: the run records that they saved there."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlora.records.record import RECORD_FILE, read_record
from rlora.reports.load import UNFINISHED, LoadedRun, RunItem, SkippedRun


def load_wandb_runs(project: str, api: Any = None) -> Iterator[RunItem]:
    """Yield the runs of a W&B project.

    Args:
        project: "entity/project", or "entity/project/sweeps/id".
        api: A `wandb.Api`; None uses the credentials of the user.

    Raises:
        ValueError: The project cannot be read.
    """
    import wandb

    try:
        runs = _runs(api or wandb.Api(), project)
    except (ValueError, wandb.errors.Error) as error:
        raise ValueError(
            f"--wandb {project} cannot be read: {error}; check the name and run `wandb login`"
        ) from error
    for run in runs:
        source = f"wandb:{project}/{run.id}"
        if run.state in ("running", "pending"):
            yield UNFINISHED
        elif run.state != "finished":
            yield SkippedRun(source, run.state)
        else:
            yield _load_run(run, source)


def _runs(api: Any, project: str) -> list[Any]:
    entity_and_project, _, sweep = project.partition("/sweeps/")
    return list(api.sweep(f"{entity_and_project}/{sweep}").runs if sweep else api.runs(project))


def _load_run(run: Any, source: str) -> LoadedRun | SkippedRun:
    names = {file.name for file in run.files()}
    if RECORD_FILE not in names:
        reason = f"has no {RECORD_FILE}: it was logged by another program or an older version"
        return SkippedRun(source, reason)
    with tempfile.TemporaryDirectory() as folder:
        run.file(RECORD_FILE).download(root=folder, replace=True)
        try:
            return LoadedRun(source, read_record(Path(folder)))
        except ValueError as error:
            return SkippedRun(source, str(error))
