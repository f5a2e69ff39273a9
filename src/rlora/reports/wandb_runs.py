"""Runs that lie on Weights & Biases: the record each run saved there."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlora.records.record import RECORD_FILE, read_record
from rlora.reports.load import Found, Problem


def found(project: str, api: Any = None) -> Iterator[Found | Problem | None]:
    """Records of a project's runs; what has none, and None for each run that is still running.

    Args:
        project: "entity/project", or "entity/project/sweeps/id".
        api: A `wandb.Api`; None: of whoever is logged in.

    Raises:
        ValueError: the project cannot be read.
    """
    import wandb

    try:
        runs = _runs(api or wandb.Api(), project)
    except (ValueError, wandb.errors.Error) as error:
        raise ValueError(f"--wandb {project} cannot be read: {error}; see wandb login") from error
    for run in runs:
        place = f"wandb:{project}/{run.id}"
        if run.state in ("running", "pending"):
            yield None
        elif run.state != "finished":
            yield Problem(place, run.state)
        else:
            yield _record(run, place)


def _runs(api: Any, project: str) -> list[Any]:
    entity_and_project, _, sweep = project.partition("/sweeps/")
    return list(api.sweep(f"{entity_and_project}/{sweep}").runs if sweep else api.runs(project))


def _record(run: Any, place: str) -> Found | Problem:
    names = {file.name for file in run.files()}
    if RECORD_FILE not in names:
        return Problem(
            place, f"holds no {RECORD_FILE}: it was logged by another program or an older version"
        )
    with tempfile.TemporaryDirectory() as folder:
        run.file(RECORD_FILE).download(root=folder, replace=True)
        try:
            return Found(place, read_record(Path(folder)))
        except ValueError as error:
            return Problem(place, str(error))
