"""Create a W&B workspace and a report of a project's runs.

python -m rlora.integrations.wandb_dashboards ENTITY/PROJECT
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlora.io.atomic import write_atomically
from rlora.io.command import run_command
from rlora.reports.names import ADAPTERS, color_of

TITLE = "Adapters compared"
BY_ADAPTER = "by adapter"
CURVES = {
    f"validation {name}": f"validation/{name}"
    for name in ("accuracy", "matthews", "pearson", "perplexity")
}
CURVES["training loss"] = "train/loss_epoch"  # the panel of a metric without values stays empty
BEST, TEST, TRAINED = "final/validation_score", "final/test_score", "parameters/adapter"
SEARCHED = (
    "optimizer.lr",
    "optimizer.head_lr",
    "adapter.rank",
    "adapter.alpha",
    "regularizer.sigma_adapter",
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="python -m rlora.integrations.wandb_dashboards", description=__doc__
    )
    result.add_argument("project", metavar="ENTITY/PROJECT")
    result.add_argument(
        "--out", type=Path, metavar="FILE", help="write the panels as JSON instead of saving them"
    )
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Build workspace and report, and save both to W&B."""
    options = parser().parse_args(arguments)
    entity, slash, project = options.project.partition("/")
    if not (entity and slash and project):
        sys.exit(f"error: {options.project} is invalid: expected ENTITY/PROJECT, as my-team/rlora")
    if options.out is not None:
        content = workspace(entity, project)._to_model().model_dump_json(indent=2)
        write_atomically(options.out, content.encode())
        return
    try:
        for dashboard in (workspace(entity, project), report(entity, project)):
            dashboard.save()
            print(f"{type(dashboard).__name__.lower()}: {dashboard.url}")
    except Exception as error:  # W&B's client raises errors of many classes
        sys.exit(
            f"error: {options.project} could not be saved to W&B ({error}): run wandb login, or "
            "write the panels with --out FILE"
        )


def panels() -> dict[str, list[Any]]:
    """Return the panels by section, with runs grouped by adapter."""
    import wandb_workspaces.reports.v2 as wr

    adapter = wr.Config("adapter")
    bars = [
        wr.BarPlot(title=title, metrics=[metric], groupby=adapter, groupby_rangefunc="stddev")
        for title, metric in (
            ("Test score: mean ± sd of the selected runs", TEST),
            ("Validation score: mean ± sd of the selected runs", BEST),
        )
    ]
    against = wr.ScatterPlot(
        title="Test score against trainable parameters (adapter)",
        x=wr.SummaryMetric(TRAINED),
        y=wr.SummaryMetric(TEST),
        log_x=True,
    )
    curves = [
        wr.LinePlot(title=title, x="epoch", y=[metric], groupby=adapter, groupby_rangefunc="minmax")
        for title, metric in CURVES.items()
    ]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=adapter)]
    columns += [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key), log="lr" in key) for key in SEARCHED
    ]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(BEST))]
    search = [
        wr.ParallelCoordinatesPlot(title="Settings and validation score", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=BEST),
    ]
    bound, risk = wr.SummaryMetric("certificate/bound"), wr.SummaryMetric("certificate/risk")
    certificates = [
        wr.ScatterPlot(title="PAC-Bayes bound against the posterior's risk", x=risk, y=bound),
        wr.ScatterPlot(
            title="PAC-Bayes bound against KL",
            x=wr.SummaryMetric("certificate/kl"),
            y=bound,
            log_x=True,
        ),
    ]
    return {
        "Scores": [*bars, against],
        "Learning curves": curves,
        "Search": search,
        "Certificates": certificates,
    }


def workspace(entity: str, project: str) -> Any:
    """Return the workspace: the sections of `panels`, with runs grouped by task and adapter."""
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=name, panels=group, is_open=True) for name, group in panels().items()
    ]
    grouped = ws.RunsetSettings(groupby=[ws.Config("task"), ws.Config("adapter")])
    return ws.Workspace(
        entity=entity, project=project, name=TITLE, sections=sections, runset_settings=grouped
    )


def report(entity: str, project: str) -> Any:
    """Return the report: the same panels under headings, with runs grouped by adapter.

    Each adapter has the color that it has in all reports.
    """
    import wandb_workspaces.reports.v2 as wr

    colors: dict[Any, Any] = {
        wr.RunsetGroup(BY_ADAPTER, (wr.RunsetGroupKey(wr.Config("adapter"), name),)): color_of(name)
        for name in ADAPTERS
    }
    blocks: list[Any] = [wr.TableOfContents()]
    for name, group in panels().items():
        runs = wr.Runset(
            entity=entity, project=project, name=BY_ADAPTER, groupby=["config.adapter"]
        )
        blocks += [
            wr.H2(name),
            wr.PanelGrid(runsets=[runs], panels=group, custom_run_colors=colors),
        ]
    return wr.Report(entity=entity, project=project, title=TITLE, blocks=blocks)


if __name__ == "__main__":
    run_command(main)
